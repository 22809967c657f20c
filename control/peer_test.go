package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func notify(c chan os.Signal) { signal.Notify(c, syscall.SIGTERM) }

func TestAllowed(t *testing.T) {
	group := uint32(100)
	for name, c := range map[string]struct {
		peer  Peer
		group *uint32
		want  bool
	}{
		"root":                {Peer{UID: 0}, nil, true},
		"the daemon's user":   {Peer{UID: 7}, nil, true},
		"somebody":            {Peer{UID: 8, Groups: []uint32{8}}, &group, false},
		"a member":            {Peer{UID: 8, Groups: []uint32{8, 100}}, &group, true},
		"a member, no group":  {Peer{UID: 8, Groups: []uint32{8, 100}}, nil, false},
		"group 0 is no token": {Peer{UID: 8, Groups: []uint32{0}}, &group, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := allowed(c.peer, 7, c.group); got != c.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

func TestCredentials(t *testing.T) {
	h := newFakeHeart(sample())
	var got Peer
	c := serveHeart(t, h, func(s *Socket) { s.Allow = func(p Peer) bool { got = p; return true } }).dial(t)
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	if int(got.PID) != os.Getpid() || int(got.UID) != os.Geteuid() || len(got.Groups) == 0 || int(got.Groups[0]) != os.Getegid() {
		t.Errorf("the peer is %+v, this is %d %d %d", got, os.Getpid(), os.Geteuid(), os.Getegid())
	}
}

func TestRefusedPeerReachesNothing(t *testing.T) {
	h := newFakeHeart(sample())
	s := serveHeart(t, h, func(s *Socket) { s.Allow = func(Peer) bool { return false } })
	c := s.dial(t)
	var p *Problem
	if err := c.Retry(t.Context(), "x"); !errors.As(err, &p) || p.Code != "denied" {
		t.Errorf("got %v", err)
	}
	if _, err := c.Metrics(t.Context()); !errors.As(err, &p) {
		t.Errorf("got %v", err)
	}
	if asked := h.requests(); len(asked) > 0 {
		t.Errorf("the heart was asked %q", asked)
	}
	if !strings.Contains(s.log.String(), "refused somebody") {
		t.Error("nothing is in the log")
	}
}

// On a TCP socket nobody knows who is there: all are refused.
func TestNoCredentialsOnTCP(t *testing.T) {
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	h := newFakeHeart(sample())
	serveOn(t, h, ln, addr, func(s *Socket) { s.Allow = func(Peer) bool { return true } })
	if status, body := get(t, "http://"+addr+"/1/status"); status != 403 {
		t.Errorf("%d %s", status, body)
	}
}

// The real thing: another user's process, with and without the socket's group.
func TestOtherUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED LOUDLY: only root can become another user")
	}
	const nobody, group = 65534, 4242
	dir, err := os.MkdirTemp("/tmp", "control") // t.TempDir is for this user alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	ln, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 0, group); err != nil {
		t.Fatal(err)
	}
	serveOn(t, newFakeHeart(sample()), ln, path, nil)
	exe, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "test")
	if err := os.WriteFile(bin, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		mode   os.FileMode
		groups []uint32
		want   string
	}{
		{"the mode keeps others out", 0o660, nil, "this user may not use it"},
		{"and if it did not, the credentials would", 0o666, nil, "this user may not use the control socket"},
		{"members of its group may", 0o660, []uint32{group}, "welcome"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			cmd := child(t, "connect")
			cmd.Path = bin
			cmd.Env = append(cmd.Env, "CONTROL_TEST_SOCKET="+path)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody, Groups: c.groups}}
			out, err := cmd.CombinedOutput()
			if !strings.Contains(string(out), c.want) {
				t.Errorf("%s, %v; want %q", out, err, c.want)
			}
		})
	}
}

func helpConnect() error {
	c := Dial(os.Getenv("CONTROL_TEST_SOCKET"))
	defer c.Close()
	if _, err := c.Status(context.Background()); err != nil {
		return err
	}
	fmt.Println("welcome")
	return nil
}
