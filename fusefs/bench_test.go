package fusefs

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkRead reads an image of 256 MiB in order: the raw file, and through the mount with the kernel's passthrough,
// with splice, and from the page cache of the mount.
func BenchmarkRead(b *testing.B) {
	data := image(128<<10, 1)
	h := newFake(b)
	h.put(b, "a", data, true)
	raw := filepath.Join(h.folder, "a.iso")
	run := func(name, path string, drop bool) {
		b.Run(name, func(b *testing.B) {
			buf := make([]byte, 1<<20)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				f, err := os.Open(path)
				if err != nil {
					b.Fatal(err)
				}
				if drop {
					if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
						b.Fatal(err)
					}
				}
				n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf)
				if err != nil || n != int64(len(data)) {
					b.Fatal(n, err)
				}
				_ = f.Close()
			}
		})
	}
	run("raw", raw, false)
	for name, noPassthrough := range map[string]bool{"passthrough": false, "splice": true} {
		x := mountFake(b, h, func(c *Config) { c.noPassthrough = noPassthrough })
		run(name, x.path("a.iso"), noPassthrough)
		if noPassthrough {
			run("page cache", x.path("a.iso"), false)
		}
		if err := x.stop(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWrite writes an image of 64 MiB in order, up to and with close; the fake import only reads it.
func BenchmarkWrite(b *testing.B) {
	data := image(32<<10, 1)
	h := newFake(b)
	x := mountFake(b, h, nil)
	for name, path := range map[string]string{"raw": filepath.Join(b.TempDir(), "a"), "mount": x.path("a.iso")} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				f, err := os.Create(path)
				if err != nil {
					b.Fatal(err)
				}
				for off := 0; off < len(data); off += 1 << 20 {
					if _, err := f.Write(data[off:min(off+1<<20, len(data))]); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer() // the fake import
				if err := f.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkList lists 10,000 volumes with their attributes, as ls -l does.
func BenchmarkList(b *testing.B) {
	h := newFake(b)
	manyVolumes(h, 10_000)
	x := mountFake(b, h, nil)
	for b.Loop() {
		entries, err := os.ReadDir(x.dir)
		if err != nil || len(entries) != 10_001 {
			b.Fatal(len(entries), err)
		}
		for _, e := range entries {
			if _, err := e.Info(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkView makes a view of a new snapshot with 10,000 volumes, of which none changed.
func BenchmarkView(b *testing.B) {
	h := newFake(b)
	manyVolumes(h, 10_000)
	old := newView(h.Snapshot(), nil)
	h.change(func() {})
	for b.Loop() {
		newView(h.Snapshot(), old)
	}
}
