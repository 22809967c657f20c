package store_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"isosyncd/lxd/lxdtest"
	"isosyncd/store"
)

// TestCopyLinks wants a copy to cost nothing where it can, and to be a real one where it must.
func TestCopyLinks(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir, store.Options{})
	const size = 3_000_000
	mustPut(t, s.pool, "v", size)
	ctx := lxdtest.Context(t)
	operation, err := s.pool.Copy(ctx, "v", "w", "")
	if err == nil {
		err = s.pool.Wait(ctx, operation)
	}
	if err != nil {
		t.Fatal(err)
	}
	stat := func(name string) os.FileInfo {
		path, err := s.store.VolumePath("default", "default", name)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	if !os.SameFile(stat("v"), stat("w")) {
		t.Error("the bytes were copied")
	}
	if err := s.pool.Delete(ctx, "v"); err != nil {
		t.Fatal(err)
	}
	if info := stat("w"); info.Size() != size {
		t.Errorf("the copy has %d bytes", info.Size())
	}
}

// TestCopyAcross copies to a pool on another file system, where there can be no link.
func TestCopyAcross(t *testing.T) {
	dir := t.TempDir()
	other, err := os.MkdirTemp("/dev/shm", "isosyncd-test-")
	if err != nil {
		t.Skipf("SKIPPED: no second file system: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(other) })
	s := serve(t, dir, store.Options{})
	const size = 3_000_000
	mustPut(t, s.pool, "v", size)
	// A pool's directory may be a link to another disk, made before the pool is.
	if err := os.Symlink(other, filepath.Join(dir, "pools", "shm")); err != nil {
		t.Fatal(err)
	}
	ctx := lxdtest.Context(t)
	if _, err := s.request(ctx, http.MethodPost, "/1.0/storage-pools", `{"name":"shm","driver":"dir"}`); err != nil {
		t.Fatal(err)
	}
	operation, err := s.request(ctx, http.MethodPost, "/1.0/storage-pools/shm/volumes/custom",
		`{"name":"v","content_type":"iso","source":{"type":"copy","name":"v","pool":"default"}}`)
	if err == nil {
		err = s.pool.Wait(ctx, operation)
	}
	if err != nil {
		t.Fatal(err)
	}
	path, err := s.store.VolumePath("default", "shm", "v")
	if err != nil {
		t.Fatal(err)
	}
	source, err := s.store.VolumePath("default", "default", "v")
	if err != nil {
		t.Fatal(err)
	}
	if lxdtest.SumFile(t, path, size) != lxdtest.SumFile(t, source, size) {
		t.Error("the copy has other bytes")
	}
	if err := s.pool.Delete(ctx, "v"); err != nil {
		t.Error(err)
	}
	s.stop()
	// Without its disk the pool must not look empty.
	if err := os.Remove(filepath.Join(dir, "pools", "shm")); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(dir, store.Options{}); err == nil {
		t.Error("a store without one of its disks was opened")
	}
}

// request makes a request that package lxd does not make, and returns the operation that it began.
func (s *served) request(ctx context.Context, method, path, body string) (operation string, err error) {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(s.addr, "unix:"))
	}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "http://store"+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= 300 {
		return "", fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	return resp.Header.Get("Location"), nil
}

func BenchmarkImportStore1GiB(b *testing.B) {
	const size = 1 << 30
	s := serve(b, b.TempDir(), store.Options{})
	f, err := os.Create(filepath.Join(b.TempDir(), "image.iso"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	piece := make([]byte, 1<<20)
	for i := range size / len(piece) {
		piece[0] = byte(i)
		if _, err := f.Write(piece); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	b.ReportAllocs()
	ctx := context.Background()
	n := 0
	for b.Loop() {
		n++
		name := fmt.Sprintf("v%d", n)
		began := time.Now()
		operation, err := s.pool.Import(ctx, name, f, size, nil)
		uploaded := time.Since(began)
		if err == nil {
			err = s.pool.Wait(ctx, operation)
		}
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(uploaded.Seconds(), "upload-s")
		b.StopTimer()
		if err := s.pool.Delete(ctx, name); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
