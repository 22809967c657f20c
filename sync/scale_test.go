package sync

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"isosyncd/lxd/lxdtest"
)

// TestBurst (D5): twenty thousand files at once, while the daemon is not given the processor, so that the kernel drops
// events. All are imported or reported, in the snapshot and beside the file, without a periodic scan.
func TestBurst(t *testing.T) {
	inMemory(t)
	const total, images = 20_000, 300
	r := newRig(t, func(c *Config) {
		c.ScanInterval, c.RefreshInterval, c.SettleDelay, c.MaxUploads = time.Hour, time.Hour, 20*time.Millisecond, 4
		c.Log = slog.New(slog.DiscardHandler)
	})
	aside := t.TempDir()
	for i := range total {
		data := []byte("no image")
		if i%(total/images) == 0 {
			data = isoImage(20, fmt.Sprint(i))
		}
		if err := os.WriteFile(filepath.Join(aside, fmt.Sprintf("f%05d.iso", i)), data, 0o644); err != nil { //nolint:gosec // as others do
			t.Fatal(err)
		}
	}
	r.start()
	first := isoImage(40, "first")
	r.drop("first.iso", first)
	r.untilState("first.iso", StatePresent) // the watch stands
	overflow := watchOverflow(t, r.folder)
	// Whoever is stopped reads no events. The child lets us go on even if it fails.
	const script = `trap 'kill -CONT $PPID' EXIT; kill -STOP $PPID; find "$1" -name '*.iso' -print0 | xargs -0 mv -t "$2"`
	if out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", script, "sh", aside, r.folder).CombinedOutput(); err != nil { //nolint:gosec // ours
		t.Fatalf("%v\n%s", err, out)
	}
	if !overflow() {
		t.Error("no event was lost: this shows nothing")
	}
	start := time.Now()
	s := r.untilDone(total + 1)
	present := 0
	for i := range s.Files {
		if s.Files[i].State == StatePresent {
			present++
		}
	}
	if volumes := len(r.remote.names()); present != volumes || present < images {
		t.Errorf("%d files are present, %d volumes", present, volumes)
	}
	r.good("first", first)
	r.good("f00000", isoImage(20, "0"))
	lxdtest.Eventually(t, "a status file beside each", func() bool {
		notes, err := filepath.Glob(filepath.Join(r.folder, "*.iso.failed"))
		return err == nil && len(notes) == total-present+1
	})
	var mem runtime.MemStats
	runtime.GC() // what is left is kept
	runtime.ReadMemStats(&mem)
	status, _ := os.ReadFile("/proc/self/status")
	t.Logf("%d files, %d imported, after %v, %d scans; heap %d MiB, %s", len(s.Files), present, time.Since(start).Round(time.Millisecond),
		s.Totals.Scans, mem.HeapAlloc>>20, bytes.Join(bytes.Fields(regexp.MustCompile(`VmHWM:.*`).Find(status)), []byte(" ")))
	if mem.HeapAlloc > 200<<20 {
		t.Errorf("the heap has %d MiB", mem.HeapAlloc>>20)
	}
}

// untilDone waits until so many files are imported or reported as no image. Scans of so many rest for ten times as long as
// they take, which on a busy machine is more than r.until has.
func (r *rig) untilDone(total int) *Snapshot {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*lxdtest.Limit)
	defer cancel()
	var last *Snapshot
	done := 0
	err := r.await(ctx, func(s *Snapshot) (bool, error) {
		last, done = s, 0
		for i := range s.Files {
			f := &s.Files[i]
			if f.State == StatePresent || f.State == StateFailed && f.Problem.Code == CodeNotISO {
				done++
			}
		}
		return done == total, nil
	})
	if err != nil {
		r.t.Fatalf("%d of %d files are seen, and %d done, after %d scans: %v", len(last.Files), total, done, last.Totals.Scans, err)
	}
	return last
}

// watchOverflow watches a folder without reading. It reports whether the kernel lost events since.
func watchOverflow(t *testing.T, dir string) (lost func() bool) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_ALL_EVENTS); err != nil {
		t.Fatal(err)
	}
	return func() bool {
		buf := make([]byte, 1<<20)
		for {
			n, err := unix.Read(fd, buf)
			if err != nil || n <= 0 {
				return false
			}
			for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
				if binary.NativeEndian.Uint32(b[4:])&unix.IN_Q_OVERFLOW != 0 {
					return true
				}
				b = b[unix.SizeofInotifyEvent+binary.NativeEndian.Uint32(b[12:]):]
			}
		}
	}
}

