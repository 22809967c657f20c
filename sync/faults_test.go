package sync

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	gosync "sync"
	"sync/atomic"
	"testing"
	"time"

	"isosyncd/lxd"
	"isosyncd/lxd/lxdtest"
)

// bench is a Syncer between a real folder and a real server, or the embedded store. Unlike newRig it may be made by
// several tests at a time.
type bench struct {
	*rig
	server  *lxdtest.Server
	pool    *lxd.Pool      // past the proxy: what is really there
	proxy   *lxdtest.Proxy // between Syncer and server; nil = none
	uploads atomic.Int64   // that the proxy saw begin
}

// newBench makes one whose Syncer reaches the server through a proxy. Nothing but events, wakes and failures makes it
// look again: the periodic scans and lists are too far away to help.
func newBench(t *testing.T, s *lxdtest.Server, stall time.Duration, change func(*Config)) *bench {
	t.Helper()
	b := &bench{server: s, pool: s.Pool(t), proxy: lxdtest.FaultProxy(t, s.Addr())}
	b.proxy.Strike(func(r *http.Request) bool {
		if lxdtest.Imports(r) {
			b.uploads.Add(1)
		}
		return false
	}, -1, 0, nil)
	target := s.Target()
	target.Addr, target.Stall = b.proxy.Addr(), stall
	b.rig = newRigTo(t, target, "default", change)
	return b
}

// newRigTo is a rig whose Syncer dials.
func newRigTo(t *testing.T, target lxd.Target, pool string, change func(*Config)) *rig {
	t.Helper()
	var mu gosync.Mutex
	var clients []*lxd.Client // guarded by mu
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range clients {
			c.Close()
		}
	})
	r := &rig{t: t, folder: t.TempDir()}
	r.cfg = Config{
		Folder: r.folder, StateDir: filepath.Join(t.TempDir(), "state"), Owner: owner,
		Dial: func(ctx context.Context) (Remote, error) {
			c, err := lxd.Dial(ctx, target)
			if err != nil {
				return nil, err
			}
			mu.Lock()
			clients = append(clients, c)
			mu.Unlock()
			p, err := c.Pool(ctx, pool)
			if err != nil {
				return nil, err
			}
			return p, nil
		},
		SettleDelay: 20 * time.Millisecond, ScanInterval: time.Hour, RefreshInterval: time.Hour, MaxUploads: 4,
		Policy: Policy{Replace: ReplaceStaged}, StatusFiles: StatusProblems,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&r.cfg)
	}
	return r
}

// image is isoImage for larger ones: its bytes are noise, which costs less.
func image(sectors int, seed uint64) []byte {
	const head = 19
	b := make([]byte, sectors*2048)
	copy(b, isoImage(head, ""))
	pvd := b[16*2048:]
	binary.LittleEndian.PutUint32(pvd[80:], uint32(sectors)) //nolint:gosec // a few thousand
	binary.BigEndian.PutUint32(pvd[84:], uint32(sectors))    //nolint:gosec // a few thousand
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	_, _ = rand.NewChaCha8(key).Read(b[head*2048:]) // never fails
	return b
}

// untilHas waits until a file is present with these bytes.
func (r *rig) untilHas(name string, data []byte) {
	r.t.Helper()
	digest := hexOf(data)
	r.until(name+" is present with its new bytes", func(s *Snapshot) bool {
		f := fileIn(s, name)
		return f != nil && f.State == StatePresent && f.Digest == digest
	})
}

