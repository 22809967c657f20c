package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"isosyncd/lxd/lxdtest"
	isosync "isosyncd/sync"
)

// flow is one way of a volume: what is there before, what happens, and what must be there in the end, whatever died on
// the way.
type flow struct {
	name   string
	args   []string
	gone   bool // the file is removed while the daemon is dead
	before func(s *site)
	change func(s *site)
	after  func(s *site)
}

var (
	imageA = image(1, "a")
	imageB = image(2, "b")

	imageForeign = image(1, "foreign")
)

// imported brings a daemon's folder into the state that most flows begin with.
func imported(s *site) {
	s.cp("a.iso", imageA)
	d := s.run()
	s.good("a", imageA)
	d.stop()
}

// importedToo brings b.iso there as well.
func importedToo(s *site) {
	d := s.run()
	s.good("b", imageB)
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
			name: "replace-in-place-file-gone", args: []string{"--replace", "in-place"}, before: imported, gone: true,
			change: func(s *site) { s.cp("a.iso", imageB) }, after: onlyGood,
		},
		{
			name: "replace-staged-file-gone", args: []string{"--replace", "staged"}, before: imported, gone: true,
			change: func(s *site) { s.cp("a.iso", imageB) }, after: onlyGood,
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
				importedToo(s)
			},
			change: func(s *site) { s.cp("a.iso", imageB) },
			after:  func(s *site) { s.good("b", imageB); s.good("a", imageB) },
		},
		{
			name: "consume", args: []string{"--consume"}, before: func(*site) {},
			change: func(s *site) { s.cp("a.iso", imageB) },
			after: func(s *site) {
				s.good("a", imageB)
				eventually(s.t, "the file to be consumed", func() bool {
					_, err := os.Lstat(filepath.Join(s.folder, "a.iso"))
					return os.IsNotExist(err)
				})
			},
		},
		{
			name: "prune", args: []string{"--prune", "--prune-delay", "100ms"}, before: func(s *site) {
				s.cp("b.iso", imageB)
				imported(s)
				importedToo(s)
			},
			change: func(s *site) {
				if err := os.Remove(filepath.Join(s.folder, "a.iso")); err != nil {
					s.t.Fatal(err)
				}
			},
			after: func(s *site) {
				eventually(s.t, "volume a to be pruned", func() bool { _, there := s.volumes()["a"]; return !there })
				s.good("b", imageB)
			},
		},
		{
			// Its writer goes on when the first half is on its way, and not before: whatever dies meanwhile.
			name: "early", before: func(*site) {},
			change: func(s *site) {
				w := s.writer("a.iso", imageB)
				w.write(len(imageB) / 2)
				go func() {
					if w.until("early.open") {
						w.write(len(imageB))
					}
					w.close()
				}()
			},
			after: onlyGood,
		},
		{
			name: "adopt", before: func(s *site) { s.foreign("a", imageB) },
			change: func(s *site) { s.cp("a.iso", imageB) },
			after:  onlyGood,
		},
	}
}

// oneOfBoth waits until exactly one of the two images is there, whole, and nothing else of ours: never none.
func oneOfBoth(s *site) {
	s.t.Helper()
	eventually(s.t, "one good volume, and no stage", func() bool {
		v := s.volumes()
		return len(v) == 2 && (ours(v["a"], imageA) || ours(v["a"], imageB))
	})
	if ours(s.volumes()["a"], imageA) {
		s.exact("a", imageA)
	} else {
		s.exact("a", imageB)
	}
}

// drive starts a daemon and does what the flow needs besides: adopting is asked for, as a person would.
func (f *flow) drive(s *site, env ...string) *process {
	d := s.run(env...)
	if f.name == "adopt" {
		go func() {
			for !d.ended() {
				cmd := exec.CommandContext(context.Background(), program(s.t), "adopt", "a", "--control", s.control())
				if cmd.Run() == nil {
					return
				}
				time.Sleep(100 * time.Millisecond) // it is asked again until it is there to hear
			}
		}()
	}
	return d
}

