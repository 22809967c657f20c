package lxdtest

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"isosyncd/store"
)

// Store starts the embedded store, speaking as LXD, in this process and on a unix socket.
func Store(t testing.TB) *Server {
	t.Helper()
	return startStore(t, KindStore, "lxd")
}

// StoreIncus starts the embedded store, speaking as Incus.
func StoreIncus(t testing.TB) *Server {
	t.Helper()
	return startStore(t, KindStoreIncus, "incus")
}

func startStore(t testing.TB, kind Kind, vendor string) *Server {
	t.Helper()
	h := newHome(t)
	b := &embedded{dir: h.dir, vendor: vendor, holds: map[holdAt]*hold{}}
	s := &Server{t: t, kind: kind, dir: h.dir, project: "default", back: b}
	t.Cleanup(b.kill)
	b.start(t)
	s.ready(t)
	return s
}

// embedded is a store that is served.
type embedded struct {
	dir    string
	vendor string

	mu     sync.Mutex
	store  *store.Store  // guarded by mu; nil = it does not run
	server *http.Server  // guarded by mu
	served chan struct{} // guarded by mu; closed when server has ended

	gate  sync.Mutex
	holds map[holdAt]*hold // guarded by gate
}

// holdAt is where operations are held; volume "" = on any.
type holdAt struct {
	point  store.Point
	volume string
}

// hold keeps operations at a point, or fails them there.
type hold struct {
	err      error
	reached  chan struct{}
	once     sync.Once // guards reached
	released chan struct{}
}

func (b *embedded) start(t testing.TB) {
	t.Helper()
	st, err := store.Open(filepath.Join(b.dir, "store"), store.Options{Vendor: b.vendor, Gate: b.pass})
	if err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "unix", filepath.Join(b.dir, "unix.socket"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: st.Handler(), ReadHeaderTimeout: time.Minute}
	served := make(chan struct{})
	b.mu.Lock()
	b.store, b.server, b.served = st, srv, served
	b.mu.Unlock()
	go func() {
		defer close(served)
		_ = srv.Serve(l)
	}()
}

// kill leaves everything on disk as it stands, and cuts all connections. That it is not quite SIGKILL is made good by
// the store's own tests, which do that to a process.
func (b *embedded) kill() {
	b.mu.Lock()
	st, srv, served := b.store, b.server, b.served
	b.store = nil
	b.mu.Unlock()
	if st == nil {
		return
	}
	now, cancel := context.WithCancelCause(context.Background())
	cancel(errKilled)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = st.Close(now) // says errKilled
	}()
	_ = srv.Close()
	<-closed
	<-served
}

var errKilled = errors.New("killed by the test")

func (b *embedded) pid() int { return 0 }

func (b *embedded) file(t testing.TB, pool, project, name string) string {
	t.Helper()
	b.mu.Lock()
	st := b.store
	b.mu.Unlock()
	if st == nil {
		t.Fatal("the store does not run")
	}
	path, err := st.VolumePath(project, pool, name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// pass is the store's gate.
func (b *embedded) pass(p store.Point, volume string, stop <-chan struct{}) error {
	b.gate.Lock()
	h := b.holds[holdAt{p, volume}]
	if h == nil {
		h = b.holds[holdAt{p, ""}]
	}
	b.gate.Unlock()
	if h == nil {
		return nil
	}
	h.once.Do(func() { close(h.reached) })
	if h.err != nil {
		return h.err
	}
	select {
	case <-h.released:
	case <-stop:
	}
	return nil
}

// Hold keeps each operation of the embedded store on a volume, "" = on any, at a point until release is called; reached
// is closed when the first one is there. On a real server the test is skipped.
func (s *Server) Hold(p store.Point, volume string) (reached <-chan struct{}, release func()) {
	s.t.Helper()
	h := s.hold(holdAt{p, volume}, &hold{})
	b := s.embedded()
	var once sync.Once
	release = func() {
		once.Do(func() {
			b.gate.Lock()
			delete(b.holds, holdAt{p, volume})
			b.gate.Unlock()
			close(h.released)
		})
	}
	s.t.Cleanup(release)
	return h.reached, release
}

// FailAt fails each operation of the embedded store on a volume, "" = on any, at a point with an error, until FailAt is
// called with nil.
func (s *Server) FailAt(p store.Point, volume string, err error) {
	s.t.Helper()
	if err == nil {
		b := s.embedded()
		b.gate.Lock()
		defer b.gate.Unlock()
		delete(b.holds, holdAt{p, volume})
		return
	}
	s.hold(holdAt{p, volume}, &hold{err: err})
}

func (s *Server) hold(at holdAt, h *hold) *hold {
	h.reached, h.released = make(chan struct{}), make(chan struct{})
	b := s.embedded()
	b.gate.Lock()
	defer b.gate.Unlock()
	b.holds[at] = h
	return h
}

func (s *Server) embedded() *embedded {
	s.t.Helper()
	b, ok := s.back.(*embedded)
	if !ok {
		s.t.Skip("a real server cannot be held at a point")
	}
	return b
}
