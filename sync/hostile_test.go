package sync

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	gosync "sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"isosyncd/lxd/lxdtest"
)

const (
	hostileEnv  = "ISOSYNCD_TEST_HOSTILE" // folder, folder beside it and seed of a hostile child, by lines
	nobody      = 65534
	hostileSize = 96 // sectors of the images of hostile children
)

// TestHostileFolder (D9, D10, D11, I8): other users may write to the folder, and do all that they can: swap files for
// links, FIFOs, sockets, folders and hard links between any two looks, change bytes and turn the time back, put links
// and FIFOs where status files and checksum lists belong. The daemon, which may read and write everything, reads and
// writes nothing outside the folder, does not hang, imports no bytes but those it hashed, and serves the next honest file.
func TestHostileFolder(t *testing.T) {
	lxdtest.Need(t, "root")
	inMemory(t)
	top := t.TempDir()
	seed := seedOf(t)
	folder, outside := filepath.Join(top, "in"), filepath.Join(top, "out")
	for dir, mode := range map[string]fs.FileMode{filepath.Dir(top): 0o711, top: 0o711, folder: 0o777, outside: 0o755} {
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, mode)); err != nil { //nolint:gosec // that is the point
			t.Fatal(err)
		}
	}
	secret, linked, victim := image(128, seed), image(132, seed+1), []byte("not yours")
	for name, f := range map[string]struct {
		data []byte
		mode fs.FileMode
	}{"secret.iso": {secret, 0o600}, "linked.iso": {linked, 0o666}, "victim": {victim, 0o666}} {
		path := filepath.Join(outside, name)
		if err := errors.Join(os.WriteFile(path, f.data, 0o600), os.Chmod(path, f.mode)); err != nil {
			t.Fatal(err)
		}
	}
	seen := watchReads(t, outside, filepath.Join(outside, "linked.iso"))

	s := lxdtest.Store(t)
	b := newBench(t, s, 0, func(c *Config) { c.Folder = folder })
	b.folder = folder
	stop := audit(t, s, b.pool)
	end := hostileChildren(t, 2, folder, outside, seed)
	b.start()
	b.until("many scans and some imports", func(s *Snapshot) bool { return s.Totals.Scans >= 80 && s.Totals.Imports >= 8 })
	turn := b.Alive()
	lxdtest.Eventually(t, "another turn of the deciding goroutine", func() bool { return b.Alive().After(turn) })
	end()
	t.Logf("after %d scans: %d imports, %d failures", b.Snapshot().Totals.Scans, b.Snapshot().Totals.Imports, b.Snapshot().Totals.Failures)

	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(folder, e.Name())); err != nil {
			t.Error(err)
		}
	}
	honest := image(64, seed+2)
	b.drop("honest.iso", honest)
	b.untilHas("honest.iso", honest)
	b.right("honest", honest)
	read := stop()
	for _, bad := range [][]byte{secret, linked} {
		if slices.Contains(read, hexOf(bad)) {
			t.Error("an image from outside the folder was imported")
		}
	}
	if events := seen(); len(events) > 0 {
		t.Errorf("somebody looked outside the folder: %v", events)
	}
	if got, err := os.ReadFile(filepath.Join(outside, "victim")); err != nil || !bytes.Equal(got, victim) {
		t.Errorf("a file outside the folder is %q now (%v)", got, err)
	}
	if list, err := os.ReadDir(outside); err != nil || len(list) != 3 {
		t.Errorf("outside the folder there is %v (%v)", list, err)
	}
}

// watchReads lets the kernel tell of every open, read and write in a folder that goes by its name, and of every read and
// write of a file by whatever name.
func watchReads(t *testing.T, dir, file string) (seen func() []string) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	for path, mask := range map[string]uint32{
		dir:  unix.IN_OPEN | unix.IN_ACCESS | unix.IN_MODIFY | unix.IN_CREATE | unix.IN_DELETE,
		file: unix.IN_ACCESS | unix.IN_MODIFY,
	} {
		if _, err := unix.InotifyAddWatch(fd, path, mask); err != nil {
			t.Fatal(err)
		}
	}
	return func() (events []string) {
		buf := make([]byte, 64<<10)
		for {
			n, err := unix.Read(fd, buf)
			if err != nil || n <= 0 {
				return events
			}
			for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
				mask, size := binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[12:])
				name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size]), "\x00")
				events = append(events, strconv.Quote(name)+" "+strconv.FormatUint(uint64(mask), 16))
				b = b[unix.SizeofInotifyEvent+size:]
			}
		}
	}
}

// hostileChildren starts n processes of another user; end ends them, and fails the test if one did not do its work.
func hostileChildren(t *testing.T, n int, folder, outside string, seed uint64) (end func()) {
	t.Helper()
	var stops []func()
	for i := range n {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestHostileChild$", "-test.v", "-test.count=1") //nolint:gosec // ourselves
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), hostileEnv+"="+strings.Join([]string{folder, outside, strconv.FormatUint(seed+uint64(i), 10)}, "\n"))
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, Pdeathsig: syscall.SIGKILL,
		}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stops = append(stops, func() {
			_ = in.Close()
			if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "--- PASS") {
				t.Errorf("hostile child: %v\n%s", err, &out)
				return
			}
			t.Logf("hostile child:\n%s", &out)
		})
	}
	var once gosync.Once
	end = func() {
		once.Do(func() {
			for _, s := range stops {
				s()
			}
		})
	}
	t.Cleanup(end)
	return end
}

