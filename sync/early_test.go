package sync

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"isosyncd/iso"
	"isosyncd/lxd"
)

// newEarlyRig is a rig that sends every image while it is written.
func newEarlyRig(t *testing.T, change func(*Config)) *rig {
	return newRig(t, func(c *Config) {
		c.Policy.EarlyFrom = 1
		if change != nil {
			change(c)
		}
	})
}

// writer writes an image piece by piece, as a slow cp does.
type writer struct {
	*rig
	f *os.File
}

func (r *rig) writer(name string) *writer {
	r.t.Helper()
	f, err := os.Create(filepath.Join(r.folder, name))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = f.Close() })
	return &writer{rig: r, f: f}
}

func (w *writer) at(off int64, b []byte) {
	w.t.Helper()
	if _, err := w.f.WriteAt(b, off); err != nil {
		w.t.Fatal(err)
	}
}

func (w *writer) close() {
	w.t.Helper()
	if err := w.f.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// busy writes the first bytes again and again, until stop is called.
func (w *writer) busy(head []byte) (stop func()) {
	end, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		for {
			if _, err := w.f.WriteAt(head, 0); err != nil {
				w.t.Error(err)
				return
			}
			select {
			case <-end:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() { close(end); <-over }
}

// untilSent waits until so many bytes of a file that is still being written went to the server.
func (r *rig) untilSent(n int64) {
	r.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for r.remote.streamed.Load() < n {
		if time.Now().After(deadline) {
			r.t.Fatalf("waited for %d bytes to be sent early, %d were", n, r.remote.streamed.Load())
		}
		time.Sleep(time.Millisecond)
	}
}

// begun writes the first megabyte of a into a.iso, and waits until all of it is on its way.
func (r *rig) begun(a []byte) *writer {
	r.t.Helper()
	w := r.writer("a.iso")
	w.at(0, a[:1<<20])
	r.untilSent(1 << 20)
	return w
}

// rest writes what begun left out, and closes the file.
func (w *writer) rest(a []byte) {
	w.t.Helper()
	w.at(1<<20, a[1<<20:])
	w.close()
}

func (r *rig) counts(stream, imports int) {
	r.t.Helper()
	if s, i := r.remote.count("stream"), r.remote.count("import"); s != stream || i != imports {
		r.t.Errorf("%d early uploads and %d others, want %d and %d", s, i, stream, imports)
	}
}

// TestEarly: what is sent while a file is written becomes its volume, without being sent again.
func TestEarly(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"leases": nil, "none": func(c *Config) { c.NoLeases = true },
	} {
		t.Run(name, func(t *testing.T) {
			r := newEarlyRig(t, change).start()
			a := isoImage(1000, "a")
			w := r.writer("a.iso")
			w.at(0, a[:1<<20])
			stop := w.busy(a[:1]) // where there are no leases, only what changes is being written
			r.untilSent(1 << 20)
			r.until("it to be said that it is being written", func(s *Snapshot) bool {
				f := fileIn(s, "a.iso")
				return f != nil && f.State == StateSettling && f.Problem.Code == CodeWriting && f.Progress != nil
			})
			if names := r.remote.names(); len(names) > 0 {
				t.Errorf("volumes %q of a file that is not finished", names)
			}
			if in := r.journal.record("a").Intent; in != nil {
				t.Errorf("the journal has an intent before anything can come of it: %+v", in)
			}
			stop()
			w.rest(a)
			r.untilState("a.iso", StatePresent)
			r.good("a", a)
			r.counts(1, 0)
		})
	}
}

// TestEarlyRewritten: bytes that were sent already are written again, which many programs do at the very end. Nothing of
// what was sent ever counts.
func TestEarlyRewritten(t *testing.T) {
	r := newEarlyRig(t, nil).start()
	a := isoImage(1000, "a")
	w := r.writer("a.iso")
	w.at(0, bytes.Replace(a, a[100<<10:101<<10], make([]byte, 1<<10), 1)[:1<<20])
	r.untilSent(1 << 20)
	w.at(100<<10, a[100<<10:])
	w.close()
	r.untilState("a.iso", StatePresent)
	r.good("a", a)
	r.counts(1, 1)
}

// TestEarlyEnds: whatever ends the writing but its end, nothing comes of what was sent, and nothing stays of it.
func TestEarlyEnds(t *testing.T) {
	a := isoImage(1000, "a")
	for _, c := range []struct {
		name string
		do   func(w *writer)
		code Code // that a.iso is held with; "" = it is not there
	}{
		{"its writer dies", func(w *writer) { w.close() }, CodeIncomplete},
		{"removed", func(w *writer) { _ = os.Remove(w.f.Name()) }, ""},
		{"renamed", func(w *writer) { _ = os.Rename(w.f.Name(), w.f.Name()+".part") }, ""},
		{"truncated", func(w *writer) { _ = w.f.Truncate(1000) }, CodeWriting},
		{"another file in its place", func(w *writer) {
			path := filepath.Join(w.folder, "other")
			_ = os.WriteFile(path, a[:500<<10], 0o600)
			_ = os.Rename(path, w.f.Name())
		}, CodeIncomplete},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newEarlyRig(t, nil).start()
			w := r.begun(a)
			c.do(w)
			r.until("the end of the early upload", func(s *Snapshot) bool {
				f := fileIn(s, "a.iso")
				settled := c.code == "" && f == nil || f != nil && f.Problem != nil && f.Problem.Code == c.code && f.Progress == nil
				return settled && r.jobs() == 0
			})
			r.counts(1, 0)
			if names := r.remote.names(); len(names) > 0 {
				t.Errorf("volumes %q", names)
			}
			w.close0()
			r.drop("a.iso", a)
			r.untilState("a.iso", StatePresent)
			r.good("a", a)
			if n := r.Snapshot().Totals.Failures; n > 0 {
				t.Errorf("%d failures: an early upload that comes to nothing is none", n)
			}
		})
	}
}

