package lxd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
)

// ImportStream sends what src gives until io.EOF, and returns the operation that makes the volume, as Import does, and
// how many bytes that were. src may block in Read for hours while its file grows. io.EOF, itself and not in another
// error, is the only thing that ends the image: on any other error of src, and when ctx ends, the connection is dropped
// without the end of the body, so that the server makes nothing. An io.EOF that comes after ctx ended ends no image
// either.
//
// src is first read when the server asked for the image, and by one goroutine. Once an operation was returned it is not
// used any more. After an error at most one Read may still be under way, or just begin, and none comes after it: a Read
// can block for hours, and nothing here can end it. What it gives is thrown away. Who has to know when it is over has
// src end it, such as by a context that is cancelled when ImportStream returned, and say so.
//
// progress, if not nil, is told the bytes sent so far, always more than before, at most ten times a second and at the
// end, from another goroutine, which it must not hold up; it is not called any more once ImportStream returned.
//
// Errors: ErrSource and src's own error where src failed (if ctx had not ended by then); ErrAway where the connection
// failed, the server took no byte for Target.Stall although there were some to send, or did not answer in time after the
// end; *Error where the server refused, at once also while src blocks, or where src gave nothing at all. With an error
// sent is how far it got; as with Import, after ErrAway or the end of ctx it is only certain that there is no volume if
// io.EOF had not come yet.
func (p *Pool) ImportStream(ctx context.Context, name string, src io.Reader, progress func(sent int64)) (operation string, sent int64, err error) {
	op := "import " + message(name)
	if err := checkName(op, name); err != nil {
		return "", 0, err
	}
	s := newInflow(ctx, src, progress)
	defer s.end()
	operation, err = p.importStream(ctx, op, name, s)
	return operation, s.sent.Load(), err
}

func (p *Pool) importStream(ctx context.Context, op, name string, s *inflow) (operation string, err error) {
	ours, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	traced := httptrace.WithClientTrace(ours, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if c, ok := info.Conn.(*conn); ok {
			s.conn.Store(c)
		}
	}})
	req, err := http.NewRequestWithContext(traced, http.MethodPost, p.client.base+p.volumePath()+"?"+p.located().Encode(), s)
	if err != nil {
		return "", fmt.Errorf("%s: %w", op, err)
	}
	p.dressImport(req, name, -1)
	// Without this net/http reads the body also for a server that answered before it wanted one.
	req.Close = true
	// A connection of its own cannot be one that the server just closed.
	over := p.client.transport.Clone()
	defer over.CloseIdleConnections()

	watch := s.watch(p.client.stall, p.client.answer)
	go watch.run(ours, cancel)

	resp, err := over.RoundTrip(req)
	whole, srcErr := s.stop()
	if err == nil {
		defer func() { _ = resp.Body.Close() }()
	}
	switch {
	case errors.Is(srcErr, errEmpty):
		// Every server refuses it, but some only after they took it (SERVER-API 1.2): it is not ended.
		return "", &Error{Op: op, Status: http.StatusBadRequest, Message: errEmpty.Error()}
	case srcErr != nil && !isCause(ctx, srcErr):
		return "", fmt.Errorf("%s: %w", op, srcErr)
	case err != nil || !whole && (ctx.Err() != nil || ours.Err() != nil):
		// Over TLS a server may still get in a word about the body that was just cut.
		return "", brokenOff(ctx, ours, op, err)
	}
	env, err := readEnvelope(ctx, op, resp)
	switch {
	case err != nil:
		return "", err
	case !whole:
		return "", fmt.Errorf("%s: %w: it answered after %d bytes, before the image ended", op, ErrAway, s.sent.Load())
	}
	return importOperation(op, env)
}

// isCause reports that an error of a source is why ctx ended. A source that watches a parent of ctx may know it first.
func isCause(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx)))
}

