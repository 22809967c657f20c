package sync

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	gosync "sync"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// TestNotRegular is D9.
func TestNotRegular(t *testing.T) {
	b := newBox(t, nil)
	outside := filepath.Join(t.TempDir(), "outside.iso")
	if err := os.WriteFile(outside, isoImage(40, "outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.put("inside.iso", isoImage(40, "inside"))
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", b.path("socket.iso"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, err := range map[string]error{
		"out.iso":  os.Symlink(outside, b.path("out.iso")),
		"in.iso":   os.Symlink("inside.iso", b.path("in.iso")),
		"loop.iso": os.Symlink("loop.iso", b.path("loop.iso")),
		"none.iso": os.Symlink("nowhere", b.path("none.iso")),
		"fifo.iso": unix.Mkfifo(b.path("fifo.iso"), 0o666),
		"dir.iso":  os.Mkdir(b.path("dir.iso"), 0o700),
	} {
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	want := map[string]string{
		"out.iso": "symbolic link", "in.iso": "symbolic link", "loop.iso": "symbolic link", "none.iso": "symbolic link",
		"fifo.iso": "named pipe", "dir.iso": "folder", "socket.iso": "socket",
	}
	if unix.Mknod(b.path("device.iso"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) == nil {
		want["device.iso"] = "device"
	}
	for range 2 { // known and unknown
		for name, what := range want {
			if p := b.expect(name, CodeNotRegular); p.Waits || !strings.Contains(p.Text, what) {
				t.Errorf("%s: %+v", name, p)
			}
			if f := b.file(name); len(f.Info.Formats) != 0 {
				t.Errorf("%s was read: %+v", name, f.Info)
			}
			if p, err := b.pin(name, b.file(name).ID); err == nil {
				_ = p.Close()
				t.Errorf("%s was opened for reading", name)
			}
		}
	}
	b.expect("inside.iso", "")
}

func TestHardLinks(t *testing.T) {
	b := newBox(t, nil)
	if err := os.Chmod(b.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b.put("a.iso", isoImage(40, "a"))
	second := filepath.Join(t.TempDir(), "second")
	if err := os.Link(b.path("a.iso"), second); err != nil {
		t.Fatal(err)
	}
	b.expect("a.iso", "")
	if err := os.Chmod(b.dir, 0o1777); err != nil {
		t.Fatal(err)
	}
	if p := b.expect("a.iso", CodeNotRegular); !strings.Contains(p.Text, "hard link") {
		t.Errorf("%+v", p)
	}
	if err := os.Remove(second); err != nil {
		t.Fatal(err)
	}
	b.expect("a.iso", "")
}

// TestOddNames is D11: any name is seen, mapped or refused, and escaped where it is shown.
func TestOddNames(t *testing.T) {
	b := newBox(t, nil)
	part := isoImage(40, "a")[:20*2048]
	names := []string{
		"a\nb.iso", "\x1b[31m.iso", "evil\u202egnp.iso", "\xff\xfe.iso", "-rf.iso", "...iso"[1:], "%2e%2e.iso", " .iso",
		"$(reboot).iso", "日本語.iso", strings.Repeat("n", 251) + ".iso", "quote\".iso",
	}
	want := 0
	for _, n := range names {
		if IsImage(n) {
			b.put(n, part)
			want++
		}
	}
	r := b.look()
	if len(r.Files) != want {
		t.Errorf("%d of %d files", len(r.Files), want)
	}
	for _, f := range r.Files {
		if f.Held == nil || f.Held.Code != CodeIncomplete {
			t.Errorf("%q: %+v", f.Name, f.Held)
			continue
		}
		for _, text := range []string{f.Held.Text, f.Held.Remedy} {
			if text != strings.Trim(quoteName(text), `"`) && (strings.ContainsAny(text, "\n\x1b\u202e") || !utf8.ValidString(text)) {
				t.Errorf("unescaped: %q", text)
			}
		}
	}
}

// TestSwapRaces is D10: whatever a name becomes between two looks, nothing outside the folder is ever read, and no scan
// hangs in a FIFO.
func TestSwapRaces(t *testing.T) {
	b := newBox(t, nil)
	outside := filepath.Join(t.TempDir(), "outside.iso")
	secret := isoImage(50, "outside") // its size gives it away
	if err := os.WriteFile(outside, secret, 0o600); err != nil {
		t.Fatal(err)
	}
	b.put("image", isoImage(40, "a"))
	if err := os.Symlink(outside, b.path("link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(b.path("fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	races := 10_000
	if testing.Short() {
		races = 1_000
	}
	var stop atomic.Bool
	var wg gosync.WaitGroup
	wg.Go(func() {
		// Exchange three names in turn: there always is an x.iso, each time of another kind.
		if err := os.Rename(b.path("image"), b.path("x.iso")); err != nil {
			t.Error(err)
			return
		}
		for i := 0; !stop.Load(); i++ {
			other := []string{"link", "fifo"}[i%2]
			if err := unix.Renameat2(unix.AT_FDCWD, b.path(other), unix.AT_FDCWD, b.path("x.iso"), unix.RENAME_EXCHANGE); err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer wg.Wait()
	defer stop.Store(true)
	seen := map[string]int{}
	for range races {
		r := b.look()
		for _, f := range r.Files {
			if f.Info.Size == int64(len(secret)) || f.ID.Size == int64(len(secret)) {
				t.Fatalf("read outside the folder: %+v", f)
			}
			if f.Held == nil {
				seen["free"]++
				if f.Info.Size != 40*2048 {
					t.Fatalf("free, yet %+v", f)
				}
			} else {
				seen[string(f.Held.Code)]++
			}
			if p, err := b.pin(f.Name, f.ID); err == nil {
				st, err := p.File.Stat()
				if err != nil || !st.Mode().IsRegular() || st.Size() == int64(len(secret)) {
					t.Fatalf("pinned %v, %v", st, err)
				}
				seen["pinned"]++
				_ = p.Close()
			}
		}
	}
	t.Log(seen)
	if seen[string(CodeNotRegular)] == 0 {
		t.Error("the races met no link and no FIFO: they prove nothing")
	}
}