// close0 closes a file that may be closed.
func (w *writer) close0() { _ = w.f.Close() }

// jobs counts what is at work.
func (r *rig) jobs() (n int) {
	r.t.Helper()
	if err := r.do(r.t.Context(), func(d *decider) error { n = len(d.jobs); return nil }); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// TestEarlyForeign: somebody else makes a volume of that name meanwhile. It is theirs.
func TestEarlyForeign(t *testing.T) {
	for name, noticed := range map[string]bool{"noticed at once": true, "only in the end": false} {
		t.Run(name, func(t *testing.T) {
			r := newEarlyRig(t, nil).start()
			a := isoImage(1000, "a")
			w := r.begun(a)
			put := func() { r.remote.put("a", "", "theirs", int64(len(a))) }
			if noticed {
				r.remote.with(put)
				r.Refresh()
				r.until("the foreign volume", func(s *Snapshot) bool { return len(s.Volumes) == 1 && r.jobs() == 0 })
			} else {
				r.remote.mu.Lock()
				put()
				r.remote.mu.Unlock()
			}
			w.rest(a)
			f := r.untilState("a.iso", StateFailed)
			if f.Problem.Code != CodeForeign {
				t.Errorf("problem %v", f.Problem)
			}
			if v, content, ok := r.remote.get("a"); !ok || content != "theirs" || v.Description != "" {
				t.Errorf("their volume is %+v, %s", v, content)
			}
		})
	}
}

// TestEarlyAndLists: a list that names the file counts as it does for every import.
func TestEarlyAndLists(t *testing.T) {
	a := isoImage(1000, "a")
	for name, c := range map[string]struct {
		sum     string
		require bool
	}{
		"right": {sum: hexOf(a)}, "wrong": {sum: hexOf([]byte("other"))}, "right and required": {sum: hexOf(a), require: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newEarlyRig(t, func(cfg *Config) { cfg.Policy.RequireChecksum = c.require }).start()
			r.drop("a.iso.sha256", []byte(c.sum+"  a.iso\n"))
			w := r.begun(a)
			w.rest(a)
			if c.sum != hexOf(a) {
				f := r.untilState("a.iso", StateFailed)
				if f.Problem.Code != CodeChecksum {
					t.Errorf("problem %v", f.Problem)
				}
				r.until("no volume", func(*Snapshot) bool { return len(r.remote.names()) == 0 })
				return
			}
			r.untilState("a.iso", StatePresent)
			r.good("a", a)
			r.counts(1, 0)
		})
	}
}

// TestNotEarly: what is not worth it, or may not be, is sent when it is finished.
func TestNotEarly(t *testing.T) {
	a := isoImage(1000, "a")
	for _, c := range []struct {
		name   string
		change func(*Config)
		before func(r *rig)
		head   []byte
	}{
		{name: "off", change: func(c *Config) { c.Policy.EarlyFrom = 0 }},
		{name: "too small", change: func(c *Config) { c.Policy.EarlyFrom = 3 << 20 }},
		{name: "a volume of ours has the size", before: func(r *rig) {
			r.drop("b.iso", isoImage(1000, "b"))
			r.untilState("b.iso", StatePresent)
		}},
		{name: "no checksum list", change: func(c *Config) { c.Policy.RequireChecksum = true }},
		{name: "no room", before: func(r *rig) {
			r.remote.with(func() { r.remote.space.Total = 1 << 20 })
			r.Refresh()
			r.until("no room", func(s *Snapshot) bool { return s.Server.Space.Total == 1<<20 })
		}},
		{name: "everybody may write to the folder", before: func(r *rig) { _ = os.Chmod(r.folder, 0o777) }},
		{name: "no image", head: make([]byte, 1<<20)},
		{name: "its volume is there", before: func(r *rig) {
			r.drop("a.iso", isoImage(40, "old"))
			r.untilState("a.iso", StatePresent)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newEarlyRig(t, c.change).start()
			if c.before != nil {
				c.before(r)
			}
			was := r.remote.count("stream")
			w := r.writer("a.iso")
			head := a[:1<<20]
			if c.head != nil {
				head = c.head
			}
			w.at(0, head)
			r.until("it is seen to be written", func(s *Snapshot) bool {
				f := fileIn(s, "a.iso")
				return f != nil && f.Problem != nil && f.Problem.Code == CodeWriting && f.ID.Size == 1<<20
			})
			scans := r.Snapshot().Totals.Scans
			r.until("another look", func(s *Snapshot) bool { return s.Totals.Scans > scans })
			if n := r.remote.count("stream"); n != was {
				t.Errorf("%d early uploads", n-was)
			}
			w.close()
		})
	}
}

