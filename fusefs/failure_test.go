package fusefs

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"isosyncd/lxd"
	"isosyncd/lxd/lxdtest"
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

// TestKilledWriter (F1): a writer killed midway closes as if it were done. What it left is held, visible, never a volume.
func TestKilledWriter(t *testing.T) {
	h := newFake(t)
	x := mountFake(t, h, nil)
	data := image(4000, 4)
	src := x.source("src", data)
	cmd := exec.Command("bash", "-c", "exec dd if=/dev/stdin of="+x.path("x.iso")+" bs=64k status=none")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(data[:1<<20]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "some bytes", func() bool {
		st, err := os.Stat(x.path("x.iso"))
		return err == nil && st.Size() > headSize
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "the reason", func() bool {
		text, _ := os.ReadFile(x.path(".isosyncd/errors/x.iso"))
		return strings.Contains(string(text), "incomplete")
	})
	if h.pool("x") != nil {
		t.Error("a torn image was imported")
	}
	if names := x.names(); len(names) != 0 {
		t.Errorf("left: %q", names)
	}
	mustRun(t, "cp", src, x.path("x.iso"))
	x.wantPool("x", data)
	if _, err := os.Stat(x.path(".isosyncd/errors/x.iso")); err == nil {
		t.Error("the reason outlives its cause")
	}
}

// TestKilledWhileWaiting: kill -9 of a cp that waits for its import ends it at once, and the import goes on.
func TestKilledWhileWaiting(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGTERM} {
		h := newFake(t)
		h.hold()
		x := mountFake(t, h, nil)
		data := image(400, 5)
		cmd := exec.Command("cp", x.source("src", data), x.path("x.iso"))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "given to the heart", func() bool {
			_, err := os.Stat(filepath.Join(h.folder, "x.iso"))
			return err == nil
		})
		eventually(t, "cp sleeps so that signals reach it", func() bool { return processState(t, cmd.Process.Pid) == "S" })
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // the test's time limit is the assertion: it ends although the gate is closed
		h.release()
		eventually(t, "a volume", func() bool { return h.pool("x") != nil })
		x.wantPool("x", data)
	}
}

// TestMinorSignals: a signal that a program handles and that says nothing about its close, as runtimes and timers send,
// does not end the wait; Ctrl-C after it still does.
func TestMinorSignals(t *testing.T) {
	lxdtest.Need(t, "python3")
	for _, end := range []bool{false, true} {
		h := newFake(t)
		h.hold()
		x := mountFake(t, h, nil)
		data := image(400, 5)
		script := `
import os, signal, sys
signal.signal(signal.SIGURG, lambda *a: None)
signal.signal(signal.SIGUSR1, lambda *a: None)
fd = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
os.write(fd, open(sys.argv[1], "rb").read())
try:
    os.close(fd)
except OSError as e:
    sys.exit("close: " + e.strerror)
`
		cmd := exec.Command("python3", "-c", script, x.source("src", data), x.path("x.iso"))
		out := &bytes.Buffer{}
		cmd.Stderr = out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "given to the heart", func() bool {
			_, err := os.Stat(filepath.Join(h.folder, "x.iso"))
			return err == nil
		})
		eventually(t, "it sleeps so that signals reach it", func() bool { return processState(t, cmd.Process.Pid) == "S" })
		for _, s := range []syscall.Signal{syscall.SIGURG, syscall.SIGUSR1} {
			if err := cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
		}
		if end {
			_ = cmd.Process.Signal(syscall.SIGINT)
		} else {
			h.release()
		}
		err := cmd.Wait()
		if (err != nil) != end {
			t.Errorf("Ctrl-C %v: it ends with %v: %s", end, err, out)
		}
		h.release()
		eventually(t, "a volume", func() bool { return h.pool("x") != nil })
		x.wantPool("x", data)
	}
}

func processState(tb testing.TB, pid int) string {
	tb.Helper()
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		tb.Fatal(err)
	}
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))[0]
}

