package fusefs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"isosyncd/lxd"
)

// TestReadSources: bytes come from the folder's file, the embedded store, or the server; with and without passthrough.
func TestReadSources(t *testing.T) {
	data := image(3000, 1)
	for _, passthrough := range []bool{true, false} {
		h := newFake(t)
		h.put(t, "local", data, true)
		h.change(func() {
			for _, n := range []string{"stored", "remote"} {
				h.store(n, data, false)
			}
		})
		store := openerFunc(func(v string) (*os.File, error) {
			if v != "stored" {
				return nil, os.ErrNotExist
			}
			path := filepath.Join(h.folder, "stored.raw")
			if err := os.WriteFile(path, append(slices.Clone(data), make([]byte, 8192)...), 0o600); err != nil {
				return nil, err
			}
			return os.Open(path)
		})
		server := &exporter{data: data}
		var r *requests
		x := mountFake(t, h, func(c *Config) {
			c.noPassthrough = !passthrough
			c.Openers, c.Export = []Opener{store}, server
			c.CacheDir, c.CacheSize = t.TempDir(), 64<<20
			r = traced(c)
		})
		for _, n := range []string{"local", "stored", "remote", "remote", "local"} {
			r.take()
			out := mustRun(t, "sha256sum", x.path(n+".iso"))
			if !strings.HasPrefix(out, digestOf(data)) {
				t.Errorf("%s: %s", n, out)
			}
			t.Logf("passthrough %v, %s: %v", passthrough, n, r.take())
		}
		if server.calls() != 1 {
			t.Errorf("the server was asked %d times, want once", server.calls())
		}
		if out := mustRun(t, "bash", "-c", "dd if="+x.path("local.iso")+" bs=1 skip=40000 count=5 status=none | xxd -p"); strings.TrimSpace(out) != fmt.Sprintf("%x", data[40000:40005]) {
			t.Errorf("a part: %s", out)
		}
	}
}

// TestPassthroughIsUsed: where the kernel can (6.9 and root), reading a local file costs no READ at all.
func TestPassthroughIsUsed(t *testing.T) {
	h := newFake(t)
	data := image(3000, 1)
	h.put(t, "a", data, true)
	var r *requests
	x := mountFake(t, h, func(c *Config) { r = traced(c) })
	if x.mount.server.KernelSettings().Flags64()&(1<<37) == 0 {
		t.Skip("SKIPPED: this kernel has no FUSE passthrough")
	}
	mustRun(t, "cmp", x.path("a.iso"), filepath.Join(h.folder, "a.iso"))
	if n := r.take()["READ"]; n != 0 {
		t.Errorf("%d READ requests", n)
	}
}

// TestPageCacheKept: without passthrough, what was read once is not asked for again when it is opened again.
func TestPageCacheKept(t *testing.T) {
	h := newFake(t)
	h.put(t, "a", image(3000, 1), true)
	var r *requests
	x := mountFake(t, h, func(c *Config) { c.noPassthrough = true; r = traced(c) })
	mustRun(t, "cat", x.path("a.iso"))
	if r.take()["READ"] == 0 {
		t.Fatal("nothing was read")
	}
	for range 3 {
		h.change(func() {}) // a new snapshot with the same volume
		mustRun(t, "cat", x.path("a.iso"))
	}
	if n := r.take()["READ"]; n != 0 {
		t.Errorf("%d READ requests for what is in the page cache", n)
	}
}

type openerFunc func(string) (*os.File, error)

func (f openerFunc) Open(v string) (*os.File, error) { return f(v) }