const (
	// chunk is how much one chunk of the body has at most, in bytes, and how much it has where the source is fast. With
	// the 32 KiB that net/http copies by itself an import takes more than twice as long.
	chunk = 512 << 10
	// maxEmpty is how many Reads of a source may give neither bytes nor an error, one after the other.
	maxEmpty = 100
)

var (
	errEmpty = errors.New("an empty image cannot be a volume")
	// errCut makes net/http drop the connection. It is never the source's error, which could be or wrap io.EOF.
	errCut = errors.New("the connection ended before the image")
)

// inflow is the body of an import whose length is not known. One goroutine reads the source into one half of a ring
// while net/http's sends the other: so neither an answer nor the end of the connection has to wait for the source.
type inflow struct {
	src  io.Reader
	quit <-chan struct{} // the caller's context ended

	sent    atomic.Int64 // bytes given to the kernel: what comes out of the ring
	starved atomic.Bool  // the source has to give something before anything can be sent
	whole   atomic.Bool  // the source said io.EOF, and the end of the body may be sent
	conn    atomic.Pointer[conn]

	once sync.Once     // begins to read
	ring []byte        // two chunks; byte n of the image is at n modulo their length
	more chan struct{} // 1: the source gave something, or ended
	room chan struct{} // 1: bytes were sent

	answered chan struct{} // RoundTrip returned: nothing more is read or sent. Closed with mu held
	over     chan struct{} // ImportStream returns

	mu       sync.Mutex
	got      int64       // guarded by mu; bytes that the source gave: what goes into the ring
	ended    bool        // guarded by mu; the source said io.EOF
	err      error       // guarded by mu; what was wrong with the source
	progress func(int64) // guarded by mu; nil = nobody wants to know
	told     time.Time   // guarded by mu; when progress was called last
	saw      int64       // guarded by mu; what it was told
}

func newInflow(ctx context.Context, src io.Reader, progress func(int64)) *inflow {
	s := &inflow{
		src: src, quit: ctx.Done(), progress: progress,
		more: make(chan struct{}, 1), room: make(chan struct{}, 1),
		answered: make(chan struct{}), over: make(chan struct{}),
	}
	s.starved.Store(true)
	return s
}

// watch is for the request that s is the body of.
func (s *inflow) watch(stall, answer time.Duration) stallWatch {
	return stallWatch{
		stall: stall, answer: answer, size: -1,
		look:   func() (int64, int) { return s.sent.Load(), backlog(s.conn.Load()) },
		source: func() (bool, bool) { return s.starved.Load(), s.whole.Load() },
	}
}

// WriteTo sends the image. net/http ends the body only after it returned nil (transferWriter.writeBody), drops the
// connection on any error of it without flushing (persistConn.writeLoop), and has closed the connection before it lets
// go of a request that was cancelled (persistConn.cancelRequest).
func (s *inflow) WriteTo(w io.Writer) (int64, error) {
	var n int64
	for {
		b, err := s.next()
		if err != nil || len(b) == 0 {
			return n, err
		}
		m, err := w.Write(b)
		s.advance(m)
		n += int64(m)
		if err != nil {
			// net/http would report this error, and drop the answer which says why.
			select {
			case <-s.over:
			case <-s.dropped():
			case <-time.After(lastWords):
			}
			return n, err
		}
	}
}

// Read does the same as WriteTo, for who does not look for that.
func (s *inflow) Read(p []byte) (int, error) {
	b, err := s.next()
	if err != nil {
		return 0, err
	}
	if len(b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b)
	s.advance(n)
	return n, nil
}

// Close is net/http's; the source belongs to the caller.
func (s *inflow) Close() error { return nil }

// next waits for the bytes to be sent next; none at the end of the image.
func (s *inflow) next() ([]byte, error) {
	s.once.Do(func() {
		s.ring = make([]byte, 2*chunk)
		go s.read()
	})
	for {
		b, ready, err := s.ready()
		if ready || err != nil {
			s.starved.Store(false)
			return b, err
		}
		s.starved.Store(true)
		if !s.await() {
			return nil, errCut
		}
	}
}

