package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// leaveSocket closes a listener as a killed process does: its socket stays.
func leaveSocket(ln net.Listener) {
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != os.ModeSocket|0o660 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if _, err := Listen(t.Context(), path); !errors.Is(err, ErrInUse) {
		t.Errorf("a second one gets %v", err)
	}
	leaveSocket(ln)
	ln, err = Listen(t.Context(), path)
	if err != nil {
		t.Fatalf("in place of a dead one: %v", err)
	}
	ln.Close()
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:                            "no socket",
		filepath.Join(dir, "none", "s"): "directory " + filepath.Join(dir, "none") + " is missing",
		filepath.Join(dir, strings.Repeat("x", 200)): "takes 107",
	} {
		if ln, err := Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want %q", path, ln, err, want)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file is %q, %v", b, err)
	}
}

// child makes this test binary do something else.
func child(t *testing.T, helper string, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), "CONTROL_TEST_HELPER="+helper)
	cmd.Dir = "/"
	return cmd
}

// A socket that systemd made is answered on as it is.
func TestActivation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := child(t, "activated")
	cmd.ExtraFiles = []*os.File{f} // descriptor 3 is SD_LISTEN_FDS_START
	cmd.Env = append(cmd.Env, "LISTEN_FDS=1", "LISTEN_FDNAMES=control")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := Dial(path)
	defer c.Close()
	st, err := c.Status(t.Context())
	if err != nil || st.Folder != "/activated" {
		t.Errorf("%+v, %v", st, err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("systemd's socket was removed: %v", err)
	}
}

// helpActivated serves on what systemd would have handed over, until SIGTERM.
func helpActivated() error {
	if err := os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())); err != nil {
		return err
	}
	ln, err := Activated()
	if err != nil || ln == nil {
		return fmt.Errorf("nothing was handed over: %w", err)
	}
	if again, err := Activated(); again != nil || err != nil {
		return fmt.Errorf("handed over twice: %v, %w", again, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := make(chan os.Signal, 1)
	notify(stop)
	go func() { <-stop; cancel() }()
	snap := sample()
	snap.Folder = "/activated"
	s := Socket{Heart: newFakeHeart(snap), Log: slog.New(slog.DiscardHandler)}
	return s.Serve(ctx, ln)
}
