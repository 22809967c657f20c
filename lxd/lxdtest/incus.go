package lxdtest

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"isosyncd/lxd"
)

// Incus starts a private Incus daemon, with a pool "default" of the driver dir. It is ready in about half a second,
// so that every test can have its own.
func Incus(t testing.TB) *Server {
	t.Helper()
	Need(t, "incus")
	h := newHome(t)
	d := &daemon{home: h}
	s := &Server{t: t, kind: KindIncus, dir: h.dir, project: "default", back: d}
	// Before the janitor is let go, and after whatever the test itself cleans up.
	t.Cleanup(func() {
		d.kill()
		if t.Failed() {
			t.Logf("the log of incusd ends with:\n%s", d.tail())
		}
	})
	d.start(t)
	s.ready(t)
	return s
}

// daemon is an incusd.
type daemon struct {
	home *home

	mu   sync.Mutex
	cmd  *exec.Cmd     // guarded by mu; nil = it does not run
	done chan struct{} // guarded by mu; closed when cmd was waited for
}

// start runs incusd in a mount namespace of its own, so that what it mounts goes away with it, and in a process group
// of its own.
func (d *daemon) start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(d.log(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.CommandContext(context.Background(), incusd(), "--group", "root")
	cmd.Dir = "/"
	// Nothing of the caller's settings. The daemon looks for lists of images and instance types on the Internet: the
	// proxy that nobody runs keeps it on this machine.
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + d.home.dir, "INCUS_DIR=" + d.home.dir, "INCUS_SECURITY_APPARMOR=false",
		"http_proxy=http://127.0.0.1:9", "https_proxy=http://127.0.0.1:9",
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Unshareflags: syscall.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start incusd: %v", err)
	}
	d.home.note(t, cmd.Process.Pid)
	done := make(chan struct{})
	d.mu.Lock()
	d.cmd, d.done = cmd, done
	d.mu.Unlock()
	go func() {
		defer close(done)
		_ = cmd.Wait()
	}()
	Eventually(t, "incusd to be ready", func() bool {
		select {
		case <-done:
			t.Fatalf("incusd ended at its start: %v; its log ends with:\n%s", cmd.ProcessState, d.tail())
		default:
		}
		// The daemon answers others before it is ready; this it does not.
		status, _, err := do("unix:"+filepath.Join(d.home.dir, "unix.socket"), http.MethodGet, "/internal/ready", nil)
		return err == nil && status == http.StatusOK
	})
}

// kill sends SIGKILL to exactly that process, and waits until it is gone.
func (d *daemon) kill() {
	d.mu.Lock()
	cmd, done := d.cmd, d.done
	d.cmd = nil
	d.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Kill()
	<-done
	_ = os.Remove(filepath.Join(d.home.dir, "pid"))
}

func (d *daemon) pid() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd == nil {
		return 0
	}
	return d.cmd.Process.Pid
}

func (d *daemon) log() string { return filepath.Join(d.home.dir, "incusd.log") }

// tail is the end of the daemon's log.
func (d *daemon) tail() []byte {
	text, err := os.ReadFile(d.log())
	if err != nil {
		return []byte(err.Error())
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-20):], []byte("\n"))
}

// file looks through the daemon's own mounts, where it runs (SERVER-API 9).
func (d *daemon) file(_ testing.TB, pool, project, name string) string {
	path := filepath.Join(d.home.dir, "storage-pools", pool, "custom", project+"_"+name+".iso", "root.img")
	if pid := d.pid(); pid != 0 {
		return fmt.Sprintf("/proc/%d/root%s", pid, path)
	}
	return path
}

// BtrfsPool makes another pool, of the driver btrfs on a loop device, and returns its name.
func (s *Server) BtrfsPool(t testing.TB) string {
	t.Helper()
	Need(t, "btrfs")
	if !s.Real() {
		t.Skip("the embedded store has no drivers")
	}
	name := "btrfs"
	s.Run("storage", "create", name, "btrfs", "size=512MiB")
	return name
}

// HTTPS makes a real server listen on a free port of the loopback device too, and returns a target that has its
// certificate pinned, but no certificate of the client's: see Token and lxd.Join.
func (s *Server) HTTPS(t testing.TB) lxd.Target {
	t.Helper()
	if !s.Real() {
		t.Skip("the embedded store listens on unix sockets only")
	}
	// A port that is free now may be taken before the server gets to it.
	var addr string
	for range 5 {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr = l.Addr().String()
		_ = l.Close()
		if _, err = s.Try("config", "set", "core.https_address", addr); err == nil {
			break
		}
		addr = ""
	}
	if addr == "" {
		t.Fatal("incusd took none of five free ports")
	}
	cert, err := os.ReadFile(filepath.Join(s.dir, "server.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := pem.Decode(cert); b == nil {
		t.Fatal("server.crt is no PEM text")
	} else if _, err := x509.ParseCertificate(b.Bytes); err != nil {
		t.Fatal(err)
	}
	return lxd.Target{Addr: "https://" + addr, ServerCertPEM: cert, Project: s.project}
}

// Token asks a real server for a trust token. It works once. HTTPS comes first. args are further ones of
// "incus config trust add", such as --restricted and --projects=p.
func (s *Server) Token(t testing.TB, name string, args ...string) string {
	t.Helper()
	if !s.Real() {
		t.Skip("the embedded store knows no certificates")
	}
	out := strings.Fields(s.Run(append([]string{"config", "trust", "add", name, "--quiet"}, args...)...))
	if len(out) == 0 {
		t.Fatal("incus printed no token")
	}
	return out[len(out)-1]
}
