package lxdtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// home is a directory whose name is short, because a socket's address has room for 108 bytes, and which is removed
// whatever becomes of the test.
type home struct {
	dir      string
	lifeline *os.File // the janitor reads the other end
	janitor  *exec.Cmd
}

// janitorScript waits until its input ends, which it does when the test closes the pipe or dies. Then it ends the
// daemon that is still noted down, and removes the directory. A daemon that is being killed may still write there, so
// it tries for a while.
const janitorScript = `cat >/dev/null
pid=$(cat "$1/pid" 2>/dev/null) && kill -9 "$pid" 2>/dev/null
n=0
while [ "$n" -lt 100 ] && ! rm -rf -- "$1" 2>/dev/null; do sleep 0.1; n=$((n+1)); done`

func newHome(t testing.TB) *home {
	t.Helper()
	dir, err := os.MkdirTemp("", "ix")
	if err != nil {
		t.Fatal(err)
	}
	h := &home{dir: dir}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	h.lifeline = w
	// A process group of its own: a signal to the test's group must not end it. The context is never done.
	h.janitor = exec.CommandContext(context.Background(), "/bin/sh", "-c", janitorScript, "janitor", dir)
	h.janitor.Stdin = r
	h.janitor.Dir = "/"
	h.janitor.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = h.janitor.Start()
	_ = r.Close()
	if err != nil {
		_ = w.Close()
		_ = os.RemoveAll(dir)
		t.Fatalf("start the janitor: %v", err)
	}
	t.Cleanup(func() {
		_ = h.lifeline.Close()
		_ = h.janitor.Wait()
		if _, err := os.Lstat(dir); err == nil {
			t.Errorf("%s could not be removed", dir)
		}
	})
	return h
}

// note writes down the daemon for the janitor; 0 = there is none.
func (h *home) note(t testing.TB, pid int) {
	t.Helper()
	path := filepath.Join(h.dir, "pid")
	var err error
	if pid == 0 {
		err = os.Remove(path)
	} else {
		err = os.WriteFile(path, []byte(strconv.Itoa(pid)), 0o600)
	}
	if err != nil {
		t.Errorf("note the daemon: %v", err)
	}
}

// ShortDir makes a directory whose name leaves room in the 108 bytes of a socket's address. It is removed when the test
// ends, and also when the test binary is killed.
func ShortDir(t testing.TB) string {
	t.Helper()
	return newHome(t).dir
}

// Limit is how long an Eventually waits. It is for a machine that is very busy: nothing is ever expected to take it.
const Limit = 60 * time.Second

// Eventually waits until f reports true, and fails the test with what was awaited if it never does.
func Eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(Limit)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for: %s", Limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
