package sync

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
)

func (b *box) read(name string) string {
	b.t.Helper()
	data, err := os.ReadFile(b.path(name))
	if err != nil {
		b.t.Fatal(err)
	}
	return string(data)
}

func (b *box) note(iso, kind, body string) {
	b.t.Helper()
	if err := b.putNote(iso, kind, body); err != nil {
		b.t.Fatal(err)
	}
}

func TestNote(t *testing.T) {
	b := newBox(t, nil)
	b.put("win.iso", []byte("junk"))
	body := "win.iso is not an ISO image.\nfile: win.iso"
	b.note("win.iso", "failed", body)
	if got, want := b.read("win.iso.failed"), body+"\nisosyncd: host:/drop \"win.iso\"\n"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if st, err := os.Stat(b.path("win.iso.failed")); err != nil || st.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	r := b.look()
	if len(r.Files) != 1 || len(r.Notes) != 1 || r.Notes["win.iso"] != (noteInfo{"failed", noteHash(body)}) {
		t.Errorf("files %v, notes %v", r.Files, r.Notes)
	}
	// Another life finds it again.
	other := newInbox(b.cfg)
	if r := other.scan(t.Context()); len(r.Notes) != 1 || r.Notes["win.iso"] != (noteInfo{"failed", noteHash(body + "\n")}) {
		t.Errorf("notes of another life: %v", r.Notes)
	}
	if err := other.dropNote("win.iso"); err != nil {
		t.Fatal(err)
	}
	if n := b.names(); len(n) != 1 || n[0] != "win.iso" {
		t.Errorf("left %q", n)
	}
	if r := b.look(); len(r.Notes) != 0 {
		t.Errorf("notes %v", r.Notes)
	}
	if err := b.dropNote("win.iso"); err != nil {
		t.Errorf("gone already: %v", err)
	}
}

func TestNoteIsWrittenOnce(t *testing.T) {
	b := newBox(t, nil)
	b.note("win.iso", "waiting", "one")
	before, err := os.Stat(b.path("win.iso.waiting"))
	if err != nil {
		t.Fatal(err)
	}
	b.note("win.iso", "waiting", "one")
	b.look()
	b.note("win.iso", "waiting", "one\n")
	if again, err := os.Stat(b.path("win.iso.waiting")); err != nil || !os.SameFile(before, again) {
		t.Error("the same note was written again")
	}
	b.note("win.iso", "waiting", "two")
	if got := b.read("win.iso.waiting"); !strings.HasPrefix(got, "two\n") {
		t.Errorf("got %q", got)
	}
	b.note("win.iso", "failed", "three")
	if n := b.names(); len(n) != 1 || n[0] != "win.iso.failed" {
		t.Errorf("two kinds at once: %q", n)
	}
}

// TestNoteOfSomebodyElse: a file of that name which we did not write is never overwritten or removed.
func TestNoteOfSomebodyElse(t *testing.T) {
	mine := newBox(t, nil)
	mine.note("x.iso", "failed", "text")
	ours := mine.read("x.iso.failed")
	for name, text := range map[string]string{
		"a person's":        "my own notes\n",
		"another owner's":   strings.Replace(ours, "host:/drop", "other:/drop", 1),
		"about another":     strings.Replace(ours, `"x.iso"`, `"y.iso"`, 1),
		"ours, and more":    ours + "and more\n",
		"ours, not ended":   strings.TrimSuffix(ours, "\n"),
		"too long":          strings.Repeat("x", maxNote) + "\n" + ours,
		"only the last one": strings.TrimPrefix(ours, "text\n"),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, nil)
			b.put("x.iso.failed", []byte(text))
			if r := b.look(); len(r.Notes) != 0 {
				t.Errorf("taken for ours: %v", r.Notes)
			}
			if err := b.putNote("x.iso", "failed", "new"); !errors.Is(err, errNotOurs) {
				t.Errorf("put: %v", err)
			}
			if err := b.dropNote("x.iso"); err != nil {
				t.Errorf("drop: %v", err)
			}
			if got := b.read("x.iso.failed"); got != text {
				t.Errorf("now it is %q", got)
			}
			if n := b.names(); len(n) != 1 {
				t.Errorf("left %q", n)
			}
		})
	}
	b := newBox(t, nil)
	if err := os.Symlink("/nowhere", b.path("x.iso.failed")); err != nil {
		t.Fatal(err)
	}
	if err := b.putNote("x.iso", "failed", "new"); !errors.Is(err, errNotOurs) {
		t.Errorf("a link: %v", err)
	}
	if _, err := os.Readlink(b.path("x.iso.failed")); err != nil {
		t.Error(err)
	}
}

// TestEmptyNoteIsOurs: that is what a power cut leaves of one.
func TestEmptyNoteIsOurs(t *testing.T) {
	for _, text := range []string{"", "\x00\x00\x00"} {
		b := newBox(t, nil)
		b.put("x.iso.failed", []byte(text))
		if r := b.look(); r.Notes["x.iso"].Kind != "failed" {
			t.Errorf("%q: %v", text, r.Notes)
		}
		b.note("x.iso", "failed", "new")
		if got := b.read("x.iso.failed"); !strings.HasPrefix(got, "new\n") {
			t.Errorf("got %q", got)
		}
	}
}

func TestNoteOfTheFolder(t *testing.T) {
	b := newBox(t, nil)
	b.note("", "waiting", "the server is away")
	if got := b.read("isosyncd.waiting"); !strings.HasSuffix(got, "isosyncd: host:/drop \"\"\n") {
		t.Errorf("got %q", got)
	}
	if r := b.look(); r.Notes[""].Kind != "waiting" || len(r.Files) != 0 {
		t.Errorf("%v", r.Notes)
	}
	if err := b.dropNote(""); err != nil {
		t.Fatal(err)
	}
	if n := b.names(); len(n) != 0 {
		t.Errorf("left %q", n)
	}
}

func TestNoteOfOddNames(t *testing.T) {
	b := newBox(t, func(c *inboxConfig) { c.Owner = "odd owner\n\"ü" })
	long := strings.Repeat("n", 251) + ".iso"
	names := []string{
		long, strings.Repeat("n", 250) + "m.iso", strings.Repeat("ü", 125) + "1.iso", strings.Repeat("\xff", 250) + ".iso",
		"a\nb.iso", `q"uote.iso`, "\xff.iso",
	}
	for _, n := range names {
		b.put(n, []byte("x"))
		b.note(n, "failed", "about "+n)
	}
	check := func(r scanResult) {
		t.Helper()
		if len(r.Notes) != len(names) {
			t.Errorf("%d notes of %d", len(r.Notes), len(names))
		}
		for _, n := range names {
			if r.Notes[n] != (noteInfo{"failed", noteHash("about " + n)}) {
				t.Errorf("%q: %v", n, r.Notes[n])
			}
		}
	}
	check(b.look())
	check(newInbox(b.cfg).scan(t.Context()))
	for _, n := range names {
		if err := b.dropNote(n); err != nil {
			t.Error(err)
		}
	}
	if n := b.names(); len(n) != len(names) {
		t.Errorf("left %q", n)
	}
}

func TestNoteWhereNothingMayBeWritten(t *testing.T) {
	b := newBox(t, nil)
	b.put("x.iso", []byte("x"))
	asNobody(t, b, func() {
		if err := b.putNote("x.iso", "failed", "text"); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("put: %v", err)
		}
		if err := b.dropNote("x.iso"); err != nil {
			t.Errorf("drop: %v", err)
		}
	})
	if err := b.putNote("x.iso", "other", "text"); err == nil {
		t.Error("a kind that no scan finds again was written")
	}
}
