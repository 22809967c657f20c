package sync

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	gosync "sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"isosyncd/iso"
)

// settleDelay of the tests' inboxes, by their own clock.
const settleDelay = 10 * time.Second

// box is an inbox over a real folder, with a clock of its own.
type box struct {
	*inbox
	t   testing.TB
	dir string
	mu  gosync.Mutex
	at  time.Time // guarded by mu
}

func newBox(t testing.TB, change func(*inboxConfig)) *box {
	t.Helper()
	b := &box{t: t, dir: t.TempDir(), at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	cfg := inboxConfig{
		Path: b.dir, SettleDelay: settleDelay, Owner: owner, Leases: true,
		Now: func() time.Time { b.mu.Lock(); defer b.mu.Unlock(); return b.at },
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	if change != nil {
		change(&cfg)
	}
	b.inbox = newInbox(cfg)
	return b
}

func noLeases(cfg *inboxConfig) { cfg.Leases = false }

// pass lets time pass.
func (b *box) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = b.at.Add(d)
}

func (b *box) path(name string) string { return filepath.Join(b.dir, name) }

func (b *box) put(name string, data []byte) {
	b.t.Helper()
	if err := os.WriteFile(b.path(name), data, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// look scans, and fails the test if the folder cannot be.
func (b *box) look() scanResult {
	b.t.Helper()
	r := b.scan(b.t.Context())
	if r.Problem != nil {
		b.t.Fatalf("folder: %v", r.Problem)
	}
	return r
}

// file is a file of a new scan; the test fails if it is not there.
func (b *box) file(name string) File {
	b.t.Helper()
	for _, f := range b.look().Files {
		if f.Name == name {
			return f
		}
	}
	b.t.Fatalf("the scan did not find %q", name)
	return File{}
}

// code is why a file is held, by a new scan; "" = it is not.
func (b *box) code(name string) Code {
	b.t.Helper()
	f := b.file(name)
	if f.Held == nil {
		return ""
	}
	if f.Held.Text == "" || f.Held.Remedy == "" {
		b.t.Errorf("%q is held without a word: %+v", name, f.Held)
	}
	return f.Held.Code
}

// expect scans and compares why a file is held.
func (b *box) expect(name string, want Code) *Problem {
	b.t.Helper()
	f := b.file(name)
	got := Code("")
	if f.Held != nil {
		got = f.Held.Code
		if f.Held.Text == "" || f.Held.Remedy == "" {
			b.t.Errorf("%q is held without a word: %+v", name, f.Held)
		}
	}
	if got != want {
		b.t.Fatalf("%q: %q (%v), want %q", name, got, f.Held, want)
	}
	return f.Held
}

// openFDs counts the descriptors that this process has.
func openFDs(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestScanFindsImages(t *testing.T) {
	b := newBox(t, nil)
	img := isoImage(40, "a")
	b.put("b.iso", img)
	b.put("A.ISO", img)
	for _, ignored := range []string{".hidden.iso", "c.iso.part", ".goutputstream-X", ".d.iso.AbCdEf", "readme.txt"} {
		b.put(ignored, img)
	}
	before := openFDs(t)
	r := b.look()
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors after the scan, %d before", after, before)
	}
	if len(r.Files) != 2 || r.Files[0].Name != "A.ISO" || r.Files[1].Name != "b.iso" {
		t.Fatalf("found %+v", r.Files)
	}
	f := r.Files[1]
	var st unix.Stat_t
	if err := unix.Stat(b.path("b.iso"), &st); err != nil {
		t.Fatal(err)
	}
	want := Identity{
		Dev: st.Dev, Ino: st.Ino, Size: int64(len(img)),
		MTime: unix.TimespecToNsec(st.Mtim), CTime: unix.TimespecToNsec(st.Ctim),
	}
	if f.Held != nil || f.Volume != "b" || f.ID != want || f.Info.Label != "TEST" || f.Info.Size != int64(len(img)) {
		t.Errorf("%+v", f)
	}
	if !r.Next.IsZero() {
		t.Errorf("nothing waits, yet Next is %v", r.Next)
	}
	if id, err := pathID(b.dir); err != nil || r.Folder != id {
		t.Errorf("folder %v, %v", r.Folder, err)
	}
}

// TestScanSharesWhatDidNotChange: an idle folder costs nothing but looks.
func TestScanSharesWhatDidNotChange(t *testing.T) {
	b := newBox(t, nil)
	b.put("a.iso", isoImage(40, "a"))
	b.put("b.iso", isoImage(40, "b"))
	b.put("junk.iso", []byte("no image"))
	probes := 0
	b.probe = func(f *os.File) (iso.Info, error) { probes++; return iso.ProbeFile(f) }
	b.look()
	b.pass(settleDelay)
	first := b.look()
	again := b.look()
	if probes != 3 {
		t.Errorf("%d probes of 3 files", probes)
	}
	if &first.Files[0] != &again.Files[0] {
		t.Error("the files of an unchanged folder were made anew")
	}
	kept := first.Files[1]
	if err := os.Remove(b.path("a.iso")); err != nil {
		t.Fatal(err)
	}
	less := b.look()
	if len(less.Files) != 2 || less.Files[0].Name != "b.iso" || first.Files[1].ID != kept.ID || len(first.Files) != 3 {
		t.Errorf("after a removal: %v; and the result from before: %v", less.Files, first.Files)
	}
}

func TestSinceIsOfTheState(t *testing.T) {
	b := newBox(t, nil)
	img := isoImage(40, "a")
	b.put("a.iso", img[:20*2048])
	began := b.at
	b.look()
	b.pass(time.Minute)
	if f := b.file("a.iso"); !f.Since.Equal(began) {
		t.Errorf("incomplete since %v, want %v", f.Since, began)
	}
	b.put("a.iso", img)
	if f := b.file("a.iso"); f.Held != nil || !f.Since.Equal(b.at) {
		t.Errorf("whole since %v (%v), want %v", f.Since, f.Held, b.at)
	}
}

// TestFolderProblems is D4, as far as the scan goes: what cannot be read says nothing about files.
func TestFolderProblems(t *testing.T) {
	b := newBox(t, nil)
	b.put("a.iso", isoImage(40, "a"))
	first := b.look()
	aside := b.dir + ".aside"
	if err := os.Rename(b.dir, aside); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(aside) })
	check := func(what string) {
		t.Helper()
		r := b.scan(t.Context())
		if r.Problem == nil || r.Problem.Code != CodeFolder || r.Files != nil || r.Next.IsZero() {
			t.Errorf("%s: %+v", what, r)
		} else {
			t.Log(r.Problem)
		}
	}
	check("missing")
	if err := os.WriteFile(b.dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	check("a file")
	if err := os.Remove(b.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(b.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r := b.look()
	if r.Folder == first.Folder || len(r.Files) != 0 {
		t.Errorf("an exchanged folder looks the same: %+v", r)
	}
	select {
	case <-b.moved:
	default:
		t.Error("the watch was not told")
	}
	if err := os.Remove(b.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, b.dir); err != nil {
		t.Fatal(err)
	}
	if r := b.look(); r.Folder != first.Folder || len(r.Files) != 1 || r.Files[0].Held != nil {
		t.Errorf("the folder is back: %+v", r)
	}
}

func TestScanStopsWithItsContext(t *testing.T) {
	b := newBox(t, nil)
	b.put("a.iso", isoImage(40, "a"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := b.scan(ctx); r.Problem == nil {
		t.Error("half a scan was taken for one")
	}
}

// TestExhausted is D12: without descriptors nothing is concluded, and everything comes by itself afterwards.
func TestExhausted(t *testing.T) {
	for what, err := range map[string]error{"EMFILE": unix.EMFILE, "ENFILE": unix.ENFILE, "ENOMEM": unix.ENOMEM} {
		if p := folderProblem("/x", err); p.Code != CodeFolder || !p.Waits {
			t.Errorf("%s on the folder: %+v", what, p)
		}
		if p := openProblem("x", err); p.Code != CodeUnreadable || !p.Waits {
			t.Errorf("%s on a file: %+v", what, p)
		}
	}
	b := newBox(t, nil)
	b.put("a.iso", isoImage(40, "a"))
	failing := true
	b.probe = func(f *os.File) (iso.Info, error) {
		if failing {
			return iso.Info{}, &os.PathError{Op: "read", Path: f.Name(), Err: unix.EMFILE}
		}
		return iso.ProbeFile(f)
	}
	r := b.look()
	if p := r.Files[0].Held; p == nil || p.Code != CodeUnreadable || !p.Waits || !r.Next.After(b.at) {
		t.Errorf("held %v, next %v", p, r.Next)
	}
	failing = false
	b.expect("a.iso", "")
}

func TestTenThousandFiles(t *testing.T) {
	b := newBox(t, nil)
	many(t, b, 10_000)
	r := b.look()
	if len(r.Files) != 10_000 {
		t.Fatalf("%d files", len(r.Files))
	}
	for i := range r.Files {
		if r.Files[i].Held != nil {
			t.Fatalf("%s: %v", r.Files[i].Name, r.Files[i].Held)
		}
	}
	allocs := testing.AllocsPerRun(2, func() { b.look() })
	if perFile := allocs / 10_000; perFile > 3 { // the name from the listing, and the C string of fstatat
		t.Errorf("%.1f allocations for a file that did not change", perFile)
	}
}

// many fills a folder quickly: all its files are one, by links.
func many(t testing.TB, b *box, n int) {
	t.Helper()
	first := filepath.Join(t.TempDir(), "first")
	if err := os.WriteFile(first, isoImage(40, "a"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := os.Link(first, b.path(fmt.Sprintf("image-%05d.iso", i))); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkScan10000(b *testing.B) {
	box := newBox(b, nil)
	many(b, box, 10_000)
	box.look()
	b.ReportAllocs()
	for b.Loop() {
		box.look()
	}
}
