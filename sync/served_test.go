package sync

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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
	target  lxd.Target     // that the Syncer dials
	uploads atomic.Int64   // that the proxy saw begin
}

// newBench makes one whose Syncer reaches the server through a proxy. Nothing but events, wakes and failures makes it
// look again: the periodic scans and lists are too far away to help.
func newBench(t *testing.T, s *lxdtest.Server, stall time.Duration, change func(*Config)) *bench {
	t.Helper()
	b := &bench{server: s, pool: s.Pool(t), proxy: lxdtest.FaultProxy(t, s.Addr()), target: s.Target()}
	b.proxy.Strike(func(r *http.Request) bool {
		if lxdtest.Imports(r) {
			b.uploads.Add(1)
		}
		return false
	}, -1, 0, nil)
	b.target.Addr, b.target.Stall = b.proxy.Addr(), stall
	b.rig = newRigTo(t, &b.target, "default", change)
	return b
}

// newRigTo is a rig whose Syncer dials.
func newRigTo(t *testing.T, target *lxd.Target, pool string, change func(*Config)) *rig {
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
			c, err := lxd.Dial(ctx, *target)
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

// tap stands between a client and a server, and lets a test act, or wait, while the body of an upload moves.
type tap struct {
	addr string
	// hook is called before each piece of an upload's body is read, with the bytes that went before. It may block until
	// ctx ends, which it does when the client is gone.
	hook func(ctx context.Context, volume string, at int64)
}

// newTap starts one for a unix: address, until the end of the test.
func newTap(t *testing.T, upstream string, hook func(ctx context.Context, volume string, at int64)) *tap {
	t.Helper()
	dir, err := os.MkdirTemp("", "it") // a short name: see lxdtest
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	p := &tap{addr: "unix:" + socket, hook: hook}
	next := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(upstream, "unix:"))
		},
		DisableKeepAlives: true, ExpectContinueTimeout: time.Minute,
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "server"
			if lxdtest.Imports(r.In) {
				r.Out.Body = &tapped{ReadCloser: r.Out.Body, ctx: r.In.Context(), tap: p, volume: r.In.Header.Get("X-LXD-Name") + r.In.Header.Get("X-Incus-Name")}
			}
		},
		Transport: next, FlushInterval: -1,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:     log.New(io.Discard, "", 0),
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: proxy, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-served
		next.CloseIdleConnections()
		_ = os.RemoveAll(dir)
	})
	return p
}

// tapped is the body of an upload.
type tapped struct {
	io.ReadCloser
	ctx    context.Context //nolint:containedctx // of the request that it is the body of
	tap    *tap
	volume string
	at     int64
}

func (b *tapped) Read(p []byte) (int, error) {
	const piece = 32 << 10
	b.tap.hook(b.ctx, b.volume, b.at)
	n, err := b.ReadCloser.Read(p[:min(len(p), piece)])
	b.at += int64(n)
	return n, err
}

// audit proves, until stop is called, that no marked volume of the server's pool "default" holds other bytes than its
// mark says, whoever's it is. Images must be whole multiples of 8 KiB: the size of others is rounded up by real servers.
// stop returns the digests of what it read. A volume's bytes never change, so that each is read once.
func audit(t *testing.T, s *lxdtest.Server, pool *lxd.Pool) (stop func() []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	read := map[[3]string]bool{}
	var digests []string
	key := func(v lxd.Volume) [3]string { return [3]string{v.Name, v.Incarnation(), v.Description} }
	look := func(v lxd.Volume) {
		_, m, marked := ParseMark(v.Description)
		if !marked || read[key(v)] {
			return
		}
		data, err := os.ReadFile(volumeFile(s, v.Name))
		if err != nil {
			return // deleted since it was listed
		}
		now, err := pool.Volume(ctx, v.Name)
		if err != nil || key(now) != key(v) {
			return // another one since
		}
		read[key(v)] = true
		digests = append(digests, hexOf(data))
		if int64(len(data)) != v.Size || hexOf(data) != m.SHA256 {
			t.Errorf("volume %s has %d bytes with the digest %s, and its description is %q", v.Name, len(data), hexOf(data), v.Description)
		}
	}
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			list, err := pool.Volumes(ctx)
			if err == nil {
				for _, v := range list {
					look(v)
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(25 * time.Millisecond):
			}
		}
	}()
	return func() []string {
		cancel()
		<-ended
		return digests
	}
}

// volumeFile is s.VolumeFile for goroutines: it does not fail the test.
func volumeFile(s *lxdtest.Server, name string) string {
	if s.Real() {
		return s.VolumeFile("default", s.Project(), name)
	}
	return filepath.Join(s.Dir(), "store", "pools", "default", s.Project(), name+".iso")
}

// inMemory puts what the test makes from here on into memory, where that can be: it is about order, not about disks, and
// hundreds of fsyncs take longer than all the rest.
func inMemory(t *testing.T) {
	t.Helper()
	const shm = "/dev/shm"
	if f, err := os.CreateTemp(shm, "isosyncd"); err == nil {
		_ = f.Close()
		_ = os.Remove(f.Name())
		t.Setenv("TMPDIR", shm)
	}
}

// seedOf is a new seed, or the one of ISOSYNCD_TEST_SEED; the test's log says which.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("ISOSYNCD_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("ISOSYNCD_TEST_SEED=%d", seed)
	return seed
}
