package sync

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func newSpool(t testing.TB) *spool {
	t.Helper()
	s, err := openSpool(filepath.Join(t.TempDir(), "state", "spool"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *spool) files(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestSpool(t *testing.T) {
	s := newSpool(t)
	if st, err := os.Stat(s.dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st, err)
	}
	data := isoImage(1000, "a")
	f := tempFile(t, data)
	if err := s.hold(t.Context(), f, int64(len(data)), hexOf(data)); err != nil {
		t.Fatal(err)
	}
	if err := s.hold(t.Context(), f, int64(len(data)), hexOf(data)); err != nil {
		t.Errorf("held already: %v", err)
	}
	if off, err := f.Seek(0, io.SeekCurrent); err != nil || off != 0 {
		t.Errorf("the source's offset moved to %d", off)
	}
	if list, err := s.list(); err != nil || !slices.Equal(list, []string{hexOf(data)}) {
		t.Errorf("%v, %v", list, err)
	}
	c, err := s.open(hexOf(data))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := io.ReadAll(c); err != nil || string(got) != string(data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if st, err := c.Stat(); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	for range 2 {
		if err := s.drop(hexOf(data)); err != nil {
			t.Error(err)
		}
	}
	if left := s.files(t); len(left) != 0 {
		t.Errorf("left %q", left)
	}
	if _, err := s.open(hexOf(data)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open: %v", err)
	}
	for _, digest := range []string{"", "..", "../../etc/passwd", strings.ToUpper(hexOf(data)), hexOf(data) + "/"} {
		_, err := s.open(digest)
		if err == nil || s.drop(digest) == nil || s.hold(t.Context(), f, 1, digest) == nil {
			t.Errorf("%q was taken for a digest", digest)
		}
	}
}

// TestSpoolHoldsNothingWrong: a copy that is not what it shall be never gets the name, and nothing stays of it.
func TestSpoolHoldsNothingWrong(t *testing.T) {
	s := newSpool(t)
	data := isoImage(100, "a")
	f := tempFile(t, data)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx    context.Context
		size   int64
		digest string
		want   Code
	}{
		"other bytes": {t.Context(), int64(len(data)), hexOf([]byte("other")), CodeChanged},
		"shorter":     {t.Context(), int64(len(data)) + 1, hexOf(data), CodeChanged},
		"no room":     {t.Context(), 1 << 60, hexOf(data), CodeNoSpace},
		"cancelled":   {ctx, int64(len(data)), hexOf(data), ""},
	} {
		err := s.hold(c.ctx, f, c.size, c.digest)
		if c.want == "" {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
		} else if name != "no room" || !clones(t, s, f) {
			wantCode(t, name, err, c.want)
		}
		if left := s.files(t); len(left) != 0 {
			t.Errorf("%s: left %q", name, left)
		}
	}
}

// clones reports whether the file system shares bytes: then no copy needs room.
func clones(t testing.TB, s *spool, f *os.File) bool {
	t.Helper()
	to, err := os.CreateTemp(s.dir, partialPrefix)
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(to.Name())
	defer to.Close()
	return unix.IoctlFileClone(int(to.Fd()), int(f.Fd())) == nil
}

// TestSpoolSweepsPartials is K4.
func TestSpoolSweepsPartials(t *testing.T) {
	s := newSpool(t)
	data := isoImage(100, "a")
	if err := s.hold(t.Context(), tempFile(t, data), int64(len(data)), hexOf(data)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, randomName(partialPrefix)), data[:100], 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := openSpool(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	if left := again.files(t); !slices.Equal(left, []string{hexOf(data)}) {
		t.Errorf("left %q", left)
	}
}

// TestSpoolAcrossFileSystems: without clones or a copy inside the kernel the bytes are read and written; and a full disk
// is D12.
func TestSpoolAcrossFileSystems(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	s := newSpool(t)
	if err := unix.Mount("tmpfs", s.dir, "tmpfs", 0, "size=700m"); err != nil { // sparse: nothing is taken yet
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(s.dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	data := isoImage(2000, "a")
	if err := s.hold(t.Context(), tempFile(t, data), int64(len(data)), hexOf(data)); err != nil {
		t.Fatal(err)
	}
	err := s.hold(t.Context(), tempFile(t, data[:2048]), 300<<20, hexOf(data[:2048]))
	wantCode(t, "the reserve", err, CodeNoSpace)
	if left := s.files(t); !slices.Equal(left, []string{hexOf(data)}) {
		t.Errorf("left %q", left)
	}
	wantCode(t, "ENOSPC", spoolProblem(1, &fs.PathError{Op: "write", Path: "x", Err: unix.ENOSPC}), CodeNoSpace)
}
