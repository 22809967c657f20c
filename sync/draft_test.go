package sync

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func (b *box) draft(data []byte) *os.File {
	b.t.Helper()
	f, err := b.newDraft()
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = f.Close() })
	if _, err := f.WriteAt(data, 0); err != nil {
		b.t.Fatal(err)
	}
	return f
}

func (b *box) names() []string {
	b.t.Helper()
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestDraft(t *testing.T) {
	b := newBox(t, nil)
	img := isoImage(40, "a")
	f := b.draft(img)
	if filepath.Dir(f.Name()) != b.dir || !strings.HasPrefix(filepath.Base(f.Name()), ".isosyncd-draft-") {
		t.Errorf("draft %s", f.Name())
	}
	if st, err := f.Stat(); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("draft %v, %v", st.Mode(), err)
	}
	if r := b.look(); len(r.Files) != 0 {
		t.Errorf("a scan sees the draft: %+v", r.Files)
	}
	id, err := b.acceptNow(f, "a.iso")
	if err != nil {
		t.Fatal(err)
	}
	if f.Close() == nil {
		t.Error("accept left the draft open")
	}
	got := b.file("a.iso")
	if got.Held != nil || got.ID != id {
		t.Errorf("%+v, accepted as %+v", got, id)
	}
	st, err := os.Stat(b.path("a.iso"))
	if err != nil || st.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", st, err)
	}
	if data, err := os.ReadFile(b.path("a.iso")); err != nil || !bytes.Equal(data, img) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if n := b.names(); len(n) != 1 {
		t.Errorf("left: %q", n)
	}
}

// acceptNow accepts, and waits until it is on the disk.
func (b *box) acceptNow(draft *os.File, name string) (Identity, error) {
	id, durable, err := b.accept(draft, name)
	if err == nil {
		err = durable()
	}
	return id, err
}

// TestAcceptedIsSettled: whoever wrote through us has said that it is whole, so nobody waits for stillness.
func TestAcceptedIsSettled(t *testing.T) {
	b := newBox(t, noLeases)
	b.put("a.iso", isoImage(40, "old"))
	b.expect("a.iso", CodeWriting)
	if _, err := b.acceptNow(b.draft(isoImage(40, "new")), "a.iso"); err != nil {
		t.Fatal(err)
	}
	b.expect("a.iso", "")
	if _, err := b.acceptNow(b.draft([]byte("junk")), "junk.iso"); err != nil {
		t.Fatal(err)
	}
	b.expect("junk.iso", CodeNotISO)
	if err := b.rename("a.iso", "b.iso"); err != nil {
		t.Fatal(err)
	}
	b.expect("b.iso", "")
	b.look()
	b.look()
	if len(b.vouched) != 0 {
		t.Errorf("vouched for ever: %v", b.vouched)
	}
	b.put("a.iso", isoImage(40, "other"))
	b.expect("a.iso", CodeWriting)
}