// ready gives the bytes that are there, at most a chunk; none at the end of the image.
func (s *inflow) ready() (b []byte, ready bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.sent.Load()
	switch {
	case closed(s.answered):
		return nil, false, nil // await knows
	case closed(s.quit) || s.err != nil:
		return nil, false, errCut
	case at < s.got:
		return s.half(at, s.got-at), true, nil
	case !s.ended:
		return nil, false, nil
	case at == 0:
		s.err = errEmpty
		return nil, false, errCut
	}
	s.whole.Store(true)
	s.say(true)
	return nil, true, nil
}

// half is the part of the ring from byte at of the image on: at most n bytes, and to the end of a chunk.
func (s *inflow) half(at, n int64) []byte {
	from := at % int64(len(s.ring))
	return s.ring[from : from+min(n, chunk-from%chunk)]
}

// await waits for the source; false = nothing more is sent.
func (s *inflow) await() bool {
	// While the source blocks nothing else would say how far it is.
	late := time.NewTimer(tellEvery)
	defer late.Stop()
	for {
		select {
		case <-s.more:
			return true
		case <-late.C:
			s.tell(true)
		case <-s.quit:
			return false
		case <-s.dropped():
			return false
		case <-s.answered:
			// The connection is kept until the answer is read.
			s.starved.Store(false)
			select {
			case <-s.over:
			case <-s.dropped():
			}
			return false
		}
	}
}

// dropped is closed when the connection is.
func (s *inflow) dropped() <-chan struct{} {
	if c := s.conn.Load(); c != nil {
		return c.closed
	}
	return nil
}

// read fills the ring until the source ends, or nothing more is wanted of it.
func (s *inflow) read() {
	for empty := 0; empty < maxEmpty; {
		b := s.space()
		if b == nil {
			return
		}
		n, err := s.src.Read(b)
		if err == io.EOF {
			s.take(n, true, nil)
			return
		}
		s.take(n, false, err)
		if err != nil {
			return
		}
		if empty++; n > 0 {
			empty = 0
		}
	}
	s.take(0, false, io.ErrNoProgress)
}

// space waits for a place to read into; nil = nothing more is wanted.
func (s *inflow) space() []byte {
	for !closed(s.answered) {
		s.mu.Lock()
		at := s.got
		s.mu.Unlock()
		if b := s.half(at, s.sent.Load()+int64(len(s.ring))-at); len(b) > 0 {
			return b
		}
		select {
		case <-s.room:
		case <-s.answered:
		}
	}
	return nil
}

// take notes what a Read gave. What it says after the caller's context ended is not the source's own end or fault.
func (s *inflow) take(n int, eof bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got += int64(n)
	if !closed(s.quit) && !closed(s.answered) {
		s.ended = eof
		if err != nil {
			s.err = sourceError(err)
		}
	}
	wake(s.more)
}

// advance counts bytes as sent.
func (s *inflow) advance(n int) {
	if n > 0 {
		s.sent.Add(int64(n))
		wake(s.room)
		s.tell(false)
	}
}

// tell calls progress, now and then or at once, unless it knows.
func (s *inflow) tell(now bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.say(now)
}

// say is tell; it is called with mu held.
func (s *inflow) say(now bool) {
	n := s.sent.Load()
	if s.progress == nil || n == s.saw {
		return
	}
	if at := time.Now(); now || at.Sub(s.told) >= tellEvery {
		s.told, s.saw = at, n
		s.progress(n)
	}
}

// stop is called when RoundTrip returned. An image that is not whole by then will not be. It returns what was wrong
// with the source.
func (s *inflow) stop() (whole bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.answered)
	return s.whole.Load(), s.err
}

// end is called when nothing more is expected of the connection: from then on progress is not called.
func (s *inflow) end() {
	close(s.over)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.progress = nil
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// wake fills a channel of 1; many wakes are one.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
