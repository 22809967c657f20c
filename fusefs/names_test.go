package fusefs

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"isosyncd/lxd"
	isosync "isosyncd/sync"
)

func TestEntryName(t *testing.T) {
	long := strings.Repeat("é", 200)
	for volume, want := range map[string]string{
		"debian-12": "debian-12.iso", "x.iso": "x.iso.iso", "a b": "a b.iso", "日本": "日本.iso", ".hid": ".hid.iso",
		"": "%.iso", ".": "%2E.iso", "..": "%2E%2E.iso", "a/b": "a%2Fb.iso", "a%2Fb": "a%252Fb.iso", "%": "%25.iso",
		"\x00": "%00.iso", "\xff": "%FF.iso", "a\nb": "a%0Ab.iso", "\u202egpj": "%E2%80%AEgpj.iso", "\u0085": "%C2%85.iso",
		strings.Repeat("x", 251): strings.Repeat("x", 251) + ".iso",
		long:                     strings.Repeat("é", 108) + "%~e6a4c0ddcc3f0f19b0d5ee4ea5d2a0b8.iso",
	} {
		got := entryName(volume)
		if volume == long {
			if len(got) > maxName || !strings.HasPrefix(got, "éé") || !strings.Contains(got, "%~") {
				t.Errorf("long: %q", got)
			}
		} else if got != want {
			t.Errorf("entryName(%q) = %q, want %q", volume, got, want)
		}
	}
}

// TestEntryNamesNeverCollide: the mapping is injective, and each name is one that a directory can have.
func TestEntryNamesNeverCollide(t *testing.T) {
	name := rapid.OneOf(
		rapid.StringOfN(rapid.RuneFrom([]rune("a%2F/.~\x00é")), 0, 8, -1),
		rapid.String(),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 600), func(b []byte) string { return string(b) }),
		rapid.Map(rapid.IntRange(240, 300), func(n int) string { return strings.Repeat("%", n/3) + strings.Repeat("x", n) }),
	)
	rapid.Check(t, func(rt *rapid.T) {
		a, b := name.Draw(rt, "a"), name.Draw(rt, "b")
		x, y := entryName(a), entryName(b)
		if (x == y) != (a == b) {
			rt.Fatalf("%q and %q are both %q", a, b, x)
		}
		for _, n := range []string{x, entryName(x), entryName(strings.TrimSuffix(x, ".iso"))} {
			if n == "" || len(n) > maxName || strings.ContainsAny(n, "/\x00") || n == "." || n == ".." || !strings.HasSuffix(n, ".iso") || !utf8.ValidString(n) {
				rt.Fatalf("%q is no good name", n)
			}
		}
		// What is shown for one volume is never what is shown for another that imitates it.
		if inner := strings.TrimSuffix(x, ".iso"); inner != a && entryName(inner) == x {
			rt.Fatalf("a volume called %q looks like %q", inner, a)
		}
	})
}

func TestIsTemporary(t *testing.T) {
	for name, want := range map[string]bool{
		"x.iso.part": true, "x.iso.crdownload": true, "Unconfirmed 7.crdownload": true, ".goutputstream-AB": true,
		".x.iso.AbCdEf": true, "x.iso~": true, "x.PART": true, "x.download": true, "x.iso.filepart": true, "x.iso.1": true,
		"x.iso": false, "X.ISO": false, "readme.txt": false, "x": false, "x.img": false, controlName: false,
	} {
		if got := isTemporary(name); got != want {
			t.Errorf("isTemporary(%q) = %v", name, got)
		}
	}
}

// TestEveryCodeHasANumber: a code that api.go adds must be given one here, or this fails.
func TestEveryCodeHasANumber(t *testing.T) {
	src, err := os.ReadFile("../sync/api.go")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(src)) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "Code") || f[1] != "Code" || f[2] != "=" {
			continue
		}
		n++
		code := isosync.Code(strings.Trim(f[3], `"`))
		if _, ok := problemErrno[code]; !ok {
			t.Errorf("%s has no errno", code)
		}
	}
	if n != len(problemErrno) || n < 20 {
		t.Errorf("%d codes in api.go, %d in the table", n, len(problemErrno))
	}
}

func TestToErrno(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{problem(isosync.CodeForeign, "x"), syscall.EEXIST},
		{fmt.Errorf("wrapped: %w", problem(isosync.CodeNoSpace, "x")), syscall.ENOSPC},
		{&isosync.Problem{Code: "new"}, syscall.EIO},
		{fmt.Errorf("x: %w", syscall.EDQUOT), syscall.EDQUOT},
		{fmt.Errorf("x: %w", lxd.ErrNotRead), syscall.EOPNOTSUPP},
		{fmt.Errorf("x: %w", lxd.ErrAway), syscall.EHOSTDOWN},
		{&inPlaceError{"x"}, syscall.EPERM},
		{errStopping, syscall.ESHUTDOWN},
		{fmt.Errorf("anything"), syscall.EIO},
	} {
		if got := toErrno(tt.err); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.err, got, tt.want)
		}
	}
	if got := removalErrno(problem(isosync.CodeForeign, "x")); got != syscall.EPERM {
		t.Errorf("removal: %v", got)
	}
	if got := renameErrno(problem(isosync.CodeName, "x")); got != syscall.EPERM {
		t.Errorf("rename: %v", got)
	}
}

