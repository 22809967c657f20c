package lxd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"os"
	"sync/atomic"
	"time"
)

// Import sends the first size bytes of f and returns the operation that makes the volume: nothing exists for good
// until Wait says so. f must be a regular file; its offset is neither used nor moved, and it may be unlinked, hashed
// by pread, or imported twice at the same time. progress, if not nil, is told the bytes sent so far, at most ten times
// a second and at the end, from another goroutine, which it must not hold up; it is not called any more once Import
// returned.
//
// On a unix socket the kernel moves the bytes from the page cache, so that a change of the file before the server read
// them still gets through: compare the file's identity, or better hold a lease on it.
//
// Errors: ErrSource where f cannot be read, or is shorter than size; ErrAway where the connection failed, or took no
// byte for Target.Stall; *Error where the server refused, if it can before the first byte.
func (p *Pool) Import(ctx context.Context, name string, f *os.File, size int64, progress func(sent int64)) (operation string, err error) {
	op := "import " + message(name)
	if err := checkName(op, name); err != nil {
		return "", err
	}
	if size <= 0 {
		// Every server refuses it, but only after all is done (SERVER-API 1.2).
		return "", &Error{Op: op, Status: http.StatusBadRequest, Message: "an empty image cannot be a volume"}
	}
	attempt := func(over *http.Transport) (operation string, stale bool, err error) {
		u, err := newUpload(f, size, progress)
		if err != nil {
			return "", false, fmt.Errorf("%s: %w", op, err)
		}
		return p.importOnce(ctx, over, op, name, u)
	}
	operation, stale, err := attempt(p.client.transport)
	if stale {
		// The server had closed a kept connection just as the request went out: nothing happened there. net/http
		// does not repeat a request with such a body by itself. A transport of its own has no kept connections.
		fresh := p.client.transport.Clone()
		defer fresh.CloseIdleConnections()
		operation, _, err = attempt(fresh)
	}
	return operation, err
}

// errStalled is why a request is given up by its watch.
var errStalled = errors.New("nothing moved")

// importOnce makes one attempt. stale says that it failed on a kept connection before a byte of the image was sent.
func (p *Pool) importOnce(ctx context.Context, over *http.Transport, op, name string, u *upload) (operation string, stale bool, err error) {
	ours, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var used atomic.Pointer[conn]
	var reused atomic.Bool
	ours = httptrace.WithClientTrace(ours, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		reused.Store(info.Reused)
		if c, ok := info.Conn.(*conn); ok {
			used.Store(c)
		}
	}})
	req, err := http.NewRequestWithContext(ours, http.MethodPost, p.client.base+p.volumePath()+"?"+p.located().Encode(), u)
	if err != nil {
		_ = u.Close()
		return "", false, fmt.Errorf("%s: %w", op, err)
	}
	p.dressImport(req, name, u.size)

	watch := stallWatch{stall: p.client.stall, answer: p.client.answer, size: u.size, look: func() (int64, int) {
		return u.sent.Load(), backlog(used.Load())
	}}
	go watch.run(ours, cancel)

	resp, err := over.RoundTrip(req)
	if srcErr := u.end(); srcErr != nil {
		if err == nil {
			_ = resp.Body.Close()
		}
		return "", false, fmt.Errorf("%s: %w", op, srcErr)
	}
	if err != nil {
		stale = reused.Load() && !u.started.Load() && ours.Err() == nil
		return "", stale, brokenOff(ctx, ours, op, err)
	}
	defer func() { _ = resp.Body.Close() }()
	operation, err = finishImport(ctx, op, resp, u)
	return operation, false, err
}

// backlog is how much of what was sent a connection still holds, see conn.queued; -1 also while there is none.
func backlog(c *conn) int {
	if c == nil {
		return -1
	}
	return c.queued()
}