// TestEarlyFails: a server that fails an early upload is asked again when the file is finished, and only then.
func TestEarlyFails(t *testing.T) {
	r := newEarlyRig(t, nil)
	r.remote.before = func(call, _ string) error {
		if call == "streaming" && r.remote.streamed.Load() >= 1<<19 {
			return lxd.ErrAway
		}
		return nil
	}
	r.start()
	a := isoImage(1000, "a")
	w := r.writer("a.iso")
	w.at(0, a[:1<<20])
	r.untilSent(1 << 19)
	r.until("it is given up", func(*Snapshot) bool { return r.jobs() == 0 })
	w.rest(a)
	r.untilState("a.iso", StatePresent)
	r.good("a", a)
	r.counts(1, 1)
}

// TestEarlyStops: a stop in the middle of it leaves nothing, and the next life begins anew.
func TestEarlyStops(t *testing.T) {
	r := newEarlyRig(t, nil).start()
	a := isoImage(1000, "a")
	w := r.begun(a)
	r.stop()
	if names := r.remote.names(); len(names) > 0 {
		t.Errorf("volumes %q", names)
	}
	r.remote.streamed.Store(0)
	r.start()
	r.untilSent(1 << 20)
	w.rest(a)
	r.untilState("a.iso", StatePresent)
	r.good("a", a)
	r.counts(2, 0)
}

// TestEarlyDraft: so is a draft of the mount, which has its name only in the end.
func TestEarlyDraft(t *testing.T) {
	r := newEarlyRig(t, nil).start()
	a := isoImage(1000, "a")
	<-r.Ready() // as the mount does: before that, leftovers are swept
	draft, err := r.NewDraft("a.iso")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := draft.Write(a[:1<<20]); err != nil {
		t.Fatal(err)
	}
	r.untilSent(1 << 20)
	if f := fileIn(r.Snapshot(), "a.iso"); f != nil {
		t.Errorf("the folder has %+v", f)
	}
	if _, err := draft.Write(a[1<<20:]); err != nil {
		t.Fatal(err)
	}
	if err := r.Submit(t.Context(), draft, "a.iso", WaitImport); err != nil {
		t.Fatal(err)
	}
	r.good("a", a)
	r.counts(1, 0)
}

// TestEarlyDraftDiscarded: nothing comes of a draft that never gets its name, nor of one that gets another.
func TestEarlyDraftDiscarded(t *testing.T) {
	for name, end := range map[string]func(r *rig, draft *os.File){
		"discarded": func(r *rig, draft *os.File) { r.Discard(draft) },
		"renamed": func(r *rig, draft *os.File) {
			if err := r.Submit(r.t.Context(), draft, "b.iso", WaitStaged); err == nil {
				r.t.Error("half an image was taken")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newEarlyRig(t, nil).start()
			<-r.Ready() // as the mount does: before that, leftovers are swept
			draft, err := r.NewDraft("a.iso")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := draft.Write(isoImage(1000, "a")[:1<<20]); err != nil {
				t.Fatal(err)
			}
			r.untilSent(1 << 20)
			end(r, draft)
			r.Rescan()
			r.until("the end of the early upload", func(*Snapshot) bool { return r.jobs() == 0 })
			if names := r.remote.names(); len(names) > 0 {
				t.Errorf("volumes %q", names)
			}
		})
	}
}

// TestStalledDraft: a draft whose writer pauses is looked at as seldom as any file that somebody has open, and only its
// stat is; one that goes on is looked at more often again.
func TestStalledDraft(t *testing.T) {
	b := newBox(t, func(c *inboxConfig) { c.Early, c.SettleDelay = true, 10*time.Second })
	probes := 0
	probe := b.probe
	b.probe = func(f *os.File) (iso.Info, error) { probes++; return probe(f) }
	img := isoImage(100, "a")
	f := b.draft(img[:50<<10])
	b.expectDraft(f, "a.iso")
	next := func(what string, want time.Duration, wantProbes int) {
		t.Helper()
		r := b.look()
		if got := r.Next.Sub(r.At); got != want || probes != wantProbes || len(r.Drafts) != 1 || r.Drafts[0].Expect != int64(len(img)) {
			t.Errorf("%s: looked at again after %v, want %v; %d probes, want %d; %+v", what, got, want, probes, wantProbes, r.Drafts)
		}
	}
	next("new", growPoll, 1)
	next("the same", growPoll, 1)
	b.pass(growFresh)
	next("stalled", time.Second, 1)
	if _, err := f.WriteAt(img[50<<10:60<<10], 50<<10); err != nil {
		t.Fatal(err)
	}
	next("it goes on", growPoll, 2)
}
