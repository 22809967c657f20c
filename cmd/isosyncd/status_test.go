package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"isosyncd/control"
	"isosyncd/lxd/lxdtest"
	isosync "isosyncd/sync"
)

func TestStatusExitCode(t *testing.T) {
	all := scenes()
	for name, want := range map[string]int{"empty": 0, "one": 0, "mixed": 1, "away": 1, "many": 1} {
		t.Run(name, func(t *testing.T) {
			_, socket, _ := toldDaemon(t, told(all[name]))
			code, out, errs := cli(t, "status", "--control", socket)
			if code != want || errs != "" {
				t.Errorf("exit code %d, want %d: %s%s", code, want, out, errs)
			}
			if strings.Contains(out, "\x1b") {
				t.Errorf("colours or worse without a terminal: %q", out)
			}
		})
	}
}

func TestStatusJSON(t *testing.T) {
	_, socket, _ := toldDaemon(t, told(scenes()["mixed"]))
	code, out, _ := cli(t, "status", "--json", "--control", socket)
	var st control.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		t.Fatal(err)
	}
	if code != 1 || !st.Running || st.Version != control.Version || len(st.Files) != 7 || st.NeedsPerson != 2 {
		t.Errorf("%d: %s", code, out)
	}
}

func TestStatusWithoutDaemon(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "none")
	code, out, errs := cli(t, "status", "--control", socket, "--state-dir", filepath.Join(dir, "state"))
	if code != 1 || out != "" || !strings.Contains(errs, "no isosyncd is running") || !strings.Contains(errs, socket) {
		t.Errorf("%d %s %s", code, out, errs)
	}
}

// After the daemon is gone, its journal tells what became of each file.
func TestStatusFromJournal(t *testing.T) {
	s := newStoreSite(t)
	s.put("bios.iso")
	if code, _, errs := s.cli("sync", "--once"); code != 0 {
		t.Fatalf("sync --once: %d %s", code, errs)
	}
	code, out, errs := s.cli("status")
	if code != 1 || errs != "" || !strings.Contains(out, "not running (nobody answers on "+s.socket) ||
		!regexp.MustCompile(`(?m)^present +bios.iso`).MatchString(out) {
		t.Errorf("%d %s %s", code, out, errs)
	}
	var st control.Status
	_, out, _ = s.cli("status", "--json")
	if err := json.Unmarshal([]byte(out), &st); err != nil || st.Running || len(st.Files) != 1 || st.Files[0].State != "present" {
		t.Errorf("%v: %s", err, out)
	}
}

func TestRetryAndAdopt(t *testing.T) {
	h, socket, _ := toldDaemon(t, told(scenes()["mixed"]))
	for _, args := range [][]string{{"retry", "win.iso", "x.iso"}, {"retry", "--all"}, {"retry"}, {"adopt", "win"}} {
		if code, out, errs := cli(t, append(args, "--control", socket)...); code != 0 {
			t.Errorf("%q: %d %s %s", args, code, out, errs)
		}
	}
	want := "retry win.iso, retry x.iso, retry \x1b]0;owned\a\u202egnp.iso, retry x.iso, rescan, adopt win"
	if got := strings.Join(h.requests(), ", "); got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
	h.mu.Lock()
	h.err = &isosync.Problem{Code: isosync.CodeForeign, Text: "it is \x1b[31mnot", Remedy: "do this"}
	h.mu.Unlock()
	code, _, errs := cli(t, "adopt", "win", "--control", socket)
	if code != 1 || errs != "isosyncd: win: it is \uFFFD[31mnot; do this\n" {
		t.Errorf("%d %q", code, errs)
	}
	if code, _, _ := cli(t, "retry", "--all", "x", "--control", socket); code != exitUsage {
		t.Errorf("--all with names: %d", code)
	}
	code, _, errs = cli(t, "retry", "x", "--control", filepath.Join(t.TempDir(), "none"))
	if code != 1 || !strings.Contains(errs, "start it with isosyncd run") {
		t.Errorf("without a daemon: %d %s", code, errs)
	}
}

// A pipe gets one text, or one line of JSON, for each change; it ends with the daemon, and a reader that goes away ends it.
func TestWatchInAPipe(t *testing.T) {
	h, socket, stop := toldDaemon(t, told(scenes()["empty"]))
	for _, args := range [][]string{{"--json"}, nil} {
		r, w := io.Pipe()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			a := &app{stdout: w, stderr: io.Discard}
			root := newRootCommand(a)
			root.SetArgs(append([]string{"status", "--watch", "--control", socket}, args...))
			err := root.ExecuteContext(ctx)
			w.Close()
			done <- err
		}()
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, 1<<20)
		next := func(want string) {
			t.Helper()
			for lines.Scan() {
				if strings.Contains(lines.Text(), want) {
					return
				}
			}
			t.Fatalf("%q never came: %v", want, lines.Err())
		}
		next("iso-drop")
		h.tell(told(scenes()["one"]))
		next("debian.iso")
		h.tell(told(scenes()["empty"]))
		if args == nil {
			next("none yet")
		}
		cancel()
		go func() { _, _ = io.Copy(io.Discard, r) }()
		if err := <-done; err != nil {
			t.Errorf("interrupted: %v", err)
		}
	}
	stop()
	if code, _, errs := cli(t, "status", "--watch", "--control", socket); code != 1 || !strings.Contains(errs, "nobody answers") {
		t.Errorf("%d %s", code, errs)
	}
}

