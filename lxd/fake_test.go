package lxd

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a scripted server: what it answers is up to each test. (The honest one is the store room's.)
type fake struct {
	t      *testing.T
	http   *httptest.Server
	addr   string // as for Target
	vendor string
	auth   string
	ext    []string
	env    map[string]any

	mu     sync.Mutex
	routes map[string]http.HandlerFunc // guarded by mu; by "METHOD /path", or "METHOD *"
	seen   []string                    // guarded by mu; "METHOD /path?query" of each request
}

func makeFake(t *testing.T, vendor string) *fake {
	f := &fake{t: t, vendor: vendor, auth: "trusted", ext: []string{"custom_volume_iso"}, routes: map[string]http.HandlerFunc{}, env: map[string]any{}}
	f.http = httptest.NewUnstartedServer(f)
	f.http.Config.ErrorLog = log.New(io.Discard, "", 0)
	f.on("GET /1.0/storage-pools/default", f.sync(map[string]any{"name": "default", "driver": "dir"}))
	t.Cleanup(f.http.Close)
	return f
}

// newFake serves on a unix socket.
func newFake(t *testing.T, vendor string) *fake {
	t.Helper()
	f := makeFake(t, vendor)
	path := filepath.Join(shortDir(t), "s")
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.http.Listener.Close()
	f.http.Listener = l
	f.http.Start()
	f.addr = "unix:" + path
	return f
}

// newTLSFake serves on HTTPS, and asks for a client certificate without judging it, like both servers.
func newTLSFake(t *testing.T, vendor string) *fake {
	t.Helper()
	f := makeFake(t, vendor)
	f.http.TLS = serverTLS()
	f.http.StartTLS()
	f.addr = f.http.URL
	return f
}

// shortDir is a directory whose name leaves room in the 108 bytes of a socket's address.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (f *fake) on(route string, h http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.routes[route] = h
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.EscapedPath()
	f.mu.Lock()
	f.seen = append(f.seen, r.Method+" "+r.URL.RequestURI())
	h := f.routes[r.Method+" "+path]
	if h == nil {
		h = f.routes[r.Method+" *"]
	}
	f.mu.Unlock()
	switch {
	case h != nil:
		h(w, r)
	case r.Method == http.MethodGet && path == "/1.0":
		env := map[string]any{"server": f.vendor, "server_version": "6.9", "server_name": "m1"}
		for k, v := range f.env {
			env[k] = v
		}
		f.sync(map[string]any{"auth": f.auth, "api_extensions": f.ext, "environment": env})(w, r)
	default:
		f.fail(http.StatusNotFound, "not found")(w, r)
	}
}

// requests lists what was asked so far.
func (f *fake) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.seen...)
}

func (f *fake) sync(metadata any) http.HandlerFunc {
	return f.body(http.StatusOK, map[string]any{"type": "sync", "status": "Success", "status_code": 200, "metadata": metadata})
}

func (f *fake) async(id string) http.HandlerFunc {
	return f.body(http.StatusAccepted, map[string]any{
		"type": "async", "status_code": 100, "operation": "/1.0/operations/" + id,
		"metadata": map[string]any{"id": id, "class": "task", "status_code": 103},
	})
}

func (f *fake) fail(status int, text string) http.HandlerFunc {
	return f.body(status, errorBody(status, text))
}

func errorBody(code int, text string) map[string]any {
	return map[string]any{"type": "error", "error_code": code, "error": text, "metadata": nil}
}

func (f *fake) body(status int, v any) http.HandlerFunc {
	text, err := json.Marshal(v)
	if err != nil {
		f.t.Fatal(err)
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write(append(text, '\n'))
	}
}

// in plays the handlers one after the other, the last one for ever.
func in(handlers ...http.HandlerFunc) http.HandlerFunc {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		h := handlers[0]
		if len(handlers) > 1 {
			handlers = handlers[1:]
		}
		mu.Unlock()
		h(w, r)
	}
}

// hangUp closes the connection without an answer.
func hangUp(w http.ResponseWriter, _ *http.Request) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		_ = c.Close()
	}
}

// target is for the fake, with its certificate pinned.
func (f *fake) target() Target {
	t := Target{Addr: f.addr}
	if c := f.http.Certificate(); c != nil {
		t.ServerCertPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return t
}

func (f *fake) dial(change ...func(*Target)) *Client {
	f.t.Helper()
	t := f.target()
	for _, c := range change {
		c(&t)
	}
	c, err := Dial(testContext(f.t), t)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(c.Close)
	return c
}

func (f *fake) pool(change ...func(*Target)) *Pool {
	f.t.Helper()
	p, err := f.dial(change...).Pool(testContext(f.t), "default")
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

// testContext ends a test that hangs, with a reason.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, fmt.Errorf("%s took too long", t.Name()))
	t.Cleanup(cancel)
	return ctx
}

const volumesPath = "/1.0/storage-pools/default/volumes/custom"

// both runs a test against either dialect.
func both(t *testing.T, test func(t *testing.T, f *fake)) {
	for _, vendor := range []string{"lxd", "incus"} {
		t.Run(vendor, func(t *testing.T) { test(t, newFake(t, vendor)) })
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readJSON[T any](t *testing.T, r io.Reader) (v T) {
	t.Helper()
	if err := json.NewDecoder(r).Decode(&v); err != nil {
		t.Error(err)
	}
	return v
}
