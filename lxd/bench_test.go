package lxd

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkImport1GiB sends a file from the page cache to a server that throws it away.
func BenchmarkImport1GiB(b *testing.B) {
	dir, err := os.MkdirTemp("", "lx")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := new(net.ListenConfig).Listen(b.Context(), "unix", filepath.Join(dir, "s"))
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
	p := &Pool{client: c, name: "default", request: "default", project: "default"}
	const size = 1 << 30
	img := image(b, size)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Import(b.Context(), "x", img, size, func(int64) {}); err != nil {
			b.Fatal(err)
		}
	}
}
