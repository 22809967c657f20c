package lxdtest_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"testing"

	"isosyncd/lxd"
	"isosyncd/lxd/lxdtest"
)

type answer struct {
	Type      string          `json:"type"`
	Operation string          `json:"operation"`
	ErrorCode int             `json:"error_code"`
	Error     string          `json:"error"`
	Metadata  json.RawMessage `json:"metadata"`
}

func envelope(t *testing.T, text []byte) answer {
	t.Helper()
	var e answer
	if err := json.Unmarshal(text, &e); err != nil {
		t.Fatalf("no answer of a server: %v: %s", err, text)
	}
	return e
}

// rawImport sends size bytes past package lxd, with the headers of both vendors.
func rawImport(t *testing.T, s *lxdtest.Server, name, kind string, size int64) (status int, text string) {
	t.Helper()
	return rawImportTo(t, s, volumeURL(s, ""), name, kind, size)
}

func rawImportTo(t *testing.T, s *lxdtest.Server, path, name, kind string, size int64) (status int, text string) {
	t.Helper()
	ctx, cancel := context.WithCancel(lxdtest.Context(t))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://server"+path, io.LimitReader(endless{}, size))
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = size
	if size == 0 {
		req.Body = http.NoBody
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	for _, vendor := range []string{"LXD", "Incus"} {
		req.Header.Set("X-"+vendor+"-Type", kind)
		req.Header.Set("X-"+vendor+"-Name", name)
	}
	tr := s.Transport()
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	e := envelope(t, b)
	if e.Type != "async" {
		return resp.StatusCode, string(b)
	}
	var failed *lxd.Error
	if err := s.Pool(t).Wait(ctx, e.Operation); errors.As(err, &failed) {
		return failed.Status, failed.Message
	} else if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// endless is a reader of one byte.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}
