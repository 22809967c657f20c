package sync

import (
	"cmp"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"isosyncd/lxd/lxdtest"
)

// faultRow is a request, what happens to it once in an import and, if it comes again, once in a replacement.
type faultRow struct {
	name  string
	match lxdtest.Match
	fault lxdtest.Fault
	more  int64         // uploads, at most, beside the two that the bytes are worth
	hangs bool          // only the end of the connection ends it
	stall time.Duration // lxd.Target.Stall; 0 = its default
	size  int           // sectors; 0 = faultSectors
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
		{
			name: "import stands still", match: lxdtest.Imports, fault: lxdtest.Stall(1 << 16), more: 2, stall: 2 * time.Second,
			// More than what socket buffers take without anybody at the other end.
			size: 4096,
		},
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
	inMemory(t)
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
	first, second := image(cmp.Or(row.size, faultSectors), seed), image(cmp.Or(row.size, faultSectors), seed+1)
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

// TestEventsAreHints (S16): events that are lost, come twice, or cannot be had at all change nothing but how soon a
// change on the server is seen, and doubled ones do not double the lists.
func TestEventsAreHints(t *testing.T) {
	inMemory(t)
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
