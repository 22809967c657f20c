package fusefs

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"isosyncd/lxd/lxdtest"
)

// TestKillAndRemount: the daemon is killed fifty times, idle and under load; the next one cleans up and mounts, programs
// that were at work get an error and end, and nothing is left: no mount, no file descriptor, no goroutine.
func TestKillAndRemount(t *testing.T) {
	needFUSE(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, folder := filepath.Join(t.TempDir(), "mnt"), t.TempDir()
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, image(5000, 1), 0o644); err != nil {
		t.Fatal(err)
	}
	made := map[uint32]bool{} // minor numbers of our connections
	note := func() {
		for _, m := range mountsAt(dir) {
			made[m.minor] = true
		}
	}
	rounds := 50
	if testing.Short() {
		rounds = 5
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range rounds {
		d := startHelper(t, 0, self, dir, folder)
		note()
		load := exec.Command("bash", "-c", []string{
			`true`, `cp "$2" "$1/new.iso"`, `cat "$1/seed.iso" > /dev/null`, `while ls -l "$1/seed.iso" > /dev/null; do :; done`,
			`cp "$2" "$1/seed.iso"`, `rm "$1/other.iso"`, `mv "$1/seed.iso" "$1/b.iso"`, `exec 3< "$1/seed.iso"; sleep 0.05; cat <&3`,
		}[i%8], "bash", dir, src)
		if err := load.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond) // any moment is as good as another
		if err := d.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = d.cmd.Wait()
		_ = load.Wait() // it ends: whatever it waited for is an error now
	}
	d := startHelper(t, 0, self, dir, folder)
	note()
	if out := mustRun(t, "ls", dir); !strings.Contains(out, "seed.iso") {
		t.Errorf("after %d kills: %s", rounds, out)
	}
	if code := d.stop(); code != 0 {
		t.Errorf("the last one ends with %d: %s", code, d.log)
	}
	if left := mountsAt(dir); len(left) > 0 {
		t.Errorf("left mounted: %v", left)
	}
	if len(made) == 0 {
		t.Error("no mount of ours was seen")
	}
	eventually(t, "the kernel forgets our connections", func() bool { return len(leaked(made)) == 0 })
}

