package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	gosync "sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"isosyncd/lxd/lxdtest"
)

func mkfifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo.iso")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRunWithoutServer: nothing was found, and the error says where it was looked for and what works without.
func TestRunWithoutServer(t *testing.T) {
	alone(t)
	dir := t.TempDir()
	missing := filepath.Join(dir, "unix.socket")
	t.Setenv("LXD_SOCKET", missing)
	t.Setenv("INCUS_SOCKET", missing+".incus")
	got := invoke(t, "run", "--folder", dir, "--state-dir", filepath.Join(t.TempDir(), "state"))
	if got.code != 78 {
		t.Errorf("exit code %d, want 78", got.code)
	}
	for _, want := range []string{missing, "--remote store:DIR"} {
		if !strings.Contains(got.stderr, want) {
			t.Errorf("stderr %q lacks %q", got.stderr, want)
		}
	}
}

// systemd is a notification socket that remembers what it is told.
type systemd struct {
	mu   gosync.Mutex
	told []string
}

func newSystemd(t *testing.T) *systemd {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	s := &systemd{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.told = append(s.told, string(buf[:n]))
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	t.Setenv("NOTIFY_SOCKET", path)
	return s
}

// index is that of the first message after from that begins like prefix; -1 = none.
func (s *systemd) index(from int, prefix string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := from; i < len(s.told); i++ {
		if strings.HasPrefix(s.told[i], prefix) {
			return i
		}
	}
	return -1
}

func (s *systemd) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.told)
}

func (s *systemd) await(t *testing.T, from int, prefix string) int {
	t.Helper()
	lxdtest.Eventually(t, "systemd to be told "+prefix, func() bool { return s.index(from, prefix) >= 0 })
	return s.index(from, prefix)
}

// background is a daemon in this process.
type background struct {
	cancel context.CancelFunc
	done   chan struct{}
	code   int // once done
	log    *syncBuffer
}

