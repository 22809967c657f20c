package lxdtest_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"

	"isosyncd/lxd"
	"isosyncd/lxd/lxdtest"
)

// TestConformanceStream is about imports whose length is not known beforehand: chunks that are ended make the volume,
// and whatever else happens to them leaves nothing. The cases follow each other, as each looks at what uploads leave.
func TestConformanceStream(t *testing.T) {
	t.Parallel()
	lxdtest.Each(t, func(t *testing.T, s *lxdtest.Server) {
		for i, c := range []struct {
			name string
			run  func(t *testing.T, s *lxdtest.Server)
		}{
			{"whole", testStreamWhole},
			{"whole with a pause", testStreamPause},
			{"source fails", testStreamSourceFails},
			{"cancelled", testStreamCancelled},
			{"cancelled while the server is slow", testStreamSlowServer},
			{"client dies", testStreamClientDies},
			{"empty", testStreamEmpty},
			{"project is gone", testStreamNoProject},
			{"name is taken", testStreamDuplicate},
			{"limit is reached", testStreamLimit},
		} {
			if c.name == "limit is reached" && !s.Real() {
				continue // the embedded store has no limits
			}
			t.Run(c.name, func(t *testing.T) { c.run(t, s.In(t, fmt.Sprintf("s%d", i), nil)) })
		}
	})
}