// TestUnreadable (F11): where no source has the bytes, open fails at once, says EOPNOTSUPP, and the reason can be read.
func TestUnreadable(t *testing.T) {
	h := newFake(t)
	h.change(func() { h.store("a", image(300, 1), false) })
	for name, export := range map[string]Exporter{
		"none": nil, "LXD": &exporter{err: fmt.Errorf("export: %w: LXD has no way", lxd.ErrNotRead)},
	} {
		x := mountFake(t, h, func(c *Config) { c.Export, c.CacheDir, c.CacheSize = export, t.TempDir(), 1<<30 })
		out, code := run(t, "cat", x.path("a.iso"))
		if code == 0 || !strings.Contains(out, "Operation not supported") {
			t.Errorf("%s: exit %d: %s", name, code, out)
		}
		if text := string(x.read(".isosyncd/errors/a.iso")); !strings.Contains(text, lxd.ErrNotRead.Error()) {
			t.Errorf("%s: errors/a.iso says %q", name, text)
		}
		mustRun(t, "ls", "-l", x.path("a.iso"))
		mustRun(t, "rsync", "-a", "--dry-run", x.dir+"/", t.TempDir())
	}
}

// TestChangedBehindReader: the folder's file is overwritten in place while somebody reads it: an error, no mixture.
func TestChangedBehindReader(t *testing.T) {
	h := newFake(t)
	data := image(3000, 1)
	h.put(t, "a", data, true)
	x := mountFake(t, h, func(c *Config) { c.noPassthrough = true })
	f, err := os.Open(x.path("a.iso"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := os.WriteFile(filepath.Join(h.folder, "a.iso"), image(3000, 2), 0o600); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4096)
	if _, err := f.ReadAt(got, 4<<20); !errors.Is(err, syscall.EIO) {
		t.Errorf("read: %v, want EIO", err)
	}
}

// TestPadding: a server that rounds sizes up shows more bytes than the local file has; they are zeros.
func TestPadding(t *testing.T) {
	h := newFake(t)
	data := image(300, 1)
	h.put(t, "a", data, true)
	h.change(func() {
		v := h.volumes["a"]
		v.Size += 5000
		h.volumes["a"] = v
	})
	x := mountFake(t, h, nil)
	if got := x.read("a.iso"); !bytes.Equal(got, append(data, make([]byte, 5000)...)) {
		t.Errorf("%d bytes, or other ones", len(got))
	}
}

// exporter is a server that gives bytes back.
type exporter struct {
	data []byte
	err  error
	gate chan struct{} // the second half waits for it

	mu sync.Mutex
	n  int
}

func (e *exporter) calls() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.n
}

func (e *exporter) Export(ctx context.Context, _ string) (io.ReadCloser, int64, error) {
	e.mu.Lock()
	e.n++
	e.mu.Unlock()
	if e.err != nil {
		return nil, 0, e.err
	}
	half := len(e.data) / 2
	return io.NopCloser(io.MultiReader(bytes.NewReader(e.data[:half]), waiter{ctx, e.gate}, bytes.NewReader(e.data[half:]))), int64(len(e.data)), nil
}

type waiter struct {
	ctx  context.Context //nolint:containedctx // a reader has no other way to one
	gate chan struct{}
}

func (w waiter) Read([]byte) (int, error) {
	if w.gate != nil {
		select {
		case <-w.gate:
		case <-w.ctx.Done():
			return 0, w.ctx.Err()
		case <-time.After(2 * patience):
			return 0, errors.New("nobody opened the gate")
		}
	}
	return 0, io.EOF
}

// TestReadWhileFetching: what has arrived can be read; what has not is waited for, in a state that a signal ends.
func TestReadWhileFetching(t *testing.T) {
	data := image(3000, 1)
	h := newFake(t)
	h.change(func() { h.store("a", data, false) })
	e := &exporter{data: data, gate: make(chan struct{})}
	x := mountFake(t, h, func(c *Config) { c.Export, c.CacheDir, c.CacheSize = e, t.TempDir(), 64<<20 })
	if out := mustRun(t, "bash", "-c", "head -c 1000000 "+x.path("a.iso")+" | sha256sum"); !strings.HasPrefix(out, digestOf(data[:1000000])) {
		t.Errorf("the first part: %s", out)
	}
	// A reader of the rest waits, and Ctrl-C ends it.
	mustRun(t, "bash", "-c", "timeout -s INT 0.3 cat "+x.path("a.iso")+" > /dev/null; test $? = 124")
	close(e.gate)
	if !bytes.Equal(x.read("a.iso"), data) {
		t.Error("other bytes")
	}
}
