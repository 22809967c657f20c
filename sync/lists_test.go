package sync

import (
	"os"
	"strings"
	"testing"
)

func TestListsBeside(t *testing.T) {
	b := newBox(t, nil)
	img := isoImage(40, "a")
	b.put("a.iso", img)
	b.put("b.iso", img)
	if s := b.file("a.iso").Sums; len(s) != 0 {
		t.Fatalf("sums from nowhere: %v", s)
	}
	b.put("SHA256SUMS", []byte(hexOf(img)+"  a.iso\n"))
	b.put("a.iso.md5", []byte(strings.Repeat("d", 32)+"\n"))
	f := b.file("a.iso")
	if f.Held != nil || len(f.Sums) != 2 || f.Sums[0] != (Sum{"sha256", hexOf(img), "SHA256SUMS"}) ||
		f.Sums[1] != (Sum{"md5", strings.Repeat("d", 32), "a.iso.md5"}) {
		t.Errorf("%v, %v", f.Sums, f.Held)
	}
	if f := b.file("b.iso"); len(f.Sums) != 0 || f.Held != nil {
		t.Errorf("its neighbour: %v, %v", f.Sums, f.Held)
	}
	b.put("SHA256SUMS", []byte(strings.Repeat("e", 64)+"  a.iso\n"+hexOf(img)+"  b.iso\n"))
	if f := b.file("a.iso"); f.Sums[0].Hex != strings.Repeat("e", 64) {
		t.Errorf("a changed list: %v", f.Sums)
	}
	if f := b.file("b.iso"); len(f.Sums) != 1 {
		t.Errorf("a changed list: %v", f.Sums)
	}
	for _, n := range []string{"SHA256SUMS", "a.iso.md5"} {
		if err := os.Remove(b.path(n)); err != nil {
			t.Fatal(err)
		}
	}
	if f := b.file("a.iso"); len(f.Sums) != 0 {
		t.Errorf("the lists are gone: %v", f.Sums)
	}
}

// TestListsOfOneAlgorithm: two lists with different sums are both told; the plan holds the file.
func TestListsOfOneAlgorithm(t *testing.T) {
	b := newBox(t, nil)
	img := isoImage(40, "a")
	b.put("a.iso", img)
	b.put("a.iso.sha256", []byte(hexOf(img)))
	b.put("SHA256SUMS", []byte(strings.Repeat("e", 64)+"  a.iso\n"))
	if s := b.file("a.iso").Sums; len(s) != 2 || s[0].Hex == s[1].Hex {
		t.Errorf("%v", s)
	}
}

func TestListContradictsItself(t *testing.T) {
	b := newBox(t, nil)
	b.put("a.iso", isoImage(40, "a"))
	b.put("a.iso.sha512", []byte(strings.Repeat("1", 128)))
	b.put("SHA256SUMS", []byte(strings.Repeat("e", 64)+"  a.iso\n"+strings.Repeat("f", 64)+"  a.iso\n"))
	if p := b.expect("a.iso", CodeChecksum); p.Waits || !strings.HasPrefix(p.Text, "SHA256SUMS names") {
		t.Errorf("%+v", p)
	}
	b.put("SHA256SUMS", []byte(strings.Repeat("e", 64)+"  a.iso\n"))
	b.expect("a.iso", "")
}

