package fusefs

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"isosyncd/lxd/lxdtest"
	isosync "isosyncd/sync"
)

// patience bounds what a test waits for; nothing is asserted to be faster.
const patience = 60 * time.Second

// mounted is a mount over a fake heart, with a guard: whatever happens, the connection is aborted in the end and
// nothing stays mounted.
type mounted struct {
	t     testing.TB
	heart *fakeHeart
	dir   string
	mount *Mount
	src   string // a directory for sources
	stop  func() error
}

// needFUSE skips loudly where the kernel part cannot run: the guard that aborts hung connections needs root.
func needFUSE(tb testing.TB) {
	tb.Helper()
	lxdtest.Need(tb, "fuse", "root")
	const connections = "/sys/fs/fuse/connections"
	if _, err := os.Stat(connections); err == nil && len(mountsAt(connections)) == 0 {
		if err := unix.Mount("none", connections, "fusectl", 0, ""); err != nil {
			tb.Logf("no fusectl, so the guard can only unmount: %v", err)
		}
	}
}

func mountFake(tb testing.TB, h *fakeHeart, change func(*Config)) *mounted {
	tb.Helper()
	needFUSE(tb)
	cfg := Config{Dir: filepath.Join(tb.TempDir(), "mnt"), Heart: h, Log: testLog(tb)}
	if change != nil {
		change(&cfg)
	}
	m, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- m.Serve(ctx) }()
	guard := time.AfterFunc(2*patience, func() { _ = m.abort() })
	x := &mounted{t: tb, heart: h, dir: cfg.Dir, mount: m, src: tb.TempDir()}
	ended := false
	x.stop = func() error {
		ended = true
		cancel()
		select {
		case err := <-served:
			return err
		case <-time.After(patience):
			_ = m.abort()
			_ = unix.Unmount(cfg.Dir, unix.MNT_DETACH|unix.MNT_FORCE)
			return errors.New("Serve did not end")
		}
	}
	tb.Cleanup(func() {
		defer guard.Stop()
		if !ended {
			if err := x.stop(); err != nil && !errors.Is(err, ErrUnmounted) {
				tb.Error(err)
			}
		}
		if left := mountsAt(cfg.Dir); len(left) > 0 {
			tb.Errorf("still mounted: %v", left)
			_ = unix.Unmount(cfg.Dir, unix.MNT_DETACH)
		}
	})
	return x
}

func (x *mounted) path(name string) string { return filepath.Join(x.dir, name) }

// source writes a file outside the mount.
func (x *mounted) source(name string, data []byte) string {
	x.t.Helper()
	path := filepath.Join(x.src, name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		x.t.Fatal(err)
	}
	return path
}

// run runs a program and gives what it printed and how it ended.
func run(tb testing.TB, name string, args ...string) (string, int) {
	tb.Helper()
	lxdtest.Need(tb, name)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		tb.Fatalf("%s: %v", name, err)
	}
	if ctx.Err() != nil {
		tb.Fatalf("%s %s hangs: %s", name, strings.Join(args, " "), out)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func mustRun(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, code := run(tb, name, args...)
	if code != 0 {
		tb.Fatalf("%s %s: exit %d: %s", name, strings.Join(args, " "), code, out)
	}
	return out
}

// eventually polls until ok.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func (x *mounted) wantPool(volume string, data []byte) {
	x.t.Helper()
	if got := x.heart.pool(volume); !bytes.Equal(got, data) {
		x.t.Errorf("volume %s has %d bytes (nil: %v), want %d; or other ones", volume, len(got), got == nil, len(data))
	}
}

func (x *mounted) read(name string) []byte {
	x.t.Helper()
	b, err := os.ReadFile(x.path(name))
	if err != nil {
		x.t.Fatal(err)
	}
	return b
}

func (x *mounted) names() []string {
	x.t.Helper()
	entries, err := os.ReadDir(x.dir)
	if err != nil {
		x.t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if e.Name() != controlName {
			out = append(out, e.Name())
		}
	}
	return out
}

