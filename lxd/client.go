package lxd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Client is a connection to one server. It is safe for use by several goroutines.
type Client struct {
	transport *http.Transport
	base      string // scheme and host of every URL
	target    Target
	server    Server
	member    string // the member that answered GET /1.0
	spread    map[string]bool

	stall  time.Duration // an upload without a byte of progress is given up after this
	answer time.Duration // and so is one that was sent whole, but is not answered
	round  time.Duration // one request of a wait for an operation lasts this long at the server
	// ping is how often an event stream is asked whether it lives, silence how long it may say nothing at all. Both
	// servers ping every 10 s by themselves, and answer pings.
	ping, silence time.Duration
}

const (
	userAgent = "isosyncd" // must not begin with Mozilla (SERVER-API 1.1)

	dialTimeout  = 10 * time.Second
	shortTimeout = 30 * time.Second // for an answer that the server has at hand
	longTimeout  = 5 * time.Minute  // for lists, and for what some drivers do before they answer
	// idleTimeout is less than the 30 s after which both servers close an idle connection (SERVER-API 6), so that an
	// import hardly ever meets a dead one.
	idleTimeout = 20 * time.Second
	// continueTimeout is for servers or proxies that do not know Expect: both vendors answer it at once.
	continueTimeout = 5 * time.Second

	maxError = 1 << 20  // bytes of an answer that is not success
	maxList  = 64 << 20 // bytes of any answer
)

// Dial connects and says hello. The error wraps ErrNoServer, ErrAway, ErrIdentity, ErrUntrusted, or ErrNoISO where
// the server is too old for ISO volumes; all but ErrAway need somebody.
func Dial(ctx context.Context, t Target) (*Client, error) {
	c, err := open(t)
	if err != nil {
		return nil, err
	}
	if err := c.hello(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// open prepares a client; nothing is sent yet.
func open(t Target) (*Client, error) {
	d, err := newDialer(t)
	if err != nil {
		return nil, err
	}
	c := &Client{
		base:   d.base,
		target: t,
		stall:  t.Stall,
		answer: 10 * time.Minute,
		round:  20 * time.Second,
		ping:   20 * time.Second, silence: time.Minute,
	}
	if c.stall <= 0 {
		c.stall = time.Minute
	}
	// No proxy: what goes through here is either on this host or a hypervisor of this site, and some proxies store
	// or cut bodies. HTTP/2 is not offered, because the event stream needs HTTP/1.1.
	c.transport = &http.Transport{
		DialContext:            d.plain,
		DialTLSContext:         d.tls,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        idleTimeout,
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: 256 << 10,
		// No ResponseHeaderTimeout: the answer to an import comes when the last byte is stored.
	}
	c.server.Addr = d.addr
	return c, nil
}

// hello asks GET /1.0 and remembers the dialect.
func (c *Client) hello(ctx context.Context) error {
	h, err := c.greet(ctx)
	if err != nil {
		return err
	}
	if h.Auth != "trusted" {
		return &failure{ErrUntrusted, fmt.Sprintf("%s does not trust this client: its certificate or token is not known there;"+
			" let an administrator add it, or join with a token", c.server.Addr)}
	}
	if !c.server.Extensions["custom_volume_iso"] {
		return &failure{ErrNoISO, fmt.Sprintf("%s runs %s %s, which does not know ISO volumes; LXD has them since 5.16 (and in 5.21 LTS), every Incus has them",
			c.server.Addr, vendorName(c.server.Vendor), c.server.Version)}
	}
	return nil
}

// greeting is GET /1.0. An untrusted client gets less of it.
type greeting struct {
	Auth        string   `json:"auth"`
	Extensions  []string `json:"api_extensions"`
	Environment struct {
		Server    string `json:"server"`
		Version   string `json:"server_version"`
		Name      string `json:"server_name"`
		Clustered bool   `json:"server_clustered"`
		Drivers   []struct {
			Name   string
			Remote bool
		} `json:"storage_supported_drivers"`
	} `json:"environment"`
}

// greet fills in c.server.
func (c *Client) greet(ctx context.Context) (greeting, error) {
	var h greeting
	_, err := c.do(ctx, request{op: "connect to " + c.server.Addr, method: http.MethodGet, path: "/1.0", timeout: shortTimeout}, &h)
	if err != nil {
		return h, err
	}
	env := &h.Environment
	c.server.Extensions = make(map[string]bool, len(h.Extensions))
	for _, e := range h.Extensions {
		c.server.Extensions[e] = true
	}
	c.server.Vendor = strings.ToLower(env.Server)
	// An untrusted client is not told who the server is.
	if h.Auth == "trusted" && c.server.Vendor != "lxd" && c.server.Vendor != "incus" {
		return h, fmt.Errorf("%s says that it is %q, and neither LXD nor Incus", c.server.Addr, message(env.Server))
	}
	c.server.Version = message(env.Version)
	c.server.Name = message(env.Name)
	c.server.Clustered = env.Clustered
	c.member = env.Name
	c.spread = make(map[string]bool, len(env.Drivers))
	for _, d := range env.Drivers {
		c.spread[d.Name] = d.Remote
	}
	return h, nil
}

func vendorName(vendor string) string {
	if vendor == "incus" {
		return "Incus"
	}
	return "LXD"
}

// Server says whom we talk to. Its Extensions are shared: do not change them.
func (c *Client) Server() Server { return c.server }

// Close drops the connections that nobody uses now.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// request is one call of the API.
type request struct {
	op      string // what is attempted, for the error
	method  string
	path    string // escaped
	query   url.Values
	body    any  // sent as JSON; nil = none
	again   bool // doing it twice does no harm: a connection that was found dead is replaced without a word
	timeout time.Duration
}

// envelope is around every answer of both servers (SERVER-API 1.3, 6).
type envelope struct {
	Type      string          `json:"type"`
	Operation string          `json:"operation"`
	ErrorCode int             `json:"error_code"`
	Error     string          `json:"error"`
	Metadata  json.RawMessage `json:"metadata"`
}

// do sends a request and decodes the metadata of a sync answer into into, unless that is nil. For an async answer it
// returns the operation. Whether an answer is one or the other is the server's choice: LXD 6.6 made many of them
// async.
func (c *Client) do(ctx context.Context, r request, into any) (operation string, err error) {
	ours, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	req, err := c.newRequest(ours, r)
	if err != nil {
		return "", err
	}
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		return "", transportError(ctx, r.op, err)
	}
	defer func() { _ = resp.Body.Close() }()
	env, err := readEnvelope(ctx, r.op, resp)
	if err != nil {
		return "", err
	}
	return env.open(r.op, into)
}

// newRequest makes the HTTP request, with everything that each of them needs.
func (c *Client) newRequest(ctx context.Context, r request) (*http.Request, error) {
	u := c.base + r.path
	if len(r.query) > 0 {
		u += "?" + r.query.Encode()
	}
	var body io.Reader
	if r.body != nil {
		b, err := json.Marshal(r.body)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.op, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.op, err)
	}
	c.dress(req.Header)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.again {
		// Tells net/http that it may repeat the request on a new connection. A nil value is not sent.
		req.Header["Idempotency-Key"] = nil
	}
	return req, nil
}