// TestHostileChild is no test, but what the children of TestHostileFolder do, until their input ends. Anywhere else it does
// nothing.
func TestHostileChild(t *testing.T) {
	args := strings.Split(os.Getenv(hostileEnv), "\n")
	if len(args) != 3 {
		return
	}
	seed, err := strconv.ParseUint(args[2], 10, 64)
	if err != nil || os.Getuid() != nobody {
		t.Fatalf("seed %v, user %d", err, os.Getuid())
	}
	h := &hostile{in: args[0], out: args[1], id: strconv.FormatUint(seed%1000, 10)}
	quit := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(quit)
	}()
	attacks := []func(*rand.Rand) error{h.swap, h.swap, h.swap, h.write, h.write, h.notes, h.lists, h.names}
	var wg gosync.WaitGroup
	done := make([]int, len(attacks))
	for i, attack := range attacks {
		rng := rand.New(rand.NewPCG(seed, uint64(i))) //nolint:gosec // not for secrets
		wg.Go(func() {
			for {
				select {
				case <-quit:
					return
				case <-time.After(time.Duration(rng.IntN(8)) * time.Millisecond):
				}
				if attack(rng) == nil {
					done[i]++
				}
			}
		})
	}
	wg.Wait()
	t.Logf("attacks that were carried out: %v", done)
	if slices.Contains(done, 0) {
		t.Error("one of them never was")
	}
}

// hostile is another user of the folder.
type hostile struct{ in, out, id string }

func (h *hostile) path(name string) string { return filepath.Join(h.in, name) }

// odd makes something at path that is not what it should be.
func (h *hostile) odd(path string, rng *rand.Rand) error {
	switch rng.IntN(6) {
	case 0:
		return os.Symlink(filepath.Join(h.out, "secret.iso"), path)
	case 1:
		return unix.Mkfifo(path, 0o666)
	case 2:
		return os.Mkdir(path, 0o777) //nolint:gosec // as others do
	case 3:
		return os.Link(filepath.Join(h.out, "linked.iso"), path)
	case 4:
		return os.Symlink(filepath.Join(h.out, "victim"), path)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Bind(fd, &unix.SockaddrUnix{Name: path})
}

// swap exchanges an image, at one blow, with something else.
func (h *hostile) swap(rng *rand.Rand) error {
	name := h.path("v" + strconv.Itoa(rng.IntN(4)) + ".iso")
	other := h.path(".swap-" + h.id + "-" + strconv.FormatUint(rng.Uint64(), 36))
	defer func() { _ = os.RemoveAll(other) }()
	var err error
	if rng.IntN(2) == 0 {
		err = os.WriteFile(other, image(hostileSize, rng.Uint64()), 0o644) //nolint:gosec // as others do
	} else {
		err = h.odd(other, rng)
	}
	if err != nil {
		return err
	}
	err = unix.Renameat2(unix.AT_FDCWD, other, unix.AT_FDCWD, name, unix.RENAME_EXCHANGE)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.Rename(other, name)
	}
	return err
}

// write changes bytes, and sometimes turns the time back, or keeps a write lease, so that whoever opens the file waits.
func (h *hostile) write(rng *rand.Rand) error {
	name := h.path("w" + h.id + "-" + strconv.Itoa(rng.IntN(3)) + ".iso")
	st, err := os.Stat(name)
	if err != nil || rng.IntN(4) == 0 {
		return os.WriteFile(name, image(hostileSize, rng.Uint64()), 0o644) //nolint:gosec // as others do
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	const head = 19 * 2048
	_, err = f.WriteAt(image(20, rng.Uint64())[head:], head+rng.Int64N((hostileSize-20)*2048))
	switch rng.IntN(4) {
	case 0:
		return errors.Join(err, os.Chtimes(name, st.ModTime(), st.ModTime()))
	case 1:
		return errors.Join(err, f.Truncate(st.Size()/2), f.Truncate(st.Size()))
	case 2:
		if _, lerr := setLease(f, unix.F_WRLCK); lerr == nil {
			time.Sleep(time.Duration(rng.IntN(50)) * time.Millisecond)
		}
	}
	return err
}

// notes puts things where status files belong, and where our own hidden files are.
func (h *hostile) notes(rng *rand.Rand) error {
	name := h.path([]string{"v0.iso.failed", "v1.iso.waiting", "v2.iso.failed", ".isosyncd-note-" + h.id, ".isosyncd-draft-" + h.id}[rng.IntN(5)])
	if err := os.RemoveAll(name); err != nil {
		return err
	}
	return h.odd(name, rng)
}

// lists puts things where checksum lists belong, and takes them away again.
func (h *hostile) lists(rng *rand.Rand) error {
	name := h.path([]string{"v0.iso.sha256", "v1.iso.md5", "SHA256SUMS-" + h.id, "SHA512SUMS"}[rng.IntN(4)])
	err := h.odd(name, rng)
	time.Sleep(time.Duration(rng.IntN(4)) * time.Millisecond)
	return errors.Join(err, os.RemoveAll(name))
}

// names makes files whose names are meant for terminals, shells and paths.
func (h *hostile) names(rng *rand.Rand) error {
	name := h.path([]string{
		"a\nb.iso", "\x1b[2J\x1b]0;x\x07.iso", "\xff\xfe.iso", "-rf.iso", "%2e%2e%2fv.iso", "..iso", "\u202egnp.iso",
		strings.Repeat("n", 251) + ".iso",
	}[rng.IntN(8)])
	err := os.WriteFile(name, []byte(h.id), 0o644) //nolint:gosec // as others do
	if rng.IntN(2) == 0 {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}