// right fails unless the server has the volume with these bytes and our mark for them, and no stage of ours is left.
func (b *bench) right(volume string, data []byte) {
	b.t.Helper()
	b.until("no stage is left", func(s *Snapshot) bool {
		return !slices.ContainsFunc(s.Volumes, func(v VolumeStatus) bool { return v.Stage })
	})
	v, err := b.pool.Volume(b.t.Context(), volume)
	if err != nil {
		b.t.Fatal(err)
	}
	m, ours := OurMark(v, b.cfg.Owner)
	if !ours || m.SHA256 != hexOf(data) {
		b.t.Errorf("volume %s has the description %q, want our mark for %s", volume, v.Description, short(hexOf(data)))
	}
	if got := lxdtest.SumFile(b.t, b.server.VolumeFile("default", b.server.Project(), volume), int64(len(data))); fmt.Sprintf("%x", got) != hexOf(data) {
		b.t.Errorf("volume %s has other bytes than the file", volume)
	}
	if in := b.journal.record(volume).Intent; in != nil {
		b.t.Errorf("volume %s is done, but its intent is left: %+v", volume, in)
	}
}

// idle fails if what is done is not done: two more looks at folder and pool must lead to nothing.
func (b *bench) idle() {
	b.t.Helper()
	sent := b.uploads.Load()
	for range 2 {
		before := b.Snapshot().Totals
		b.Rescan()
		b.Refresh()
		b.until("another look", func(s *Snapshot) bool { return s.Totals.Scans > before.Scans && s.Totals.Lists > before.Lists })
	}
	if now := b.uploads.Load(); now != sent {
		b.t.Errorf("%d more uploads, though all was there", now-sent)
	}
}

// together runs a subtest for each row, n at a time: most of them wait most of the time, so that the few processors of
// -parallel are no measure.
func together[T any](t *testing.T, n int, rows []T, name func(T) string, f func(t *testing.T, row T)) {
	t.Helper()
	var wg gosync.WaitGroup
	turns := make(chan struct{}, n)
	for _, row := range rows {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			t.Run(name(row), func(t *testing.T) { f(t, row) })
		})
	}
	wg.Wait()
}

// faultRow is a request, what happens to it once in an import and, if it comes again, once in a replacement.
type faultRow struct {
	name  string
	match lxdtest.Match
	fault lxdtest.Fault
	more  int64         // uploads, at most, beside the two that the bytes are worth
	hangs bool          // only the end of the connection ends it
	stall time.Duration // lxd.Target.Stall; 0 = its default
	real  bool          // what the server does then is the point: also asked of a real one
}

const (
	faultSectors = 256
	faultSize    = faultSectors * 2048 // bytes of each image
)

func volumeGets(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/volumes/custom/")
}

func onPath(p string) lxdtest.Match { return func(r *http.Request) bool { return r.URL.Path == p } }

