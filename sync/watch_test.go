package sync

import (
	"context"
	"os"
	"strconv"
	"strings"
	gosync "sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watching runs watch until the test ends, and returns how often it woke.
func (b *box) watching() *atomic.Int64 {
	b.t.Helper()
	var wakes atomic.Int64
	ctx, cancel := context.WithCancel(b.t.Context())
	var wg gosync.WaitGroup
	wg.Go(func() {
		if err := b.watch(ctx, func() { wakes.Add(1) }); err != nil {
			b.t.Errorf("watch: %v", err)
		}
	})
	b.t.Cleanup(func() { cancel(); wg.Wait() })
	b.wait("the watch stands", func() bool { return wakes.Load() > 0 })
	return &wakes
}

func (b *box) wait(what string, ok func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// drain returns when the watch has dealt with all that happened before. Events come in order, and the removal of a note
// that we say is ours wakes nobody, but is crossed off.
func (b *box) drain() {
	b.t.Helper()
	const fence = "fence.iso.failed"
	b.put(fence, nil)
	b.announce(fence)
	if err := os.Remove(b.path(fence)); err != nil {
		b.t.Fatal(err)
	}
	b.wait("the fence is crossed off", func() bool {
		b.inbox.mu.Lock()
		defer b.inbox.mu.Unlock()
		_, there := b.dropped[fence]
		return !there
	})
}

func TestWatchWakes(t *testing.T) {
	b := newBox(t, nil)
	b.put("old.iso", []byte("x"))
	b.put("old.iso.failed", []byte("x"))
	b.put("new", []byte("x"))
	wakes := b.watching()
	for _, c := range []struct {
		what string
		do   func() error
		want bool
	}{
		{"an image is made", func() error { return os.WriteFile(b.path("a.iso"), nil, 0o600) }, true},
		{"an image is written to", func() error { return os.WriteFile(b.path("a.iso"), []byte("x"), 0o600) }, true},
		{"an image is touched", func() error { return os.Chtimes(b.path("old.iso"), time.Now(), time.Now()) }, true},
		{"an image may be read", func() error { return os.Chmod(b.path("old.iso"), 0o640) }, true},
		{"a file is renamed to an image", func() error { return os.Rename(b.path("new"), b.path("b.iso")) }, true},
		{"an image is renamed away", func() error { return os.Rename(b.path("b.iso"), b.path("new")) }, true},
		{"an image is removed", func() error { return os.Remove(b.path("a.iso")) }, true},
		{"a list is made", func() error { return os.WriteFile(b.path("SHA256SUMS"), []byte("x"), 0o600) }, true},
		{"a list is removed", func() error { return os.Remove(b.path("SHA256SUMS")) }, true},
		{"a person removes a status file", func() error { return os.Remove(b.path("old.iso.failed")) }, true},
		{"a download is written", func() error { return os.WriteFile(b.path("c.iso.part"), []byte("x"), 0o600) }, false},
		{"we write a status file", func() error { return b.putNote("old.iso", "waiting", "text") }, false},
		{"we rewrite it", func() error { return b.putNote("old.iso", "waiting", "other") }, false},
		{"we change its kind", func() error { return b.putNote("old.iso", "failed", "other") }, false},
		{"we remove it", func() error { return b.dropNote("old.iso") }, false},
		{"we write a draft", func() error { b.draft([]byte("x")); return nil }, false},
		{"we accept a draft", func() error { _, err := b.acceptNow(b.draft([]byte("x")), "d.iso"); return err }, true},
	} {
		b.drain()
		before := wakes.Load()
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		b.drain()
		if woke := wakes.Load() > before; woke != c.want {
			t.Errorf("%s: woke = %v", c.what, woke)
		}
	}
}

// TestWatchFollowsTheFolder is D4: when another folder is at the path, that one is watched.
func TestWatchFollowsTheFolder(t *testing.T) {
	b := newBox(t, nil)
	wakes := b.watching()
	b.look()
	aside := b.dir + ".aside"
	t.Cleanup(func() { _ = os.RemoveAll(aside) })
	for range 3 {
		before := wakes.Load()
		if err := os.Rename(b.dir, aside); err != nil {
			t.Fatal(err)
		}
		b.wait("the move is seen", func() bool { return wakes.Load() > before })
		b.scan(t.Context()) // as whoever was woken does
		before = wakes.Load()
		if err := os.Mkdir(b.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		b.look()
		b.wait("the new folder is watched", func() bool { return wakes.Load() > before })
		before = wakes.Load()
		b.put("a.iso", nil)
		b.wait("events come from the new folder", func() bool { return wakes.Load() > before })
		if err := os.RemoveAll(aside); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWatchOfMounts: mounting over the folder tells nobody; the scan does.
func TestWatchOfMounts(t *testing.T) {
	b := newBox(t, nil)
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	wakes := b.watching()
	b.look()
	mounted := false
	t.Cleanup(func() {
		if mounted {
			_ = unix.Unmount(b.dir, unix.MNT_DETACH)
		}
	})
	if err := unix.Mount("tmpfs", b.dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	mounted = true
	for _, what := range []string{"mounted", "unmounted"} {
		before := wakes.Load()
		b.look() // the periodic scan
		b.wait("the folder is watched anew, "+what, func() bool { return wakes.Load() > before })
		before = wakes.Load()
		b.put("a.iso", nil)
		b.wait("events come, "+what, func() bool { return wakes.Load() > before })
		if mounted {
			if err := unix.Unmount(b.dir, unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
			mounted = false
		}
	}
}

// TestWatchOverflow is D5: when the kernel drops events for want of room, that itself wakes, and the scan then finds the
// file whose event was lost.
func TestWatchOverflow(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Fatal(err)
	}
	room, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || room > 100_000 {
		t.Skipf("the queue has room for %d events, too many to fill (%v)", room, err)
	}
	b := newBox(t, nil)
	b.put("x.part", nil)
	b.put("first.iso", nil)
	ctx, cancel := context.WithCancel(t.Context())
	woke := make(chan bool)
	var wg gosync.WaitGroup
	wg.Go(func() {
		if err := b.watch(ctx, func() {
			select {
			case woke <- true: // the watch stands still until somebody wants to know
			case <-ctx.Done():
			}
		}); err != nil {
			t.Errorf("watch: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	wait := func(what string) {
		t.Helper()
		select {
		case <-woke:
		case <-time.After(60 * time.Second):
			t.Fatalf("no wake %s", what)
		}
	}
	wait("at the start")
	if err := os.Remove(b.path("first.iso")); err != nil { // the watch stops at the wake for this one
		t.Fatal(err)
	}
	const read = 8192 // events that fsnotify may have taken out of the queue already; it stops there too
	for range (room + read) / 4 {
		for _, r := range [][2]string{{"x.part", "y.part"}, {"y.part", "x.part"}} { // nothing that wakes; two events each
			if err := os.Rename(b.path(r[0]), b.path(r[1])); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.put("late.iso", nil)
	wait("for the first image")
	wait("for the overflow")
	if files := b.look().Files; len(files) != 1 || files[0].Name != "late.iso" {
		t.Errorf("%v", files)
	}
}
