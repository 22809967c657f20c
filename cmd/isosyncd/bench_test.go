package main

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"isosyncd/lxd/lxdtest"
)

// BenchmarkWrite compares what a person waits for until the volume of a new image is there, marked: cp into the mount,
// which returns then, and cp into the folder, beside which one waits. Bytes are those of the image; the server is a real
// Incus with a pool of the driver dir. Read the two as a ratio of one run.
func BenchmarkWrite(b *testing.B) {
	const mib = 128
	src := filepath.Join(b.TempDir(), "src")
	for _, way := range []string{"mount", "folder"} {
		b.Run(way, func(b *testing.B) {
			s := newSite(b, lxdtest.Incus(b))
			dir := s.folder
			if way == "mount" {
				dir, _ = mounted(b, s)
			} else {
				s.run()
			}
			b.SetBytes(mib << 20)
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				name := "image-" + strconv.Itoa(i)
				data := image(mib, name) // other bytes each time: the same would be copied on the server
				if err := os.WriteFile(src, data, 0o644); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if out, err := sh(b, dir, "cp "+src+" "+name+".iso"); err != nil {
					b.Fatalf("cp: %v\n%s", err, out)
				}
				eventually(b, "the volume", func() bool { return ours(s.volumes()[name], data) })
			}
		})
	}
}
