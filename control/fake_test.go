package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	gosync "sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"isosyncd/iso"
	"isosyncd/lxd"
	isosync "isosyncd/sync"
)

func TestMain(m *testing.M) {
	if f := helpers[os.Getenv("CONTROL_TEST_HELPER")]; f != nil {
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// helpers are what a child process of a test does instead of testing.
var helpers = map[string]func() error{"connect": helpConnect, "activated": helpActivated}

// fakeHeart is a heart whose snapshots the test makes.
type fakeHeart struct {
	mu    gosync.Mutex
	snap  *isosync.Snapshot // guarded by mu
	next  chan struct{}     // guarded by mu; closed when snap is not the newest any more
	alive time.Time         // guarded by mu
	asked []string          // guarded by mu
	err   error             // guarded by mu; of Retry and Adopt
	first func()            // guarded by mu; what Adopt does first
}

var _ Heart = (*fakeHeart)(nil)

func newFakeHeart(s isosync.Snapshot) *fakeHeart {
	h := &fakeHeart{alive: time.Now()}
	h.publish(s)
	return h
}

func (h *fakeHeart) publish(s isosync.Snapshot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next != nil {
		close(h.next)
	}
	h.next = make(chan struct{})
	h.snap = s.WithNext(h.next)
}

func (h *fakeHeart) note(format string, args ...any) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = append(h.asked, fmt.Sprintf(format, args...))
	return h.err
}

func (h *fakeHeart) refuseWith(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
}

func (h *fakeHeart) requests() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.asked...)
}

func (h *fakeHeart) Snapshot() *isosync.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.snap
}

func (h *fakeHeart) Alive() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.alive
}

func (h *fakeHeart) Rescan()  { _ = h.note("rescan") }
func (h *fakeHeart) Refresh() { _ = h.note("refresh") }

func (h *fakeHeart) Retry(_ context.Context, name string) error { return h.note("retry %q", name) }

func (h *fakeHeart) hold(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.first = f
}

func (h *fakeHeart) Adopt(ctx context.Context, volume string) error {
	h.mu.Lock()
	first := h.first
	h.mu.Unlock()
	if first != nil {
		first()
	}
	return errors.Join(ctx.Err(), h.note("adopt %q", volume))
}

// logBuffer is a log that a test reads while others write.
type logBuffer struct {
	mu  gosync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// served is a socket that answers until the test ends.
type served struct {
	*Socket
	path string
	log  *logBuffer
	stop func() // returns when Serve did
}

// serveHeart starts a Socket on a path of its own; change may set its fields.
func serveHeart(t *testing.T, h Heart, change func(*Socket)) *served {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.sock")
	ln, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, h, ln, path, change)
}

func serveOn(t *testing.T, h Heart, ln net.Listener, path string, change func(*Socket)) *served {
	t.Helper()
	log := &logBuffer{}
	s := &served{path: path, log: log, Socket: &Socket{
		Heart: h, Metrics: NewMetrics(h),
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}}
	if change != nil {
		change(s.Socket)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	var once gosync.Once
	s.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
	}
	t.Cleanup(s.stop)
	return s
}

func (s *served) dial(t *testing.T) *Client {
	c := Dial(s.path)
	t.Cleanup(c.Close)
	return c
}

// eventually polls until ok, or fails the test after a minute.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatal("not within a minute: " + what)
}

var epoch = time.Date(2026, 11, 25, 15, 4, 5, 0, time.UTC)

const digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

// sample has one of everything.
func sample() isosync.Snapshot {
	inUse := &isosync.Problem{
		Code: isosync.CodeInUse, Text: "win.iso is new, but its volume win is in use by profile default",
		Remedy: "detach it there; it goes ahead by itself when it is free", Waits: true,
	}
	return isosync.Snapshot{
		At: epoch, Folder: "/srv/iso-drop", Owner: "host:/srv/iso-drop",
		Server: isosync.ServerStatus{
			Online: true, Since: epoch.Add(-time.Hour), Listed: epoch.Add(-3 * time.Second),
			Server: lxd.Server{Vendor: "incus", Version: "6.0.4", Name: "host", Addr: "unix:/var/lib/incus/unix.socket"},
			Pool:   "default", Driver: "dir", Project: "default", Space: lxd.Space{Used: 12 << 30, Total: 50 << 30},
			Events: true, Reconnect: 3,
		},
		Files: []isosync.FileStatus{
			{
				Name: "debian.iso", Volume: "debian", State: isosync.StatePresent, Since: epoch.Add(-time.Minute),
				ID: isosync.Identity{Size: 659554304}, Digest: digest,
				Info: iso.Info{Label: "Debian 12.5.0 amd64 n", Formats: []string{"iso9660"}, BootBIOS: true, BootUEFI: true},
			},
			{
				Name: "new\xff.iso", Volume: "new", State: isosync.StateUploading, Since: epoch.Add(-10 * time.Second),
				ID:       isosync.Identity{Size: 4 << 30},
				Progress: &isosync.Progress{Done: 1 << 30, Total: 4 << 30, Started: epoch.Add(-10 * time.Second)},
			},
			{
				Name: "win.iso", Volume: "win", State: isosync.StateWaiting, Problem: inUse, Since: epoch.Add(-time.Hour),
				ID: isosync.Identity{Size: 5 << 30}, Digest: digest, Attempts: 2, NotBefore: epoch.Add(time.Minute),
			},
		},
		Volumes: []isosync.VolumeStatus{
			{
				Volume: lxd.Volume{Name: "debian", ContentType: "iso", Size: 659554304, CreatedAt: epoch.Add(-time.Hour)},
				Ours:   true, Digest: digest, File: "debian.iso", Human: "Debian 12.5.0 amd64 n",
			},
			{Volume: lxd.Volume{Name: "theirs", ContentType: "iso", Size: 2048, UsedBy: []string{"/1.0/instances/vm1"}}},
			{Volume: lxd.Volume{Name: "win", ContentType: "iso", Size: 4 << 30, UsedBy: []string{"/1.0/profiles/default"}}, Ours: true},
		},
		Totals: isosync.Totals{
			Imports: 7, Copies: 1, Replaced: 2, Deleted: 3, Failures: 4, BytesSent: 1 << 34, BytesHashed: 1 << 35,
			HashSeconds: 12.5, UploadSeconds: 30.25, StoreSeconds: 60, Scans: 100, Lists: 50,
		},
	}
}

var errTest = errors.New("test")
