package lxd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// maxEvent bounds one message, in bytes.
const maxEvent = 1 << 20

// Events calls f for each event until the stream ends, which it does with an error: ErrAway where the server is gone,
// ErrDenied where it does not let us listen, the cause of ctx where that is done. The first event of each stream is of
// Type "connected": whatever was missed before must be found by listing. f is called from one goroutine, and may not
// block for long.
//
// Lifecycle events of volumes are sent to the project that the volumes are in (SERVER-API 5), so that one is listened
// to; a client that is held to another project listens to that.
func (p *Pool) Events(ctx context.Context, f func(Event)) error {
	err := p.stream(ctx, p.project, f)
	if errors.Is(err, ErrDenied) && p.project != p.request {
		err = p.stream(ctx, p.request, f)
	}
	return err
}

func (p *Pool) stream(ctx context.Context, project string, f func(Event)) error {
	const op = "listen to events"
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	var heard atomic.Int64 // when the server last said something, as a time.Duration since began
	began := time.Now()
	hear := func() { heard.Store(int64(time.Since(began))) }
	conn, err := p.subscribe(ctx, op, project, hear)
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(maxEvent)
	f(Event{Type: "connected"})

	pinger := make(chan struct{})
	go func() {
		defer close(pinger)
		p.client.keepAsking(ctx, cancel, conn, func() time.Duration { return time.Since(began) - time.Duration(heard.Load()) })
	}()
	err = readEvents(ctx, conn, hear, f)
	if cause := context.Cause(ctx); cause != nil {
		err = fmt.Errorf("%s: %w", op, cause)
	} else {
		err = fmt.Errorf("%s: %w: the stream ended (%w)", op, ErrAway, err)
	}
	cancel(nil)
	_ = conn.CloseNow()
	<-pinger
	return err
}

// keepAsking pings, and ends the stream of a server that says nothing for too long. quiet is how long it did so far.
func (c *Client) keepAsking(ctx context.Context, cancel context.CancelCauseFunc, conn *websocket.Conn, quiet func() time.Duration) {
	tick := time.NewTicker(c.ping)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if q := quiet(); q > c.silence {
			cancel(fmt.Errorf("%w: it said nothing for %v", ErrAway, q.Round(time.Second)))
			return
		}
		// The pong is heard by the reader; what matters is that one comes before the silence is too long. Less time must
		// not be given: the library drops the connection of a ping that could not be written in its time.
		ping, done := context.WithTimeout(ctx, c.silence)
		_ = conn.Ping(ping)
		done()
	}
}

// subscribe opens the stream. hear is called for each ping and pong.
func (p *Pool) subscribe(ctx context.Context, op, project string, hear func()) (*websocket.Conn, error) {
	query := url.Values{"type": {"lifecycle,operation"}, "project": {project}}
	header := http.Header{}
	p.client.dress(header)
	// The timeout is for the handshake: net/http lets go of the request's context when the protocol changes.
	dial, cancel := context.WithTimeout(ctx, shortTimeout)
	defer cancel()
	answer := &answerTripper{next: p.client.transport, op: op}
	conn, resp, err := websocket.Dial(dial, p.client.base+"/1.0/events?"+query.Encode(), &websocket.DialOptions{
		HTTPClient:     &http.Client{Transport: answer, CheckRedirect: noRedirect},
		HTTPHeader:     header,
		OnPingReceived: func(context.Context, []byte) bool { hear(); return true },
		OnPongReceived: func(context.Context, []byte) { hear() },
	})
	if err == nil {
		return conn, nil
	}
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	if answer.err != nil && ctx.Err() == nil {
		return nil, answer.err
	}
	return nil, transportError(ctx, op, err)
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// answerTripper reads the answer of a server that does not switch protocols; the websocket library keeps only a part.
type answerTripper struct {
	next http.RoundTripper
	op   string
	err  error
}

func (a *answerTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := a.next.RoundTrip(req)
	if err != nil || resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = readEnvelope(req.Context(), a.op, resp)
	if err == nil {
		err = alienError(a.op, resp, "no event stream")
	}
	a.err = err
	return nil, err
}

// readEvents reads until something fails.
func readEvents(ctx context.Context, conn *websocket.Conn, hear func(), f func(Event)) error {
	for {
		_, text, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		hear()
		var w struct {
			Type     string          `json:"type"`
			Metadata json.RawMessage `json:"metadata"`
		}
		if json.Unmarshal(text, &w) != nil || w.Type == "" {
			continue // an event is a hint, and this one hints at nothing
		}
		e := Event{Type: w.Type}
		if w.Type == "lifecycle" {
			var m struct {
				Action string `json:"action"`
			}
			if json.Unmarshal(w.Metadata, &m) == nil {
				e.Action = m.Action
			}
		}
		f(e)
	}
}
