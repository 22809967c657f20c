package store_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"isosyncd/lxd"
	"isosyncd/lxd/lxdtest"
	"isosyncd/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// served is a store that is served by its own Serve.
type served struct {
	store *store.Store
	pool  *lxd.Pool
	addr  string
	stop  func() // ends Serve, and closes the store
}

func serve(t testing.TB, dir string, opts store.Options) *served {
	t.Helper()
	s, err := store.Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(lxdtest.ShortDir(t), "s")
	l, err := new(net.ListenConfig).Listen(context.Background(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	v := &served{store: s, addr: "unix:" + path}
	done := false
	v.stop = func() {
		if done {
			return
		}
		done = true
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(v.stop)
	c, err := lxd.Dial(lxdtest.Context(t), lxd.Target{Addr: v.addr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if v.pool, err = c.Pool(lxdtest.Context(t), "default"); err != nil {
		t.Fatal(err)
	}
	return v
}

// put imports what File makes, and waits.
func put(t testing.TB, p *lxd.Pool, name string, size int64) error {
	t.Helper()
	ctx := lxdtest.Context(t)
	operation, err := p.Import(ctx, name, lxdtest.File(t, size), size, nil)
	if err != nil {
		return err
	}
	return p.Wait(ctx, operation)
}

func mustPut(t testing.TB, p *lxd.Pool, name string, size int64) {
	t.Helper()
	if err := put(t, p, name, size); err != nil {
		t.Fatal(err)
	}
}

func names(t testing.TB, p *lxd.Pool) []string {
	t.Helper()
	list, err := p.Volumes(lxdtest.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	n := []string{}
	for _, v := range list {
		n = append(n, v.Name)
	}
	return n
}

// files lists the regular files of a store, but for its own two.
func files(t testing.TB, dir string) []string {
	t.Helper()
	found := []string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if rel != "lock" && rel != "state.json" {
			found = append(found, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestLayout(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir, store.Options{})
	mustPut(t, s.pool, "debian-13", 5000)
	if f := files(t, dir); !slices.Equal(f, []string{"pools/default/default/debian-13.iso", "pools/default/default/debian-13.json"}) {
		t.Errorf("files: %q", f)
	}
	path, err := s.store.VolumePath("default", "default", "debian-13")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o400 || info.Size() != 5000 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := s.store.VolumePath("default", "default", "absent"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the path of nothing: %v", err)
	}
	if err := s.pool.Delete(lxdtest.Context(t), "debian-13"); err != nil {
		t.Fatal(err)
	}
	if f := files(t, dir); len(f) != 0 {
		t.Errorf("files after the deletion: %q", f)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir, store.Options{})
	if _, err := store.Open(dir, store.Options{}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("a second store in one directory: %v", err)
	}
	s.stop()
	again, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := store.Open(dir, store.Options{Vendor: "other"}); err == nil {
		t.Error("a dialect that is none was taken")
	}
}

// TestOpenOdd opens stores in which somebody was.
func TestOpenOdd(t *testing.T) {
	const data = "pools/default/default/v.iso"
	for name, c := range map[string]struct {
		change func(dir string) error
		opens  bool
		shown  []string
		kept   []string // files that are still there afterwards
	}{
		"nothing": {func(string) error { return nil }, true, []string{"v"}, []string{data}},
		"left-overs": {func(dir string) error {
			return errors.Join(
				os.WriteFile(filepath.Join(dir, "pools/default/.tmp/x"), []byte("x"), 0o600),
				os.WriteFile(filepath.Join(dir, "pools/default/default/.new-1"), []byte("x"), 0o600),
				os.WriteFile(filepath.Join(dir, ".new-1"), []byte("x"), 0o600),
				os.WriteFile(filepath.Join(dir, "pools/default/default/w.json"), []byte(`{"name":"w","project":"default"}`), 0o600),
			)
		}, true, []string{"v"}, []string{data, "pools/default/default/v.json"}},
		"cut data": {func(dir string) error { return os.Truncate(filepath.Join(dir, data), 100) }, true, []string{}, []string{data}},
		"somebody's image": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "pools/default/default/theirs.iso"), []byte("x"), 0o600)
		}, true, []string{"v"}, []string{"pools/default/default/theirs.iso"}},
		"renamed by hand": {func(dir string) error {
			base := filepath.Join(dir, "pools/default/default/")
			return errors.Join(os.Rename(base+"/v.iso", base+"/w.iso"), os.Rename(base+"/v.json", base+"/w.json"))
		}, true, []string{}, []string{"pools/default/default/w.iso"}},
		"broken state": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "state.json"), []byte("{"), 0o600) }, false, nil, []string{data}},
		"newer format": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "state.json"), []byte(`{"format":2}`), 0o600)
		}, false, nil, []string{data}},
		"broken metadata": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "pools/default/default/v.json"), []byte("{"), 0o600)
		}, false, nil, []string{data}},
		"missing pool": {func(dir string) error {
			return os.Rename(filepath.Join(dir, "pools/default"), filepath.Join(dir, "elsewhere"))
		}, false, nil, []string{"elsewhere/default/v.iso"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := serve(t, dir, store.Options{})
			mustPut(t, s.pool, "v", 5000)
			s.stop()
			if err := c.change(dir); err != nil {
				t.Fatal(err)
			}
			again, err := store.Open(dir, store.Options{})
			if (err == nil) != c.opens {
				t.Fatalf("open: %v", err)
			}
			if err == nil {
				if err := again.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				s := serve(t, dir, store.Options{})
				if n := names(t, s.pool); !slices.Equal(n, c.shown) {
					t.Errorf("shown: %q, want %q", n, c.shown)
				}
				if len(c.shown) == 0 {
					if err := put(t, s.pool, "v", 100); name == "cut data" && err == nil {
						t.Error("what is left of a volume was overwritten")
					}
				}
			}
			have := files(t, dir)
			for _, k := range c.kept {
				if !slices.Contains(have, k) {
					t.Errorf("%s is gone; there is %q", k, have)
				}
			}
			for _, f := range have {
				if strings.Contains(f, ".new-") || strings.Contains(f, ".tmp/") || strings.HasSuffix(f, "w.json") && name == "left-overs" {
					t.Errorf("%s was not swept", f)
				}
			}
		})
	}
}

