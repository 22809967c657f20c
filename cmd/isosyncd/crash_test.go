package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"isosyncd/lxd/lxdtest"
	isosync "isosyncd/sync"
)

// flow is one way of a volume: what is there before, what happens, and what must be there in the end, whatever died on
// the way.
type flow struct {
	name   string
	args   []string
	before func(s *site)
	change func(s *site)
	after  func(s *site)
}

var (
	imageA = image(1, "a")
	imageB = image(2, "b")
)

// imported brings a daemon's folder into the state that most flows begin with.
func imported(s *site) {
	s.cp("a.iso", imageA)
	d := s.run()
	s.good("a", imageA)
	d.stop()
}

func flows() []flow {
	onlyGood := func(s *site) { s.good("a", imageB) }
	return []flow{
		{
			name: "import", before: func(*site) {},
			change: func(s *site) { s.cp("a.iso", imageB) }, after: onlyGood,
		},
		{
			name: "replace-staged", args: []string{"--replace", "staged"}, before: imported,
			change: func(s *site) { s.cp("a.iso", imageB) }, after: onlyGood,
		},
		{
			name: "replace-in-place", args: []string{"--replace", "in-place"}, before: imported,
			change: func(s *site) { s.cp("a.iso", imageB) }, after: onlyGood,
		},
		{
			name: "replace-in-place-file-gone", args: []string{"--replace", "in-place"}, before: imported,
			change: func(s *site) { s.cp("a.iso", imageB) },
			// The file goes while the daemon is dead: one of the two images must be there whole, never none.
			after: func(s *site) {
				lxdtest.Eventually(s.t, "a good volume", func() bool {
					v := s.volumes()
					return len(v) == 1 && (ours(v["a"], imageA) || ours(v["a"], imageB))
				})
			},
		},
		{
			name: "copy", before: imported,
			change: func(s *site) { s.cp("b.iso", imageA) },
			after:  func(s *site) { s.good("a", imageA); s.good("b", imageA) },
		},
		{
			name: "replace-by-copy", before: func(s *site) {
				s.cp("b.iso", imageB)
				imported(s)
			},
			change: func(s *site) { s.cp("a.iso", imageB) },
			after:  func(s *site) { s.good("b", imageB); s.good("a", imageB) },
		},
		{
			name: "consume", args: []string{"--consume"}, before: func(*site) {},
			change: func(s *site) { s.cp("a.iso", imageB) },
			after: func(s *site) {
				s.good("a", imageB)
				lxdtest.Eventually(s.t, "the file to be consumed", func() bool {
					_, err := os.Lstat(filepath.Join(s.folder, "a.iso"))
					return os.IsNotExist(err)
				})
			},
		},
		{
			name: "prune", args: []string{"--prune", "--prune-delay", "100ms"}, before: func(s *site) {
				s.cp("b.iso", imageB)
				imported(s)
				s.good("b", imageB)
			},
			change: func(s *site) {
				if err := os.Remove(filepath.Join(s.folder, "a.iso")); err != nil {
					s.t.Fatal(err)
				}
			},
			after: func(s *site) {
				lxdtest.Eventually(s.t, "volume a to be pruned", func() bool { _, there := s.volumes()["a"]; return !there })
				s.good("b", imageB)
			},
		},
		{
			name: "adopt", before: func(s *site) {
				s.server.Run("storage", "volume", "import", "default", writeTemp(s, imageB), "a", "--type=iso")
			},
			change: func(s *site) { s.cp("a.iso", imageB) },
			after:  onlyGood,
		},
	}
}

func writeTemp(s *site, b []byte) string {
	path := filepath.Join(s.t.TempDir(), "image.iso")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// drive starts a daemon and does what the flow needs besides: adopting is asked for, as a person would.
func (f *flow) drive(s *site, env ...string) *daemon {
	d := s.run(env...)
	if f.name == "adopt" {
		go func() {
			for !d.ended() {
				cmd := exec.CommandContext(context.Background(), program(s.t), "adopt", "a", "--control", s.control())
				if cmd.Run() == nil {
					return
				}
			}
		}()
	}
	return d
}

// points runs the flow once and returns the steps that it takes, each as often as it takes it.
func (f *flow) points(t *testing.T, server *lxdtest.Server) []string {
	s := newSite(t, server.In(t, "points-"+f.name, nil), f.args...)
	f.before(s)
	trace := filepath.Join(t.TempDir(), "trace")
	f.change(s)
	d := f.drive(s, "ISOSYNCD_FAILPOINT_TRACE="+trace)
	f.after(s)
	d.stop()
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	steps := strings.Fields(string(b))
	slices.Sort(steps)
	return slices.Compact(steps)
}

// TestCrash is the crash matrix: for every flow, kill -9 of the real process at every step, a restart on the same state,
// and exactly one good volume for each file, nothing foreign touched, no stage left.
func TestCrash(t *testing.T) {
	covered := map[string]bool{}
	lxdtest.Each(t, func(t *testing.T, server *lxdtest.Server) {
		total := 0
		for _, f := range flows() {
			steps := f.points(t, server)
			for _, step := range steps {
				covered[step] = true
			}
			total += len(steps)
			t.Run(f.name, func(t *testing.T) {
				for _, step := range steps {
					t.Run(step, func(t *testing.T) { f.dieAt(t, server, step) })
				}
			})
		}
		t.Logf("crash matrix: %d points on %s", total, server.Kind())
	})
	for _, step := range isosync.Steps() {
		if !covered[step] && !strings.HasPrefix(step, "remove.") {
			t.Errorf("no flow dies at %s", step)
		}
	}
}

func (f *flow) dieAt(t *testing.T, server *lxdtest.Server, step string) {
	s := newSite(t, server.In(t, strings.ReplaceAll("p-"+f.name+"-"+step, ".", "-"), nil), f.args...)
	s.server.Run("storage", "volume", "import", "default", writeTemp(s, image(1, "foreign")), "foreign", "--type=iso")
	f.before(s)
	foreign := s.volumes()["foreign"]
	f.change(s)
	d := f.drive(s, "ISOSYNCD_FAILPOINT="+step)
	lxdtest.Eventually(t, "the daemon to die at "+step, d.ended)
	if !d.killedItself() {
		t.Fatalf("the daemon ended by itself: %v", d.err)
	}
	if f.name == "replace-in-place-file-gone" {
		if err := os.Remove(filepath.Join(s.folder, "a.iso")); err != nil {
			t.Fatal(err)
		}
		f.after = func(s *site) {
			lxdtest.Eventually(s.t, "one good volume", func() bool {
				v := s.volumes()
				return len(v) == 2 && (ours(v["a"], imageA) || ours(v["a"], imageB))
			})
		}
	}
	d = f.drive(s)
	f.after(s)
	d.stop()
	if got := s.volumes()["foreign"]; got.Description != foreign.Description || got.Incarnation() != foreign.Incarnation() {
		t.Errorf("the volume of somebody else was touched: %+v", got)
	}
}
