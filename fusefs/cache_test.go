package fusefs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"testing"

	"isosyncd/lxd"
	isosync "isosyncd/sync"
)

func testCache(t *testing.T, most int64, e Exporter, dir string) *cache {
	t.Helper()
	c, err := openCache(dir, most, e, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	c.work, c.until = &work, func(ctx context.Context) (context.Context, context.CancelFunc) { return context.WithCancel(ctx) }
	t.Cleanup(work.Wait)
	return c
}

func volume(name string, size int64) *isosync.VolumeStatus {
	return &isosync.VolumeStatus{Volume: lxd.Volume{Name: name, Size: size, ContentType: "iso"}}
}

func fetchAll(t *testing.T, c *cache, v *isosync.VolumeStatus) ([]byte, error) {
	t.Helper()
	f, err := c.get(t.Context(), v)
	if err != nil {
		return nil, err
	}
	defer f.release()
	if err := f.wait(t.Context(), f.size); err != nil {
		return nil, err
	}
	b := make([]byte, f.size)
	_, err = f.file.ReadAt(b, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b, err
}

// TestCacheCap: what was used last stays, what was used first goes, what is open is never removed, and what does not fit
// is refused before it is fetched.
func TestCacheCap(t *testing.T) {
	data := image(50, 1)
	size := int64(len(data))
	e := &exporter{data: data}
	dir := t.TempDir()
	c := testCache(t, 3*size, e, dir)
	for _, n := range []string{"a", "b", "c", "a"} {
		if got, err := fetchAll(t, c, volume(n, size)); err != nil || string(got) != string(data) {
			t.Fatalf("%s: %d bytes, %v", n, len(got), err)
		}
	}
	if e.calls() != 3 {
		t.Errorf("%d fetches, want 3", e.calls())
	}
	if _, err := fetchAll(t, c, volume("d", size)); err != nil {
		t.Fatal(err)
	}
	if _, err := fetchAll(t, c, volume("a", size)); err != nil || e.calls() != 4 {
		t.Errorf("a was removed though b was older: %d fetches, %v", e.calls(), err)
	}
	var open []*fetch
	for _, n := range []string{"a", "c", "d"} {
		f, err := c.get(t.Context(), volume(n, size))
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, f)
	}
	calls := e.calls()
	if _, err := fetchAll(t, c, volume("e", size)); !errors.Is(err, syscall.ENOSPC) || e.calls() != calls {
		t.Errorf("over the cap: %v, %d fetches", err, e.calls()-calls)
	}
	if _, err := fetchAll(t, c, volume("huge", 4*size)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("larger than the cache: %v", err)
	}
	for _, f := range open {
		f.release()
	}
	if n := diskUse(t, dir); n > 3*size {
		t.Errorf("%d bytes on disk, the cap is %d", n, 3*size)
	}
	again := testCache(t, 3*size, e, dir)
	calls = e.calls()
	if _, err := fetchAll(t, again, volume("d", size)); err != nil || e.calls() != calls {
		t.Errorf("after a restart: %v, %d fetches", err, e.calls()-calls)
	}
	testCache(t, size, e, dir)
	if n := diskUse(t, dir); n > size {
		t.Errorf("%d bytes on disk after the cap was lowered to %d", n, size)
	}
}

func diskUse(t *testing.T, dir string) (n int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size()
	}
	return n
}

// TestCacheTorn: a stream that ends early, has another size or another digest than the mark says is an error before its
// last byte, is tried again, and leaves nothing.
func TestCacheTorn(t *testing.T) {
	data := image(50, 1)
	size := int64(len(data))
	for name, tt := range map[string]struct {
		e Exporter
		v *isosync.VolumeStatus
	}{
		"short": {cut{data[:size-1], size}, volume("a", size)},
		"size":  {cut{data, size + 1}, volume("a", size)},
		"digest": {cut{data, size}, func() *isosync.VolumeStatus {
			v := volume("a", size)
			v.Digest = digestOf(data[1:])
			return v
		}()},
		"refused": {&exporter{err: lxd.ErrNotRead}, volume("a", size)},
	} {
		dir := t.TempDir()
		c := testCache(t, 1<<30, tt.e, dir)
		for range 2 {
			if got, err := fetchAll(t, c, tt.v); err == nil {
				t.Errorf("%s: %d bytes and no error", name, len(got))
			}
		}
		c.work.Wait()
		if n := diskUse(t, dir); n != 0 {
			t.Errorf("%s: %d bytes left", name, n)
		}
		if len(c.files) != 0 {
			t.Errorf("%s: the failure is remembered: %v", name, c.files)
		}
	}
}

// cut is a server that says one size and sends another.
type cut struct {
	data []byte
	size int64
}

func (c cut) Export(context.Context, string) (io.ReadCloser, int64, error) {
	return io.NopCloser(io.LimitReader(zeros{c.data, new(int)}, int64(len(c.data)))), c.size, nil
}

type zeros struct {
	data []byte
	at   *int
}

func (z zeros) Read(p []byte) (int, error) {
	n := copy(p, z.data[*z.at:])
	*z.at += n
	if n == 0 {
		return 0, fmt.Errorf("cut: %w", io.ErrUnexpectedEOF)
	}
	return n, nil
}