// TestStaleMount (F7): what a crash left is cleaned; a living mount, a foreign file and the folder itself are not covered.
func TestStaleMount(t *testing.T) {
	h := newFake(t)
	h.put(t, "a", image(100, 1), true)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	needFUSE(t)
	dir := filepath.Join(t.TempDir(), "with blank", "mnt")
	_ = os.MkdirAll(dir, 0o755)
	link := filepath.Join(t.TempDir(), "link") // the helper's options are words
	if err := os.Symlink(filepath.Dir(dir), link); err != nil {
		t.Fatal(err)
	}
	d := startHelper(t, 0, self, link+"/mnt", t.TempDir())
	cfg := Config{Dir: dir, Heart: h, Log: testLog(t)}
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "another isosyncd") {
		t.Errorf("over a living one: %v", err)
	}
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
	if err := unix.Statfs(dir, new(unix.Statfs_t)); !errors.Is(err, syscall.ENOTCONN) {
		t.Fatalf("the mount is not stale: %v", err)
	}
	x := mountFake(t, h, func(c *Config) { c.Dir = dir })
	if names := x.names(); len(names) != 1 {
		t.Errorf("there are %q", names)
	}

	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		full:                             "not empty",
		h.folder:                         "in one another",
		filepath.Join(h.folder, "mnt"):   "in one another",
		filepath.Dir(h.folder):           "in one another",
		filepath.Join(full, "a", "mnt"):  "no such file",
		filepath.Join(full, "precious"):  "not a directory",
		filepath.Join(t.TempDir(), "ok"): "",
	} {
		m, err := New(Config{Dir: path, Heart: h, Log: testLog(t)})
		switch {
		case err == nil:
			_ = m.leave(context.Background())
			if want != "" {
				t.Errorf("%s: mounted", path)
			}
		case want == "" || !strings.Contains(err.Error(), want):
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

// TestStopBusy: SIGTERM while files are open detaches the mount, says so, and ends in time; a reader gets an error.
func TestStopBusy(t *testing.T) {
	h := newFake(t)
	h.put(t, "a", image(3000, 1), true)
	var text bytes.Buffer
	x := mountFake(t, h, func(c *Config) {
		c.noPassthrough = true
		c.Log = slog.New(slog.NewTextHandler(&text, nil))
	})
	f, err := os.Open(x.path("a.iso"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := x.stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(text.String(), "the mount is busy, so it is detached") {
		t.Errorf("the log does not say it: %s", text.String())
	}
	if _, err := f.ReadAt(make([]byte, 100), 5<<20); err == nil {
		t.Error("a reader goes on without a daemon")
	}
	if _, err := os.Stat(x.path("a.iso")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// TestStopWhileWriting (F6): what was being written when the daemon stops is put into the folder, where it is held as
// incomplete, or goes on as an image if it is whole; the writer gets an error.
func TestStopWhileWriting(t *testing.T) {
	h := newFake(t)
	x := mountFake(t, h, nil)
	whole := image(400, 1)
	var open []*os.File
	for name, data := range map[string][]byte{"whole.iso": whole, "half.iso": whole[:200*2048], "x.part": whole, "empty.iso": nil} {
		f, err := os.Create(x.path(name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
		open = append(open, f)
	}
	if err := x.stop(); err != nil {
		t.Error(err)
	}
	for _, f := range open {
		if _, err := f.Write([]byte("x")); err == nil {
			t.Errorf("%s: a write goes nowhere without an error", f.Name())
		}
		_ = f.Close()
	}
	h.work.Wait()
	x.wantPool("whole", whole)
	if f := h.files["half.iso"]; f.Problem == nil || h.pool("half") != nil {
		t.Errorf("half of an image: %+v", f)
	}
	entries, err := os.ReadDir(h.folder)
	if err != nil || len(entries) != 2 {
		t.Errorf("the folder has %v (%v)", entries, err)
	}
}

// TestUnmountedByOthers (F8): umount, umount -l and an abort under load end Serve with ErrUnmounted and leave nothing;
// programs get errors, and none hangs.
func TestUnmountedByOthers(t *testing.T) {
	for name, end := range map[string]func(x *mounted) error{
		"umount":    func(x *mounted) error { return unix.Unmount(x.dir, 0) },
		"umount -l": func(x *mounted) error { return unix.Unmount(x.dir, unix.MNT_DETACH) },
		"umount -f": func(x *mounted) error { return unix.Unmount(x.dir, unix.MNT_FORCE|unix.MNT_DETACH) },
		"abort":     func(x *mounted) error { return x.mount.abort() },
	} {
		h := newFake(t)
		h.put(t, "a", image(3000, 1), true)
		h.hold()
		x := mountFake(t, h, nil)
		var load []*exec.Cmd
		if name != "umount" {
			for _, script := range []string{`cp "$2" "$1/b.iso"`, `while cat "$1/a.iso"; do :; done`, `while ls -l "$1/a.iso"; do :; done`} {
				cmd := exec.Command("bash", "-c", script, "bash", x.dir, filepath.Join(h.folder, "a.iso"))
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				load = append(load, cmd)
			}
			eventually(t, "the copy waits", func() bool { _, err := os.Stat(filepath.Join(h.folder, "b.iso")); return err == nil })
		}
		eventually(t, name, func() bool { return end(x) == nil })
		if name == "umount -l" {
			h.release() // it lasts until the last user is gone
		}
		served := make(chan struct{})
		go func() { <-x.mount.served; close(served) }()
		select {
		case <-served:
		case <-time.After(patience):
			t.Errorf("%s: requests still come", name)
		}
		h.release()
		for _, cmd := range load {
			_ = cmd.Wait()
		}
		if err := x.stop(); !errors.Is(err, ErrUnmounted) {
			t.Errorf("%s: Serve says %v", name, err)
		}
		_ = unix.Unmount(x.dir, unix.MNT_DETACH) // the abort leaves it mounted, stale
	}
}

// TestOtherUsers (F9): without allow_other nobody else enters; with it they read, and write nothing.
func TestOtherUsers(t *testing.T) {
	lxdtest.Need(t, "setpriv")
	for _, allow := range []bool{false, true} {
		h := newFake(t)
		h.put(t, "a", image(100, 1), true)
		x := mountFake(t, h, func(c *Config) { c.AllowOther = allow })
		public(t, x.dir)
		src := x.source("s", image(100, 2))
		public(t, src)
		for script, ok := range map[string]bool{
			"ls " + x.dir:                              allow,
			"cat " + x.path("a.iso"):                   allow,
			"cat " + x.path(".isosyncd/status"):        allow,
			"cp " + src + " " + x.path("b.iso"):        false,
			"cp " + src + " " + x.path("a.iso"):        false,
			"rm -f " + x.path("a.iso"):                 false,
			"mv " + x.path("a.iso c.iso"):              false,
			"chmod 777 " + x.path("a.iso"):             false,
			"ln -s x " + x.path("l"):                   false,
			"touch " + x.path("a.iso") + " 2>&1 | cat": true, // says why
		} {
			out, code := run(t, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-c", script)
			if (code == 0) != ok || !ok && !strings.Contains(out, "ermission denied") && !strings.Contains(out, "not permitted") {
				t.Errorf("allow_other %v: %s: exit %d: %s", allow, script, code, out)
			}
		}
		if h.pool("a") == nil || h.pool("b") != nil {
			t.Error("somebody else changed something")
		}
	}
}

// TestNormalUser: the whole life as a user without rights: mounted by fusermount3, written to with cp over an image that
// is 0444, killed, mounted again, stopped.
func TestNormalUser(t *testing.T) {
	needFUSE(t)
	lxdtest.Need(t, "fusermount3", "setpriv", "unshare")
	if st, err := os.Stat("/dev/fuse"); err != nil || st.Mode().Perm()&0o006 != 0o006 {
		withOpenDevice(t)
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	public(t, filepath.Join(base, "x"))
	binary := filepath.Join(base, "helper")
	code, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, code, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, folder, src := filepath.Join(base, "mnt"), filepath.Join(base, "folder"), filepath.Join(base, "src")
	for _, d := range []string{dir, folder} {
		if err := errors.Join(os.Mkdir(d, 0o755), os.Chown(d, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(src, image(300, 5), 0o644); err != nil {
		t.Fatal(err)
	}
	asUser := func(script string) (string, int) {
		return run(t, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-c", script)
	}
	d := startHelper(t, 65534, binary, dir, folder)
	for _, script := range []string{
		"cp " + src + " " + dir + "/new.iso && cmp " + src + " " + dir + "/new.iso",
		"cp " + src + " " + dir + "/seed.iso && cmp " + src + " " + dir + "/seed.iso",
		"{ head -c 1000 " + src + "; tail -c +1001 " + src + "; } > " + dir + "/c.iso && cmp " + src + " " + dir + "/c.iso",
		"rm " + dir + "/c.iso",
	} {
		if out, code := asUser(script); code != 0 {
			t.Errorf("%s: exit %d: %s", script, code, out)
		}
	}
	if out, code := run(t, "ls", dir); code == 0 {
		t.Errorf("root enters somebody's private mount: %s", out)
	}
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
	d = startHelper(t, 65534, binary, dir, folder)
	if out, code := asUser("ls " + dir); code != 0 || !strings.Contains(out, "seed.iso") {
		t.Errorf("mounted again: exit %d: %s", code, out)
	}
	if code := d.stop(); code != 0 {
		t.Errorf("it ends with %d: %s", code, d.log)
	}
	if left := mountsAt(dir); len(left) > 0 {
		t.Errorf("left mounted: %v", left)
	}
}

// withOpenDevice runs the test again in a mount namespace of its own, where /dev/fuse is open to all, as udev makes it.
func withOpenDevice(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	device := filepath.Join(t.TempDir(), "fuse")
	const fuseDevice = 10<<8 | 229
	if err := errors.Join(unix.Mknod(device, unix.S_IFCHR|0o666, fuseDevice), os.Chmod(device, 0o666)); err != nil {
		t.Skipf("SKIPPED: /dev/fuse is closed to users, and: %v", err)
	}
	out := mustRun(t, "unshare", "-m", "--propagation", "private", "bash", "-c",
		`mount --bind "$1" /dev/fuse && exec "$2" -test.run '^TestNormalUser$' -test.v`, "bash", device, self)
	if !strings.Contains(out, "--- PASS: TestNormalUser") {
		t.Errorf("in its namespace: %s", out)
	}
}

// TestOneProcessor: the mount serves programs of its own process also with GOMAXPROCS=1, without a deadlock.
func TestOneProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	h := newFake(t)
	x := mountFake(t, h, nil)
	data := image(400, 1)
	for range 20 {
		if err := os.WriteFile(x.path("a.iso"), data, 0o644); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(x.read("a.iso"), data) {
			t.Fatal("other bytes")
		}
		if err := os.Remove(x.path("a.iso")); err != nil {
			t.Fatal(err)
		}
	}
}
