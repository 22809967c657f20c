package sync

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	gosync "sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"isosyncd/lxd/lxdtest"
)

// stepping makes a fault's f wait for the test's own goroutine: only that may use all of a Server.
type stepping struct{ here, goOn chan struct{} }

func newStepping() *stepping {
	return &stepping{here: make(chan struct{}, 1), goOn: make(chan struct{})}
}

func (s *stepping) wait() {
	s.here <- struct{}{}
	<-s.goOn
}

// TestInUse (S9, S10): a volume that somebody uses, before or at the very moment when we delete it, stays as it is, and
// is replaced when it is free.
func TestInUse(t *testing.T) {
	inMemory(t)
	lxdtest.Each(t, func(t *testing.T, s *lxdtest.Server) {
		b := newBench(t, s, 0, nil)
		stop := audit(t, s, b.pool)
		defer stop()
		b.start()
		seed := seedOf(t)
		var data [4][]byte
		for i := range data {
			data[i] = image(64, seed+uint64(i))
		}
		b.drop("a.iso", data[0])
		b.untilHas("a.iso", data[0])

		told := func() {
			if !s.Real() {
				b.Refresh() // the store has no events of profiles
			}
		}
		s.UseVolume("a")
		told()
		b.until("use is seen", func(s *Snapshot) bool { return len(s.Volumes) == 1 && len(s.Volumes[0].UsedBy) == 1 })
		b.drop("a.iso", data[1])
		f := b.untilState("a.iso", StateWaiting)
		if f.Problem.Code != CodeInUse || !strings.Contains(f.Problem.Text, "profile default") {
			t.Errorf("problem %v", f.Problem)
		}
		b.right("a", data[0])
		s.Free("a")
		told()
		b.untilHas("a.iso", data[1])
		b.right("a", data[1])

		step := newStepping()
		b.proxy.Strike(lxdtest.Method("DELETE"), 1, 0, lxdtest.Before(step.wait))
		b.drop("a.iso", data[2])
		<-step.here
		s.UseVolume("a")
		close(step.goOn)
		f = b.untilState("a.iso", StateWaiting)
		if f.Problem.Code != CodeInUse {
			t.Errorf("problem %v", f.Problem)
		}
		v, err := b.pool.Volume(t.Context(), "a")
		if m, _ := OurMark(v, owner); err != nil || m.SHA256 != hexOf(data[1]) {
			t.Errorf("the old volume is not what it was: %+v, %v", v, err)
		}
		s.Free("a")
		told()
		b.untilHas("a.iso", data[2])
		b.right("a", data[2])
		b.idle()
		if n := b.uploads.Load(); n != 3 {
			t.Errorf("%d uploads", n)
		}
	})
}

// TestDeletedWhileMade (S12): somebody deletes our volume while the server makes it. It is sent again, once.
func TestDeletedWhileMade(t *testing.T) {
	inMemory(t)
	lxdtest.Each(t, func(t *testing.T, s *lxdtest.Server) {
		b := newBench(t, s, 0, nil)
		b.proxy.Strike(lxdtest.Waits, 1, 0, lxdtest.Before(func() {
			lxdtest.Eventually(t, "the volume to be deleted", func() bool {
				status, _, err := s.Do("DELETE", "/1.0/storage-pools/default/volumes/custom/a", nil)
				return err == nil && (status < 300 || s.Real() && status == 404)
			})
		}))
		b.start()
		data := image(64, seedOf(t))
		b.drop("a.iso", data)
		b.untilHas("a.iso", data)
		b.right("a", data)
		b.idle()
		if n := b.uploads.Load(); n > 2 {
			t.Errorf("%d uploads", n)
		}
	})
}