// screen is a terminal of its own: a tmux server that nothing else uses, and that ends with the test.
type screen struct {
	t      testing.TB
	socket string
}

func newScreen(t testing.TB, width, height int, command ...string) *screen {
	t.Helper()
	dir, err := os.MkdirTemp("", "tm")
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, socket: filepath.Join(dir, "s")}
	t.Cleanup(func() {
		_ = exec.CommandContext(context.Background(), "tmux", "-S", s.socket, "kill-server").Run()
		_ = os.RemoveAll(dir)
	})
	s.tmux(append([]string{"-f", "/dev/null", "new-session", "-d", "-x", itoa(width), "-y", itoa(height), "--"}, command...)...)
	return s
}

func (s *screen) tmux(args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(lxdtest.Context(s.t), "tmux", append([]string{"-S", s.socket}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TMUX=", "TERM=xterm-256color")
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("tmux %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// until returns the picture once it has what is wanted.
func (s *screen) until(want string) string {
	s.t.Helper()
	var picture string
	lxdtest.Eventually(s.t, "a picture with "+want, func() bool {
		picture = s.tmux("capture-pane", "-p")
		return strings.Contains(picture, want)
	})
	return picture
}

// What a person sees in a real terminal is what renderStatus says, at both widths, with 0, 1 and 500 files.
func TestWatchInATerminal(t *testing.T) {
	lxdtest.Need(t, "tmux")
	exe := program(t)
	for _, size := range []struct{ width, height int }{{80, 24}, {200, 50}} {
		for _, scene := range []string{"empty", "one", "many", "mixed"} {
			t.Run(scene+"-"+itoa(size.width), func(t *testing.T) {
				t.Parallel()
				st := scenes()[scene]
				h, socket, stop := toldDaemon(t, told(st))
				s := newScreen(t, size.width, size.height, exe, "status", "--watch", "--control", socket)
				got := s.until("files ")
				snap := told(st)
				compareScreen(t, got, renderStatus(control.FromSnapshot(&snap), view{Width: size.width, Height: size.height, Now: time.Now()}))

				// It moves on by itself, leaves nothing of the picture before, and outlives the daemon.
				h.tell(told(scenes()["one"]))
				got = s.until("files   1 present\n")
				one := told(scenes()["one"])
				compareScreen(t, got, renderStatus(control.FromSnapshot(&one), view{Width: size.width, Height: size.height, Now: time.Now()}))
				stop()
				s.until("daemon  not running")
			})
		}
	}
}

// moving is what differs from moment to moment.
var moving = regexp.MustCompile(`\d+ (s|min) (ago|left)|, \d+ s$|\[[=>.]+\] +\d+%.*|since \d+ s`)

func compareScreen(t *testing.T, got, want string) {
	t.Helper()
	still := func(s string) string {
		var lines []string
		for _, l := range strings.Split(strings.TrimRight(s, "\n"), "\n") {
			lines = append(lines, strings.TrimRight(moving.ReplaceAllString(l, "*"), " "))
		}
		return strings.Join(lines, "\n")
	}
	if still(got) != still(want) {
		t.Errorf("the screen has\n%s\ninstead of\n%s", got, want)
	}
}

// A terminal is used as it was found: Ctrl-C ends it, the screen before comes back, and the last picture stays.
func TestWatchLeavesTheTerminal(t *testing.T) {
	lxdtest.Need(t, "tmux")
	_, socket, _ := toldDaemon(t, told(scenes()["one"]))
	exe := program(t)
	s := newScreen(t, 80, 24, "sh", "-c", "trap : INT; echo before; "+exe+" status --watch --control "+socket+"; echo ended with $?; cat")
	s.until("debian.iso")
	if picture := s.tmux("capture-pane", "-p"); strings.Contains(picture, "before") {
		t.Errorf("not a screen of its own:\n%s", picture)
	}
	if s.tmux("display-message", "-p", "#{cursor_flag}") != "0\n" {
		t.Error("the cursor flickers about")
	}
	s.tmux("send-keys", "C-c")
	picture := s.until("ended with 0")
	if !strings.Contains(picture, "before") || !strings.Contains(picture, "debian.iso") {
		t.Errorf("the screen has\n%s", picture)
	}
	if s.tmux("display-message", "-p", "#{cursor_flag} #{alternate_on}") != "1 0\n" {
		t.Error("the terminal is not as it was")
	}
}

// A terminal that changes its size gets a new picture.
func TestWatchResize(t *testing.T) {
	lxdtest.Need(t, "tmux")
	_, socket, _ := toldDaemon(t, told(scenes()["many"]))
	s := newScreen(t, 80, 24, program(t), "status", "--watch", "--control", socket)
	s.until("... and 496 more")
	s.tmux("resize-window", "-x", "200", "-y", "50")
	picture := s.until("... and 4")
	lxdtest.Eventually(t, "more files are shown", func() bool {
		picture = s.tmux("capture-pane", "-p")
		return strings.Contains(picture, "image-010.iso")
	})
}
