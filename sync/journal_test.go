package sync

import (
	"os"
	"path/filepath"
	"testing"
)

// TestJournalTruncatedK12: a journal that was cut at any of many places never keeps the daemon down.
func TestJournalTruncatedK12(t *testing.T) {
	r := newRig(t, nil).start()
	a := isoImage(40, "a")
	r.drop("a.iso", a)
	r.untilState("a.iso", StatePresent)
	r.stop()
	path := filepath.Join(r.cfg.StateDir, "journal.db")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 16, 100, 4095, 4096, 5000, 8192, 12288, len(whole) - 4096, len(whole) - 1} {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "journal.db"), whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		j, _, err := openJournal(dir)
		if err != nil {
			t.Errorf("cut at %d of %d: %v", n, len(whole), err)
			continue
		}
		if err := j.update("a", func(r *Record) { r.Adopt = true }); err != nil {
			t.Errorf("cut at %d of %d: %v", n, len(whole), err)
		}
		if err := j.close(); err != nil {
			t.Error(err)
		}
	}
	r.start()
	r.untilState("a.iso", StatePresent)
	r.good("a", a)
}

// TestJournalLater: what is told later counts at once, is on the disk with the next change of anything else, and at the
// latest when the journal is closed; a crash before loses just that.
func TestJournalLater(t *testing.T) {
	dir := t.TempDir()
	id := Identity{Ino: 7, Size: 1}
	open := func() *journal {
		j, moved, err := openJournal(dir)
		if err != nil || moved != "" {
			t.Fatal(moved, err)
		}
		return j
	}
	has := func(j *journal, what string, want bool) {
		t.Helper()
		_, digest := j.digest(id)
		if present := j.record("a").Present != nil; present != want || digest != want {
			t.Errorf("%s: present %v, digest %v, want %v", what, present, digest, want)
		}
	}
	tell := func(j *journal) {
		j.later("a", func(r *Record) { r.Present = &Presence{Digest: "x"} })
		j.putDigest(id, Digest{SHA256: "x"})
		has(j, "told", true)
	}
	crash := func(j *journal) {
		if err := j.db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	j := open()
	if err := j.update("a", func(r *Record) { r.Adopt = true }); err != nil {
		t.Fatal(err)
	}
	tell(j)
	crash(j)
	j = open()
	has(j, "a crash", false)
	tell(j)
	if err := j.update("b", func(r *Record) { r.Adopt = true }); err != nil {
		t.Fatal(err)
	}
	crash(j)
	j = open()
	has(j, "a crash after another change", true)
	j.later("a", func(r *Record) { *r = Record{} })
	if err := j.keepDigests(nil); err != nil {
		t.Fatal(err)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	j = open()
	has(j, "forgotten, and closed", false)
	if !j.record("b").Adopt {
		t.Error("the other record is gone")
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
}
