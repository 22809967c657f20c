package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	gosync "sync"
	"time"

	isosync "isosyncd/sync"
)

// Heart is what the socket shows and steers; *isosync.Syncer is the real one.
type Heart interface {
	// Snapshot never blocks and is never nil.
	Snapshot() *isosync.Snapshot
	// Alive is when the deciding goroutine last took a turn.
	Alive() time.Time
	// Rescan looks at the folder soon, Refresh at the pool.
	Rescan()
	Refresh()
	Retry(ctx context.Context, name string) error
	Adopt(ctx context.Context, volume string) error
}

var _ Heart = (*isosync.Syncer)(nil)

const (
	maxRequest   = 64 << 10         // bytes of a request's body
	ioTimeout    = 30 * time.Second // to read a request, to write an answer or one line of a stream: who is slower is dropped
	changesEvery = 200 * time.Millisecond
	stopTimeout  = 2 * time.Second
	// deadAfter is when a deciding goroutine that took no turn counts as stuck; it takes one every few seconds.
	deadAfter = 60 * time.Second
)

// Socket is what answers on the control socket.
type Socket struct {
	Heart   Heart
	Metrics *Metrics // nil = no /metrics
	Log     *slog.Logger
	// Allow decides about a peer of a unix socket; nil = OwnerOrGroup of the socket.
	Allow func(Peer) bool

	patience time.Duration // with whoever does not read or write; 0 = ioTimeout
}

// Serve answers on ln until ctx ends, and closes ln. Requests at work are cut off then; nil after an orderly stop.
func (s *Socket) Serve(ctx context.Context, ln net.Listener) error {
	allow := s.Allow
	if allow == nil {
		allow = OwnerOrGroup(ln.Addr())
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg gosync.WaitGroup
	defer wg.Wait()
	defer cancel()
	if s.Metrics != nil {
		wg.Go(func() { s.Metrics.Follow(ctx) })
	}
	return serve(ctx, ln, &http.Server{Handler: guard(s.handler(), allow, s.Log), ConnContext: withPeer}, s.Log)
}

// serve runs srv on ln until ctx ends, and closes ln; nil after an orderly stop. Every request's context ends with ctx.
func serve(ctx context.Context, ln net.Listener, srv *http.Server, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	// No ReadTimeout: it would end long answers too, as the context of their requests ends with it.
	srv.ReadHeaderTimeout = 10 * time.Second
	srv.IdleTimeout = 2 * time.Minute
	srv.MaxHeaderBytes = 16 << 10
	srv.BaseContext = func(net.Listener) context.Context { return ctx }
	srv.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	var wg gosync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		<-ctx.Done()
		stop, done := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer done()
		if srv.Shutdown(stop) != nil {
			_ = srv.Close() // who still hangs on is cut off
		}
	})
	err := srv.Serve(ln)
	if ctx.Err() != nil && errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (s *Socket) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /1/status", s.status)
	mux.HandleFunc("GET /1/changes", s.changes)
	mux.HandleFunc("POST /1/retry", s.retry)
	mux.HandleFunc("POST /1/adopt", s.adopt)
	mux.HandleFunc("POST /1/rescan", s.rescan)
	mux.HandleFunc("GET /healthz", health(s.Heart))
	if s.Metrics != nil {
		mux.Handle("GET /metrics", s.Metrics.Handler())
	}
	for path, h := range map[string]http.HandlerFunc{
		"/debug/pprof/": pprof.Index, "/debug/pprof/profile": pprof.Profile, "/debug/pprof/symbol": pprof.Symbol,
		"/debug/pprof/trace": pprof.Trace,
		// Cmdline is left out: it is nobody's business, and here as everywhere arguments are not shown.
	} {
		mux.Handle("GET "+path, ownerOnly(h))
	}
	return mux
}

func (s *Socket) status(w http.ResponseWriter, r *http.Request) {
	s.reply(w, r, FromSnapshot(s.Heart.Snapshot()))
}