// TestExitWithoutClose: a program that ends without close(2) is not kept waiting, and its file is imported.
func TestExitWithoutClose(t *testing.T) {
	h := newFake(t)
	x := mountFake(t, h, nil)
	data := image(400, 6)
	run(t, "bash", "-c", "exec 3> "+x.path("x.iso")+"; cat "+x.source("src", data)+" >&3; kill -9 $$")
	eventually(t, "a volume", func() bool { return h.pool("x") != nil })
	x.wantPool("x", data)
}

// TestChildCloses: who inherited the file and closes it has not ended it, also if the opener has closed it before.
func TestChildCloses(t *testing.T) {
	h := newFake(t)
	x := mountFake(t, h, nil)
	data := image(400, 8)
	src := x.source("src", data)
	// The opener (bash) gives the file to a child in the background and closes its own descriptor at once.
	script := "exec 3> " + x.path("x.iso") + "; { head -c 99999 " + src + "; sleep 0.2; tail -c +100000 " + src + "; } >&3 & exec 3>&-; wait"
	mustRun(t, "bash", "-c", script)
	eventually(t, "a volume", func() bool { return h.pool("x") != nil })
	x.wantPool("x", data)
}

// TestUnlinkWhileWriting (F3): a file removed while it is being written is gone, and what is written goes nowhere.
func TestUnlinkWhileWriting(t *testing.T) {
	h := newFake(t)
	x := mountFake(t, h, nil)
	data := image(400, 8)
	mustRun(t, "bash", "-c", "exec 3> "+x.path("x.iso")+"; head -c 99999 "+x.source("src", data)+" >&3; rm "+x.path("x.iso")+"; echo >&3; exec 3>&-")
	if names := x.names(); len(names) != 0 || h.pool("x") != nil {
		t.Errorf("left: %q", names)
	}
	eventually(t, "the draft is given back", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.drafts == 0
	})
}

// TestOverwriteWhileImporting (F3): a new generation is a new file, and its bytes win.
func TestOverwriteWhileImporting(t *testing.T) {
	h := newFake(t)
	h.hold()
	x := mountFake(t, h, func(c *Config) { c.Wait = isosync.WaitStaged })
	one, two := image(300, 1), image(400, 2)
	mustRun(t, "cp", x.source("one", one), x.path("x.iso"))
	mustRun(t, "cp", x.source("two", two), x.path("x.iso"))
	h.release()
	eventually(t, "the second", func() bool { return bytes.Equal(h.pool("x"), two) || bytes.Equal(h.pool("x"), one) })
	got, err := os.ReadFile(filepath.Join(h.folder, "x.iso"))
	if err != nil || !bytes.Equal(got, two) {
		t.Errorf("the folder has %d bytes (%v), want those of the second", len(got), err)
	}
}

// TestRemoveWhileImporting (F3).
func TestRemoveWhileImporting(t *testing.T) {
	h := newFake(t)
	h.hold()
	x := mountFake(t, h, func(c *Config) { c.Wait = isosync.WaitStaged })
	mustRun(t, "cp", x.source("one", image(300, 1)), x.path("x.iso"))
	mustRun(t, "rm", x.path("x.iso"))
	h.release()
	h.work.Wait()
	if names := x.names(); len(names) != 0 || h.pool("x") != nil {
		t.Errorf("left: %q", names)
	}
}

