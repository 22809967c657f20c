package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	gosync "sync"
	"syscall"
	"testing"
	"time"

	"isosyncd/lxd"
	"isosyncd/lxd/lxdtest"
	isosync "isosyncd/sync"
)

// owner is that of every daemon in these tests, so that marks can be told from those of others.
const owner = "e2e"

var built struct {
	once gosync.Once
	path string
	err  error
}

// program builds the real program, once, with its failpoints.
func program(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		dir, err := os.MkdirTemp("", "isosyncd-e2e")
		if err != nil {
			built.err = err
			return
		}
		built.path = filepath.Join(dir, "isosyncd")
		cmd := exec.CommandContext(context.Background(), "go", "build", "-tags", "failpoint", "-o", built.path, ".")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.path != "" {
		_ = os.RemoveAll(filepath.Dir(built.path))
	}
	os.Exit(code)
}

// site is a folder, a state directory and a server, for one daemon after the other.
type site struct {
	t      testing.TB
	server *lxdtest.Server
	pool   *lxd.Pool
	folder string
	state  string
	args   []string // further ones of run
	env    []string
}

func newSite(t testing.TB, server *lxdtest.Server, args ...string) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{
		t: t, server: server, pool: server.Pool(t), folder: filepath.Join(dir, "drop"), state: filepath.Join(dir, "state"), args: args,
	}
	if err := os.Mkdir(s.folder, 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

// trace is where the daemons of the site write the steps that they take.
func (s *site) trace() string { return filepath.Join(filepath.Dir(s.state), "trace") }

// traced reads the steps that its daemons took, in their order; began of a process tells which are its own.
func (s *site) traced() []string {
	b, err := os.ReadFile(s.trace())
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	return strings.Fields(string(b))
}

func (s *site) control() string { return filepath.Join(filepath.Dir(s.state), "c.sock") }

// process is a running isosyncd.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	log  *logBuffer
	done chan struct{}
	err  error // once done

	began int // steps that the site's daemons had taken before
}

// logBuffer collects what the daemon logs, and is read meanwhile.
type logBuffer struct {
	mu gosync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// run starts the daemon. It is killed when the test ends, if it still runs.
func (s *site) run(env ...string) *process {
	s.t.Helper()
	args := append([]string{
		"run", "--folder", s.folder, "--state-dir", s.state, "--remote", s.server.Addr(), "--project", s.server.Project(),
		"--pool", "default", "--owner", owner, "--settle-delay", "200ms", "--scan-interval", "2s", "--refresh-interval", "2s",
		"--control", s.control(), "--log-level", "debug",
	}, s.args...)
	began := len(s.traced())
	// All images are sent early here, however small: so whatever is tested is tested with that as well.
	all := append(os.Environ(), "ISOSYNCD_EARLY_FROM=1", "ISOSYNCD_FAILPOINT_TRACE="+s.trace())
	d := launch(s.t, program(s.t), args, append(append(all, s.env...), env...))
	d.began = began
	return d
}

// launch starts a program that is killed when the test ends, if it still runs. What it logs is shown if the test fails.
func launch(t testing.TB, path string, args, env []string) *process {
	t.Helper()
	d := &process{t: t, log: &logBuffer{}, done: make(chan struct{})}
	d.cmd = exec.CommandContext(context.Background(), path, args...)
	d.cmd.Env = env
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.err = d.cmd.Wait(); close(d.done) }()
	t.Cleanup(func() {
		d.kill()
		if t.Failed() {
			text := d.log.String()
			t.Logf("daemon %d logged:\n%s", d.cmd.Process.Pid, text[max(0, len(text)-8000):])
		}
	})
	return d
}

func (d *process) kill() {
	_ = d.cmd.Process.Kill()
	<-d.done
}

// stop ends it in an orderly way, once it is ready: before that it would not hear.
func (d *process) stop() {
	d.t.Helper()
	eventually(d.t, "the daemon to be ready", func() bool {
		return d.ended() || strings.Contains(d.log.String(), "msg=ready")
	})
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	<-d.done
	if d.err != nil {
		d.t.Errorf("the daemon ended with: %v", d.err)
	}
}

// ended reports whether it is gone.
func (d *process) ended() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}

