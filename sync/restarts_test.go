package sync

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strings"
	gosync "sync"
	"syscall"
	"testing"
	"time"

	"isosyncd/lxd"
	"isosyncd/lxd/lxdtest"
	"isosyncd/store"
)

// restartRow is a moment at which the server dies as by SIGKILL.
type restartRow struct {
	name    string
	kind    lxdtest.Kind
	replace bool          // it dies in a replacement, else in an import
	match   lxdtest.Match // nil = in the middle of an upload's body
	after   bool          // the request was answered by then, though the answer may not arrive
	skip    int           // requests that match and pass before
	more    int64         // uploads, at most, beside those that the bytes are worth
}

func restartRows() []restartRow {
	patch, remove := lxdtest.Method(http.MethodPatch), lxdtest.Method(http.MethodDelete)
	moments := []restartRow{
		{name: "in the middle of an upload", more: 1},
		{name: "while it makes the volume", match: lxdtest.Imports, after: true, more: 1},
		{name: "before the operation is asked for", match: lxdtest.Waits, more: 1},
		{name: "before the mark", match: patch},
		{name: "after the mark", match: patch, after: true},
		{name: "in the middle of a stage", replace: true, more: 1},
		{name: "before the old volume is deleted", replace: true, match: remove},
		{name: "after the old volume is deleted", replace: true, match: remove, after: true},
		{name: "before the copy", replace: true, match: lxdtest.Copies},
		{name: "while it copies", replace: true, match: lxdtest.Copies, after: true},
		{name: "before the copy is marked", replace: true, match: patch, skip: 1},
		{name: "before the stage is deleted", replace: true, match: remove, skip: 1},
	}
	onIncus := map[string]bool{
		"in the middle of an upload": true, "while it makes the volume": true, "after the old volume is deleted": true,
		"while it copies": true,
	}
	var rows []restartRow
	for _, m := range moments {
		m.kind = lxdtest.KindStore
		rows = append(rows, m)
		if m.kind = lxdtest.KindIncus; onIncus[m.name] {
			rows = append([]restartRow{m}, rows...) // they take longest
		}
	}
	return rows
}

func serverOf(t *testing.T, kind lxdtest.Kind) *lxdtest.Server {
	t.Helper()
	if kind == lxdtest.KindIncus {
		return lxdtest.Incus(t)
	}
	return lxdtest.Store(t)
}

