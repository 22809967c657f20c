package lxd

import (
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
)

// BenchmarkImportStream1GiB sends what BenchmarkImport1GiB sends, as a stream.
func BenchmarkImportStream1GiB(b *testing.B) {
	p := discarding(b)
	const size = 1 << 30
	img := image(b, size)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		// Only a reader, as what grows is.
		src := struct{ io.Reader }{io.NewSectionReader(img, 0, size)}
		if _, sent, err := p.ImportStream(b.Context(), "x", src, func(int64) {}); err != nil || sent != size {
			b.Fatal(sent, err)
		}
	}
}

// discarding is a pool of a server that throws images away.
func discarding(b *testing.B) *Pool {
	b.Helper()
	l, err := new(net.ListenConfig).Listen(b.Context(), "unix", filepath.Join(shortDir(b), "s"))
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, buf)
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"type":"async","operation":"/1.0/operations/1"}`)
	})}
	go func() { _ = server.Serve(l) }()
	b.Cleanup(func() { _ = server.Close() })
	c, err := open(Target{Addr: "unix:" + l.Addr().String()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	c.server.Vendor = "incus"
	return &Pool{client: c, name: "default", request: "default", project: "default"}
}