// TestFolderComesAndGoes (D4, I6): under the daemon, with prune on, another file system is mounted over the folder and
// taken away again, also in the middle of an upload; the folder is renamed, replaced by an empty one, by a file, and
// comes back. No volume of what was in it is ever touched, and whatever is there is served.
func TestFolderComesAndGoes(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := newRig(t, func(c *Config) {
		c.Folder = filepath.Join(c.Folder, "drop")
		c.Policy.Prune, c.Policy.PruneDelay, c.ScanInterval = true, time.Millisecond, 200*time.Millisecond
	})
	r.folder = r.cfg.Folder
	deep := &gosync.Once{}
	var detach func()
	r.remote.before = func(call, name string) error {
		if call == "delete" && (name == "a" || name == "b") {
			t.Errorf("volume %s is deleted", name)
		}
		if call == "import" && name == "big" {
			deep.Do(func() { detach() })
		}
		return nil
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	mount := func() {
		t.Helper()
		must(unix.Mount("tmpfs", r.folder, "tmpfs", 0, "size=16m"))
	}
	// After these looks everything that could be concluded was.
	looks := func() {
		t.Helper()
		n := r.Snapshot().Totals.Scans
		r.until("four more scans", func(s *Snapshot) bool { return s.Totals.Scans >= n+4 })
	}
	empty := func(s *Snapshot) bool { return s.Problem == nil && len(s.Files) == 0 }
	must(os.Mkdir(r.folder, 0o755))
	r.start()
	a, b := isoImage(40, "a"), isoImage(44, "b")
	r.drop("a.iso", a)
	r.drop("b.iso", b)
	r.untilState("a.iso", StatePresent)
	r.untilState("b.iso", StatePresent)

	mount()
	r.until("the mount", empty)
	looks()
	c := isoImage(48, "c")
	r.drop("c.iso", c)
	r.untilState("c.iso", StatePresent)
	detach = func() {
		if err := unix.Unmount(r.folder, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	}
	r.drop("big.iso", image(512, 1))
	r.until("the folder that was below", func(s *Snapshot) bool { return fileIn(s, "a.iso") != nil && fileIn(s, "big.iso") == nil })
	looks()
	if v, _, there := r.remote.get("big"); there {
		if _, ours := OurMark(v, owner); ours {
			t.Errorf("an image whose folder vanished while it was sent became %+v", v)
		}
	}

	aside := r.folder + ".aside"
	must(os.Rename(r.folder, aside))
	r.until("the folder is missed", func(s *Snapshot) bool { return s.Problem != nil && s.Problem.Code == CodeFolder })
	looks()
	must(os.WriteFile(r.folder, nil, 0o644))
	r.until("a file in its place", func(s *Snapshot) bool { return s.Problem != nil && strings.Contains(s.Problem.Text, "is not a folder") })
	looks()
	must(os.Remove(r.folder))
	must(os.Mkdir(r.folder, 0o755))
	r.until("an empty one", empty)
	looks()
	d := isoImage(52, "d")
	r.drop("d.iso", d)
	r.untilState("d.iso", StatePresent)
	must(os.RemoveAll(r.folder))
	must(os.Rename(aside, r.folder))
	r.until("the folder is back", func(s *Snapshot) bool {
		return s.Problem == nil && fileIn(s, "a.iso") != nil && fileIn(s, "d.iso") == nil
	})
	looks()
	r.good("a", a)
	r.good("b", b)
	b = isoImage(56, "b2")
	r.drop("b.iso", b)
	r.remote.with(func() { // from here on a replacement may delete it
		r.remote.before = nil
	})
	r.untilHas("b.iso", b)
	r.good("b", b)
	r.good("a", a)
}

// TestOddTimes (D8): files from 1901, 1970, tomorrow and the year 2200, and new bytes of the same size under the old
// time: none of it hides a change or keeps a file waiting.
func TestOddTimes(t *testing.T) {
	inMemory(t)
	times := map[string]time.Time{
		"1901.iso": time.Date(1901, 12, 14, 0, 0, 0, 0, time.UTC), "1970.iso": time.Unix(0, 0),
		"tomorrow.iso": time.Now().Add(24 * time.Hour), "2200.iso": time.Date(2200, 1, 1, 0, 0, 0, 1, time.UTC),
		"same.iso": time.Unix(1_600_000_000, 0), "equal.iso": time.Unix(1_600_000_000, 0),
	}
	for _, noLeases := range []bool{false, true} {
		t.Run(fmt.Sprintf("leases %v", !noLeases), func(t *testing.T) {
			r := newRig(t, func(c *Config) { c.NoLeases = noLeases }).start()
			for _, round := range []string{"old", "new"} {
				for name, at := range times {
					r.drop(name, isoImage(40, name+round))
					if err := os.Chtimes(filepath.Join(r.folder, name), at, at); err != nil {
						t.Fatal(err)
					}
				}
				for name, at := range times {
					r.untilHas(name, isoImage(40, name+round))
					st, err := os.Stat(filepath.Join(r.folder, name))
					if err != nil || !st.ModTime().Equal(at) {
						t.Errorf("%s: mtime %v, %v", name, st.ModTime(), err)
					}
					r.good(strings.TrimSuffix(name, ".iso"), isoImage(40, name+round))
				}
			}
			// The bytes and the time as they were, in another file: not sent again.
			sent := r.remote.count("import")
			r.drop("part", isoImage(40, "same.isonew"))
			if err := os.Chtimes(filepath.Join(r.folder, "part"), times["same.iso"], times["same.iso"]); err != nil {
				t.Fatal(err)
			}
			scans := r.Snapshot().Totals.Scans
			if err := os.Rename(filepath.Join(r.folder, "part"), filepath.Join(r.folder, "same.iso")); err != nil {
				t.Fatal(err)
			}
			r.until("it was looked at", func(s *Snapshot) bool {
				f := fileIn(s, "same.iso")
				return s.Totals.Scans > scans && f != nil && f.State == StatePresent && f.ID.Ino == inodeOf(t, filepath.Join(r.folder, "same.iso"))
			})
			if n := r.remote.count("import"); n != sent {
				t.Errorf("%d uploads of the same bytes", n-sent)
			}
		})
	}
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}
