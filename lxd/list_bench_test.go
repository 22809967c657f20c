package lxd

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkVolumes10000 reads a listing of 10,000 volumes, which the server has ready.
func BenchmarkVolumes10000(b *testing.B) {
	const n = 10_000
	var answer bytes.Buffer
	answer.WriteString(`{"type":"sync","status":"Success","status_code":200,"metadata":[`)
	for i := range n {
		if i > 0 {
			answer.WriteByte(',')
		}
		fmt.Fprintf(&answer, `{"config":{"size":"40960"},"description":"[isosyncd owner=host sha256=%s file=\"image-%05d.iso\"]",`+
			`"name":"image-%05d","type":"custom","used_by":[],"location":"none","content_type":"iso","project":"default",`+
			`"created_at":"2026-01-01T00:00:00.000000001Z"}`, strings.Repeat("5f", 32), i, i)
	}
	answer.WriteString("]}")
	l, err := new(net.ListenConfig).Listen(b.Context(), "unix", filepath.Join(shortDir(b), "s"))
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(answer.Bytes()) })}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	b.Cleanup(func() { _ = server.Close(); <-served })
	c, err := open(Target{Addr: "unix:" + l.Addr().String()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	p := &Pool{client: c, name: "default", request: "default", project: "default"}
	b.SetBytes(int64(answer.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if list, err := p.Volumes(b.Context()); err != nil || len(list) != n {
			b.Fatal(len(list), err)
		}
	}
}