// TestFailures makes each step of each operation fail, and wants nothing to be left of what failed.
func TestFailures(t *testing.T) {
	errGate := errors.New("injected")
	for _, point := range []store.Point{store.PointBegin, store.PointSynced, store.PointDescribed, store.PointCommitted} {
		t.Run(string(point), func(t *testing.T) {
			dir := t.TempDir()
			var armed atomic.Bool
			s := serve(t, dir, store.Options{Gate: func(p store.Point, volume string, _ <-chan struct{}) error {
				if armed.Load() && p == point && volume != "v" {
					return errGate
				}
				return nil
			}})
			mustPut(t, s.pool, "v", 5000)
			before := files(t, dir)
			armed.Store(true)
			ctx := lxdtest.Context(t)
			var failed *lxd.Error
			if err := put(t, s.pool, "w", 5000); !errors.As(err, &failed) || !failed.InOp || !strings.Contains(failed.Message, "injected") {
				t.Errorf("import: %v", err)
			}
			// A copy syncs nothing: its data is there.
			if point != store.PointSynced {
				operation, err := s.pool.Copy(ctx, "v", "w", "")
				if err == nil {
					err = s.pool.Wait(ctx, operation)
				}
				if err == nil {
					t.Error("the copy succeeded")
				}
			}
			if after := files(t, dir); !slices.Equal(before, after) {
				t.Errorf("files: %q, before: %q", after, before)
			}
			if n := names(t, s.pool); !slices.Equal(n, []string{"v"}) {
				t.Errorf("volumes: %q", n)
			}
		})
	}
}

func TestNoSpace(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir, store.Options{})
	// A sparse file is no smaller than it says.
	f := lxdtest.File(t, 100)
	const size = 1 << 43
	if err := f.Truncate(size); err != nil {
		t.Skipf("SKIPPED: the file system has no files of %d bytes: %v", int64(size), err)
	}
	var sent int64
	_, err := s.pool.Import(lxdtest.Context(t), "v", f, size, func(n int64) { sent = n })
	var refused *lxd.Error
	if !errors.As(err, &refused) || lxd.IsPermanent(err) {
		t.Errorf("8 TiB: %v", err)
	}
	if sent != 0 {
		t.Errorf("%d bytes were sent before that was noticed", sent)
	}
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

func TestCloseWaits(t *testing.T) {
	dir := t.TempDir()
	reached, release := make(chan struct{}), make(chan struct{})
	s := serve(t, dir, store.Options{Gate: func(p store.Point, _ string, _ <-chan struct{}) error {
		if p == store.PointSynced {
			close(reached)
			<-release
		}
		return nil
	}})
	if _, err := s.pool.Import(lxdtest.Context(t), "v", lxdtest.File(t, 5000), 5000, nil); err != nil {
		t.Fatal(err)
	}
	<-reached
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.stop()
	}()
	// It is not closed while the volume is being made, and serves nobody any more.
	lxdtest.Eventually(t, "the socket to be closed", func() bool {
		_, err := s.pool.Volumes(lxdtest.Context(t))
		return errors.Is(err, lxd.ErrAway)
	})
	select {
	case <-closed:
		t.Error("the store was closed while it made a volume")
	default:
	}
	close(release)
	<-closed
	if n := names(t, serve(t, dir, store.Options{}).pool); !slices.Equal(n, []string{"v"}) {
		t.Errorf("after that: %q", n)
	}
}

// TestCloseGivesUp is Close with a context that is done: whatever is under way is left as it stands.
func TestCloseGivesUp(t *testing.T) {
	for _, point := range []store.Point{store.PointBegin, store.PointSynced, store.PointDescribed} {
		t.Run(string(point), func(t *testing.T) {
			dir := t.TempDir()
			reached := make(chan struct{})
			s, err := store.Open(dir, store.Options{Gate: func(p store.Point, _ string, stop <-chan struct{}) error {
				if p == point {
					close(reached)
					<-stop
				}
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			sock := filepath.Join(lxdtest.ShortDir(t), "s")
			l, err := new(net.ListenConfig).Listen(t.Context(), "unix", sock)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- s.Serve(ctx, l) }()
			c, err := lxd.Dial(lxdtest.Context(t), lxd.Target{Addr: "unix:" + sock})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			p, err := c.Pool(lxdtest.Context(t), "default")
			if err == nil {
				_, err = p.Import(lxdtest.Context(t), "v", lxdtest.File(t, 5000), 5000, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			<-reached
			cancel()
			<-ended
			now, stop := context.WithTimeout(context.Background(), time.Nanosecond)
			defer stop()
			if err := s.Close(now); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("close: %v", err)
			}
			if left := files(t, dir); len(left) == 0 {
				t.Error("it cleaned up, which a process that is killed would not")
			}
			if n := names(t, serve(t, dir, store.Options{}).pool); len(n) != 0 {
				t.Errorf("after that: %q", n)
			}
			if left := files(t, dir); len(left) != 0 {
				t.Errorf("not swept: %q", left)
			}
		})
	}
}
