package lxdtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"isosyncd/lxd"
)

// Server is a running server that belongs to one test: a real Incus, or the embedded store. It has a pool "default".
// Its methods fail the test instead of returning errors, and may be used from the test's goroutine only, but for Kill.
type Server struct {
	t       testing.TB
	kind    Kind
	dir     string
	project string
	back    backend
}

// Kind says what a Server really is.
type Kind string

// The kinds there are.
const (
	KindIncus      Kind = "incus"       // the real daemon
	KindStore      Kind = "store"       // the embedded store, speaking as LXD
	KindStoreIncus Kind = "store-incus" // the embedded store, speaking as Incus
)

// backend is what differs between the kinds.
type backend interface {
	start(t testing.TB)
	kill()
	file(t testing.TB, pool, project, name string) string
	pid() int
}

// Each runs a test against the embedded store and against a real Incus.
func Each(t *testing.T, f func(t *testing.T, s *Server)) {
	t.Helper()
	t.Run("store", func(t *testing.T) { f(t, Store(t)) })
	t.Run("incus", func(t *testing.T) { f(t, Incus(t)) })
}

// Kind says what the server really is.
func (s *Server) Kind() Kind { return s.kind }

// Real reports whether this is somebody else's server, and no part of this project.
func (s *Server) Real() bool { return s.kind == KindIncus }

// Addr is the address for lxd.Target: unix: and the path of its socket.
func (s *Server) Addr() string { return "unix:" + filepath.Join(s.dir, "unix.socket") }

// Dir is the server's own directory, and INCUS_DIR or LXD_DIR for programs that are to use it.
func (s *Server) Dir() string { return s.dir }

// Project is the project that Pool, Run and the rest work in.
func (s *Server) Project() string { return s.project }

// PID is the daemon's process; 0 where the server has none of its own.
func (s *Server) PID() int { return s.back.pid() }

// Target is for lxd.Dial.
func (s *Server) Target() lxd.Target { return lxd.Target{Addr: s.Addr(), Project: s.project} }