// TestRenameVolume: mv inside is a copy on the server and a removal; one that takes long goes on.
func TestRenameVolume(t *testing.T) {
	h := newFake(t)
	data := image(300, 1)
	h.put(t, "a", data, true)
	x := mountFake(t, h, nil)
	mustRun(t, "mv", x.path("a.iso"), x.path("b.iso"))
	x.wantPool("b", data)
	if names := x.names(); len(names) != 1 || names[0] != "b.iso" {
		t.Errorf("there are %q", names)
	}
	if err := x.stop(); err != nil {
		t.Fatal(err)
	}
	h.hold()
	x = mountFake(t, h, func(c *Config) { c.tune = func(tr *tree) { tr.locked = 50 * time.Millisecond } })
	out, code := run(t, "mv", x.path("b.iso"), x.path("c.iso"))
	if code == 0 || !strings.Contains(out, syscall.EINPROGRESS.Error()) && !strings.Contains(out, "Operation now in progress") {
		t.Errorf("exit %d: %s", code, out)
	}
	h.release()
	eventually(t, "the rename ends by itself", func() bool { return bytes.Equal(h.pool("c"), data) && h.pool("b") == nil })
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

// TestMmapWrite (F5): a mapping that could write after close is refused; one that reads works.
func TestMmapWrite(t *testing.T) {
	h := newFake(t)
	data := image(300, 1)
	h.put(t, "a", data, true)
	x := mountFake(t, h, nil)
	f, err := os.Create(x.path("b.iso"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	rw, err := os.OpenFile(x.path("c.iso"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rw.Close() }()
	if _, err := unix.Mmap(int(rw.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, syscall.ENODEV) {
		t.Errorf("mmap for writing: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	out := mustRun(t, "python3", "-c", "import mmap,sys; f=open(sys.argv[1],'rb'); m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ); print(m[32769:32774])", x.path("a.iso"))
	if !strings.Contains(out, "CD001") {
		t.Errorf("mmap for reading: %s", out)
	}
}

// TestRandomOrder (F5): writes in any order and of any size, with holes that are filled later, end byte-equal.
func TestRandomOrder(t *testing.T) {
	h := newFake(t)
	x := mountFake(t, h, nil)
	data := image(2000, 3)
	rng := rand.New(rand.NewPCG(1, 1))
	for range 5 {
		f, err := os.Create(x.path("a.iso"))
		if err != nil {
			t.Fatal(err)
		}
		var parts [][2]int
		for off := 0; off < len(data); {
			n := min(1+rng.IntN(200_000), len(data)-off)
			parts = append(parts, [2]int{off, n})
			off += n
		}
		rng.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		for _, p := range parts {
			if _, err := f.WriteAt(data[p[0]:p[0]+p[1]], int64(p[0])); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		x.wantPool("a", data)
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

// TestDraftsEnd: a file under a temporary name that nobody renames is given up after a day; a placeholder, too; an
// overwrite that the kernel never came back for, after some seconds; nothing that is open.
func TestDraftsEnd(t *testing.T) {
	h := newFake(t)
	h.put(t, "a", image(300, 1), true)
	x := mountFake(t, h, nil)
	tr := x.mount.tree
	mustRun(t, "bash", "-c", "echo x > "+x.path("p.part")+"; : > "+x.path("e.iso"))
	f, err := os.Create(x.path("open.part"))
	if err != nil {
		t.Fatal(err)
	}
	if errno := tr.overwrite(t.Context(), "a.iso", syscall.O_WRONLY|syscall.O_TRUNC); errno != syscall.ESTALE {
		t.Fatal(errno)
	}
	count := func() int { h.mu.Lock(); defer h.mu.Unlock(); return h.drafts }
	eventually(t, "all but one are closed", func() bool {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		open := 0
		for d := range tr.drafts {
			open += d.handles
		}
		return open == 1
	})
	tr.sweep(time.Now())
	if count() != 4 {
		t.Errorf("%d drafts at once, want 4", count())
	}
	tr.sweep(time.Now().Add(pendingLife + time.Second))
	if count() != 3 {
		t.Errorf("%d drafts after some seconds, want 3", count())
	}
	tr.sweep(time.Now().Add(draftLife + time.Second))
	if names := x.names(); count() != 1 || !slices.Equal(names, []string{"a.iso", "open.part"}) {
		t.Errorf("%d drafts after a day, and %q", count(), names)
	}
	_ = f.Close()
}
