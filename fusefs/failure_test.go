package fusefs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"isosyncd/lxd"
	isosync "isosyncd/sync"
)

// TestWriteErrors: what cp and others say for each way in which a file cannot become a volume, what .isosyncd/errors
// says of it, and that nothing changed.
func TestWriteErrors(t *testing.T) {
	good := image(400, 1)
	short := good[:300*2048]
	html := bytes.Repeat([]byte("<!DOCTYPE html><html><body>404</body></html>\n"), 4000)
	for name, tt := range map[string]struct {
		data   []byte
		heart  func(h *fakeHeart)
		script string
		wait   isosync.Wait
		errno  syscall.Errno
		text   string // in .isosyncd/errors/x.iso
	}{
		"no ISO, while writing":  {data: html, script: `cp F D/x.iso`, errno: syscall.EINVAL, text: "not an ISO image"},
		"no ISO, by dd":          {data: html, script: `dd if=F of=D/x.iso bs=4k status=none`, errno: syscall.EINVAL, text: "not an ISO image"},
		"no ISO, small":          {data: html[:999], script: `cp F D/x.iso`, errno: syscall.EINVAL, text: "not an ISO image"},
		"no ISO, part":           {data: html, script: `cp F D/x.iso.part`, errno: syscall.EINVAL},
		"truncated":              {data: short, script: `cp F D/x.iso`, errno: syscall.EIO, text: "incomplete"},
		"truncated, mv":          {data: short, script: `cp F F2; mv F2 D/x.iso || { s=$?; test -e F2 && exit $s; }`, errno: syscall.EIO},
		"truncated, cat":         {data: short, script: `cat F > D/x.iso`, errno: syscall.EIO},
		"truncated, rsync":       {data: short, script: `rsync -a F D/x.iso`, errno: syscall.EIO},
		"truncated, rename":      {data: short, script: `cp F D/x.part; mv D/x.part D/x.iso`, errno: syscall.EIO},
		"foreign":                {heart: func(h *fakeHeart) { h.change(func() { h.store("x", good, false) }) }, script: `cp F D/x.iso`, errno: syscall.EEXIST},
		"foreign, rename":        {heart: func(h *fakeHeart) { h.change(func() { h.store("x", good, false) }) }, script: `cp F D/x.part; mv -f D/x.part D/x.iso`, errno: syscall.EEXIST},
		"foreign, rm":            {heart: func(h *fakeHeart) { h.change(func() { h.store("x", good, false) }) }, script: `rm -f D/x.iso`, errno: syscall.EPERM},
		"foreign, mv":            {heart: func(h *fakeHeart) { h.change(func() { h.store("x", good, false) }) }, script: `mv D/x.iso D/y.iso`, errno: syscall.EPERM},
		"foreign, chmod":         {heart: func(h *fakeHeart) { h.change(func() { h.store("x", good, false) }) }, script: `chmod 600 D/x.iso`, errno: syscall.EPERM},
		"in use":                 {heart: used1, script: `cp F D/x.iso`, errno: syscall.EBUSY, text: "/1.0/instances/vm"},
		"in use, rm":             {heart: used1, script: `rm -f D/x.iso`, errno: syscall.EBUSY, text: "/1.0/instances/vm"},
		"in use, mv":             {heart: used1, script: `mv D/x.iso D/y.iso`, errno: syscall.EBUSY, text: "/1.0/instances/vm"},
		"no name":                {script: `cp F D/日本.iso`, errno: syscall.EINVAL},
		"no image's name":        {script: `cp F D/readme.txt`, errno: syscall.EINVAL},
		"255 bytes":              {script: `cp F D/$(printf '%0252d' 0).iso`, errno: syscall.ENAMETOOLONG},
		"clash":                  {heart: func(h *fakeHeart) { putAs(h, "x y.iso", "x-y", good) }, script: `cp F "D/x  y.iso"`, errno: syscall.EEXIST},
		"no room, known early":   {heart: func(h *fakeHeart) { h.change(func() { h.server.Space = lxd.Space{Used: 9e5, Total: 1e6} }) }, script: `dd if=F of=D/x.iso bs=64k count=1 status=none`, errno: syscall.ENOSPC, text: "bytes free"},
		"no room for the rest":   {heart: func(h *fakeHeart) { h.change(func() { h.server.Space = lxd.Space{Used: 1, Total: 5e5} }) }, script: `fallocate -l 1M D/x.iso`, errno: syscall.ENOSPC},
		"away":                   {heart: (*fakeHeart).away, script: `cp F D/x.iso`, errno: syscall.EHOSTDOWN, text: "away"},
		"away, rm":               {heart: func(h *fakeHeart) { h.change(func() { h.store("x", good, true) }); h.away() }, script: `rm -f D/x.iso`, errno: syscall.EHOSTDOWN},
		"server fails":           {heart: func(h *fakeHeart) { h.fail = errors.New("disk on fire") }, script: `cp F D/x.iso`, errno: syscall.EREMOTEIO, text: "disk on fire"},
		"server fails, rename":   {heart: func(h *fakeHeart) { h.fail = errors.New("disk on fire") }, script: `cp F D/x.part; mv D/x.part D/x.iso`, errno: syscall.EREMOTEIO},
		"server denies":          {heart: func(h *fakeHeart) { h.fail = problem(isosync.CodeDenied, "no") }, script: `cp F D/x.iso`, errno: syscall.EACCES},
		"limit":                  {heart: func(h *fakeHeart) { h.fail = problem(isosync.CodeLimit, "no") }, script: `cp F D/x.iso`, errno: syscall.EDQUOT},
		"in place":               {heart: ours1, script: `dd if=F of=D/x.iso conv=notrunc status=none`, errno: syscall.EPERM, text: "in place"},
		"append":                 {heart: ours1, script: `cat F >> D/x.iso`, errno: syscall.EPERM},
		"rsync --inplace":        {heart: ours1, script: `touch -d 2001-01-01 F; rsync -t --inplace --no-W F D/x.iso`, errno: syscall.EPERM},
		"truncate":               {heart: ours1, script: `truncate -s 0 D/x.iso`, errno: syscall.EPERM},
		"mkdir":                  {script: `mkdir D/x`, errno: syscall.EPERM},
		"ln":                     {heart: ours1, script: `ln D/x.iso D/y.iso`, errno: syscall.EPERM},
		"ln -s":                  {script: `ln -s F D/y.iso`, errno: syscall.EPERM},
		"mkfifo":                 {script: `mkfifo D/y.iso`, errno: syscall.EPERM},
		"rm -r status":           {script: `rm -rf D/.isosyncd`, errno: syscall.EPERM},
		"write status":           {script: `echo x > D/.isosyncd/status`, errno: syscall.EPERM},
		"mv over":                {heart: func(h *fakeHeart) { ours1(h); putAs(h, "y.iso", "y", good) }, script: `mv -f D/x.iso D/y.iso`, errno: syscall.EEXIST},
		"mv to no image":         {heart: ours1, script: `mv D/x.iso D/x.bak`, errno: syscall.EPERM},
		"two writers":            {script: `exec 3> D/x.iso; echo >&3; cp F D/x.iso`, errno: syscall.EBUSY},
		"two writers, same name": {script: `exec 3> D/x.part; echo >&3; cp F D/x.part`, errno: syscall.EBUSY},
	} {
		t.Run(name, func(t *testing.T) {
			h := newFake(t)
			if tt.heart != nil {
				tt.heart(h)
			}
			x := mountFake(t, h, func(c *Config) { c.Wait = tt.wait })
			if tt.data == nil {
				tt.data = good
			}
			before := h.pool("x")
			out, code := shell(x, tt.script, x.source("src", tt.data))
			if code == 0 || !strings.Contains(strings.ToLower(out), strings.ToLower(tt.errno.Error())) {
				t.Errorf("exit %d: %q; want %q", code, out, tt.errno.Error())
			}
			if got := h.pool("x"); !bytes.Equal(got, before) {
				t.Errorf("the volume changed: %d bytes, had %d", len(got), len(before))
			}
			if tt.text == "" {
				return
			}
			if text, err := os.ReadFile(x.path(".isosyncd/errors/x.iso")); !strings.Contains(string(text), tt.text) {
				t.Errorf("errors/x.iso says %q (%v), want %q in it", text, err, tt.text)
			}
		})
	}
}

