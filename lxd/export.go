package lxd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Export opens the bytes of an ISO volume and says how many there are. Only newer versions of Incus can give them back
// (SERVER-API 3.5); elsewhere the error is ErrNotRead.
//
// A stream that ends early ends with io.ErrUnexpectedEOF, one that the server cannot start is an *Error. Close ends it
// and, on a server that has to make a backup for it, removes that backup.
func (p *Pool) Export(ctx context.Context, name string) (io.ReadCloser, int64, error) {
	op := "export volume " + message(name)
	have := p.client.server.Extensions
	if p.client.server.Vendor != "incus" || !have["backup_iso"] {
		return nil, 0, fmt.Errorf("%s: %w: %s %s has no way to read an ISO volume", op, ErrNotRead,
			vendorName(p.client.server.Vendor), p.client.server.Version)
	}
	v, err := p.Volume(ctx, name)
	if err != nil {
		return nil, 0, err
	}
	if v.ContentType != "iso" || v.Size < 0 {
		return nil, 0, fmt.Errorf("%s: %w: it is no ISO volume", op, ErrNotRead)
	}
	if have["direct_backup"] {
		r := request{
			op: op, method: http.MethodPost, path: p.volumePath(name, "backups"), query: p.located(),
			body: map[string]bool{"volume_only": true},
		}
		body, err := p.download(ctx, r, nil)
		if err != nil {
			return nil, 0, err
		}
		return &export{body: body, left: v.Size}, v.Size, nil
	}
	return p.exportBackup(ctx, op, v)
}

// exportBackup makes a backup, which is the raw image, and opens it.
func (p *Pool) exportBackup(ctx context.Context, op string, v Volume) (io.ReadCloser, int64, error) {
	backup := "isosyncd-" + rand.Text()
	operation, err := p.client.do(ctx, request{
		op: op, method: http.MethodPost, path: p.volumePath(v.Name, "backups"), query: p.located(), timeout: longTimeout,
		body: map[string]any{
			"name": backup, "volume_only": true, "compression_algorithm": "none",
			// Should we die before Close, the server cleans up.
			"expires_at": time.Now().Add(24 * time.Hour).UTC(),
		},
	}, nil)
	if err != nil {
		return nil, 0, err
	}
	remove := func() error { return p.removeBackup(context.WithoutCancel(ctx), op, v.Name, backup) }
	if operation != "" {
		err = p.wait(ctx, op, operation)
	}
	var body io.ReadCloser
	if err == nil {
		r := request{op: op, method: http.MethodGet, path: p.volumePath(v.Name, "backups", backup, "export"), query: p.located()}
		body, err = p.download(ctx, r, remove)
	}
	if err != nil {
		return nil, 0, errors.Join(err, remove())
	}
	return &export{body: body, left: v.Size}, v.Size, nil
}

// removeBackup removes a backup; one that is not there is no error.
func (p *Pool) removeBackup(ctx context.Context, op, name, backup string) error {
	ctx, cancel := context.WithTimeout(ctx, longTimeout)
	defer cancel()
	operation, err := p.client.do(ctx, request{
		op: op, method: http.MethodDelete, path: p.volumePath(name, "backups", backup), query: p.located(), timeout: shortTimeout, again: true,
	}, nil)
	if err == nil && operation != "" {
		err = p.wait(ctx, op, operation)
	}
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnknown) {
		return nil
	}
	return err
}

// download starts a transfer of raw bytes. The body ends with ctx or with Close, and is watched for standing still.
func (p *Pool) download(ctx context.Context, r request, after func() error) (io.ReadCloser, error) {
	ours, cancel := context.WithCancelCause(ctx)
	req, err := p.client.newRequest(ours, r)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	req.Header.Set("Accept", "application/octet-stream")
	limit := p.client.stall
	idle := time.AfterFunc(p.client.answer, func() { cancel(fmt.Errorf("%w: %w: the server sent nothing", ErrAway, errStalled)) })
	fail := func(err error) (io.ReadCloser, error) {
		idle.Stop()
		cause := context.Cause(ours)
		cancel(nil)
		if errors.Is(cause, errStalled) && ctx.Err() == nil {
			return nil, fmt.Errorf("%s: %w", r.op, cause)
		}
		return nil, err
	}
	resp, err := p.client.transport.RoundTrip(req)
	if err != nil {
		return fail(transportError(ctx, r.op, err))
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") == "application/json" {
		defer func() { _ = resp.Body.Close() }()
		_, err := readEnvelope(ctx, r.op, resp)
		if err == nil {
			err = alienError(r.op, resp, "no image")
		}
		return fail(err)
	}
	idle.Reset(limit)
	return &watchedBody{op: r.op, body: resp.Body, ctx: func() error { return context.Cause(ours) }, idle: idle, limit: limit, end: func() error {
		cancel(nil)
		if after == nil {
			return nil
		}
		return after()
	}}, nil
}

// watchedBody is the body of an answer that is given up when nothing comes for a while. The time that its reader takes
// between two calls does not count.
type watchedBody struct {
	op    string
	body  io.ReadCloser
	ctx   func() error // why the transfer was ended
	idle  *time.Timer
	limit time.Duration
	end   func() error
	ended bool
}

func (w *watchedBody) Read(b []byte) (int, error) {
	w.idle.Reset(w.limit)
	n, err := w.body.Read(b)
	w.idle.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := w.ctx(); cause != nil {
			err = cause
		} else if !errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: %w", ErrAway, err)
		}
		err = fmt.Errorf("%s: %w", w.op, err)
	}
	return n, err
}

func (w *watchedBody) Close() error {
	if w.ended {
		return nil
	}
	w.ended = true
	w.idle.Stop()
	return errors.Join(w.body.Close(), w.end())
}

// export cuts a stream to the length that the volume has: less is an error, more is padding that the server adds.
type export struct {
	body io.ReadCloser
	left int64
}

func (e *export) Read(b []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n, err := e.body.Read(b[:min(int64(len(b)), e.left)])
	e.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = nil
		if e.left > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

func (e *export) Close() error { return e.body.Close() }