// TestListNotRead: a list that cannot be read holds what it may be about, and says so; it must not pass for a folder
// without lists.
func TestListNotRead(t *testing.T) {
	b := newBox(t, nil)
	b.put("a.iso", isoImage(40, "a"))
	b.put("b.iso", isoImage(40, "b"))
	if err := os.Symlink("/etc/passwd", b.path("a.iso.sha256")); err != nil {
		t.Fatal(err)
	}
	if p := b.expect("a.iso", CodeNotRegular); !strings.HasPrefix(p.Text, "the checksum list a.iso.sha256") {
		t.Errorf("%+v", p)
	}
	b.expect("b.iso", "")
	if err := os.Rename(b.path("a.iso.sha256"), b.path("SHA256SUMS")); err != nil {
		t.Fatal(err)
	}
	b.expect("a.iso", CodeNotRegular)
	b.expect("b.iso", CodeNotRegular)
	if err := os.Remove(b.path("SHA256SUMS")); err != nil {
		t.Fatal(err)
	}
	b.put("SHA256SUMS", make([]byte, maxList+1))
	if p := b.expect("a.iso", CodeUnreadable); !strings.Contains(p.Text, "4 MiB") {
		t.Errorf("%+v", p)
	}
	if err := os.Remove(b.path("SHA256SUMS")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(b.path("SHA256SUMS"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.expect("a.iso", "")
	b.expect("b.iso", "")
}

func TestSilentSidecar(t *testing.T) {
	b := newBox(t, nil)
	img := isoImage(40, "a")
	b.put("a.iso.sha256", nil)
	b.put("a.iso", img)
	if p := b.expect("a.iso", CodeWriting); !p.Waits {
		t.Errorf("an empty list may be about to be filled: %+v", p)
	}
	b.pass(settleDelay)
	if p := b.expect("a.iso", CodeChecksum); p.Waits {
		t.Errorf("%+v", p)
	}
	b.put("a.iso.sha256", []byte("<html>404</html>"))
	b.expect("a.iso", CodeWriting)
	b.pass(settleDelay)
	b.expect("a.iso", CodeChecksum)
	b.put("a.iso.sha256", []byte(hexOf(img)+"  a.iso\n"))
	b.expect("a.iso", "")
	b.put("a.iso.sha256.asc", []byte("-----BEGIN PGP SIGNATURE-----\nxx\n-----END PGP SIGNATURE-----\n"))
	b.expect("a.iso", "")
}

// TestListBeingWritten: what was not imported yet waits for the list; what was free stays free, with the sums of before.
func TestListBeingWritten(t *testing.T) {
	b := newBox(t, nil)
	needLeases(t, b)
	img := isoImage(40, "a")
	b.put("SHA256SUMS", []byte(hexOf(img)+"  old.iso\n"))
	b.put("old.iso", img)
	b.expect("old.iso", "")
	w, err := os.OpenFile(b.path("SHA256SUMS"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.WriteString(strings.Repeat("e", 64) + "  ne"); err != nil {
		t.Fatal(err)
	}
	b.put("new.iso", img)
	r := b.look()
	if f := r.Files[0]; f.Name != "new.iso" || f.Held == nil || f.Held.Code != CodeWriting || !strings.Contains(f.Held.Text, "SHA256SUMS") {
		t.Errorf("new: %+v", f.Held)
	}
	if f := r.Files[1]; f.Held != nil || len(f.Sums) != 1 {
		t.Errorf("old: %+v, %v", f.Held, f.Sums)
	}
	if !r.Next.After(b.at) {
		t.Error("nobody looks again")
	}
	if _, err := w.WriteString("w.iso\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b.expect("new.iso", "")
	if s := b.file("new.iso").Sums; len(s) != 1 || s[0].Hex != strings.Repeat("e", 64) {
		t.Errorf("sums %v", s)
	}
}

// TestSeveralBadLists: whichever order they are found in, the person hears of one that needs somebody, always the same.
func TestSeveralBadLists(t *testing.T) {
	b := newBox(t, nil)
	needLeases(t, b)
	b.put("a.iso", isoImage(40, "a"))
	w, err := os.Create(b.path("MD5SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, n := range []string{"SHA1SUMS", "SHA256SUMS", "SHA512SUMS"} {
		if err := os.Symlink("nowhere", b.path(n)); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		if p := b.expect("a.iso", CodeNotRegular); !strings.Contains(p.Text, "SHA1SUMS") {
			t.Errorf("%+v", p)
		}
	}
}