func faultRows() []faultRow {
	rows := []faultRow{
		{name: "import is cut before its first byte", match: lxdtest.Imports, fault: lxdtest.CutBody(0), more: 2},
		{name: "import is cut after one byte", match: lxdtest.Imports, fault: lxdtest.CutBody(1), more: 2, real: true},
		{name: "import is cut in the middle", match: lxdtest.Imports, fault: lxdtest.CutBody(faultSize / 2), more: 2, real: true},
		{name: "import is cut before its last byte", match: lxdtest.Imports, fault: lxdtest.CutBody(faultSize - 1), more: 2, real: true},
		{name: "import is cut after its last byte", match: lxdtest.Imports, fault: lxdtest.CutBody(faultSize), more: 2, real: true},
		{name: "import stands still", match: lxdtest.Imports, fault: lxdtest.Stall(1 << 16), more: 2, stall: 2 * time.Second},
		{name: "import is not answered", match: lxdtest.Imports, fault: lxdtest.Hang(), more: 2, hangs: true},
		{name: "import 503 with Retry-After", match: lxdtest.Imports, fault: lxdtest.Answer(503, time.Second), more: 2},
		{name: "import 429", match: lxdtest.Imports, fault: lxdtest.Answer(429, 0), more: 2},
		{name: "import lost reply", match: lxdtest.Imports, fault: lxdtest.LoseReply(), more: 2, real: true},
		{name: "import cut reply", match: lxdtest.Imports, fault: lxdtest.CutReply(120), more: 2, real: true},
		// What the pool does not copy is sent again: three times 1, since nobody knows yet in the first.
		{name: "copy 500", match: lxdtest.Copies, fault: lxdtest.Answer(500, 0), more: 1},
		{name: "copy 502 page", match: lxdtest.Copies, fault: lxdtest.AnswerHTML(502), more: 1},
		{name: "copy reset", match: lxdtest.Copies, fault: lxdtest.Reset(), more: 1},
		{name: "copy lost reply", match: lxdtest.Copies, fault: lxdtest.LoseReply(), more: 1, real: true},
		{name: "copy is not answered", match: lxdtest.Copies, fault: lxdtest.Hang(), more: 1, hangs: true},
		{name: "wait lost reply", match: lxdtest.Waits, fault: lxdtest.LoseReply(), real: true},
		{name: "delete lost reply", match: lxdtest.Method(http.MethodDelete), fault: lxdtest.LoseReply(), real: true},
		{name: "description lost reply", match: lxdtest.Method(http.MethodPatch), fault: lxdtest.LoseReply(), real: true},
	}
	for _, r := range []struct {
		what  string
		match lxdtest.Match
		more  int64
	}{
		{"import", lxdtest.Imports, 2},
		{"wait", lxdtest.Waits, 0},
		{"look", volumeGets, 0},
		{"list", lxdtest.Lists, 0},
		{"description", lxdtest.Method(http.MethodPatch), 0},
		{"delete", lxdtest.Method(http.MethodDelete), 0},
		{"hello", onPath("/1.0"), 0},
		{"pool", onPath("/1.0/storage-pools/default"), 0},
		{"room", onPath("/1.0/storage-pools/default/resources"), 0},
	} {
		rows = append(rows,
			faultRow{name: r.what + " 500", match: r.match, fault: lxdtest.Answer(500, 0), more: r.more},
			faultRow{name: r.what + " 502 page", match: r.match, fault: lxdtest.AnswerHTML(502), more: r.more},
			faultRow{name: r.what + " reset", match: r.match, fault: lxdtest.Reset(), more: r.more},
			faultRow{name: r.what + " hangs", match: r.match, fault: lxdtest.Hang(), more: r.more, hangs: true},
		)
	}
	return rows
}

// TestFaultyTransport (S3, S4, S5): whatever happens to any request of an import and of a replacement, the bytes get
// there, with the uploads that are needed and few requests.
func TestFaultyTransport(t *testing.T) {
	rows := faultRows()
	name := func(r faultRow) string { return r.name }
	t.Run("store", func(t *testing.T) {
		together(t, 16, rows, name, func(t *testing.T, row faultRow) { testFault(t, lxdtest.Store(t), row) })
	})
	t.Run("incus", func(t *testing.T) {
		s := lxdtest.Incus(t) // one for all: the rows have nothing in common but the pool
		real := slices.DeleteFunc(rows, func(r faultRow) bool { return !r.real })
		together(t, 8, real, name, func(t *testing.T, row faultRow) { testFault(t, s, row) })
	})
}

func testFault(t *testing.T, s *lxdtest.Server, row faultRow) {
	volume := strings.ReplaceAll(row.name, " ", "-")
	b := newBench(t, s, row.stall, func(c *Config) { c.Owner = volume })
	stop := b.cutHangs(row.hangs)
	defer stop()
	struck := b.proxy.Hits()
	b.proxy.Strike(row.match, 1, 0, row.fault)
	b.start()
	file := volume + ".iso"
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	first, second := image(faultSectors, seed), image(faultSectors, seed+1)
	b.drop(file, first)
	b.untilHas(file, first)
	b.right(volume, first)
	if b.proxy.Hits() > struck {
		b.proxy.Strike(row.match, 1, 0, row.fault)
	}
	b.drop(file, second)
	b.untilHas(file, second)
	b.right(volume, second)
	b.idle()
	requests := len(b.proxy.Requests())
	t.Logf("%d uploads, %d requests", b.uploads.Load(), requests)
	if b.proxy.Hits() == struck {
		t.Error("the fault was never met")
	}
	if n := b.uploads.Load(); n < 2 || n > 2+row.more {
		t.Errorf("%d uploads, want 2 to %d", n, 2+row.more)
	}
	// An import and a replacement take some 40; each fault costs a few looks.
	if requests > 120 {
		t.Errorf("%d requests:\n%s", requests, strings.Join(b.proxy.Requests(), "\n"))
	}
}

