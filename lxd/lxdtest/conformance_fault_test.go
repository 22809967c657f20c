package lxdtest_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"isosyncd/lxd"
	"isosyncd/lxd/lxdtest"
	"isosyncd/store"
)

func testErrors(t *testing.T, s *lxdtest.Server, _ traits) {
	for request, want := range map[string]int{
		"GET /1.0/nope":                       404,
		"GET /1.0/operations/nope":            404,
		"GET /1.0/operations/nope/wait":       404,
		"GET /1.0/profiles/nope":              404,
		"GET /1.0/projects/nope":              404,
		"GET /1.0/storage-pools/nope":         404,
		"PUT /1.0/storage-pools":              501,
		"GET /1.0/storage-pools?project=nope": 404,
		"DELETE /1.0/projects/default":        403,
		"DELETE /1.0/profiles/default":        403,
	} {
		method, path, _ := strings.Cut(request, " ")
		status, text, err := s.Do(method, path, nil)
		if err != nil || status != want && !(strings.HasSuffix(path, "?project=nope") && status == 200) {
			t.Errorf("%s: %d, want %d: %s %v", request, status, want, text, err)
		}
		if e := envelope(t, text); status >= 400 && (e.Type != "error" || e.ErrorCode != status || e.Error == "") {
			t.Errorf("%s: %s", request, text)
		}
	}
	if status, text := rawImport(t, s, "v", "nonsense", 1000); status < 400 {
		t.Errorf("an import of a type that is none: %d %s", status, text)
	}
	absent(t, s.Pool(t), "v")
}

func testRestart(t *testing.T, s *lxdtest.Server, _ traits) {
	in := s.In(t, "kept", nil)
	p := in.Pool(t)
	f := put(t, p, "v", 5000)
	if err := p.Describe(lxdtest.Context(t), "v", "a mark"); err != nil {
		t.Fatal(err)
	}
	in.UseVolume("v")
	before := get(t, p, "v")
	s.Kill()
	if _, err := p.Volumes(lxdtest.Context(t)); !errors.Is(err, lxd.ErrAway) {
		t.Errorf("while the server is away: %v", err)
	}
	s.Restart()
	after := get(t, p, "v")
	if after.Size != before.Size || after.Description != "a mark" || after.Incarnation() != before.Incarnation() || !slices.Equal(after.UsedBy, before.UsedBy) {
		t.Errorf("after the restart %+v, before %+v", after, before)
	}
	sameBytes(t, in, "v", f, 5000)
	if err := p.Delete(lxdtest.Context(t), "v"); !errors.Is(err, lxd.ErrInUse) {
		t.Errorf("delete what is in use: %v", err)
	}
	in.Free("v")
	if err := p.Delete(lxdtest.Context(t), "v"); err != nil {
		t.Error(err)
	}
}

func testKillUpload(t *testing.T, s *lxdtest.Server, _ traits) {
	p := s.Pool(t)
	const size = 64 << 20
	f := lxdtest.File(t, size)
	var once sync.Once
	_, err := p.Import(lxdtest.Context(t), "v", f, size, func(int64) { once.Do(s.Kill) })
	if err == nil {
		t.Skip("the upload was over before the server was killed") // progress comes ten times a second only
	}
	if lxd.IsPermanent(err) {
		t.Errorf("the upload ended with %v, which looks as if it was for good", err)
	}
	s.Restart()
	absent(t, p, "v")
	if left := leftovers(t, s); !s.Real() && len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
	if err := tryPut(t, p, "v", f, size); err != nil {
		t.Error(err)
	}
	sameBytes(t, s, "v", f, size)
}

// testKillCreate kills the server while it makes a volume, and wants what the planner rests on: that the operation is
// unknown afterwards, and that what is there can be deleted and made again.
func testKillCreate(t *testing.T, s *lxdtest.Server, tr traits) {
	p := s.Pool(t)
	ctx := lxdtest.Context(t)
	if s.Real() {
		const size = 192 << 20
		f := lxdtest.File(t, size)
		operation, err := p.Import(ctx, "v", f, size, nil)
		if err != nil {
			t.Fatal(err)
		}
		// The volume is shown before its bytes are there.
		lxdtest.Eventually(t, "the volume to be shown", func() bool { return len(names(t, p)) == 1 })
		s.Kill()
		s.Restart()
		afterKill(t, s, p, tr, operation, f, size)
		return
	}
	const size = 100_000
	f := lxdtest.File(t, size)
	for _, point := range []store.Point{store.PointBegin, store.PointSynced, store.PointDescribed, store.PointCommitted} {
		reached, release := s.Hold(point, "v")
		operation, err := p.Import(ctx, "v", f, size, nil)
		if err != nil {
			t.Fatal(err)
		}
		<-reached
		s.Kill()
		release()
		s.Restart()
		// Once the whole file has its name, there is a volume.
		if n := len(names(t, p)); (n == 1) != (point == store.PointCommitted) {
			t.Errorf("killed at %q: %d volumes", point, n)
		}
		if left := leftovers(t, s); len(left) > 0 {
			t.Errorf("killed at %q: left over: %q", point, left)
		}
		afterKill(t, s, p, tr, operation, f, size)
	}
}

func afterKill(t *testing.T, s *lxdtest.Server, p *lxd.Pool, tr traits, operation string, f *os.File, size int64) {
	t.Helper()
	ctx := lxdtest.Context(t)
	if err := p.Wait(ctx, operation); !errors.Is(err, lxd.ErrUnknown) {
		t.Errorf("wait for what the server was killed at: %v", err)
	}
	if list := names(t, p); len(list) > 0 {
		if v := get(t, p, "v"); v.Size != size {
			t.Errorf("the volume is %+v", v)
		}
		if info, err := os.Stat(s.VolumeFile("default", s.Project(), "v")); err != nil || info.Size() < size {
			t.Logf("the server shows a torn volume: %v, %v", info, err)
			if !tr.torn {
				t.Error("that must not be")
			}
		} else if !tr.torn {
			sameBytes(t, s, "v", f, size)
		}
		if err := p.Delete(ctx, "v"); err != nil {
			t.Fatal(err)
		}
	}
	if err := tryPut(t, p, "v", f, size); err != nil {
		t.Fatal(err)
	}
	sameBytes(t, s, "v", f, size)
	if err := p.Delete(ctx, "v"); err != nil {
		t.Fatal(err)
	}
}