func (d *process) killedItself() bool {
	var exit *exec.ExitError
	if !d.ended() || !errors.As(d.err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// cp copies as cp does: it writes into the file of that name, whatever was in it.
func (s *site) cp(name string, b []byte) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.folder, name), b, 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// slowWriter writes an image into the folder piece by piece, as a slow cp does.
type slowWriter struct {
	site *site
	f    *os.File
	data []byte
	done int
}

func (s *site) writer(name string, data []byte) *slowWriter {
	s.t.Helper()
	f, err := os.Create(filepath.Join(s.folder, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return &slowWriter{site: s, f: f, data: data}
}

// write goes on until so many bytes are there.
func (w *slowWriter) write(upTo int) {
	n, err := w.f.Write(w.data[w.done:upTo])
	w.done += n
	if err != nil {
		w.site.t.Error(err)
	}
}

func (w *slowWriter) close() {
	if err := w.f.Close(); err != nil {
		w.site.t.Error(err)
	}
}

// until waits until a daemon of the site took a step; false = the test ended before.
func (w *slowWriter) until(step string) bool {
	for ctx := w.site.t.Context(); ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		if slices.Contains(w.site.traced(), step) {
			return true
		}
	}
	return false
}

// foreign makes a volume as somebody else would.
func (s *site) foreign(name string, b []byte) {
	s.t.Helper()
	f, err := os.Create(filepath.Join(s.t.TempDir(), "foreign"))
	if err == nil {
		_, err = f.Write(b)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	ctx := lxdtest.Context(s.t)
	op, err := s.pool.Import(ctx, name, f, int64(len(b)), nil)
	if err == nil {
		err = s.pool.Wait(ctx, op)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// clear deletes all volumes, so that the next life in this project begins with none.
func (s *site) clear() {
	s.t.Helper()
	for name := range s.volumes() {
		if err := s.pool.Delete(lxdtest.Context(s.t), name); err != nil {
			s.t.Error(err)
		}
	}
}

// eventually is lxdtest.Eventually for questions that cost the server something.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * lxdtest.Limit)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for: %s", 2*lxdtest.Limit, what)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (s *site) volumes() map[string]lxd.Volume {
	s.t.Helper()
	list, err := s.pool.Volumes(lxdtest.Context(s.t))
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[string]lxd.Volume{}
	for _, v := range list {
		out[v.Name] = v
	}
	return out
}

// ours reports whether the volume carries our mark for exactly these bytes.
func ours(v lxd.Volume, b []byte) bool {
	m, ok := isosync.OurMark(v, owner)
	return ok && m.SHA256 == digestOf(b)
}

func digestOf(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// good waits until the volume is marked for these bytes, and no stage is there, and looks at the bytes themselves.
func (s *site) good(name string, b []byte) {
	s.t.Helper()
	eventually(s.t, "a good volume "+name, func() bool {
		all := s.volumes()
		for n := range all {
			if isosync.IsStage(n) {
				return false
			}
		}
		return ours(all[name], b)
	})
	s.exact(name, b)
}

// exact compares the bytes on the server's disk.
func (s *site) exact(name string, b []byte) {
	s.t.Helper()
	v := s.volumes()[name]
	if v.ContentType != "iso" || v.Size != int64(len(b)) {
		s.t.Fatalf("volume %s: content type %q, size %d, want iso, %d", name, v.ContentType, v.Size, len(b))
	}
	f, err := os.Open(s.server.VolumeFile("default", s.server.Project(), name))
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyN(h, f, v.Size); err != nil {
		s.t.Fatal(err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != digestOf(b) {
		s.t.Fatalf("volume %s holds other bytes than its file", name)
	}
}

// note returns the status file of an image, "" if there is none.
func (s *site) note(name, kind string) string {
	b, err := os.ReadFile(filepath.Join(s.folder, name+"."+kind))
	if err != nil {
		return ""
	}
	return string(b)
}

// held waits until a status file says all of the words.
func (s *site) held(name, kind string, words ...string) {
	s.t.Helper()
	var last string
	eventually(s.t, fmt.Sprintf("%s.%s that says %q", name, kind, words), func() bool {
		last = s.note(name, kind)
		for _, w := range words {
			if !strings.Contains(last, w) {
				return false
			}
		}
		return last != ""
	})
}

// image makes a whole ISO image of n MiB whose bytes follow from the seed.
func image(mib int, seed string) []byte {
	const sector = 2048
	b := make([]byte, mib<<20)
	both := func(p []byte, v uint32) {
		binary.LittleEndian.PutUint32(p, v)
		binary.BigEndian.PutUint32(p[4:], v)
	}
	pvd := b[16*sector:]
	pvd[0] = 1
	copy(pvd[1:], "CD001\x01")
	copy(pvd[8:72], strings.Repeat(" ", 64))
	copy(pvd[40:], "E2E")
	both(pvd[80:], uint32(len(b)/sector))
	binary.LittleEndian.PutUint16(pvd[128:], sector)
	binary.BigEndian.PutUint16(pvd[130:], sector)
	root := pvd[156:]
	root[0], root[25], root[32] = 34, 2, 1
	both(root[2:], 18)
	both(root[10:], sector)
	end := b[17*sector:]
	end[0] = 255
	copy(end[1:], "CD001\x01")
	copy(b[18*sector:], root[:34])
	for i := 19 * sector; i < len(b); i += 4096 {
		h := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(seed), uint64(i)))
		for j := i; j < min(i+4096, len(b)); j += len(h) {
			copy(b[j:], h[:])
		}
	}
	return b
}
