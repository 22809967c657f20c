package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	isosync "isosyncd/sync"
)

func TestStatusRoundTrip(t *testing.T) {
	h := newFakeHeart(sample())
	c := serveHeart(t, h, nil).dial(t)
	got, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := FromSnapshot(h.Snapshot())
	want.Files[1].Name = "new\uFFFD.iso" // JSON has no other way; RawName has the bytes
	if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(File{})); d != "" {
		t.Error(d)
	}
	if name := got.Files[1].RealName(); name != "new\xff.iso" {
		t.Errorf("real name is %q", name)
	}
}

// The file in testdata is what scripts rest on: a field that changes its name or meaning there breaks them.
func TestStatusFormat(t *testing.T) {
	s := sample()
	b, err := json.MarshalIndent(FromSnapshot(&s), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	golden := filepath.Join("testdata", "status.json")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(b)); d != "" {
		t.Error(d)
	}
}

// An empty list is [], never null: scripts iterate over it.
func TestStatusEmpty(t *testing.T) {
	b, err := json.Marshal(FromSnapshot(&isosync.Snapshot{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"files":[]`, `"volumes":[]`} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("no %s in %s", want, b)
		}
	}
	if bytes.Contains(b, []byte("0001-01-01")) && !bytes.HasPrefix(b, []byte(`{"version":1,"at":"0001-01-01`)) {
		t.Errorf("a time that is not known is shown: %s", b)
	}
}

func TestNeedsPerson(t *testing.T) {
	away := &isosync.Problem{Code: isosync.CodeAway, Text: "the server is away", Waits: true}
	denied := &isosync.Problem{Code: isosync.CodeDenied, Text: "denied"}
	writing := &isosync.Problem{Code: isosync.CodeWriting, Waits: true}
	server := &isosync.Problem{Code: isosync.CodeServer, Waits: true}
	full := &isosync.Problem{Code: isosync.CodeNoSpace, Waits: true}
	file := func(p *isosync.Problem) isosync.FileStatus { return isosync.FileStatus{Problem: p} }
	for name, c := range map[string]struct {
		snap isosync.Snapshot
		want int
	}{
		"nothing":                {isosync.Snapshot{Files: []isosync.FileStatus{file(nil)}}, 0},
		"ends by itself":         {isosync.Snapshot{Files: []isosync.FileStatus{file(writing), file(server)}}, 0},
		"full pool":              {isosync.Snapshot{Files: []isosync.FileStatus{file(full), file(writing)}}, 1},
		"failed":                 {isosync.Snapshot{Files: []isosync.FileStatus{file(denied), file(full)}}, 2},
		"one server, many files": {isosync.Snapshot{Server: isosync.ServerStatus{Problem: away}, Files: []isosync.FileStatus{file(away), file(away)}}, 1},
		"folder":                 {isosync.Snapshot{Problem: &isosync.Problem{Code: isosync.CodeFolder, Text: "missing"}}, 1},
		"volume":                 {isosync.Snapshot{Volumes: []isosync.VolumeStatus{{Problem: denied}}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			if got := FromSnapshot(&c.snap).NeedsPerson; got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestProgress(t *testing.T) {
	p := fromProgress(&isosync.Progress{Done: 100, Total: 400, Started: epoch}, epoch.Add(10*time.Second))
	if p.BytesPerSecond != 10 || p.LeftSeconds != 30 || p.ElapsedSeconds != 10 {
		t.Errorf("%+v", p)
	}
	// A clock that was set back, and a phase without an end in sight.
	p = fromProgress(&isosync.Progress{Started: epoch.Add(time.Hour)}, epoch)
	if p.BytesPerSecond != 0 || p.LeftSeconds != 0 || p.ElapsedSeconds != 0 {
		t.Errorf("%+v", p)
	}
}

func TestRequestsReachTheHeart(t *testing.T) {
	h := newFakeHeart(sample())
	c := serveHeart(t, h, nil).dial(t)
	ctx := t.Context()
	for _, err := range []error{
		c.Retry(ctx, "debian.iso"), c.Retry(ctx, "new\xff.iso"), c.Adopt(ctx, "theirs"), c.Rescan(ctx), c.Health(ctx),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	want := []string{`retry "debian.iso"`, `retry "new\xff.iso"`, `adopt "theirs"`, "rescan", "refresh"}
	if got := h.requests(); !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
}

func TestRefusalsKeepTheirMeaning(t *testing.T) {
	h := newFakeHeart(sample())
	c := serveHeart(t, h, nil).dial(t)
	h.refuseWith(fmt.Errorf("wrapped: %w", &isosync.Problem{Code: isosync.CodeForeign, Text: "not ours", Remedy: "rename it"}))
	var p *Problem
	if err := c.Adopt(t.Context(), "v"); !errors.As(err, &p) || *p != (Problem{"foreign", "not ours", "rename it", false, true}) {
		t.Errorf("got %v", err)
	}
	h.refuseWith(errTest)
	if err := c.Retry(t.Context(), "v"); !errors.As(err, &p) || p.Code != "server" || !p.Waits || p.Text != "test" {
		t.Errorf("got %v", err)
	}
}

// raw sends a request as anybody could.
func raw(t *testing.T, path, method, url, body string) (status int, answer string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://x"+url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestBadRequests(t *testing.T) {
	h := newFakeHeart(sample())
	s := serveHeart(t, h, nil)
	for _, c := range []struct {
		method, url, body string
		status            int
	}{
		{"POST", "/1/retry", `{"nam":"x"}`, 400},
		{"POST", "/1/retry", `{"name":"x"} {}`, 400},
		{"POST", "/1/retry", `{"name":"` + strings.Repeat("x", maxRequest) + `"}`, 400},
		{"POST", "/1/retry", ``, 400},
		{"GET", "/1/retry", ``, 405},
		{"GET", "/1/adopt?volume=v", ``, 405},
		{"POST", "/1/status", ``, 405},
		{"GET", "/2/status", ``, 404},
		{"GET", "/debug/pprof/cmdline", ``, 404},
	} {
		if status, answer := raw(t, s.path, c.method, c.url, c.body); status != c.status {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.url, status, answer, c.status)
		}
	}
	if asked := h.requests(); len(asked) > 0 {
		t.Errorf("the heart was asked: %q", asked)
	}
}

func TestPprof(t *testing.T) {
	s := serveHeart(t, newFakeHeart(sample()), nil)
	if status, body := raw(t, s.path, "GET", "/debug/pprof/goroutine?debug=1", ""); status != 200 || !strings.Contains(body, "goroutine profile") {
		t.Errorf("%d %.200s", status, body)
	}
}

func TestHealth(t *testing.T) {
	h := newFakeHeart(sample())
	c := serveHeart(t, h, nil).dial(t)
	if err := c.Health(t.Context()); err != nil {
		t.Error(err)
	}
	h.mu.Lock()
	h.alive = time.Now().Add(-2 * deadAfter)
	h.mu.Unlock()
	if err := c.Health(t.Context()); err == nil || !strings.Contains(err.Error(), "stuck since") {
		t.Errorf("a stuck heart is %v", err)
	}
}

func TestWatch(t *testing.T) {
	h := newFakeHeart(sample())
	s := serveHeart(t, h, nil)
	c := s.dial(t)
	seen := make(chan int64)
	done := make(chan error, 1)
	go func() {
		done <- c.Watch(t.Context(), func(st *Status) error {
			seen <- st.Totals.Scans
			return nil
		})
	}()
	if first := <-seen; first != 100 {
		t.Fatalf("first state is %d", first)
	}
	// Many changes may be told as one; the newest always comes.
	for n := int64(101); n <= 200; n++ {
		snap := sample()
		snap.Totals.Scans = n
		h.publish(snap)
	}
	told := 0
	for n := range seen {
		told++
		if n == 200 {
			break
		}
	}
	if told > 50 {
		t.Errorf("100 changes in a burst were told %d times", told)
	}
	s.stop()
	if err := <-done; !errors.Is(err, ErrNotRunning) {
		t.Errorf("when the daemon stops, a watcher gets %v", err)
	}
}

func TestWatchEnds(t *testing.T) {
	c := serveHeart(t, newFakeHeart(sample()), nil).dial(t)
	if err := c.Watch(t.Context(), func(*Status) error { return errTest }); !errors.Is(err, errTest) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := c.Watch(ctx, func(*Status) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A watcher that does not read is dropped, and holds nobody up.
func TestWatcherThatDoesNotRead(t *testing.T) {
	snap := sample()
	for len(snap.Files) < 20_000 { // more than socket buffers take
		snap.Files = append(snap.Files, snap.Files[0])
	}
	h := newFakeHeart(snap)
	s := serveHeart(t, h, func(s *Socket) { s.patience = 50 * time.Millisecond })
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /1/changes HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the watcher is dropped", func() bool {
		return strings.Contains(s.log.String(), "a watcher of the control socket is gone")
	})
}

func TestNotRunning(t *testing.T) {
	dir := t.TempDir()
	c := Dial(filepath.Join(dir, "none"))
	defer c.Close()
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no socket: %v", err)
	}
	ln, err := Listen(t.Context(), filepath.Join(dir, "dead"))
	if err != nil {
		t.Fatal(err)
	}
	leaveSocket(ln)
	dead := Dial(filepath.Join(dir, "dead"))
	defer dead.Close()
	if err := dead.Watch(t.Context(), nil); !errors.Is(err, ErrNotRunning) {
		t.Errorf("dead socket: %v", err)
	}
}

// Nobody keeps a daemon from stopping.
func TestStopWithWatchers(t *testing.T) {
	s := serveHeart(t, newFakeHeart(sample()), nil)
	c := s.dial(t)
	first := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- c.Watch(context.Background(), func(*Status) error { close(first); return nil })
	}()
	<-first
	s.stop() // hangs here if it does
	if err := <-done; !errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
	if _, err := os.Lstat(s.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// Every field of a wire struct has a snake_case name, and none can be forgotten.
func TestFieldNames(t *testing.T) {
	var walk func(reflect.Type)
	seen := map[reflect.Type]bool{}
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] || typ == reflect.TypeFor[time.Time]() {
			return
		}
		seen[typ] = true
		for i := range typ.NumField() {
			f := typ.Field(i)
			if !f.IsExported() {
				continue
			}
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" || name != strings.ToLower(name) || strings.ContainsAny(name, " -") {
				t.Errorf("%s.%s is called %q", typ, f.Name, name)
			}
			walk(f.Type)
		}
	}
	walk(reflect.TypeFor[Status]())
	if len(seen) < 8 {
		t.Errorf("only %d structs were looked at", len(seen))
	}
}

// Who begins a request and does not finish it is dropped; who waits for a long answer is not.
func TestSlowRequests(t *testing.T) {
	h := newFakeHeart(sample())
	s := serveHeart(t, h, func(s *Socket) { s.patience = 50 * time.Millisecond })
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /1/retry HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{\"na"); err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(conn); !bytes.HasPrefix(b, []byte("HTTP/1.1 400")) {
		t.Errorf("half a request is answered %q", b)
	}

	began, release := make(chan struct{}), make(chan struct{})
	h.hold(func() { close(began); <-release })
	done := make(chan error, 1)
	c := s.dial(t)
	go func() { done <- c.Adopt(t.Context(), "v") }()
	<-began
	select {
	case err := <-done:
		t.Errorf("a long request ended with %v", err)
	case <-time.After(10 * s.patience):
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