// TestInodes: the same incarnation keeps its number over views and mounts; another has another; all differ.
func TestInodes(t *testing.T) {
	at := time.Unix(1e9, 0)
	snap := func(when time.Time, names ...string) *isosync.Snapshot {
		s := &isosync.Snapshot{}
		for _, n := range names {
			s.Volumes = append(s.Volumes, isosync.VolumeStatus{Volume: lxd.Volume{Name: n, ContentType: "iso", CreatedAt: when}})
		}
		return s
	}
	var names []string
	for i := range 20_000 {
		names = append(names, fmt.Sprint("v", i))
	}
	one := newView(snap(at, names...), nil)
	two := newView(snap(at, append([]string{"new"}, names[5:]...)...), one)
	if len(one.byIno) != len(names) {
		t.Errorf("%d numbers for %d volumes", len(one.byIno), len(names))
	}
	for _, n := range names[5:] {
		if one.byVolume[n].ino != two.byVolume[n].ino {
			t.Fatalf("%s changed its number", n)
		}
	}
	if newView(snap(at, "v7"), nil).byVolume["v7"].ino != one.byVolume["v7"].ino {
		t.Error("another mount gives another number")
	}
	if newView(snap(at.Add(1), "v7"), one).byVolume["v7"].ino == one.byVolume["v7"].ino {
		t.Error("another incarnation has the same number")
	}
	// Two volumes whose hashes fall together: the old one keeps its number.
	v := newView(snap(at, "v7"), nil)
	v.byVolume["v7"].ino = volumeIno(&isosync.VolumeStatus{Volume: lxd.Volume{Name: "v8", CreatedAt: at}})
	w := newView(snap(at, "v8", "v7"), v)
	if w.byVolume["v7"].ino != v.byVolume["v7"].ino || w.byVolume["v8"].ino == w.byVolume["v7"].ino {
		t.Errorf("numbers %d and %d", w.byVolume["v7"].ino, w.byVolume["v8"].ino)
	}
}

func TestParseFdinfo(t *testing.T) {
	for info, want := range map[string][3]bool{
		"pos:\t0\nflags:\t0100001\nmnt_id:\t29\nino:\t77\n": {true, true, true},
		"pos:\t0\nflags:\t0100002\nmnt_id:\t29\nino:\t77\n": {true, true, true},
		"pos:\t0\nflags:\t0100000\nmnt_id:\t29\nino:\t77\n": {true, false, true},
		"pos:\t0\nflags:\t0100001\nmnt_id:\t29\nino:\t78\n": {false, true, true},
		"pos:\t0\nflags:\t0100001\nmnt_id:\t29\n":           {false, true, false},
		"": {false, false, false},
	} {
		f, w, ok := parseFdinfo([]byte(info), 77)
		if got := [3]bool{f, w, ok}; got != want {
			t.Errorf("%q: %v, want %v", info, got, want)
		}
	}
}

// TestHolders looks at a file that this process has open.
func TestHolders(t *testing.T) {
	path := t.TempDir() + "/x"
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	ino, tid := inode(t, path), uint32(syscall.Getpid())
	if got := holdersOf(ino, tid); got != heldByOthers {
		t.Errorf("open: %v", got)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if got := holdersOf(ino, tid); got != heldByNobody {
		t.Errorf("open for reading only: %v", got)
	}
	if got := holdersOf(ino, 0); got != heldUnknown {
		t.Errorf("a thread that is not there: %v", got)
	}
	if got := holdersOf(ino, 1<<30); got != heldByExiting {
		t.Errorf("a thread that is gone: %v", got)
	}
}

func TestParseMountinfo(t *testing.T) {
	got := parseMountinfo([]byte(`29 1 0:25 / /mnt/a\040b rw,nosuid - fuse.isosyncd isosyncd rw,user_id=0
30 1 8:1 / / rw shared:1 master:2 - ext4 /dev/sda1 rw
garbage
31 1 0:x / /y rw - a b
`))
	want := []mountEntry{{"/mnt/a b", "fuse.isosyncd", "isosyncd", 25}, {"/", "ext4", "/dev/sda1", 1}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] || !got[0].ours() || got[1].ours() {
		t.Errorf("%+v", got)
	}
}

func TestQuote(t *testing.T) {
	for name, want := range map[string]string{
		"win.iso": "win.iso", "日本.iso": "日本.iso", "a b": `"a b"`, "": `""`, "\x1b[31m": `"\x1b[31m"`, "\u202ex": `"\u202ex"`, "a\"b": `"a\"b"`,
	} {
		if got := quote(name); got != want {
			t.Errorf("quote(%q) = %s, want %s", name, got, want)
		}
	}
}

func TestParseSignals(t *testing.T) {
	for status, want := range map[string]bool{
		// pending (own, shared), blocked, ignored, caught
		"0 0 0 0 0": false, "400000 0 0 0 400000": false, "0 400000 0 0 400000": false, // SIGURG, caught
		"400000 0 0 0 0": true, "0 2 0 0 2": true, "0 2 0 0 0": true, "0 2 2 0 0": false, "0 2 0 2 0": false, // SIGINT
		"0 400002 0 0 400002": true, "0 100 0 0 0": true, // SIGKILL
	} {
		f := strings.Fields(status)
		text := fmt.Sprintf("Name:\tx\nSigQ:\t0/1\nSigPnd:\t%s\nShdPnd:\t%s\nSigBlk:\t%s\nSigIgn:\t%s\nSigCgt:\t%s\n", f[0], f[1], f[2], f[3], f[4])
		if got := parseSignals([]byte(text)); got != want {
			t.Errorf("%s: %v", status, got)
		}
	}
	if !parseSignals(nil) {
		t.Error("what is not known is no reason to wait on")
	}
}
