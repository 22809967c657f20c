//go:build bench

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"isosyncd/lxd"
	"isosyncd/lxd/lxdtest"
	isosync "isosyncd/sync"
)

// environ is that of all programs: none of the caller's settings of isosyncd, Incus or the Go runtime.
func (c *topic) environ() []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return strings.HasPrefix(name, "ISOSYNCD_") || strings.HasPrefix(name, "INCUS_") || strings.HasPrefix(name, "LXD_") ||
			slices.Contains([]string{"GOMEMLIMIT", "GOGC", "GOMAXPROCS", "GODEBUG"}, name)
	})
	return append(env, "LC_ALL=C", "INCUS_DIR="+c.server.Dir(), "INCUS_CONF="+filepath.Join(c.server.Dir(), "conf"))
}

// image is the file of an ISO image of that many bytes, which no program can compress, and which is in the page cache.
// It stays for later.
func (c *topic) image(size int64) string {
	c.t.Helper()
	path := filepath.Join(c.dir, "src-"+digits(float64(size)))
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		makeImage(c.t, path, size)
	}
	return path
}

// makeImage writes the smallest of file systems, which says that it is as large as the file, and then random bytes.
func makeImage(t testing.TB, path string, size int64) {
	t.Helper()
	var seed [32]byte
	copy(seed[:], path[max(0, len(path)-32):]) // its end differs
	if err := writeImage(path, imageHead(size), size, rand.NewChaCha8(seed)); err != nil {
		t.Fatal(err)
	}
}

// makeImages writes n of them, no two alike.
func makeImages(t testing.TB, dir string, n int, size int64) {
	t.Helper()
	head, random := imageHead(size), rand.NewChaCha8([32]byte{1})
	for i := range n {
		if err := writeImage(filepath.Join(dir, fmt.Sprintf("image-%05d.iso", i)), head, size, random); err != nil {
			t.Fatal(err)
		}
	}
}

// imageHead is how an image of that many bytes begins.
func imageHead(size int64) []byte {
	const sector = 2048
	head := image(1, "compare")[:19*sector]
	declared := head[16*sector+80:] // ECMA-119 8.4.8, in sectors
	binary.LittleEndian.PutUint32(declared, uint32(size/sector))
	binary.BigEndian.PutUint32(declared[4:], uint32(size/sector))
	return head
}

func writeImage(path string, head []byte, size int64, random *rand.ChaCha8) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(head)
	buf := make([]byte, min(1<<20, size))
	for at := int64(len(head)); at < size && err == nil; at += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), size-at)]
		_, _ = random.Read(buf) // never fails
		_, err = f.Write(buf)
	}
	return errors.Join(err, f.Close())
}

// stamp makes the bytes of an image differ from all that were there before: the same would be copied on the server.
func (c *topic) stamp(path string) {
	c.t.Helper()
	c.serial++
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(binary.BigEndian.AppendUint64(nil, uint64(c.serial)), 20*2048)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// incus are the arguments of the official client that import an image.
func (c *topic) incus(remote, path, volume string) []string {
	return []string{"storage", "volume", "import", remote + "default", path, volume, "--type", "iso", "--quiet", "--project", c.server.Project()}
}

const pollEvery = 10 * time.Millisecond

// await asks for one volume every 10 ms until it is good, and returns how long that took from began.
func (c *topic) await(began time.Time, volume string, good func(lxd.Volume) bool) time.Duration {
	c.t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		v, err := c.pool.Volume(ctx, volume)
		took := time.Since(began)
		if err == nil && good(v) {
			return took
		}
		if err != nil && !errors.Is(err, lxd.ErrNotFound) {
			c.t.Fatal(err)
		}
		<-tick.C
	}
}

// asked asks for the volume as await does, until the returned function is called: a side whose end is seen otherwise
// has the same load beside it as one whose end is not.
func (c *topic) asked(volume string) (stop func()) {
	ctx, cancel := c.context()
	var wg gosync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(pollEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			_, _ = c.pool.Volume(ctx, volume)
			<-tick.C
		}
	})
	return func() { cancel(); wg.Wait() }
}

// marked reports whether the volume vouches for its bytes.
func marked(v lxd.Volume) bool {
	_, m, ok := isosync.ParseMark(v.Description)
	return ok && m.SHA256 != ""
}

// made checks that a side did what it was measured for.
func (c *topic) made(volume string, size int64, ours bool) {
	c.t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	v, err := c.pool.Volume(ctx, volume)
	if err != nil || v.Size != size || v.ContentType != "iso" || marked(v) != ours {
		c.t.Fatalf("volume %s is %+v, %v; want %d bytes, marked: %v", volume, v, err, size, ours)
	}
}

// remove deletes volumes, four at a time.
func (c *topic) remove(volumes ...string) {
	c.t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	var wg gosync.WaitGroup
	names := make(chan string)
	for range min(4, len(volumes)) {
		wg.Go(func() {
			for name := range names {
				if err := c.pool.Delete(ctx, name); err != nil {
					c.t.Error(err)
				}
			}
		})
	}
	for _, name := range volumes {
		names <- name
	}
	close(names)
	wg.Wait()
}

// watched is a daemon as a user runs it, with all its defaults, on a folder of its own.
type watched struct {
	*process
	dir, folder, control string
}

// daemon starts one, and returns when it is ready. end is for it.
func (c *topic) daemon(server *lxdtest.Server, args ...string) *watched {
	c.t.Helper()
	w := c.reserve()
	c.start(w, server, args...)
	lxdtest.Eventually(c.t, "the daemon to be ready", func() bool {
		if w.ended() {
			c.t.Fatalf("the daemon ended with: %v\n%s", w.err, w.log)
		}
		return w.ready()
	})
	return w
}

// reserve makes the directories of a daemon that is started later.
func (c *topic) reserve() *watched {
	c.t.Helper()
	dir := filepath.Join(c.dir, c.next("d"))
	w := &watched{dir: dir, folder: filepath.Join(dir, "drop"), control: filepath.Join(dir, "c.sock")}
	if err := os.MkdirAll(w.folder, 0o755); err != nil {
		c.t.Fatal(err)
	}
	return w
}

// listed checks that n volumes are there, -1 = any number, each of them good, and returns their names.
func (c *topic) listed(n int, good func(lxd.Volume) bool) []string {
	c.t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	list, err := c.pool.Volumes(ctx)
	if err != nil || n >= 0 && len(list) != n {
		c.t.Fatalf("%d volumes, want %d: %v", len(list), n, err)
	}
	names := make([]string, 0, len(list))
	for _, v := range list {
		if !good(v) {
			c.t.Fatalf("volume %+v is not good", v)
		}
		names = append(names, v.Name)
	}
	return names
}

func (w *watched) ready() bool { return strings.Contains(w.log.String(), "msg=ready") }

// start runs the daemon, again if it ran before.
func (c *topic) start(w *watched, server *lxdtest.Server, args ...string) {
	c.t.Helper()
	args = append([]string{
		"run", "--folder", w.folder, "--state-dir", filepath.Join(w.dir, "state"), "--control", w.control, "--owner", owner,
		"--remote", server.Addr(), "--project", server.Project(), "--pool", "default",
	}, args...)
	w.process = launch(c.t, c.program, args, c.environ())
}

// end stops the daemon and removes all it had.
func (c *topic) end(w *watched) {
	c.t.Helper()
	w.stop()
	if err := os.RemoveAll(w.dir); err != nil {
		c.t.Error(err)
	}
}