// brokenOff names why an import failed below HTTP: its watch gave it up by cancelling ours, or else transportError.
func brokenOff(ctx, ours context.Context, op string, err error) error {
	if cause := context.Cause(ours); errors.Is(cause, errStalled) && ctx.Err() == nil {
		return fmt.Errorf("%s: %w: %w", op, ErrAway, cause)
	}
	return transportError(ctx, op, err)
}

// dressImport adds the headers by which a server knows an ISO image (SERVER-API 1.1). size -1 = chunks, whose end says
// how many bytes they are.
func (p *Pool) dressImport(req *http.Request, name string, size int64) {
	vendor := "LXD"
	if p.client.server.Vendor == "incus" {
		vendor = "Incus"
	}
	p.client.dress(req.Header)
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("X-"+vendor+"-Type", "iso")
	req.Header.Set("X-"+vendor+"-Name", name)
	// A server that refuses can say so before it is sent gigabytes.
	req.Header.Set("Expect", "100-continue")
	// A length wherever it is known: chunks that are ended short look whole to the server (RELIABILITY 1.4), while a
	// body that is cut is refused, with a length or in chunks.
	req.ContentLength = size
}

// finishImport reads the answer. One that promises success before all was sent is not believed.
func finishImport(ctx context.Context, op string, resp *http.Response, u *upload) (string, error) {
	env, err := readEnvelope(ctx, op, resp)
	if err != nil {
		return "", err
	}
	// The answer may overtake the news that the last byte is out.
	select {
	case <-u.closed:
	case <-ctx.Done():
		return "", fmt.Errorf("%s: %w", op, context.Cause(ctx))
	case <-time.After(shortTimeout):
	}
	if sent := u.sent.Load(); sent != u.size {
		return "", fmt.Errorf("%s: %w: it answered after %d of %d bytes", op, ErrAway, sent, u.size)
	}
	return importOperation(op, env)
}

// importOperation takes the operation out of the answer to an import.
func importOperation(op string, env *envelope) (string, error) {
	operation, err := env.open(op, nil)
	if err == nil && operation == "" {
		err = fmt.Errorf("%s: the server named no operation", op)
	}
	return operation, err
}

// stallWatch gives up a request that stands still. Bytes given to the kernel and bytes taken by the server both count
// as movement: with a slow server the send buffer alone can keep a writer waiting for minutes.
type stallWatch struct {
	stall  time.Duration // while there is something to send
	answer time.Duration // after the last byte
	size   int64         // -1 = not known
	look   func() (sent int64, queued int)
	// source says of a stream whether it waits for its source, which may take any time, and whether it has ended;
	// nil = a file, which never waits and ends at size.
	source func() (starved, whole bool)
}

// run cancels with a cause that wraps errStalled; it returns when ctx is done.
func (w *stallWatch) run(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(max(w.stall/8, time.Millisecond))
	defer tick.Stop()
	sent, queued := w.look()
	moved := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		starved, whole := w.turn()
		s, q := w.look()
		// What the kernel still holds is there to be taken, whatever the source does.
		if s != sent || q != queued || starved && q <= 0 {
			sent, queued, moved = s, q, time.Now()
			continue
		}
		limit, what := w.stall, fmt.Sprintf("the server took no byte for %v, %d of %d were sent", w.stall, sent, w.size)
		if w.size < 0 {
			what = fmt.Sprintf("the server took no byte for %v, %d were sent", w.stall, sent)
		}
		if (whole || sent == w.size) && q <= 0 { // the kernel may hold megabytes that the server did not take
			limit, what = max(w.stall, w.answer), fmt.Sprintf("all %d bytes were sent, but no answer came for %v", sent, w.answer)
		}
		if time.Since(moved) >= limit {
			cancel(fmt.Errorf("%w: %s", errStalled, what))
			return
		}
	}
}

// turn asks the source, if it can wait.
func (w *stallWatch) turn() (starved, whole bool) {
	if w.source == nil {
		return false, false
	}
	return w.source()
}
