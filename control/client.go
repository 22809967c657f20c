package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"
	"unicode/utf8"
)

// ErrNotRunning says that nobody answers on the socket.
var ErrNotRunning = errors.New("no isosyncd is running there")

const maxAnswer = 256 << 20 // bytes: the status of some 100,000 files

// Client talks to a running isosyncd. It is safe for use by several goroutines.
type Client struct {
	path string
	http *http.Client
}

// Dial makes a client for the socket at path. It does no I/O: whether somebody is there shows with the first request,
// whose error is then ErrNotRunning.
func Dial(path string) *Client {
	return &Client{path: path, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: 5 * time.Second}
			return d.DialContext(ctx, "unix", path)
		},
		DisableCompression: true,
	}}}
}

// Close drops kept connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks for the newest state.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var st Status
	err := c.call(ctx, http.MethodGet, "/1/status", nil, &st)
	if err == nil {
		err = checkVersion(&st)
	}
	return &st, err
}

// Watch calls f with the state, and again after each change, until ctx ends, f returns an error, or the daemon stops;
// the error is ctx's, f's, or ErrNotRunning.
func (c *Client) Watch(ctx context.Context, f func(*Status) error) error {
	resp, err := c.do(ctx, http.MethodGet, "/1/changes", nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 64<<10), maxAnswer)
	for lines.Scan() {
		var st Status
		if err := json.Unmarshal(lines.Bytes(), &st); err != nil {
			return fmt.Errorf("control socket %s: %w", c.path, err)
		}
		if err := checkVersion(&st); err != nil {
			return err
		}
		if err := f(&st); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := lines.Err(); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return c.failed(err)
	}
	return fmt.Errorf("control socket %s: %w: it stopped", c.path, ErrNotRunning)
}

func checkVersion(st *Status) error {
	if st.Version != Version {
		return fmt.Errorf("the daemon speaks version %d of the control protocol, this program version %d; install the same version of both", st.Version, Version)
	}
	return nil
}

// Retry forgets the failures of a file or volume. The error is a *Problem where the daemon refuses.
func (c *Client) Retry(ctx context.Context, name string) error {
	body := map[string]any{"name": name}
	if !utf8.ValidString(name) {
		body = map[string]any{"raw_name": []byte(name)}
	}
	return c.call(ctx, http.MethodPost, "/1/retry", body, nil)
}

// Adopt makes a foreign volume ours. It returns when that is done, which takes as long as the image's file is read.
func (c *Client) Adopt(ctx context.Context, volume string) error {
	return c.call(ctx, http.MethodPost, "/1/adopt", map[string]any{"volume": volume}, nil)
}

// Rescan looks at folder and pool now.
func (c *Client) Rescan(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/1/rescan", map[string]any{}, nil)
}

// Health is nil while the daemon's deciding goroutine lives.
func (c *Client) Health(ctx context.Context) error {
	_, err := c.text(ctx, "/healthz")
	return err
}

// Metrics gives the metrics in Prometheus' text format.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) { return c.text(ctx, "/metrics") }

func (c *Client) text(ctx context.Context, path string) ([]byte, error) {
	resp, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	return io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
}

func (c *Client) call(ctx context.Context, method, path string, body, into any) error {
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil && into != nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		return fmt.Errorf("control socket %s: %w", c.path, err)
	}
	return nil
}

// do sends a request; the answer is success, and its body open.
func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("control socket: %w", err)
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://isosyncd"+path, r)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, c.failed(err)
	}
	if resp.StatusCode < http.StatusBadRequest {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var no refusal
	if err == nil && json.Unmarshal(b, &no) == nil && no.Error != nil {
		return nil, no.Error
	}
	return nil, fmt.Errorf("control socket %s: %s: %s", c.path, resp.Status, bytes.TrimSpace(b))
}

// failed names why nobody answers.
func (c *Client) failed(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF):
		return fmt.Errorf("control socket %s: %w", c.path, ErrNotRunning)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("control socket %s: this user may not use it; use root, or add the user to the socket's group: %w", c.path, fs.ErrPermission)
	}
	return fmt.Errorf("control socket %s: %w", c.path, err)
}