// TestTwoOwners (S11, S13): two daemons of other owners on one pool. Neither touches what the other made, whatever the
// names and bytes; the loser of a name says whose it is, and both may replace by the same bytes at the same time.
func TestTwoOwners(t *testing.T) {
	inMemory(t)
	lxdtest.Each(t, func(t *testing.T, s *lxdtest.Server) {
		one := newBench(t, s, 0, func(c *Config) { c.Owner, c.Policy.Prune, c.Policy.RestoreDeleted = "one", true, true })
		two := newBench(t, s, 0, func(c *Config) { c.Owner, c.Policy.Prune, c.Policy.RestoreDeleted = "two", true, true })
		stop := audit(t, s, one.pool)
		defer stop()
		one.start()
		two.start()
		seed := seedOf(t)
		shared, other, both := image(64, seed), image(64, seed+1), image(64, seed+2)
		one.drop("shared.iso", shared)
		one.untilHas("shared.iso", shared)
		two.drop("shared.iso", other)
		two.drop("theirs.iso", other)
		two.untilHas("theirs.iso", other)
		one.drop("ours.iso", other) // the bytes of the other's volume: not ours to copy from
		one.untilHas("ours.iso", other)
		f := two.untilState("shared.iso", StateFailed)
		if f.Problem.Code != CodeForeign || !strings.Contains(f.Problem.Text, "owner one") {
			t.Errorf("problem %v", f.Problem)
		}
		one.right("shared", shared)

		// The same new bytes for both, so that their stages have one name.
		one.drop("ours.iso", both)
		two.drop("theirs.iso", both)
		one.untilHas("ours.iso", both)
		two.untilHas("theirs.iso", both)
		one.right("ours", both)
		two.right("theirs", both)
		one.right("shared", shared)
		for _, b := range []*bench{one, two} {
			b.idle()
			for _, q := range b.proxy.Requests() {
				method, path, _ := strings.Cut(q, " ")
				foreign := b == one && strings.Contains(path, "/custom/theirs") || b == two && strings.Contains(path, "/custom/ours") ||
					b == two && strings.Contains(path, "/custom/shared")
				if foreign && method != "GET" {
					t.Errorf("owner %s: %s", b.cfg.Owner, q)
				}
			}
		}
	})
}

// TestNoRoom (S6): an image that does not fit is not sent, one that would not fit beside its old volume leaves that alone,
// and both go ahead by themselves when there is room. A server that runs full in spite of all loses nothing.
func TestNoRoom(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	small := t.TempDir()
	t.Setenv("TMPDIR", dir) // the server's directory
	s := lxdtest.Store(t)
	t.Setenv("TMPDIR", small)
	b := newBench(t, s, 0, nil)
	stop := audit(t, s, b.pool)
	defer stop()
	b.start()
	seed := seedOf(t)
	const mib = 512 // sectors
	ballast, old, data := image(8*mib, seed), image(4*mib, seed+1), image(10*mib, seed+2)
	b.drop("ballast.iso", ballast)
	b.drop("a.iso", old)
	b.untilHas("ballast.iso", ballast)
	b.untilHas("a.iso", old)
	sent := b.uploads.Load()
	b.drop("a.iso", data)
	b.drop("b.iso", image(13*mib, seed+3))
	for _, name := range []string{"a.iso", "b.iso"} {
		if f := b.untilState(name, StateWaiting); f.Problem.Code != CodeNoSpace {
			t.Errorf("%s: problem %v", name, f.Problem)
		}
	}
	b.right("a", old)
	if n := b.uploads.Load() - sent; n > 0 {
		t.Errorf("%d uploads of what does not fit", n)
	}
	if err := os.Remove(filepath.Join(b.folder, "b.iso")); err != nil {
		t.Fatal(err)
	}
	// Somebody else takes the rest behind our back, in the moment before our bytes go out.
	var once gosync.Once
	full := filepath.Join(dir, "full")
	b.proxy.Strike(lxdtest.Imports, 1, 0, lxdtest.Before(func() {
		once.Do(func() {
			if err := os.WriteFile(full, make([]byte, 11<<20), 0o600); err != nil {
				t.Errorf("fill: %v", err)
			}
		})
	}))
	if err := os.Remove(filepath.Join(b.folder, "ballast.iso")); err != nil {
		t.Fatal(err)
	}
	if err := b.pool.Delete(t.Context(), "ballast"); err != nil {
		t.Fatal(err)
	}
	b.until("the failure", func(s *Snapshot) bool { return s.Totals.Failures > 0 })
	b.right("a", old)
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	b.Refresh()
	b.untilHas("a.iso", data)
	b.right("a", data)
}

// namespaceEnv tells a test binary that it runs in mounts of its own.
const namespaceEnv = "ISOSYNCD_TEST_NAMESPACE"

// inNamespace runs the test once more, as a child whose mounts are its own and vanish with it, and reports true in that
// child. In the parent it reports false when the child is done.
func inNamespace(t *testing.T) bool {
	t.Helper()
	lxdtest.Need(t, "root")
	if os.Getenv(namespaceEnv) == t.Name() {
		return true
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1") //nolint:gosec // ourselves
	cmd.Env = append(os.Environ(), namespaceEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	text := fmt.Sprintf("in its own mounts:\n%s", out)
	switch {
	case err != nil:
		t.Errorf("%v\n%s", err, text)
	case !strings.Contains(text, "--- PASS: "+t.Name()):
		t.Errorf("it did not run\n%s", text)
	default:
		lines := strings.Split(text, "\n")
		t.Log(strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, "level=") }), "\n"))
	}
	return false
}
