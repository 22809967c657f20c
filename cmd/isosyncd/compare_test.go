//go:build bench

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"isosyncd/lxd"
	"isosyncd/lxd/lxdtest"
)

// TestCompare measures what docs/PERFORMANCE.md says, and writes its generated part. It needs root, a real Incus and
// FUSE. A goal that is missed is no failure; one that was not measured is. `make bench` runs it. Its settings:
//
//	ISOSYNCD_BENCH_ROUNDS   rounds of each comparison, at least 1; default 7
//	ISOSYNCD_BENCH_GOALS    regular expression: only topics that have a goal whose number it matches
//	ISOSYNCD_BENCH_QUICK    not empty = one round of everything in small, to see that it works; its numbers mean nothing
//	ISOSYNCD_BENCH_OUT      document whose generated part is replaced; empty = only standard output
func TestCompare(t *testing.T) {
	lxdtest.Need(t, "root", "incus", "fuse", "inotifywait", "strace")
	b := newBench(t)
	for _, ch := range []struct {
		name  string
		goals []string
		run   func(*topic)
	}{
		{"import", []string{"1a", "1b"}, (*topic).imports},
		{"drop", []string{"2a", "2b", "2c"}, (*topic).drops},
		{"many", []string{"3a", "3b"}, (*topic).many},
		{"mount", []string{"4a", "4b"}, (*topic).mounts},
		{"entries", []string{"5", "6a", "6b", "7b", "7d", "7f"}, (*topic).entries},
		{"long", []string{"7a", "7c", "7e"}, (*topic).long},
	} {
		if !b.wanted(ch.goals...) {
			continue
		}
		b.expect(ch.goals...)
		t.Run(ch.name, func(t *testing.T) { ch.run(b.topic(t, ch.name)) })
	}
	b.finish(t)
}

// bench is one run of it.
type bench struct {
	report
	program string          // built as it is shipped: without failpoints
	server  *lxdtest.Server // a real Incus
	dir     string          // of images, folders and states; on the file system of the pool
	rounds  int
	quick   bool
	goals   *regexp.Regexp
	out     string
	began   time.Time
	serial  int
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{rounds: 7, quick: os.Getenv("ISOSYNCD_BENCH_QUICK") != "", out: os.Getenv("ISOSYNCD_BENCH_OUT"), began: time.Now()}
	var err error
	if text := os.Getenv("ISOSYNCD_BENCH_ROUNDS"); text != "" {
		if b.rounds, err = strconv.Atoi(text); err != nil || b.rounds < 1 {
			t.Fatalf("ISOSYNCD_BENCH_ROUNDS is %q, and should be a number of at least 1", text)
		}
	}
	if b.quick {
		b.rounds, b.out = 1, ""
	}
	if b.goals, err = regexp.Compile(os.Getenv("ISOSYNCD_BENCH_GOALS")); err != nil {
		t.Fatalf("ISOSYNCD_BENCH_GOALS: %v", err)
	}
	b.dir = lxdtest.ShortDir(t)
	b.program = filepath.Join(b.dir, "isosyncd")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", b.program, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	b.server = lxdtest.Incus(t)
	b.facts = b.describe(t)
	return b
}

// wanted reports whether one of the goals is asked for.
func (b *bench) wanted(ids ...string) bool {
	for _, id := range ids {
		if b.goals.MatchString(id) {
			return true
		}
	}
	return false
}

// expect notes goals that are going to be measured.
func (b *bench) expect(ids ...string) {
	for _, id := range ids {
		g := goalOf(id)
		b.verdicts = append(b.verdicts, verdict{id: id, goal: g.words, limit: g.limit, want: g.limit.text(g.unit), why: g.why})
	}
}

// relax puts another limit in the place of a goal's.
func (b *bench) relax(id string, l limit) {
	for i := range b.verdicts {
		if v := &b.verdicts[i]; v.id == id {
			v.limit, v.want = l, l.text(goalOf(id).unit)
		}
	}
}

// judge notes what was measured for a goal; its median decides.
func (b *bench) judge(id string, s spread) {
	g := goalOf(id)
	for i := range b.verdicts {
		if v := &b.verdicts[i]; v.id == id {
			v.measured, v.met = s.text(g.unit), v.limit.met(s.median)
		}
	}
}