func inode(tb testing.TB, path string) uint64 {
	tb.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		tb.Fatal(err)
	}
	return st.Ino
}

// writers are the ways in which programs bring a file here: F is the source, D the mount.
var writers = map[string]string{
	"cp":                 `cp F D/x.iso`,
	"cp -p":              `cp -p F D/x.iso`,
	"cp -a":              `cp -a F D/x.iso`,
	"mv":                 `cp F F2 && mv F2 D/x.iso && test ! -e F2`,
	"install":            `install -m 600 F D/x.iso`,
	"rsync":              `rsync -a F D/x.iso`,
	"rsync -W":           `rsync -aW --times F D/x.iso`,
	"curl":               `curl -sS -o D/x.iso file://F`,
	"dd":                 `dd if=F of=D/x.iso bs=64k status=none`,
	"dd conv=fsync":      `dd if=F of=D/x.iso bs=1M conv=fsync status=none`,
	"dd oflag=direct":    `dd if=F of=D/x.iso bs=1M oflag=direct status=none`,
	"cat >":              `cat F > D/x.iso`,
	"cat > from sh":      `sh -c 'cat F > D/x.iso'`,
	"tee":                `tee D/x.iso < F > /dev/null`,
	"two parts":          `head -c 70000 F > F.a; tail -c +70001 F > F.b; { cat F.a; cat F.b; } > D/x.iso`,
	"two parts, pipe":    `head -c 70000 F > F.a; tail -c +70001 F > F.b; { cat F.a; sleep 0.1; cat F.b; } | cat > D/x.iso`,
	"parts by builtins":  `exec 3> D/x.iso; head -c 10 F >&3; true >&3; printf '' >&3; tail -c +11 F >&3; exec 3>&-`,
	"append mode":        `cat F >> D/x.iso`,
	"fallocate first":    `fallocate -l $(stat -c %s F) D/x.iso.part; dd if=F of=D/x.iso.part conv=notrunc bs=64k status=none; mv D/x.iso.part D/x.iso`,
	"truncate first":     `truncate -s $(stat -c %s F) D/x.iso.part; dd if=F of=D/x.iso.part conv=notrunc bs=64k status=none; mv D/x.iso.part D/x.iso`,
	"Firefox":            `: > D/x.iso; cp F D/x.9f3A.iso.part; mv D/x.9f3A.iso.part D/x.iso`,
	"Chrome":             `cp F "D/Unconfirmed 12345.crdownload"; mv "D/Unconfirmed 12345.crdownload" D/x.iso`,
	"Chrome, named":      `cp F D/x.iso.crdownload; mv -f D/x.iso.crdownload D/x.iso`,
	"GLib":               `cp F D/.goutputstream-AB12CD; chmod 644 D/.goutputstream-AB12CD; mv D/.goutputstream-AB12CD D/x.iso`,
	"KDE":                `cp F D/x.iso.part; mv D/x.iso.part D/x.iso`,
	"resumed part":       `head -c 70000 F > D/x.iso.part; tail -c +70001 F >> D/x.iso.part; mv D/x.iso.part D/x.iso`,
	"renamed while open": `exec 3> D/x.part; head -c 70000 F >&3; mv D/x.part D/x.iso; tail -c +70001 F >&3; exec 3>&-`,
	"touch first":        `touch D/x.iso; cat F > D/x.iso`,
	"link unlink":        `cp F D/x.part; ln D/x.part D/x.iso 2>/dev/null && exit 1; mv D/x.part D/x.iso`,
	"upper case":         `cp F D/x.ISO; test -e D/x.ISO; test -e D/x.iso`,
}

func shell(x *mounted, script, src string) (string, int) {
	x.t.Helper()
	r := strings.NewReplacer("F2", src+".2", "F.a", src+".a", "F.b", src+".b", "F", src, "D/", x.dir+"/")
	return run(x.t, "bash", "-c", "set -e; "+r.Replace(script))
}