type syncBuffer struct {
	mu gosync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func start(t *testing.T, args ...string) *background {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	b := &background{cancel: cancel, done: make(chan struct{}), log: &syncBuffer{}}
	go func() {
		defer close(b.done)
		b.code = run(ctx, args, b.log, b.log)
	}()
	t.Cleanup(func() {
		b.stop()
		if t.Failed() {
			t.Logf("%q logged:\n%s", args, b.log)
		}
	})
	return b
}

func (b *background) stop() int {
	b.cancel()
	<-b.done
	return b.code
}

// TestRunTellsSystemd goes through a daemon's life as systemd sees it: ready after the first look, a status that
// follows, a reload that changes the level and names what needs a restart, and an orderly stop.
func TestRunTellsSystemd(t *testing.T) {
	current := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, current) }) // after everything else was cleaned up
	alone(t)
	s := newSystemd(t)
	dir := t.TempDir()
	folder := filepath.Join(dir, "drop")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(filepath.Join("..", "..", "testdata", "iso", "plain.iso"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "plain.iso"), image, 0o644); err != nil {
		t.Fatal(err)
	}
	settings := filepath.Join(dir, "config.yaml")
	write := func(level, uploads string) {
		text := fmt.Sprintf("folder: %s\nstate_dir: %s\nremote: store:%s\ncontrol: %s\nlog_level: %s\nmax_uploads: %s\nlog_format: text\n",
			folder, filepath.Join(dir, "state"), filepath.Join(dir, "isos"), filepath.Join(dir, "c.sock"), level, uploads)
		if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("info", "2")
	d := start(t, "run", "--config", settings)
	ready := s.await(t, 0, "READY=1")
	s.await(t, 0, "STATUS=1 of 1 images present")
	got := invoke(t, "list", "--config", settings, "--json")
	if got.code != 0 || !strings.Contains(got.stdout, `"name": "plain"`) || !strings.Contains(got.stdout, `"ours": true`) {
		t.Errorf("list beside the daemon: exit code %d, %s%s", got.code, got.stdout, got.stderr)
	}

	// The daemon listens for the signal since before it was ready.
	hangup := func() int {
		from := s.count()
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		reloading := s.await(t, from, "RELOADING=1\n")
		s.mu.Lock()
		told := s.told[reloading]
		s.mu.Unlock()
		if !regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=[0-9]+\n?$`).MatchString(told) {
			t.Errorf("systemd was told %q", told)
		}
		return s.await(t, reloading, "READY=1")
	}
	write("debug", "3")
	hangup()
	if err := os.WriteFile(filepath.Join(folder, "again.iso"), image, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"these settings changed and need a restart", "[max_uploads]", "level=DEBUG"} {
		lxdtest.Eventually(t, want, func() bool { return strings.Contains(d.log.String(), want) })
	}
	write("loud", "3")
	hangup()
	lxdtest.Eventually(t, "a complaint", func() bool {
		return strings.Contains(d.log.String(), "the new configuration is wrong, so the old one stays")
	})

	if code := d.stop(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if stopping := s.index(0, "STOPPING=1"); stopping < ready {
		t.Errorf("systemd was told of the stop at %d, of being ready at %d", stopping, ready)
	}
}

// TestRunTwice: the second daemon on a state directory ends with a reason.
func TestRunTwice(t *testing.T) {
	alone(t)
	s := newSystemd(t)
	dir := t.TempDir()
	folder := t.TempDir()
	args := func(n string) []string {
		return []string{
			"run", "--folder", folder, "--state-dir", filepath.Join(dir, "state"), "--remote", "store:" + filepath.Join(dir, "isos"),
			"--control", filepath.Join(dir, "c"+n),
		}
	}
	d := start(t, args("1")...)
	s.await(t, 0, "READY=1")
	got := invoke(t, args("2")...)
	if got.code != 1 || !strings.Contains(got.stderr, "another isosyncd uses this state directory") {
		t.Errorf("exit code %d, stderr %q", got.code, got.stderr)
	}
	if code := d.stop(); code != 0 {
		t.Errorf("the first one ended with %d", code)
	}
}

// TestRunWaitsForServer: a server that is named, but away, is waited for; the daemon is ready meanwhile, and says so.
func TestRunWaitsForServer(t *testing.T) {
	alone(t)
	s := newSystemd(t)
	dir := t.TempDir()
	d := start(t, "run", "--folder", t.TempDir(), "--state-dir", filepath.Join(dir, "state"),
		"--remote", "unix:"+filepath.Join(dir, "none"), "--control", filepath.Join(dir, "c"))
	s.await(t, 0, "READY=1")
	if code := d.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestRunMetricsAddress: an address that is taken is an error at the start, and nothing is left behind.
func TestRunMetricsAddress(t *testing.T) {
	alone(t)
	var lc net.ListenConfig
	taken, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	dir := t.TempDir()
	got := invoke(t, "run", "--folder", t.TempDir(), "--state-dir", filepath.Join(dir, "state"), "--control", filepath.Join(dir, "c"),
		"--remote", "store:"+filepath.Join(dir, "isos"), "--metrics-address", taken.Addr().String())
	if got.code != 1 || !strings.Contains(got.stderr, "metrics_address") {
		t.Errorf("exit code %d, stderr %q", got.code, got.stderr)
	}
	if _, err := os.Lstat(filepath.Join(dir, "c")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the control socket is still there: %v", err)
	}
}

// TestMountCommand copies an image onto the mount, as a person would, and reads it back.
func TestMountCommand(t *testing.T) {
	lxdtest.Need(t, "fuse")
	alone(t)
	s := newSystemd(t)
	dir := t.TempDir()
	folder, view := filepath.Join(dir, "drop"), filepath.Join(dir, "view")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	d := start(t, "mount", view, "--folder", folder, "--state-dir", filepath.Join(dir, "state"), "--control", filepath.Join(dir, "c"),
		"--remote", "store:"+filepath.Join(dir, "isos"))
	s.await(t, 0, "READY=1")
	samples := filepath.Join("..", "..", "testdata", "iso")
	cp := func(name string) error {
		out, err := exec.CommandContext(t.Context(), "cp", filepath.Join(samples, name), view).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := cp("plain.iso"); err != nil {
		t.Fatal(err)
	}
	got := invoke(t, "list", "--remote", "store:"+filepath.Join(dir, "isos"))
	if !strings.Contains(got.stdout, "\nplain ") {
		t.Errorf("cp ended, and there is no volume:\n%s%s", got.stdout, got.stderr)
	}
	if err := cp("xz.iso"); err == nil {
		t.Error("cp of what is no image succeeded")
	}
	want, err := os.ReadFile(filepath.Join(samples, "plain.iso"))
	if err != nil {
		t.Fatal(err)
	}
	if back, err := os.ReadFile(filepath.Join(view, "plain.iso")); err != nil || !bytes.Equal(back, want) {
		t.Errorf("it reads back as other bytes: %v", err)
	}
	if code := d.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if left, err := os.ReadDir(view); err != nil || len(left) > 0 {
		t.Errorf("after the stop the directory has %v, %v", left, err)
	}
}