// Client dials the server, until the end of t.
func (s *Server) Client(t testing.TB) *lxd.Client {
	t.Helper()
	c, err := lxd.Dial(Context(t), s.Target())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Pool opens the pool "default" in the server's project.
func (s *Server) Pool(t testing.TB) *lxd.Pool {
	t.Helper()
	return s.PoolNamed(t, "default")
}

// PoolNamed opens a pool in the server's project.
func (s *Server) PoolNamed(t testing.TB, name string) *lxd.Pool {
	t.Helper()
	p, err := s.Client(t).Pool(Context(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// In returns the same server, seen from a project of that name that is made now. config is that of the project, such
// as {"features.storage.volumes": "false"}.
func (s *Server) In(t testing.TB, project string, config map[string]string) *Server {
	t.Helper()
	body := map[string]any{"name": project}
	if config != nil {
		body["config"] = config // to Incus, null is not the same as nothing: it turns all features off
	}
	s.must(t, http.MethodPost, "/1.0/projects", body)
	in := *s
	in.t, in.project = t, project
	return &in
}

// Kill ends the server as SIGKILL does: nothing is finished, nothing is cleaned up. It may be called from any
// goroutine. Restart starts it again.
func (s *Server) Kill() { s.back.kill() }

// Restart starts the server again, on the same directory and address, and returns when it is ready. One that still
// runs is killed first.
func (s *Server) Restart() {
	s.t.Helper()
	s.back.kill()
	s.back.start(s.t)
	s.ready(s.t)
}

// ready waits until the server answers, and makes the pool "default".
func (s *Server) ready(t testing.TB) {
	t.Helper()
	Eventually(t, "the server's first answer", func() bool {
		status, _, err := s.Do(http.MethodGet, "/1.0/storage-pools/default", nil)
		if err != nil || status != http.StatusOK && status != http.StatusNotFound {
			return false
		}
		if status == http.StatusOK {
			return true
		}
		status, _, err = s.Do(http.MethodPost, "/1.0/storage-pools", map[string]any{"name": "default", "driver": "dir"})
		return err == nil && status == http.StatusCreated
	})
}

// VolumeFile is the path of the bytes of a volume. On a real server the file is padded, and it may not be there.
func (s *Server) VolumeFile(pool, project, name string) string {
	s.t.Helper()
	return s.back.file(s.t, pool, project, name)
}

// Run runs the incus program against the server, in its project, and returns what it printed. A non-zero exit fails
// the test.
func (s *Server) Run(args ...string) string {
	s.t.Helper()
	out, err := s.Try(args...)
	if err != nil {
		s.t.Fatalf("incus %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// Try runs the incus program and returns what it printed, and the error where it failed.
func (s *Server) Try(args ...string) (string, error) {
	s.t.Helper()
	Need(s.t, "incus")
	cmd := exec.CommandContext(Context(s.t), "incus", append(args, "--project", s.project)...)
	// A home of its own: the program writes its configuration and a cache there.
	cmd.Env = append(os.Environ(), "INCUS_DIR="+s.dir, "INCUS_CONF="+filepath.Join(s.dir, "conf"), "INCUS_SOCKET=", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// UseVolume makes a volume of the pool "default" be in use: the profile "default" gets a device that names it.
func (s *Server) UseVolume(name string) {
	s.t.Helper()
	s.devices(func(devices map[string]map[string]string) {
		devices[device(name)] = map[string]string{"type": "disk", "pool": "default", "source": name}
	})
}

// Free undoes UseVolume.
func (s *Server) Free(name string) {
	s.t.Helper()
	s.devices(func(devices map[string]map[string]string) { delete(devices, device(name)) })
}

func device(volume string) string {
	sum := sha256.Sum256([]byte(volume))
	return "cd-" + hex.EncodeToString(sum[:6])
}

// devices edits those of the profile "default".
func (s *Server) devices(edit func(map[string]map[string]string)) {
	s.t.Helper()
	var profile struct {
		Config      map[string]string            `json:"config"`
		Description string                       `json:"description"`
		Devices     map[string]map[string]string `json:"devices"`
	}
	path := "/1.0/profiles/default?project=" + url.QueryEscape(s.project)
	if err := json.Unmarshal(s.must(s.t, http.MethodGet, path, nil), &profile); err != nil {
		s.t.Fatal(err)
	}
	if profile.Devices == nil {
		profile.Devices = map[string]map[string]string{}
	}
	edit(profile.Devices)
	s.must(s.t, http.MethodPut, path, profile)
}

// must is Do for requests that have to succeed; it returns the metadata, for operations that of their end.
func (s *Server) must(t testing.TB, method, path string, body any) json.RawMessage {
	t.Helper()
	status, text, err := s.Do(method, path, body)
	var envelope struct {
		Type, Operation, Error string
		Metadata               json.RawMessage
	}
	if err == nil {
		err = json.Unmarshal(text, &envelope)
	}
	if err == nil && envelope.Type == "async" {
		return s.must(t, http.MethodGet, envelope.Operation+"/wait?timeout=60", nil)
	}
	var operation struct {
		Code int    `json:"status_code"`
		Err  string `json:"err"`
	}
	failed := json.Unmarshal(envelope.Metadata, &operation) == nil && operation.Code == http.StatusBadRequest
	if err != nil || status >= 300 || envelope.Type == "error" || failed {
		t.Fatalf("%s %s: %v, status %d: %s", method, path, err, status, text)
	}
	return envelope.Metadata
}

// Do makes one plain request, past package lxd. path may have a query. body, unless it is nil, is sent as JSON.
func (s *Server) Do(method, path string, body any) (status int, text []byte, err error) {
	return do(s.Addr(), method, path, body)
}

func do(addr, method, path string, body any) (status int, text []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), Limit+30*time.Second)
	defer cancel()
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://server"+path, r)
	if err != nil {
		return 0, nil, err
	}
	tr := unixTransport(addr)
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err = io.ReadAll(resp.Body)
	return resp.StatusCode, text, err
}

// Transport reaches the server for requests that package lxd does not make; the host of the URL does not matter.
func (s *Server) Transport() *http.Transport { return unixTransport(s.Addr()) }

// unixTransport speaks HTTP/1.1 to a unix:/path address.
func unixTransport(addr string) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(addr, "unix:"))
		},
		DisableCompression:    true,
		ExpectContinueTimeout: 5 * time.Second,
	}
}

// Context ends when the test does, or with a reason after a few minutes: it is for a test that hangs.
func Context(t testing.TB) context.Context {
	t.Helper()
	const long = 5 * time.Minute
	ctx, cancel := context.WithTimeoutCause(t.Context(), long, fmt.Errorf("%s took more than %v", t.Name(), long))
	t.Cleanup(cancel)
	return ctx
}