// finish prints the report, writes it where it is wanted, and fails where something was not measured.
func (b *bench) finish(t *testing.T) {
	t.Helper()
	slices.SortFunc(b.verdicts, func(v, w verdict) int { return strings.Compare(v.id, w.id) })
	b.facts = append(b.facts, [2]string{"it took", time.Since(b.began).Round(time.Second).String()})
	fmt.Println(b.markdown())
	if _, measured := b.count(); measured != len(b.verdicts) || measured == 0 {
		t.Errorf("%d of %d goals were measured", measured, len(b.verdicts))
	} else if b.out != "" {
		old, err := os.ReadFile(b.out)
		text := ""
		if err == nil {
			text, err = replaced(string(old), b.markdown())
		}
		if err == nil {
			err = os.WriteFile(b.out, []byte(text), 0o644)
		}
		if err != nil {
			t.Errorf("%s: %v", b.out, err)
		}
	}
	fmt.Println(b.summary())
}

// topic measures some of the goals, in a project of its own on the server, with a directory of its own.
type topic struct {
	*bench
	t      *testing.T
	server *lxdtest.Server
	pool   *lxd.Pool
	group  string
}

func (b *bench) topic(t *testing.T, name string) *topic {
	t.Helper()
	server := b.server.In(t, name, nil)
	return &topic{bench: b, t: t, server: server, pool: server.Pool(t)}
}

// side is one of the ways that are compared. once goes it one time, and returns how long the part took that counts: what
// it needs before and what it leaves behind is its own business, outside of that. The only error is errHung.
type side struct {
	name string
	once func() (time.Duration, error)
}

// errHung says that somebody else's program did not end. The incus client sometimes waits for news of an operation that
// has ended already.
var errHung = errors.New("it did not end")

// compare goes all sides in turn, so that whatever else happens on the machine meets all of them, in another order each
// round. What a side left to be written to the disk is written before the next one begins. The samples are in the order
// of the sides.
func (c *topic) compare(group string, rounds int, sides ...side) []sample {
	c.t.Helper()
	samples, hung := make([]sample, len(sides)), make([]int, len(sides))
	for round := range rounds {
		for _, i := range rotated(len(sides), round) {
			took, err := c.once(sides[i])
			for ; err != nil && hung[i] < 3; hung[i]++ {
				c.t.Logf("%s, round %d: %s: %v, again", group, round+1, sides[i].name, err)
				took, err = c.once(sides[i])
			}
			if err != nil {
				c.t.Fatalf("%s: %v", sides[i].name, err)
			}
			samples[i] = append(samples[i], took.Seconds())
			c.t.Logf("%s, round %d: %s: %s", group, round+1, sides[i].name, seconds(took.Seconds()))
		}
	}
	c.group = group
	for i, s := range samples {
		note := ""
		if hung[i] > 0 {
			note = fmt.Sprintf("hung %d times besides, which does not count", hung[i])
		}
		c.figure(sides[i].name, s.spread().text(seconds), note)
	}
	return samples
}

func (c *topic) once(s side) (time.Duration, error) {
	c.t.Helper()
	c.settle()
	return s.once()
}

// figure notes a number besides the goals, in the group of the last comparison.
func (c *topic) figure(name, value, note string) {
	c.figures = append(c.figures, figure{c.group, name, value, note})
}

// settle waits until the file system has nothing left to write.
func (c *topic) settle() {
	c.t.Helper()
	d, err := os.Open(c.dir)
	if err == nil {
		err = errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.warm()
}

// warm touches as much memory as a round may need, and lets it go again: the host of a virtual machine takes free memory
// back, and to get it anew would take longer, by chance, than what is measured.
func (c *topic) warm() {
	c.t.Helper()
	b, err := unix.Mmap(-1, 0, int(c.size(4<<30, 64<<20)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err == nil {
		err = unix.Munmap(b)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// context is for one step of a round.
func (c *topic) context() (context.Context, context.CancelFunc) {
	const long = 5 * time.Minute // for what hangs
	return context.WithTimeoutCause(c.t.Context(), long, fmt.Errorf("a step of %s took more than %v", c.t.Name(), long))
}

// next is a name that was not there before.
func (c *topic) next(prefix string) string {
	c.serial++
	return fmt.Sprintf("%s-%d", prefix, c.serial)
}

// timed runs a program, and returns how long that took. It must end well.
func (c *topic) timed(dir, name string, args ...string) time.Duration {
	c.t.Helper()
	took, err := c.tried(5*time.Minute, dir, name, args...)
	if err != nil {
		c.t.Fatalf("%s %q: %v", name, args, err)
	}
	return took
}

// tried is timed for a program that may hang: then it is ended after limit, and all that it started with it.
func (c *topic) tried(limit time.Duration, dir, name string, args ...string) (time.Duration, error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, c.environ(), time.Second
	asGroup(cmd)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(began)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return took, errHung
	case err != nil:
		c.t.Fatalf("%s %q: %v\n%s", name, args, err, out[max(0, len(out)-1000):])
	}
	return took, nil
}

// asGroup makes a program be ended together with all that it started.
func asGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
