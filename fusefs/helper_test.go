package fusefs

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// helperEnv makes the test binary a small daemon over a fake heart: "DIR FOLDER", and more words for options.
const helperEnv = "FUSEFS_TEST_SERVE"

func TestMain(m *testing.M) {
	if args := strings.Fields(os.Getenv(helperEnv)); len(args) >= 2 {
		os.Exit(helper(args[0], args[1], args[2:]))
	}
	goleak.VerifyTestMain(m)
}

// helper mounts, says so, and serves until SIGTERM. It looks for what it left behind itself.
func helper(dir, folder string, options []string) int {
	h := &fakeHeart{folder: folder}
	h.reset()
	for _, n := range []string{"seed", "other"} {
		putAs(h, n+".iso", n, image(100, 1))
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	cfg := Config{Dir: dir, Heart: h, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	for _, o := range options {
		cfg.AllowOther = cfg.AllowOther || o == "allow_other"
	}
	m, err := New(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("mounted")
	if err := m.Serve(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	h.release()
	h.work.Wait()
	cancel()
	if err := goleak.Find(goleak.IgnoreAnyFunction("os/signal.loop"), goleak.IgnoreAnyFunction("os/signal.signal_recv")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	return 0
}

// daemon is a helper process.
type daemon struct {
	t   *testing.T
	cmd *exec.Cmd
	log *bytes.Buffer
	dir string
}

func startHelper(t *testing.T, uid uint32, binary, dir, folder string, options ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, dir: dir, log: &bytes.Buffer{}, cmd: exec.Command(binary, "-test.run=^$")}
	d.cmd.Env = append(os.Environ(), helperEnv+"="+strings.Join(append([]string{dir, folder}, options...), " "))
	d.cmd.Dir = "/"
	d.cmd.Stderr = d.log
	if uid != 0 {
		d.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if d.cmd.ProcessState == nil {
			_ = d.cmd.Process.Kill()
			_ = d.cmd.Wait()
		}
		real, err := realDir(dir)
		for err == nil && len(mountsAt(real)) > 0 {
			if err := unix.Unmount(real, unix.MNT_DETACH|unix.MNT_FORCE); err != nil {
				t.Errorf("left mounted: %v", err)
				break
			}
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "mounted\n" {
		_, _ = io.Copy(io.Discard, out)
		_ = d.cmd.Wait()
		t.Fatalf("the helper says %q (%v): %s", line, err, d.log)
	}
	return d
}

// stop is SIGTERM; it says how the helper ended.
func (d *daemon) stop() int {
	d.t.Helper()
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	_ = d.cmd.Wait()
	return d.cmd.ProcessState.ExitCode()
}

// leaked lists those of the connections, by minor number, that the kernel still has and nobody has mounted: other tests
// mount beside us, and get numbers that were ours.
func leaked(made map[uint32]bool) []uint32 {
	mounted := map[uint32]bool{}
	if data, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		for _, m := range parseMountinfo(data) {
			mounted[m.minor] = true
		}
	}
	var out []uint32
	for minor := range made {
		_, err := os.Stat(filepath.Join("/sys/fs/fuse/connections", strconv.Itoa(int(minor))))
		if err == nil && !mounted[minor] {
			out = append(out, minor)
		}
	}
	return out
}

// public lets everybody walk to path.
func public(t *testing.T, path string) {
	t.Helper()
	for p := filepath.Dir(path); p != "/" && p != os.TempDir(); p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
