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

	"isosyncd/lxd/lxdtest"
	isosync "isosyncd/sync"
)

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