func putAs(h *fakeHeart, file, volume string, data []byte) {
	if err := os.WriteFile(filepath.Join(h.folder, file), data, 0o600); err != nil {
		panic(err)
	}
	h.change(func() {
		h.files[file] = isosync.FileStatus{Name: file, Volume: volume, State: isosync.StatePresent, Digest: digestOf(data)}
		h.store(volume, data, true)
	})
}

func ours1(h *fakeHeart) { putAs(h, "x.iso", "x", image(300, 9)) }

func used1(h *fakeHeart) {
	ours1(h)
	h.use("x", "/1.0/instances/vm", "/1.0/profiles/p")
}

// TestServerAway (F12): the last list stays, reading works from local files, writing fails or is staged, nothing waits.
func TestServerAway(t *testing.T) {
	for _, wait := range []isosync.Wait{isosync.WaitImport, isosync.WaitStaged} {
		h := newFake(t)
		data := image(300, 1)
		h.put(t, "a", data, true)
		h.put(t, "b", data, false)
		x := mountFake(t, h, func(c *Config) { c.Wait = wait })
		h.away()
		h.hold() // nothing is imported while the server is away
		if out := mustRun(t, "ls", "-l", x.dir); !strings.Contains(out, "a.iso") || !strings.Contains(out, "b.iso") {
			t.Errorf("ls: %s", out)
		}
		if !bytes.Equal(x.read("a.iso"), data) {
			t.Error("other bytes")
		}
		mustRun(t, "df", x.dir)
		if out := mustRun(t, "cat", x.path(".isosyncd/status")); !strings.Contains(out, "away") {
			t.Errorf("status: %s", out)
		}
		out, code := run(t, "cp", x.source("s", data), x.path("c.iso"))
		if wait == isosync.WaitStaged && code != 0 || wait == isosync.WaitImport && !strings.Contains(out, "Host is down") {
			t.Errorf("%s: exit %d: %s", wait, code, out)
		}
		h.release()
	}
}