// points runs the flow once and returns the steps that it takes, each as often as it takes it.
func (f *flow) points(t *testing.T, server *lxdtest.Server) []string {
	s := newSite(t, server, f.args...)
	defer s.clear()
	f.before(s)
	began := len(s.traced())
	f.change(s)
	d := f.drive(s)
	f.after(s)
	d.stop()
	return once(s.traced()[began:])
}

// matrix knows which steps some process died at.
type matrix struct {
	mu      gosync.Mutex
	covered map[string]bool // guarded by mu
	points  int             // guarded by mu
}

// claim takes a step that nobody died at yet.
func (m *matrix) claim(step string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.covered[step] {
		return false
	}
	m.covered[step] = true
	return true
}

// release gives back a step that nobody died at after all.
func (m *matrix) release(step string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.covered, step)
}

func (m *matrix) count(step string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.points++
	m.covered[step] = true
}

// TestCrash is the crash matrix: for every flow, kill -9 of the real process at every step, a restart on the same state,
// and exactly one good volume for each file, nothing foreign touched, no stage left. Steps that only a recovery takes
// are died at as well, in a second life.
func TestCrash(t *testing.T) {
	for _, kind := range []struct {
		name  string
		serve func(testing.TB) *lxdtest.Server
	}{{"store", lxdtest.Store}, {"incus", lxdtest.Incus}} {
		t.Run(kind.name, func(t *testing.T) {
			server := kind.serve(t)
			m := &matrix{covered: map[string]bool{}}
			// The group ends when all flows, which run side by side, did.
			t.Run("flows", func(t *testing.T) {
				for _, f := range flows() {
					t.Run(f.name, func(t *testing.T) {
						t.Parallel()
						// One project for each flow, emptied after each life: a list costs the server a look at every
						// profile of every project.
						server := server.In(t, "crash-"+f.name, nil)
						for _, step := range f.points(t, server) {
							t.Run(step, func(t *testing.T) { f.dieAt(t, server, m, step) })
						}
					})
				}
			})
			t.Logf("crash matrix: %d points on %s", m.points, server.Kind())
			for _, step := range isosync.Steps() {
				if !m.covered[step] && !strings.HasPrefix(step, "remove.") { // asked for through the mount only: not in this matrix
					t.Errorf("no flow dies at %s", step)
				}
			}
		})
	}
}

// dieAt dies at each of the steps, in one life after the other, and then lives.
func (f *flow) dieAt(t *testing.T, server *lxdtest.Server, m *matrix, steps ...string) {
	s := newSite(t, server, f.args...)
	s.foreign("foreign", imageForeign)
	f.before(s)
	foreign := s.volumes()["foreign"]
	f.change(s)
	after := f.after
	for i, step := range steps {
		d := f.drive(s, "ISOSYNCD_FAILPOINT="+step)
		// Whether an image was hashed before it was sent is chance, and so a recovery may take another way than last time.
		other := func() bool {
			taken := s.traced()[d.began:]
			done := func(step string) bool { return strings.HasSuffix(step, ".present") }
			return i > 0 && slices.ContainsFunc(taken, done) && !slices.Contains(taken, step)
		}
		eventually(t, "the daemon to die at "+step, func() bool { return d.ended() || other() })
		if !d.ended() {
			m.release(step)
			d.stop()
			break
		}
		if !d.killedItself() {
			t.Fatalf("the daemon ended by itself: %v", d.err)
		}
		m.count(step)
		if f.gone {
			if err := os.Remove(filepath.Join(s.folder, "a.iso")); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			after = oneOfBoth
		}
	}
	began := len(s.traced())
	d := f.drive(s)
	after(s)
	d.stop()
	if got := s.volumes()["foreign"]; got.Description != foreign.Description || got.Incarnation() != foreign.Incarnation() {
		t.Errorf("the volume of somebody else was touched: %+v", got)
	}
	s.clear()
	for _, step := range once(s.traced()[began:]) {
		if len(steps) == 1 && m.claim(step) {
			t.Run("then "+step, func(t *testing.T) { f.dieAt(t, server, m, steps[0], step) })
		}
	}
}

// once sorts steps, and leaves each once.
func once(steps []string) []string {
	steps = slices.Sorted(slices.Values(steps))
	return slices.Compact(steps)
}