// cutHangs breaks all connections whenever a fault struck that nothing else ends.
func (b *bench) cutHangs(hangs bool) (stop func()) {
	if !hangs {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	before := b.proxy.Hits()
	go func() {
		defer close(ended)
		for cut := before; ; {
			if n := b.proxy.Hits(); n > cut {
				cut = n
				b.proxy.Refuse()
				if err := b.proxy.Accept(); err != nil {
					b.t.Errorf("proxy: %v", err)
				}
			}
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// TestEventsAreHints (S16): events that are lost, come twice, or cannot be had at all change nothing but how soon a
// change on the server is seen, and doubled ones do not double the lists.
func TestEventsAreHints(t *testing.T) {
	type row struct {
		name    string
		copies  int
		refuse  bool
		refresh time.Duration
	}
	rows := []row{
		{name: "lost", copies: 0, refresh: 300 * time.Millisecond},
		{name: "twenty times", copies: 20, refresh: time.Hour},
		{name: "refused", copies: 1, refuse: true, refresh: 300 * time.Millisecond},
		{name: "cut", copies: 1, refresh: time.Hour},
	}
	together(t, len(rows), rows, func(r row) string { return r.name }, func(t *testing.T, row row) {
		b := newBench(t, lxdtest.Store(t), 0, func(c *Config) { c.RefreshInterval = row.refresh })
		b.proxy.OnEvent(func(lxdtest.Message) int { return row.copies })
		if row.refuse {
			b.proxy.Strike(lxdtest.Events, -1, 0, lxdtest.Reset())
		}
		b.start()
		first, second := isoImage(40, "1"), isoImage(44, "2")
		b.drop("a.iso", first)
		b.untilHas("a.iso", first)
		b.drop("a.iso", second)
		b.untilHas("a.iso", second)
		b.right("a", second)
		if row.name == "cut" {
			streams := b.Snapshot().Server.Reconnect
			b.proxy.CutEvents()
			b.until("another stream", func(s *Snapshot) bool { return s.Server.Events && s.Server.Reconnect > streams })
		}
		lists, requests := b.Snapshot().Totals.Lists, len(b.proxy.Requests())
		if err := b.pool.Delete(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		f := b.untilState("a.iso", StateFailed)
		if f.Problem.Code != CodeRemoved {
			t.Errorf("problem %v", f.Problem)
		}
		if n := b.uploads.Load(); n != 2 {
			t.Errorf("%d uploads", n)
		}
		if row.refresh == time.Hour {
			if n := b.Snapshot().Totals.Lists - lists; n > 4 {
				t.Errorf("%d lists for one change", n)
			}
			if n := len(b.proxy.Requests()) - requests; n > 12 {
				t.Errorf("%d requests for one change", n)
			}
		}
	})
}

// away reports in the log what a person would see while a server is away.
func (b *bench) untilAway() {
	b.t.Helper()
	b.until("the server is away", func(s *Snapshot) bool { return !s.Server.Online && s.Server.Problem != nil })
}

func (b *bench) mustNotExist(names ...string) {
	b.t.Helper()
	for _, n := range names {
		if _, err := os.Lstat(n); err == nil {
			b.t.Errorf("%s is left", n)
		}
	}
}