func TestAcceptRefuses(t *testing.T) {
	b := newBox(t, nil)
	for _, name := range []string{"", "..", "a.txt", ".a.iso", "../a.iso", "x/a.iso"} {
		f := b.draft([]byte("x"))
		_, _, err := b.accept(f, name)
		wantCode(t, name, err, CodeName)
		if f.Close() == nil {
			t.Errorf("%q: the draft is still open", name)
		}
		if err := os.Remove(f.Name()); err != nil {
			t.Errorf("%q: a refused draft is the caller's to remove: %v", name, err)
		}
	}
	if err := os.Mkdir(b.path("dir.iso"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, _, err := b.accept(b.draft([]byte("x")), "dir.iso")
	wantCode(t, "a folder in the way", err, CodeNotRegular)
	f := b.draft([]byte("x"))
	if err := os.Remove(f.Name()); err != nil {
		t.Fatal(err)
	}
	_, _, err = b.accept(f, "gone.iso")
	wantCode(t, "the draft removed", err, CodeFolder)
}

func TestFullFolder(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	b := newBox(t, nil)
	if err := unix.Mount("tmpfs", b.dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(b.dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	f, err := b.newDraft()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = f.Write(make([]byte, 128<<10))
	wantCode(t, "full", writeProblem("written", "a.iso", err), CodeNoSpace)
	if err := b.putNote("a.iso", "failed", strings.Repeat("x", 4096)); err == nil {
		t.Error("a note was written into a full folder")
	}
	for _, n := range b.names() {
		if strings.HasPrefix(n, notePrefix) || isNote(n) {
			t.Errorf("half a note stays: %s", n)
		}
	}
}

func TestRename(t *testing.T) {
	b := newBox(t, nil)
	b.put("a.iso", []byte("a"))
	b.put("b.iso", []byte("b"))
	wantCode(t, "taken", b.rename("a.iso", "b.iso"), CodeClash)
	wantCode(t, "missing", b.rename("c.iso", "d.iso"), CodeChanged)
	if err := b.rename("a.iso", "c.iso"); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(b.path("c.iso")); err != nil || string(data) != "a" {
		t.Errorf("%q, %v", data, err)
	}
	if data, err := os.ReadFile(b.path("b.iso")); err != nil || string(data) != "b" {
		t.Errorf("%q, %v", data, err)
	}
}

// TestRenameWithoutTheKernel: file systems that cannot rename without replacing do it by other means.
func TestRenameWithoutTheKernel(t *testing.T) {
	b := newBox(t, nil)
	d, err := openFolder(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	for name, rename := range map[string]func(from, to string) error{
		"kernel": d.renameNoReplace, "link": d.renameByLink, "look": d.renameByLook,
	} {
		b.put("a.iso", []byte("a"))
		b.put("b.iso", []byte("b"))
		if err := rename("a.iso", "b.iso"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: taken: %v", name, err)
		}
		if err := rename("none.iso", "c.iso"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: missing: %v", name, err)
		}
		if err := rename("a.iso", "c.iso"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c, b := b.read("c.iso"), b.read("b.iso"); c != "a" || b != "b" {
			t.Errorf("%s: %q, %q", name, c, b)
		}
		if n := b.names(); len(n) != 2 {
			t.Errorf("%s: left %q", name, n)
		}
		if err := os.Remove(b.path("c.iso")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSweep(t *testing.T) {
	b := newBox(t, nil)
	open := b.draft([]byte("being written"))
	dead := b.draft([]byte("its process is gone"))
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	b.put(notePrefix+"0123456789abcdef", []byte("half a note"))
	b.put(gonePrefix+"0123456789abcdef-a.iso", []byte("on its way out"))
	b.put(gonePrefix+"0123456789abcdef", []byte("nameless"))
	b.put(".other", nil)
	b.sweep()
	want := []string{filepath.Base(open.Name()), gonePrefix + "0123456789abcdef", ".other", "a.iso"}
	got := b.names()
	if len(got) != len(want) {
		t.Errorf("left %q, want %q", got, want)
	}
	for _, w := range want {
		if _, err := os.Lstat(b.path(w)); err != nil {
			t.Error(err)
		}
	}
}

// TestSweepDoesNotReplace: a file that comes back from its way out takes nobody's name.
func TestSweepDoesNotReplace(t *testing.T) {
	b := newBox(t, nil)
	b.put(gonePrefix+"0123456789abcdef-a.iso", []byte("old"))
	b.put("a.iso", []byte("new"))
	b.sweep()
	if data, err := os.ReadFile(b.path("a.iso")); err != nil || string(data) != "new" {
		t.Errorf("%q, %v", data, err)
	}
}

// TestOldDrafts: a draft of ours that nobody writes to goes after a day of our own clock; one that is written to stays.
func TestOldDrafts(t *testing.T) {
	b := newBox(t, nil)
	idle, busy := b.draft([]byte("x")), b.draft([]byte("x"))
	past := time.Unix(0, 0)
	if err := os.Chtimes(idle.Name(), past, past); err != nil { // its own times do not count
		t.Fatal(err)
	}
	for hour := range 26 {
		if _, err := busy.WriteAt([]byte{byte(hour)}, int64(hour)); err != nil {
			t.Fatal(err)
		}
		b.look()
		_, err := os.Lstat(idle.Name()) // first seen after an hour
		if there := err == nil; there != (hour < 25) {
			t.Fatalf("after %d hours: there = %v", hour, there)
		}
		b.pass(time.Hour)
	}
	if _, err := os.Lstat(busy.Name()); err != nil {
		t.Error(err)
	}
	if len(b.drafts) != 1 {
		t.Errorf("remembers %v", b.drafts)
	}
}

// TestTakeAwayOfAnother: what has the name by then is not unlinked but put back.
func TestTakeAwayOfAnother(t *testing.T) {
	b := newBox(t, nil)
	b.put("a.iso", []byte("old"))
	d, err := openFolder(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	st, err := d.stat("a.iso")
	if err != nil {
		t.Fatal(err)
	}
	b.put("new", []byte("new"))
	if err := os.Rename(b.path("new"), b.path("a.iso")); err != nil {
		t.Fatal(err)
	}
	if err := d.takeAway("a.iso", st); !errors.Is(err, errReplaced) {
		t.Errorf("error %v", err)
	}
	if data, err := os.ReadFile(b.path("a.iso")); err != nil || string(data) != "new" {
		t.Errorf("%q, %v", data, err)
	}
	// And where the name is taken again, it comes back beside it.
	b.put(".aside", []byte("aside"))
	if err := d.putBack(".aside", "a.iso"); err != nil {
		t.Error(err)
	}
	kept := 0
	for _, n := range b.names() {
		if strings.HasPrefix(n, "a.iso.kept-") {
			kept++
		}
	}
	if kept != 1 || len(b.names()) != 2 {
		t.Errorf("left %q", b.names())
	}
}