// dress adds the headers of every request.
func (c *Client) dress(h http.Header) {
	h.Set("User-Agent", userAgent)
	if c.target.Bearer != "" && strings.HasPrefix(c.base, "https:") {
		h.Set("Authorization", "Bearer "+c.target.Bearer)
	}
}

// readEnvelope reads a whole answer. What is not an answer of LXD or Incus is an error that decides nothing.
func readEnvelope(ctx context.Context, op string, resp *http.Response) (*envelope, error) {
	limit := int64(maxList)
	if resp.StatusCode >= 300 {
		limit = maxError
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, transportError(ctx, op, err)
	}
	var env envelope
	switch {
	case int64(len(body)) > limit:
		return nil, alienError(op, resp, fmt.Sprintf("an answer of more than %d MiB", limit>>20))
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return nil, alienError(op, resp, "a redirect, which is not followed")
	case json.Unmarshal(body, &env) != nil || !slices.Contains([]string{"sync", "async", "error"}, env.Type):
		kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
		if err != nil {
			kind = "unknown type"
		}
		return nil, alienError(op, resp, "no answer of LXD or Incus ("+message(kind)+"); is there a proxy in between?")
	case env.Type != "error" && resp.StatusCode >= 400:
		return nil, alienError(op, resp, "an answer that contradicts itself")
	case env.Type == "error":
		e := &Error{Op: op, Status: resp.StatusCode, Message: message(env.Error), RetryAfter: retryAfter(resp.Header, time.Now())}
		if e.Status < 400 {
			e.Status = errorStatus(env.ErrorCode)
		}
		return nil, e
	}
	return &env, nil
}

// errorStatus makes a status of an error_code: 500 where it is none.
func errorStatus(code int) int {
	if code < 400 || code > 599 {
		return http.StatusInternalServerError
	}
	return code
}

// alienError is about an answer that neither server gives.
func alienError(op string, resp *http.Response, what string) *Error {
	e := &Error{Op: op, Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header, time.Now()), alien: true}
	e.Message = strings.TrimSpace(fmt.Sprintf("HTTP status %d %s with %s", resp.StatusCode, http.StatusText(resp.StatusCode), what))
	if e.Status < 400 {
		e.Status = http.StatusBadGateway
	}
	return e
}

// open takes the letter out of the envelope.
func (env *envelope) open(op string, into any) (operation string, err error) {
	if env.Type == "async" {
		id, ok := operationID(env.Operation)
		if !ok {
			return "", fmt.Errorf("%s: the server named no operation", op)
		}
		return operationsPath + id, nil
	}
	if into == nil {
		return "", nil
	}
	if len(env.Metadata) == 0 || string(env.Metadata) == "null" {
		if kind := reflect.TypeOf(into).Elem().Kind(); kind == reflect.Slice || kind == reflect.Map {
			return "", nil // how Go writes an empty list that was never made
		}
		return "", fmt.Errorf("%s: the server's answer is empty", op)
	}
	if err := json.Unmarshal(env.Metadata, into); err != nil {
		var syntax *json.UnmarshalTypeError
		if errors.As(err, &syntax) {
			return "", fmt.Errorf("%s: the server's answer has an unexpected %s at %q", op, syntax.Value, syntax.Field)
		}
		return "", fmt.Errorf("%s: the server's answer: %w", op, err)
	}
	return "", nil
}

// apiPath joins path segments, each escaped. A name can be anything, even ".." (SERVER-API 1.4), which must not be
// taken for a way up.
func apiPath(segments ...string) string {
	var b strings.Builder
	b.WriteString("/1.0")
	for _, s := range segments {
		b.WriteByte('/')
		if s == "." || s == ".." {
			b.WriteString(strings.ReplaceAll(s, ".", "%2E"))
			continue
		}
		b.WriteString(url.PathEscape(s))
	}
	return b.String()
}