// changes sends the newest snapshot, then each newer one. Between two there is a pause, so that many changes are one,
// and so that the stream of a large folder takes little of the time.
func (s *Socket) changes(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/jsonl")
	for {
		snap := s.Heart.Snapshot()
		began := time.Now()
		line, err := marshal(FromSnapshot(snap))
		if err == nil {
			err = rc.SetWriteDeadline(time.Now().Add(s.deadline()))
		}
		if err == nil {
			_, err = w.Write(line)
		}
		if err == nil {
			err = rc.Flush()
		}
		if err != nil {
			s.Log.Debug("a watcher of the control socket is gone", "err", err)
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(max(changesEvery, 10*time.Since(began))):
		}
		select {
		case <-r.Context().Done():
			return
		case <-snap.Next():
		}
	}
}

func (s *Socket) deadline() time.Duration {
	if s.patience > 0 {
		return s.patience
	}
	return ioTimeout
}

func (s *Socket) retry(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Name    string `json:"name"`
		RawName []byte `json:"raw_name"`
	}
	if !s.decode(w, r, &q) {
		return
	}
	if len(q.RawName) > 0 {
		q.Name = string(q.RawName)
	}
	s.done(w, r, s.Heart.Retry(r.Context(), q.Name))
}

func (s *Socket) adopt(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Volume string `json:"volume"`
	}
	if !s.decode(w, r, &q) {
		return
	}
	// Adopt hashes the whole file before it answers: the answer has no deadline of its own.
	s.done(w, r, s.Heart.Adopt(r.Context(), q.Volume))
}

func (s *Socket) rescan(w http.ResponseWriter, r *http.Request) {
	s.Heart.Rescan()
	s.Heart.Refresh()
	s.done(w, r, nil)
}

// decode reads a small JSON body. Unknown fields are refused: a misspelt one must not do something else.
func (s *Socket) decode(w http.ResponseWriter, r *http.Request, into any) bool {
	rc := http.NewResponseController(w)
	err := rc.SetReadDeadline(time.Now().Add(s.deadline()))
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	d.DisallowUnknownFields()
	if err == nil {
		err = d.Decode(into)
	}
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the first JSON document")
		}
	}
	if err == nil {
		// Else it stays: what is left of a body that nobody sends must not be waited for.
		err = rc.SetReadDeadline(time.Time{})
	}
	if err != nil {
		s.fail(w, r, http.StatusBadRequest, &Problem{
			Code: "request", Text: "the request cannot be read: " + err.Error(), Remedy: "see the documentation of the control socket",
		})
	}
	return err == nil
}

// done answers a request that changes something.
func (s *Socket) done(w http.ResponseWriter, r *http.Request, err error) {
	if err == nil {
		s.reply(w, r, struct{}{})
		return
	}
	var p *isosync.Problem
	if !errors.As(err, &p) {
		s.fail(w, r, http.StatusServiceUnavailable, &Problem{
			Code: string(isosync.CodeServer), Text: err.Error(), Remedy: "try again", Waits: true,
		})
		return
	}
	status := http.StatusConflict
	switch p.Code {
	case isosync.CodeName:
		status = http.StatusNotFound
	case isosync.CodeAway, isosync.CodeServer:
		status = http.StatusServiceUnavailable
	case isosync.CodeDenied:
		status = http.StatusForbidden
	}
	s.fail(w, r, status, fromProblem(p))
}

// refusal is the body of an answer that is not success.
type refusal struct {
	Error *Problem `json:"error"`
}

func (s *Socket) fail(w http.ResponseWriter, r *http.Request, status int, p *Problem) {
	s.send(w, r, status, refusal{p})
}

func (s *Socket) reply(w http.ResponseWriter, r *http.Request, v any) { s.send(w, r, http.StatusOK, v) }

func (s *Socket) send(w http.ResponseWriter, r *http.Request, status int, v any) {
	body, err := marshal(v)
	if err == nil {
		err = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.deadline()))
	}
	if err == nil {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, err = w.Write(body)
	}
	if err != nil {
		s.Log.DebugContext(r.Context(), "an answer of the control socket was lost", "err", err)
	}
}

func health(h Heart) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if alive := h.Alive(); time.Since(alive) > deadAfter {
			http.Error(w, "stuck since "+alive.Format(time.RFC3339), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n") // whoever asked sees whether it came
	}
}
