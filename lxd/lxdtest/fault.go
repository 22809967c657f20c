package lxdtest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Match says which requests a fault is for.
type Match func(r *http.Request) bool

// Any matches every request but event streams.
func Any(r *http.Request) bool { return !Events(r) }

// Imports matches uploads of images.
func Imports(r *http.Request) bool {
	return r.Method == http.MethodPost && r.Header.Get("Content-Type") == "application/octet-stream"
}

// Copies matches server-side copies.
func Copies(r *http.Request) bool {
	return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/volumes/custom") && !Imports(r)
}

// Waits matches waits for operations.
func Waits(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/wait") }

// Events matches event streams.
func Events(r *http.Request) bool { return r.URL.Path == "/1.0/events" }

// Lists matches lists of volumes.
func Lists(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/volumes/custom")
}

// Method matches what is done to one volume: PATCH describes, DELETE deletes.
func Method(method string) Match {
	return func(r *http.Request) bool { return r.Method == method }
}

// Fault is what happens to a request instead of what should.
type Fault func(x *exchange)

// pass forwards the request as it is.
func pass(x *exchange) {
	if Events(x.r) && x.r.Header.Get("Upgrade") != "" {
		x.proxy.relay(x)
		return
	}
	resp, err := x.send(x.r.Context(), x.r.Body)
	if err != nil {
		x.reset()
		return
	}
	x.answer(resp)
}

// CutBody lets n bytes of the request's body through, and then drops both connections.
func CutBody(n int64) Fault {
	return func(x *exchange) {
		ctx, cancel := context.WithCancel(x.r.Context())
		defer cancel()
		cut := make(chan struct{})
		body := &cutReader{r: io.LimitReader(x.r.Body, n), cut: cut, done: ctx.Done()}
		go func() {
			select {
			case <-cut:
				cancel()
			case <-ctx.Done():
			}
		}()
		resp, err := x.send(ctx, body)
		if err == nil {
			// The server did not want the body, or it was not longer.
			x.answer(resp)
			return
		}
		x.reset()
	}
}

// cutReader blocks at its end, so that what was read is sent, and not dropped, before the connection is.
type cutReader struct {
	r    io.Reader
	cut  chan struct{}
	once sync.Once
	done <-chan struct{}
}

func (c *cutReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	if n > 0 {
		return n, nil
	}
	if err != nil {
		c.once.Do(func() { close(c.cut) })
		<-c.done
	}
	return 0, io.ErrUnexpectedEOF
}

// Answer answers with an error of the server's kind, and does not ask the server. retryAfter > 0 adds that header. The
// body of the request is not read.
func Answer(status int, retryAfter time.Duration) Fault {
	text, err := json.Marshal(map[string]any{
		"type": "error", "status": "", "status_code": 0, "operation": "", "error_code": status,
		"error": "injected: " + http.StatusText(status), "metadata": nil,
	})
	if err != nil {
		panic(err)
	}
	return answerWith(status, retryAfter, "application/json", string(text)+"\n")
}

// AnswerHTML answers with the kind of page that a web proxy makes.
func AnswerHTML(status int) Fault {
	page := fmt.Sprintf("<html><head><title>%d %s</title></head><body>injected</body></html>\n", status, http.StatusText(status))
	return answerWith(status, 0, "text/html", page)
}

func answerWith(status int, retryAfter time.Duration, kind, text string) Fault {
	return func(x *exchange) {
		x.w.Header().Set("Content-Type", kind)
		if retryAfter > 0 {
			x.w.Header().Set("Retry-After", strconv.Itoa(int((retryAfter+time.Second-1)/time.Second)))
		}
		x.w.WriteHeader(status)
		_, _ = io.WriteString(x.w, text)
	}
}

// Hang takes the request, all of it, and never answers; nothing reaches the server. It ends when the client goes away.
func Hang() Fault {
	return func(x *exchange) {
		_, _ = io.Copy(io.Discard, x.r.Body)
		select {
		case <-x.r.Context().Done():
		case <-x.proxy.ended:
		}
		x.reset()
	}
}

// Stall reads n bytes of the request's body, and then no more, while the connection stays up.
func Stall(n int64) Fault {
	return func(x *exchange) {
		_, _ = io.CopyN(io.Discard, x.r.Body, n)
		select {
		case <-x.r.Context().Done():
		case <-x.proxy.ended:
		}
		x.reset()
	}
}

// Reset drops the client's connection at once; nothing reaches the server.
func Reset() Fault { return func(x *exchange) { x.reset() } }

// LoseReply lets the server do the work, and drops the connection instead of its answer.
func LoseReply() Fault { return CutReply(0) }

// CutReply hands n bytes of the server's answer on, counted from its status line, and drops the connection.
func CutReply(n int) Fault {
	return func(x *exchange) {
		resp, err := x.send(context.WithoutCancel(x.r.Context()), x.r.Body)
		if err != nil {
			x.reset()
			return
		}
		var text strings.Builder
		err = resp.Write(&text)
		_ = resp.Body.Close()
		if err != nil || n == 0 {
			x.reset()
			return
		}
		conn, buf, err := http.NewResponseController(x.w).Hijack()
		if err != nil {
			return
		}
		_, _ = buf.WriteString(text.String()[:min(n, text.Len())])
		_ = buf.Flush()
		_ = conn.Close()
	}
}

// Before runs f, and then forwards the request: f may hold it, or change the server under it.
func Before(f func()) Fault {
	return func(x *exchange) {
		f()
		pass(x)
	}
}

// After forwards the request, and runs f before the client gets the answer.
func After(f func()) Fault {
	return func(x *exchange) {
		resp, err := x.send(x.r.Context(), x.r.Body)
		f()
		if err != nil {
			x.reset()
			return
		}
		x.answer(resp)
	}
}

// Message is one event on its way to a client.
type Message struct {
	Type   string // "lifecycle" or "operation"
	Action string // of a lifecycle event
	Text   []byte
}

// OnEvent decides how many copies of each event a client gets: 0 = it is lost, 2 = it comes twice. nil ends that.
func (p *Proxy) OnEvent(copies func(Message) int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.copies = copies
}

// CutEvents drops the event streams that are open now.
func (p *Proxy) CutEvents() {
	p.mu.Lock()
	streams := p.open()
	p.mu.Unlock()
	for _, s := range streams {
		s.cut()
	}
}

// Streams is how many event streams are open now.
func (p *Proxy) Streams() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.streams)
}

