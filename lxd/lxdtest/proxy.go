package lxdtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Proxy stands between a client and a server, and does to requests what a bad network, a bad proxy or a bad server
// would. Without a fault it is transparent. It is safe for use by several goroutines.
type Proxy struct {
	addr     string
	upstream string
	next     *http.Transport

	mu      sync.Mutex
	faults  []*armed          // guarded by mu
	counts  map[string]int    // guarded by mu
	log     []string          // guarded by mu
	sent    int64             // guarded by mu; bytes of bodies that went to the server
	got     int64             // guarded by mu; bytes of bodies that came back
	streams map[*stream]bool  // guarded by mu
	copies  func(Message) int // guarded by mu
	server  *http.Server      // guarded by mu; nil = connections are refused
	served  chan struct{}     // guarded by mu
	active  sync.WaitGroup    // requests under way
	ended   chan struct{}     // closed at the end of the test: nothing hangs any more
}

// armed is a fault that waits for its requests.
type armed struct {
	match Match
	fault Fault
	skip  int // requests that it lets pass first
	times int // requests that it strikes after that; -1 = all
	hits  int
}

// FaultProxy starts a proxy for the server at a unix: address, until the end of the test.
func FaultProxy(t testing.TB, upstream string) *Proxy {
	t.Helper()
	p := &Proxy{
		addr:     "unix:" + filepath.Join(ShortDir(t), "unix.socket"),
		upstream: upstream,
		next:     unixTransport(upstream),
		counts:   map[string]int{},
		streams:  map[*stream]bool{},
		ended:    make(chan struct{}),
	}
	// A connection each: a fault must not meet the next request.
	p.next.DisableKeepAlives = true
	t.Cleanup(func() {
		close(p.ended)
		p.Refuse()
		p.active.Wait()
		p.next.CloseIdleConnections()
	})
	if err := p.Accept(); err != nil {
		t.Fatal(err)
	}
	return p
}

// Addr is for lxd.Target.
func (p *Proxy) Addr() string { return p.addr }

// Refuse closes all connections, and makes new ones be refused (ECONNREFUSED), as if the server was down.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	srv, served := p.server, p.served
	p.server = nil
	streams := slices.Collect(maps.Keys(p.streams))
	p.mu.Unlock()
	for _, s := range streams {
		s.cut()
	}
	if srv != nil {
		_ = srv.Close()
		<-served
	}
}

// Accept ends Refuse.
func (p *Proxy) Accept() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		return nil
	}
	path := strings.TrimPrefix(p.addr, "unix:")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "unix", path)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	// The socket's file stays when the listener goes: that is what a dead server leaves.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	srv := &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
	served := make(chan struct{})
	p.server, p.served = srv, served
	go func() {
		defer close(served)
		_ = srv.Serve(l)
	}()
	return nil
}

// Strike arms a fault: it strikes the next n requests that match, -1 = all, after it let skip of them pass. Of several
// armed faults the first one that matches and is not used up strikes.
func (p *Proxy) Strike(match Match, n, skip int, fault Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &armed{match: match, fault: fault, times: n, skip: skip})
}

// Disarm removes all faults.
func (p *Proxy) Disarm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
}

// Hits is how many requests were struck by faults that are armed.
func (p *Proxy) Hits() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, a := range p.faults {
		n += a.hits
	}
	return n
}

// Count is how many requests of a method came for a path, without its query, such as
// "POST /1.0/storage-pools/default/volumes/custom". Those that a fault struck count too.
func (p *Proxy) Count(methodAndPath string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts[methodAndPath]
}

// Counts is a copy of all that Count knows.
func (p *Proxy) Counts() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.counts)
}

// Requests lists "METHOD /path?query" of all requests, in the order in which they came.
func (p *Proxy) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.log)
}

// Bytes is how many bytes of bodies went to the server and came back, but for event streams.
func (p *Proxy) Bytes() (sent, got int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent, p.got
}

// ServeHTTP notes the request, and forwards it unless a fault wants it.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.active.Add(1)
	defer p.active.Done()
	p.mu.Lock()
	p.counts[r.Method+" "+r.URL.EscapedPath()]++
	p.log = append(p.log, r.Method+" "+r.URL.RequestURI())
	fault := p.struck(r)
	p.mu.Unlock()
	x := &exchange{proxy: p, w: w, r: r}
	if fault == nil {
		fault = pass
	}
	fault(x)
}

// struck finds the fault for a request; it is called with mu held.
func (p *Proxy) struck(r *http.Request) Fault {
	for _, a := range p.faults {
		switch {
		case a.times == 0 || !a.match(r):
		case a.skip > 0:
			a.skip--
		default:
			if a.times > 0 {
				a.times--
			}
			a.hits++
			return a.fault
		}
	}
	return nil
}

// exchange is one request on its way.
type exchange struct {
	proxy *Proxy
	w     http.ResponseWriter
	r     *http.Request
}

// send forwards the request, with a body of the fault's, and returns the answer. The caller closes its body.
func (x *exchange) send(ctx context.Context, body io.Reader) (*http.Response, error) {
	out, err := http.NewRequestWithContext(ctx, x.r.Method, "http://server"+x.r.URL.RequestURI(), nil)
	if err != nil {
		return nil, err
	}
	out.Header = x.r.Header.Clone()
	out.ContentLength = x.r.ContentLength
	out.TransferEncoding = x.r.TransferEncoding
	if x.r.ContentLength != 0 {
		out.Body = io.NopCloser(&counter{r: body, add: func(n int) { x.proxy.count(n, 0) }})
	}
	return x.proxy.next.RoundTrip(out)
}

// answer hands an answer of the server on.
func (x *exchange) answer(resp *http.Response) {
	defer func() { _ = resp.Body.Close() }()
	maps.Copy(x.w.Header(), resp.Header)
	if resp.ContentLength >= 0 {
		x.w.Header().Set("Content-Length", fmt.Sprint(resp.ContentLength))
	}
	x.w.WriteHeader(resp.StatusCode)
	_ = http.NewResponseController(x.w).Flush()
	body := &counter{r: resp.Body, add: func(n int) { x.proxy.count(0, n) }}
	if _, err := io.Copy(flusher{x.w}, body); err != nil {
		x.reset()
	}
}

// reset drops the client's connection without another byte.
func (x *exchange) reset() {
	conn, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // part of an answer is out already
	}
	_ = conn.Close()
}

func (p *Proxy) count(sent, got int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent += int64(sent)
	p.got += int64(got)
}

// counter tells how much was read.
type counter struct {
	r   io.Reader
	add func(n int)
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.add(n)
	return n, err
}

// flusher hands each piece on at once, as a wait for an operation begins its answer long before it ends it.
type flusher struct{ w http.ResponseWriter }

func (f flusher) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	if err == nil {
		err = http.NewResponseController(f.w).Flush()
	}
	return n, err
}