// TestConformanceStreamHTTPS does the main ones over HTTPS.
func TestConformanceStreamHTTPS(t *testing.T) {
	t.Parallel()
	s := lxdtest.Incus(t)
	target := s.HTTPS(t)
	dir := t.TempDir()
	target.CertFile, target.KeyFile = filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key")
	if err := lxd.NewClientKey(target.CertFile, target.KeyFile); err != nil {
		t.Fatal(err)
	}
	target, err := lxd.Join(lxdtest.Context(t), target, s.Token(t, "streams"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := lxd.Dial(lxdtest.Context(t), target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p, err := c.Pool(lxdtest.Context(t), "default")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(p.Server().Addr, "https:") {
		t.Fatalf("the server is at %s", p.Server().Addr)
	}
	for _, c := range cuts {
		t.Run(c.name, func(t *testing.T) { c.run(t, s, p) })
	}
	t.Run("cancelled", func(t *testing.T) { cancelled(t, s, p) })
	t.Run("whole", func(t *testing.T) { whole(t, s, p, "https", 3<<20+1, iotest.HalfReader) })
}

// whole imports a stream, waits for it, and compares.
func whole(t *testing.T, s *lxdtest.Server, p *lxd.Pool, name string, size int64, pieces func(io.Reader) io.Reader) {
	t.Helper()
	f := lxdtest.File(t, size)
	var last int64
	operation, sent, err := p.ImportStream(lxdtest.Context(t), name, pieces(io.NewSectionReader(f, 0, size)), func(n int64) { last = n })
	if err != nil || sent != size || last != size {
		t.Fatalf("a stream of %d bytes: %d were sent, progress ended at %d, %v", size, sent, last, err)
	}
	if !mentioned(t, s, name) {
		t.Errorf("no operation is about %q", name) // or else nothing could never fail
	}
	if err := p.Wait(lxdtest.Context(t), operation); err != nil {
		t.Fatal(err)
	}
	if v := get(t, p, name); v.Size != size || v.ContentType != "iso" {
		t.Errorf("the volume is %+v, want %d bytes", v, size)
	}
	sameBytes(t, s, name, f, size)
}

// mentioned reports whether the server knows an operation on a volume, also one that has ended.
func mentioned(t *testing.T, s *lxdtest.Server, name string) bool {
	t.Helper()
	status, text, err := s.Do(http.MethodGet, "/1.0/operations?recursion=1&project="+s.Project(), nil)
	if err != nil || status != http.StatusOK {
		t.Fatalf("operations: %d %s %v", status, text, err)
	}
	return bytes.Contains(text, []byte("/volumes/custom/"+name))
}

// begun waits until the server receives an upload, and has n bytes of it. It writes a MiB at a time at most.
func begun(t *testing.T, s *lxdtest.Server, n int64) {
	t.Helper()
	lxdtest.Eventually(t, fmt.Sprintf("the server to have %d bytes", n), func() bool {
		for _, name := range leftovers(t, s) {
			dir := filepath.Join(s.Dir(), "isos")
			if !s.Real() {
				dir = filepath.Join(s.Dir(), "store", "pools", "default", ".tmp")
			}
			if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Size() >= n {
				return true
			}
		}
		return false
	})
}

// nothing wants that an upload, which the server had begun to receive, left neither a volume nor an operation, not even
// one that failed. The server removes what it received when it is done with the request, and begins operations before.
func nothing(t *testing.T, s *lxdtest.Server, name string) {
	t.Helper()
	lxdtest.Eventually(t, "the server to drop what it received", func() bool { return len(leftovers(t, s)) == 0 })
	if mentioned(t, s, name) {
		t.Errorf("there was an operation on %q", name)
	}
	p := s.Pool(t)
	put(t, p, "after-"+name, 1000)
	for _, n := range names(t, p) {
		if n == name {
			t.Errorf("there is a volume %q: %+v", name, get(t, p, name))
		}
	}
	if err := p.Delete(lxdtest.Context(t), "after-"+name); err != nil {
		t.Fatal(err)
	}
}

// stream is an import under way, whose source the test plays.
type stream struct {
	*io.PipeWriter
	cancel context.CancelCauseFunc
	end    chan error
}

func start(t *testing.T, p *lxd.Pool, name string) *stream {
	t.Helper()
	ctx, cancel := context.WithCancelCause(lxdtest.Context(t))
	r, w := io.Pipe()
	s := &stream{w, cancel, make(chan error, 1)}
	go func() {
		operation, _, err := p.ImportStream(ctx, name, r, nil)
		if err == nil {
			err = p.Wait(ctx, operation)
		}
		s.end <- err
		_ = r.Close()
	}()
	t.Cleanup(func() { _ = w.Close() })
	return s
}

// give has bytes be sent.
func (s *stream) give(t *testing.T, n int) {
	t.Helper()
	if _, err := s.Write(bytes.Repeat([]byte("isosyncd"), n/8+1)[:n]); err != nil {
		t.Fatal(err)
	}
}

func testStreamWhole(t *testing.T, s *lxdtest.Server) {
	p := s.Pool(t)
	whole(t, s, p, "one", 1, iotest.DataErrReader)
	whole(t, s, p, "bytes", 5000, iotest.OneByteReader)
	whole(t, s, p, "halves", 5<<20+3, iotest.HalfReader)
	whole(t, s, p, "chunks", 4<<20, func(r io.Reader) io.Reader { return r })
	whole(t, s, p, "large", 48<<20+11, iotest.DataErrReader)
}

func testStreamPause(t *testing.T, s *lxdtest.Server) {
	p := s.Pool(t)
	const size = 4<<20 + 5
	f := lxdtest.File(t, size)
	up := start(t, p, "v")
	for i := range int64(4) {
		if _, err := io.Copy(up, io.NewSectionReader(f, i<<20, 1<<20)); err != nil {
			t.Fatal(err)
		}
		begun(t, s, (i+1)<<20)
		absent(t, p, "v")
	}
	if _, err := io.Copy(up, io.NewSectionReader(f, 4<<20, 5)); err != nil {
		t.Fatal(err)
	}
	_ = up.Close()
	if err := <-up.end; err != nil {
		t.Fatal(err)
	}
	if v := get(t, p, "v"); v.Size != size {
		t.Errorf("the volume is %+v", v)
	}
	sameBytes(t, s, "v", f, size)
}

var errBroken = errors.New("the writer was killed")

// cuts are the places where a source can fail.
var cuts = []struct {
	name string
	run  func(t *testing.T, s *lxdtest.Server, p *lxd.Pool)
}{
	{"before the first byte", func(t *testing.T, s *lxdtest.Server, p *lxd.Pool) { cut(t, s, p, 0) }},
	{"in a chunk", func(t *testing.T, s *lxdtest.Server, p *lxd.Pool) { cut(t, s, p, 3<<20+1000) }},
	{"between chunks", func(t *testing.T, s *lxdtest.Server, p *lxd.Pool) { cut(t, s, p, 2<<20) }},
}

func cut(t *testing.T, s *lxdtest.Server, p *lxd.Pool, n int) {
	t.Helper()
	up := start(t, p, "v")
	up.give(t, n)
	begun(t, s, int64(n>>20<<20))
	_ = up.CloseWithError(errBroken)
	if err := <-up.end; !errors.Is(err, lxd.ErrSource) || !errors.Is(err, errBroken) || lxd.IsPermanent(err) {
		t.Errorf("a source that failed after %d bytes: %v", n, err)
	}
	nothing(t, s, "v")
}

func testStreamSourceFails(t *testing.T, s *lxdtest.Server) {
	for _, c := range cuts {
		t.Run(c.name, func(t *testing.T) { c.run(t, s, s.Pool(t)) })
	}
}

func testStreamCancelled(t *testing.T, s *lxdtest.Server) { cancelled(t, s, s.Pool(t)) }

// cancelled ends the context while the source blocks.
func cancelled(t *testing.T, s *lxdtest.Server, p *lxd.Pool) {
	t.Helper()
	for _, n := range []int{0, 1 << 20, 1<<20 + 7} {
		up := start(t, p, "v")
		up.give(t, n)
		begun(t, s, int64(n>>20<<20))
		up.cancel(errBroken)
		if err := <-up.end; !errors.Is(err, errBroken) || errors.Is(err, lxd.ErrSource) || errors.Is(err, lxd.ErrAway) {
			t.Errorf("cancelled after %d bytes: %v", n, err)
		}
		nothing(t, s, "v")
	}
}

// testStreamSlowServer ends the context while the connection takes no more: a real server stands still for that.
func testStreamSlowServer(t *testing.T, s *lxdtest.Server) {
	ctx, cancel := context.WithCancelCause(lxdtest.Context(t))
	var gave atomic.Int64
	src := reads(func(b []byte) (int, error) {
		gave.Add(int64(len(b)))
		return len(b), nil
	})
	end := make(chan error, 1)
	p := s.Pool(t)
	go func() {
		_, _, err := p.ImportStream(ctx, "v", src, nil)
		end <- err
	}()
	begun(t, s, 1<<20)
	if s.Real() {
		if err := syscall.Kill(s.PID(), syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		var before int64
		lxdtest.Eventually(t, "the connection to be full", func() bool {
			now := gave.Load()
			still := now == before
			before = now
			return still
		})
	}
	cancel(errBroken)
	err := <-end
	if s.Real() {
		if err := syscall.Kill(s.PID(), syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	if !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
	nothing(t, s, "v")
}

// reads is a source made of a function.
type reads func(p []byte) (int, error)

func (r reads) Read(p []byte) (int, error) { return r(p) }

// testStreamClientDies cuts an upload where the death of its sender could: the connection is closed, or closed in one
// direction only, so that the answer is seen.
func testStreamClientDies(t *testing.T, s *lxdtest.Server) {
	big := fmt.Sprintf("80000\r\n%s\r\n", strings.Repeat("x", 0x80000))
	for i, c := range []struct{ name, body string }{
		{"after the head", ""},
		{"in the first length", "80"},
		{"in the first chunk", big[:1000]},
		{"after the first chunk", big},
		{"in a length", big + big + "800"},
		{"after a length", big + big + "80000\r\n"},
		{"in a chunk", big + big + big[:len(big)/2]},
		{"before the end of a chunk's line", big + big[:len(big)-2]},
		{"before the last chunk", big + big + big},
		{"in the last chunk's length", big + "0"},
		{"in the last chunk's line", big + "0\r"},
		{"after the last chunk's line", big + "0\r\n"},
		{"in the last line", big + "0\r\n\r"},
	} {
		for _, half := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, half %v", c.name, half), func(t *testing.T) {
				name := fmt.Sprintf("v%d-%v", i, half)
				conn := chunked(t, s, name)
				if _, err := io.WriteString(conn, c.body); err != nil {
					t.Fatal(err)
				}
				begun(t, s, 0)
				if half {
					refused(t, conn)
				}
				_ = conn.Close()
				nothing(t, s, name)
			})
		}
	}
}

// refused ends a connection in one direction, and wants no success in the other.
func refused(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return // closed without a word
	}
	text, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode < 400 {
		t.Errorf("a body that was cut was taken: %s %s", resp.Status, text)
	}
}

func testStreamEmpty(t *testing.T, s *lxdtest.Server) {
	up := start(t, s.Pool(t), "v")
	begun(t, s, 0)
	_ = up.Close()
	var refused *lxd.Error
	if err := <-up.end; !errors.As(err, &refused) || !lxd.IsPermanent(err) {
		t.Errorf("an empty stream: %v", err)
	}
	nothing(t, s, "v")
}

// testStreamNoProject wants a refusal that does not wait for the source, and leaves it alone.
func testStreamNoProject(t *testing.T, s *lxdtest.Server) {
	p := s.Pool(t)
	if status, text := raw(t, s, http.MethodDelete, "/1.0/projects/"+s.Project(), nil); status >= 300 {
		t.Fatalf("%d %s", status, text)
	}
	r, w := io.Pipe()
	defer func() { _ = w.Close() }()
	var asked atomic.Bool
	src := reads(func(b []byte) (int, error) {
		asked.Store(true)
		return r.Read(b)
	})
	_, sent, err := p.ImportStream(lxdtest.Context(t), "v", src, nil)
	var refused *lxd.Error
	if !errors.As(err, &refused) || !errors.Is(err, lxd.ErrNotFound) || sent != 0 || asked.Load() {
		t.Errorf("got %d, %v; the source was read: %v", sent, err, asked.Load())
	}
}

func testStreamDuplicate(t *testing.T, s *lxdtest.Server) {
	p := s.Pool(t)
	f := put(t, p, "v", 100_000)
	up := start(t, p, "v")
	if !traitsOf[s.Kind()].early {
		up.give(t, 50_000)
		_ = up.Close()
	} // else it is refused while the source blocks
	var refused *lxd.Error
	if err := <-up.end; !errors.As(err, &refused) || lxd.IsPermanent(err) {
		t.Errorf("a second one of that name: %v; want a refusal that may end", err)
	}
	sameBytes(t, s, "v", f, 100_000)
}

// testStreamLimit reaches a project's limit: the server refuses in the middle, and that is heard while the source blocks.
func testStreamLimit(t *testing.T, s *lxdtest.Server) {
	small := s.In(t, "small", map[string]string{"limits.disk": "1MiB"})
	up := start(t, small.Pool(t), "v")
	up.give(t, 1<<20+1)
	var refused *lxd.Error
	if err := <-up.end; !errors.As(err, &refused) || refused.InOp || lxd.IsPermanent(err) {
		t.Errorf("beyond the limit: %v", err)
	}
	lxdtest.Eventually(t, "the server to drop what it received", func() bool { return len(leftovers(t, s)) == 0 })
	absent(t, small.Pool(t), "v")
}