// open is called with mu held.
func (p *Proxy) open() (list []*stream) {
	for s := range p.streams {
		list = append(list, s)
	}
	return list
}

// stream is an open event stream. Each half is a websocket of its own.
type stream struct {
	client, server *websocket.Conn
}

func (s *stream) cut() {
	_ = s.client.CloseNow()
	_ = s.server.CloseNow()
}

// relay hands events on, one by one.
func (p *Proxy) relay(x *exchange) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(x.r.Context()))
	defer cancel()
	server, resp, err := websocket.Dial(ctx, "http://server"+x.r.URL.RequestURI(), &websocket.DialOptions{HTTPClient: &http.Client{Transport: p.next}})
	if err != nil {
		if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols && resp.Body != nil {
			x.answer(resp)
			return
		}
		x.reset()
		return
	}
	server.SetReadLimit(1 << 20)
	client, err := websocket.Accept(x.w, x.r, nil)
	if err != nil {
		_ = server.CloseNow()
		return
	}
	s := &stream{client: client, server: server}
	defer s.cut()
	p.mu.Lock()
	if p.server == nil {
		p.mu.Unlock()
		return
	}
	p.streams[s] = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.streams, s)
	}()
	ctx = client.CloseRead(ctx)
	for {
		kind, text, err := server.Read(ctx)
		if err != nil {
			return
		}
		for range p.howOften(text) {
			if client.Write(ctx, kind, text) != nil {
				return
			}
		}
	}
}

// howOften asks the test about an event.
func (p *Proxy) howOften(text []byte) int {
	p.mu.Lock()
	copies := p.copies
	p.mu.Unlock()
	if copies == nil {
		return 1
	}
	var m struct {
		Type     string
		Metadata struct{ Action string }
	}
	_ = json.Unmarshal(text, &m)
	return copies(Message{Type: m.Type, Action: m.Metadata.Action, Text: slices.Clone(text)})
}
