package lxdtest_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"isosyncd/lxd/lxdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a test whose end is only noted down.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper()      {}
func (r *recorder) Name() string { return "TestOfSomething" }

func (r *recorder) Skip(args ...any) {
	r.skipped = fmt.Sprint(args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func need(t *testing.T, what string) *recorder {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		lxdtest.Need(r, what)
	}()
	<-done
	return r
}

func TestNeed(t *testing.T) {
	const absent = "no-such-program-anywhere"
	log := filepath.Join(t.TempDir(), "skips")
	t.Setenv(lxdtest.SkipLogEnv, log)

	t.Setenv(lxdtest.RequireEnv, "something, else")
	r := need(t, absent)
	if !strings.HasPrefix(r.skipped, "SKIPPED: TestOfSomething needs") || !strings.Contains(r.skipped, "install") || r.failed != "" {
		t.Errorf("what is missing: skipped %q, failed %q", r.skipped, r.failed)
	}
	if text, err := os.ReadFile(log); err != nil || string(text) != r.skipped+"\n" {
		t.Errorf("the skip was recorded as %q, %v", text, err)
	}
	for _, value := range []string{absent, "fuse, " + absent, "all"} {
		t.Setenv(lxdtest.RequireEnv, value)
		if r := need(t, absent); r.failed == "" || r.skipped != "" {
			t.Errorf("%s=%q: skipped %q, failed %q", lxdtest.RequireEnv, value, r.skipped, r.failed)
		}
		if r := need(t, "sh"); r.failed != "" || r.skipped != "" {
			t.Errorf("what is there: skipped %q, failed %q", r.skipped, r.failed)
		}
	}
}

// victimEnv makes TestVictim be the process that TestJanitor kills.
const victimEnv = "LXDTEST_VICTIM"

// TestVictim starts a server, says which, and waits to be killed.
func TestVictim(t *testing.T) {
	if os.Getenv(victimEnv) == "" {
		return
	}
	s := lxdtest.Incus(t)
	s.Pool(t)
	fmt.Printf("victim %d %s\n", s.PID(), s.Dir())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func TestJanitor(t *testing.T) {
	t.Parallel()
	lxdtest.Need(t, "incus")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestVictim$", "-test.v")
	cmd.Env = append(os.Environ(), victimEnv+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdin.Close() }()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	var dir string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if n, _ := fmt.Sscanf(lines.Text(), "victim %d %s", &pid, &dir); n == 2 {
			break
		}
	}
	if dir == "" {
		t.Fatal("the victim did not start")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	lxdtest.Eventually(t, "the daemon to be ended", func() bool { return !runs(pid) })
	lxdtest.Eventually(t, "its directory to be removed", func() bool {
		_, err := os.Stat(dir)
		return errors.Is(err, os.ErrNotExist)
	})
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("a mount is left: %v", err)
	}
}

// runs reports whether a process is there, and no zombie: whoever inherited it may take its time.
func runs(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// TestCommandLine runs the program that people use against the store and against what it was made for.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	lxdtest.Need(t, "incus")
	for _, start := range []func(testing.TB) *lxdtest.Server{lxdtest.Store, lxdtest.StoreIncus, lxdtest.Incus} {
		s := start(t)
		t.Run(string(s.Kind()), func(t *testing.T) {
			t.Parallel()
			commandLine(t, s)
		})
	}
}

func commandLine(t *testing.T, shared *lxdtest.Server) {
	s := shared.In(t, "cli", nil)
	const size = 300_001
	f := lxdtest.File(t, size)
	fails := func(args ...string) string {
		t.Helper()
		out, err := s.Try(args...)
		if err == nil {
			t.Errorf("incus %s succeeded: %s", strings.Join(args, " "), out)
		}
		return out
	}
	prints := func(want string, args ...string) {
		t.Helper()
		if out := s.Run(args...); !strings.Contains(out, want) {
			t.Errorf("incus %s does not print %q:\n%s", strings.Join(args, " "), want, out)
		}
	}
	prints("default", "storage", "list")
	prints("total space", "storage", "info", "default")
	s.Run("storage", "volume", "import", "default", f.Name(), "debian-13", "--type=iso")
	sameBytes(t, s, "debian-13", f, size)
	prints("custom,debian-13,,iso,0", "storage", "volume", "list", "default", "--format=csv", "--columns=tndcu")
	prints(`size: "300001"`, "storage", "volume", "show", "default", "debian-13")
	prints("Content type: iso", "storage", "volume", "info", "default", "debian-13")
	if out := fails("storage", "volume", "import", "default", f.Name(), "debian-13", "--type=iso"); !strings.Contains(out, "already exists") {
		t.Errorf("a second import of a name: %s", out)
	}
	s.Run("storage", "volume", "set", "default", "debian-13", "--property", "description=an image")
	// As LXD the store answers with an operation, which this program does not expect, and so does not wait for.
	lxdtest.Eventually(t, "the description", func() bool {
		return strings.Contains(s.Run("storage", "volume", "show", "default", "debian-13"), "description: an image")
	})
	fails("storage", "volume", "set", "default", "debian-13", "user.a=b")
	fails("storage", "volume", "snapshot", "create", "default", "debian-13")

	s.Run("profile", "device", "add", "default", "cd", "disk", "pool=default", "source=debian-13")
	if out := fails("storage", "volume", "delete", "default", "debian-13"); !strings.Contains(out, "still in use") {
		t.Errorf("delete what is in use: %s", out)
	}
	prints("custom,debian-13,an image,iso,1", "storage", "volume", "list", "default", "--format=csv", "--columns=tndcu")
	s.Run("profile", "device", "remove", "default", "cd")

	s.Run("storage", "volume", "copy", "default/debian-13", "default/copy")
	s.Run("storage", "volume", "delete", "default", "debian-13")
	sameBytes(t, s, "copy", f, size)
	if s.Kind() == lxdtest.KindStoreIncus {
		out := filepath.Join(t.TempDir(), "out.iso")
		s.Run("storage", "volume", "export", "default", "copy", out)
		if lxdtest.SumFile(t, out, size) != lxdtest.SumFile(t, f.Name(), size) {
			t.Error("an export has other bytes")
		}
	}
	s.Run("storage", "volume", "delete", "default", "copy")
	if out := s.Run("storage", "volume", "list", "default", "--format=csv"); strings.TrimSpace(out) != "" {
		t.Errorf("left: %s", out)
	}
}

func TestHTTPS(t *testing.T) {
	t.Parallel()
	s := lxdtest.Incus(t)
	target := s.HTTPS(t)
	if !strings.HasPrefix(target.Addr, "https://127.0.0.1:") || len(target.ServerCertPEM) == 0 {
		t.Errorf("the target is %v", target)
	}
	if token := s.Token(t, "client"); len(token) < 100 {
		t.Errorf("the token is %q", token)
	}
}

func TestBtrfsPool(t *testing.T) {
	t.Parallel()
	s := lxdtest.Incus(t)
	name := s.BtrfsPool(t)
	p := s.PoolNamed(t, name)
	if p.Driver() != "btrfs" {
		t.Errorf("the driver is %q", p.Driver())
	}
	f := put(t, p, "v", 100_000)
	if lxdtest.SumFile(t, s.VolumeFile(name, "default", "v"), 100_000) != lxdtest.SumFile(t, f.Name(), 100_000) {
		t.Error("the volume has other bytes")
	}
	// What it mounted is not mounted here, and comes back with it.
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), s.Dir()) {
		t.Errorf("its mounts are ours: %v", err)
	}
	s.Restart()
	if lxdtest.SumFile(t, s.VolumeFile(name, "default", "v"), 100_000) != lxdtest.SumFile(t, f.Name(), 100_000) {
		t.Error("after a restart the volume has other bytes")
	}
}