// TestServerRestarts (S1, S2): a server that dies at any moment, and comes back, has the right volume in the end. No
// torn one is ever marked, nothing is sent more often than needed, and the event stream is there again.
func TestServerRestarts(t *testing.T) {
	inMemory(t)
	name := func(r restartRow) string { return string(r.kind) + " " + r.name }
	together(t, 6, restartRows(), name, func(t *testing.T, row restartRow) {
		s := serverOf(t, row.kind)
		b := newBench(t, s, 0, nil)
		stop := audit(t, s, b.pool)
		defer stop()
		killed := make(chan struct{})
		var once gosync.Once
		kill := func() { once.Do(func() { s.Kill(); close(killed) }) }
		seed := seedOf(t)
		sectors := 600 // more than quickSize: every step is there
		if s.Real() {
			sectors = 16 << 10 // 32 MiB, so that there is a while to be killed in
		}
		old, data := image(512, seed), image(sectors, seed+1)
		armed := make(chan struct{})
		b.target.Addr = newTap(t, b.proxy.Addr(), func(_ context.Context, _ string, at int64) {
			select {
			case <-armed:
			default:
				return
			}
			if row.match == nil && at >= int64(len(data)/2) {
				kill()
			}
		}).addr
		b.start()
		if row.replace {
			b.drop("a.iso", old)
			b.untilHas("a.iso", old)
			b.right("a", old)
		}
		sent := b.uploads.Load()
		switch {
		case row.match == nil:
		case row.after:
			b.proxy.Strike(row.match, 1, row.skip, lxdtest.After(kill))
		default:
			b.proxy.Strike(row.match, 1, row.skip, lxdtest.Before(kill))
		}
		close(armed)
		b.drop("a.iso", data)
		lxdtest.Eventually(t, "the server to be killed", func() bool {
			select {
			case <-killed:
				return true
			default:
				return false
			}
		})
		s.Restart()
		b.untilHas("a.iso", data)
		b.right("a", data)
		if n := b.uploads.Load() - sent; n < 1 || n > 1+row.more {
			t.Errorf("%d uploads, want 1 to %d", n, 1+row.more)
		}
		b.idle()
		b.until("the event stream", func(s *Snapshot) bool { return s.Server.Events })
		if err := b.pool.Delete(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if f := b.untilState("a.iso", StateFailed); f.Problem.Code != CodeRemoved {
			t.Errorf("problem %v", f.Problem)
		}
	})
}

// TestServerThatDiesUnderUploads (S1): each upload kills the server, or the connection. It is not tried for ever: the
// server may keep the bytes of each. A person may ask for another try.
func TestServerThatDiesUnderUploads(t *testing.T) {
	inMemory(t)
	rows := []restartRow{
		{name: "while it makes the volume", kind: lxdtest.KindIncus, match: lxdtest.Imports, after: true},
		{name: "while it makes the volume", kind: lxdtest.KindStore, match: lxdtest.Imports, after: true},
		{name: "in the middle of an upload", kind: lxdtest.KindStore},
	}
	name := func(r restartRow) string { return string(r.kind) + " " + r.name }
	together(t, len(rows), rows, name, func(t *testing.T, row restartRow) {
		s := serverOf(t, row.kind)
		b := newBench(t, s, 0, nil)
		died := make(chan struct{}, 16)
		kill := func() { s.Kill(); died <- struct{}{} }
		data := image(8<<10, seedOf(t))
		if row.after {
			b.proxy.Strike(row.match, -1, 0, lxdtest.After(kill))
		} else {
			b.proxy.Strike(lxdtest.Imports, -1, 0, lxdtest.CutBody(int64(len(data)/2)))
		}
		b.start()
		b.drop("a.iso", data)
		deaths, limit := 0, time.Now().Add(lxdtest.Limit)
		for given := false; !given; {
			if time.Now().After(limit) {
				t.Fatalf("neither given up nor done after %d uploads and %d deaths", b.uploads.Load(), deaths)
			}
			select {
			case <-died:
				deaths++
				s.Restart()
			case <-time.After(50 * time.Millisecond):
			}
			f := fileIn(b.Snapshot(), "a.iso")
			given = f != nil && f.State == StateRetrying && time.Until(f.NotBefore) > 8*time.Minute
			if n := b.uploads.Load(); n > 3 {
				t.Fatalf("%d uploads, and %d deaths: it does not stop", n, deaths)
			}
		}
		t.Logf("given up for a while after %d uploads and %d deaths", b.uploads.Load(), deaths)
		b.proxy.Disarm()
		if err := b.Retry(t.Context(), "a.iso"); err != nil {
			t.Fatal(err)
		}
		b.untilHas("a.iso", data)
		b.right("a", data)
	})
}

// TestServerFreezes: a server that stops in the middle of things (SIGSTOP) holds up nothing but itself: the folder is
// looked at, states are told, and all goes on when it goes on.
func TestServerFreezes(t *testing.T) {
	inMemory(t)
	rows := []restartRow{
		{name: "in the middle of an upload", more: 1},
		{name: "while it makes the volume", match: lxdtest.Waits},
	}
	together(t, len(rows), rows, func(r restartRow) string { return r.name }, func(t *testing.T, row restartRow) {
		s := lxdtest.Incus(t)
		b := newBench(t, s, 2*time.Second, nil)
		frozen := make(chan struct{})
		var once gosync.Once
		pid := s.PID()
		freeze := func() {
			once.Do(func() {
				if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
					t.Errorf("stop incusd: %v", err)
				}
				close(frozen)
			})
		}
		data := image(4096, seedOf(t))
		b.target.Addr = newTap(t, b.proxy.Addr(), func(_ context.Context, _ string, at int64) {
			if row.match == nil && at >= int64(len(data)/4) {
				freeze()
			}
		}).addr
		if row.match != nil {
			b.proxy.Strike(row.match, 1, 0, lxdtest.Before(freeze))
		}
		b.start()
		b.until("events", func(s *Snapshot) bool { return s.Server.Events })
		b.drop("a.iso", data)
		<-frozen
		turn := b.Alive()
		b.drop("b.iso", []byte(strings.Repeat("no image at all\n", 4096)))
		if f := b.untilState("b.iso", StateFailed); f.Problem.Code != CodeNotISO {
			t.Errorf("problem %v", f.Problem)
		}
		lxdtest.Eventually(t, "another turn of the deciding goroutine", func() bool { return b.Alive().After(turn) })
		if row.match == nil {
			b.until("the upload is given up", func(s *Snapshot) bool { return s.Totals.Failures > 0 })
		}
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		b.untilHas("a.iso", data)
		b.right("a", data)
		if n := b.uploads.Load(); n < 1 || n > 1+row.more {
			t.Errorf("%d uploads", n)
		}
	})
}

// TestSlowOperation (S18): while the server takes its time to store one image, others go on.
func TestSlowOperation(t *testing.T) {
	s := lxdtest.Store(t)
	b := newBench(t, s, 0, nil)
	reached, release := s.Hold(store.PointSynced, "a")
	b.start()
	seed := rand.Uint64()
	a, other := image(64, seed), image(64, seed+1)
	b.drop("a.iso", a)
	<-reached
	b.untilState("a.iso", StateStoring)
	b.drop("b.iso", other)
	b.untilHas("b.iso", other)
	if f := fileIn(b.Snapshot(), "a.iso"); f.State != StateStoring {
		t.Errorf("a.iso is %s", f.State)
	}
	release()
	b.untilHas("a.iso", a)
	b.right("a", a)
	if n := b.uploads.Load(); n != 2 {
		t.Errorf("%d uploads", n)
	}
}

// TestLostFromSight (S2): an operation that nobody can tell the end of is never believed, whatever the list says.
func TestLostFromSight(t *testing.T) {
	r := newRig(t, nil)
	lost := 0
	r.remote.before = func(call, _ string) error {
		if call == "wait" && lost == 0 {
			lost++
			return lxd.ErrUnknown
		}
		return nil
	}
	r.start()
	a := isoImage(40, "a")
	r.drop("a.iso", a)
	r.untilState("a.iso", StatePresent)
	r.good("a", a)
	if n := r.remote.count("import"); n != 2 || r.remote.count("delete") != 1 {
		t.Errorf("%d uploads, %d deletes", n, r.remote.count("delete"))
	}
}