// TestWriteTools: every way to bring a file here ends in a volume with exactly its bytes, when the program has ended.
func TestWriteTools(t *testing.T) {
	for _, passthrough := range []bool{true, false} {
		h := newFake(t)
		x := mountFake(t, h, func(c *Config) { c.noPassthrough = !passthrough })
		for _, name := range slices.Sorted(maps.Keys(writers)) {
			data := image(400, 7)
			if out, code := shell(x, writers[name], x.source("src", data)); code != 0 {
				t.Errorf("%s: exit %d: %s", name, code, out)
				continue
			}
			eventually(t, name+": a volume", func() bool { return h.pool("x") != nil })
			x.wantPool("x", data)
			if got := x.read("x.iso"); !bytes.Equal(got, data) {
				t.Errorf("%s: reads back %d bytes, or other ones", name, len(got))
			}
			if out, code := run(t, "rm", x.path("x.iso")); code != 0 {
				t.Fatalf("%s: rm: %s", name, out)
			}
			if names := x.names(); len(names) != 0 {
				t.Errorf("%s: left: %q", name, names)
			}
		}
		if h.drafts != 0 {
			t.Errorf("%d drafts were never given back", h.drafts)
		}
	}
}

// TestOverwriteTools: the same over a volume that is there, and whoever reads the old one goes on reading it.
func TestOverwriteTools(t *testing.T) {
	h := newFake(t)
	x := mountFake(t, h, nil)
	old, data := image(300, 1), image(400, 2)
	for _, name := range []string{"cp", "cp -p", "mv", "install", "rsync", "curl", "dd", "cat >", "two parts", "tee", "Chrome", "GLib", "KDE"} {
		h.put(t, "x", old, true)
		reader, err := os.Open(x.path("x.iso"))
		if err != nil {
			t.Fatal(err)
		}
		before := inode(t, x.path("x.iso"))
		if out, code := shell(x, writers[name], x.source("src", data)); code != 0 {
			t.Errorf("%s: exit %d: %s", name, code, out)
			continue
		}
		eventually(t, name+": replaced", func() bool { return bytes.Equal(h.pool("x"), data) })
		if got := x.read("x.iso"); !bytes.Equal(got, data) {
			t.Errorf("%s: reads back %d bytes, or other ones", name, len(got))
		}
		if inode(t, x.path("x.iso")) == before {
			t.Errorf("%s: new content under an old inode", name)
		}
		got := make([]byte, len(old)+1)
		if n, _ := reader.ReadAt(got, 0); !bytes.Equal(got[:n], old) {
			t.Errorf("%s: whoever had the old one open reads %d bytes, or other ones", name, n)
		}
		_ = reader.Close()
	}
	if names := x.names(); len(names) != 1 {
		t.Errorf("left: %q", names)
	}
}

// TestWriteStaged: with mount_wait: staged a program ends before the import does, and finds its file meanwhile.
func TestWriteStaged(t *testing.T) {
	h := newFake(t)
	h.hold()
	x := mountFake(t, h, func(c *Config) { c.Wait = isosync.WaitStaged })
	data := image(400, 3)
	src := x.source("src", data)
	for _, script := range []string{`cp -p F D/x.iso`, `install F D/y.iso`, `rsync -a F D/z.iso`} {
		if out, code := shell(x, script, src); code != 0 {
			t.Errorf("%s: %s", script, out)
		}
	}
	if got := x.names(); len(got) != 3 {
		t.Errorf("while the import runs, there are %q", got)
	}
	if h.pool("x") != nil {
		t.Error("imported through a closed gate")
	}
	h.release()
	eventually(t, "three volumes", func() bool { return h.pool("x") != nil && h.pool("y") != nil && h.pool("z") != nil })
	for _, n := range []string{"x", "y", "z"} {
		if got := x.read(n + ".iso"); !bytes.Equal(got, data) {
			t.Errorf("%s: other bytes", n)
		}
	}
}