// TestServerHangs: rm and mv hold the kernel's lock of the directory, so they give up in time, and the rest goes on.
func TestServerHangs(t *testing.T) {
	h := newFake(t)
	h.put(t, "a", image(300, 1), true)
	h.hang = make(chan struct{})
	defer close(h.hang)
	x := mountFake(t, h, func(c *Config) { c.tune = func(tr *tree) { tr.locked = 50 * time.Millisecond } })
	if out, code := run(t, "rm", "-f", x.path("a.iso")); code == 0 || !strings.Contains(out, "timed out") {
		t.Errorf("rm: exit %d: %s", code, out)
	}
	if err := x.stop(); err != nil {
		t.Fatal(err)
	}
	x = mountFake(t, h, func(c *Config) { c.tune = func(tr *tree) { tr.locked = time.Hour } })
	// Ctrl-C ends it, too.
	mustRun(t, "bash", "-c", "timeout -s INT 0.3 rm -f "+x.path("a.iso")+"; test $? = 124")
	if out := mustRun(t, "ls", x.dir); !strings.Contains(out, "a.iso") {
		t.Errorf("ls: %s", out)
	}
}

// TestFolderFull (F4): a folder without room says so while the file is written, and keeps its reserve.
func TestFolderFull(t *testing.T) {
	h := newFake(t)
	needFUSE(t)
	if err := unix.Mount("none", h.folder, "tmpfs", 0, "size=3m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(h.folder, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	data := image(2000, 1) // 4 MB
	for _, reserve := range []int64{0, 4 << 20} {
		x := mountFake(t, h, func(c *Config) { c.Reserve = reserve })
		out, code := run(t, "cp", x.source("s", data), x.path("a.iso"))
		if code == 0 || !strings.Contains(out, "No space left on device") {
			t.Errorf("reserve %d: exit %d: %s", reserve, code, out)
		}
		if text := string(x.read(".isosyncd/errors/a.iso")); !strings.Contains(text, "folder") {
			t.Errorf("errors/a.iso: %s", text)
		}
		eventually(t, "the room is given back", func() bool {
			var st unix.Statfs_t
			return unix.Statfs(h.folder, &st) == nil && st.Bfree == st.Blocks
		})
		if err := x.stop(); err != nil {
			t.Error(err)
		}
	}
}
