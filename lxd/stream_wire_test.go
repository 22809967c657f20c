package lxd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// byHand is a pool of a server that is played by a function, one connection after the other. It has read the head.
func byHand(t *testing.T, serve func(c net.Conn, r *bufio.Reader)) *Pool {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(shortDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(c)
			if _, err := http.ReadRequest(r); err == nil {
				serve(c, r)
			}
			_ = c.Close()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		served.Wait()
	})
	c, err := open(Target{Addr: "unix:" + l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.server.Vendor = "incus"
	return &Pool{client: c, name: "default", request: "default", project: "default"}
}

// goOn asks for the body, and returns the first line of it.
func goOn(c net.Conn, r *bufio.Reader) string {
	_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
	line, _ := r.ReadString('\n')
	return line
}

const accepted = "HTTP/1.1 202 Accepted\r\nContent-Length: 48\r\n\r\n" + `{"type":"async","operation":"/1.0/operations/1"}`

// readChunks reads a body to its last chunk, and returns the sizes of all. The error is about a body that has none.
func readChunks(c net.Conn, r *bufio.Reader) (sizes []int64, err error) {
	for line := goOn(c, r); ; {
		n, err := strconv.ParseInt(strings.TrimSuffix(line, "\r\n"), 16, 64)
		if err != nil {
			return sizes, err
		}
		sizes = append(sizes, n)
		if _, err := io.CopyN(io.Discard, r, n+int64(len("\r\n"))); err != nil || n == 0 {
			return sizes, err
		}
		if line, err = r.ReadString('\n'); err != nil {
			return sizes, err
		}
	}
}

// A source that is fast is sent in large chunks, and one that is slow as it comes.
func TestStreamChunks(t *testing.T) {
	var sizes []int64
	p := byHand(t, func(c net.Conn, r *bufio.Reader) {
		sizes, _ = readChunks(c, r)
		_, _ = io.WriteString(c, accepted)
	})
	for _, c := range []struct {
		src  io.Reader
		want []int64
	}{
		{noise(3 * chunk), []int64{chunk, chunk, chunk, 0}},
		{noise(2*chunk + 5), []int64{chunk, chunk, 5, 0}},
		{noise(7), []int64{7, 0}},
	} {
		if _, _, err := p.ImportStream(testContext(t), "x", c.src, nil); err != nil {
			t.Fatal(err)
		}
		// What is left of a chunk may go out before the source says that there is no more.
		if !slices.Equal(sizes, c.want) {
			t.Errorf("the chunks are %v, want %v", sizes, c.want)
		}
	}
	// Each piece arrives before the source gives the next.
	here := make(chan struct{})
	var last string
	p = byHand(t, func(c net.Conn, r *bufio.Reader) {
		line := goOn(c, r)
		for range 3 {
			if line != "5\r\n" {
				t.Errorf("got %q", line)
			}
			_, _ = io.CopyN(io.Discard, r, 5+2)
			here <- struct{}{}
			line, _ = r.ReadString('\n')
		}
		last = line
		_, _ = io.WriteString(c, accepted)
	})
	n := 0
	src := reading(func(b []byte) (int, error) {
		if n++; n > 1 {
			<-here
		}
		if n > 3 {
			return 0, io.EOF
		}
		return copy(b, "piece"), nil
	})
	if _, _, err := p.ImportStream(testContext(t), "x", src, nil); err != nil || last != "0\r\n" {
		t.Errorf("got %v, and %q at the end", err, last)
	}
}

// An answer of success that comes before the image ended is about something else; and then the body is not ended, as
// whoever was told of a failure must not find the volume.
func TestStreamBelievesNoEarlySuccess(t *testing.T) {
	ended := make(chan bool, 1)
	turns := make(chan chan struct{}, 1) // each is closed when its import was answered
	p := byHand(t, func(c net.Conn, r *bufio.Reader) {
		_ = goOn(c, r)
		_, _ = io.WriteString(c, accepted)
		close(<-turns)
		rest, _ := io.ReadAll(r)
		ended <- bytes.HasSuffix(rest, []byte("\r\n0\r\n\r\n"))
	})
	t.Run("while the source blocks", func(t *testing.T) {
		r, w := io.Pipe()
		defer func() { _ = w.Close() }()
		go func() { _, _ = w.Write(make([]byte, 100)) }()
		turns <- make(chan struct{})
		op, _, err := p.ImportStream(testContext(t), "x", r, nil)
		if !errors.Is(err, ErrAway) || op != "" {
			t.Errorf("got %q, %v", op, err)
		}
		if <-ended {
			t.Error("the body was ended")
		}
	})
	t.Run("while the source ends", func(t *testing.T) {
		early := 0
		for range 200 {
			answered := make(chan struct{})
			turns <- answered
			src := io.MultiReader(noise(100), reading(func([]byte) (int, error) {
				<-answered
				return 0, io.EOF
			}))
			op, _, err := p.ImportStream(testContext(t), "x", src, nil)
			if whole := <-ended; whole && err != nil || (op == "") != (err != nil) || err != nil && !errors.Is(err, ErrAway) {
				t.Fatalf("got %q, %v; the body was ended: %v", op, err, whole)
			}
			if err != nil {
				early++
			}
		}
		t.Logf("%d of 200 answers came too early", early)
	})
}

// A refusal instead of the question for the body leaves the source alone also where the server keeps the connection.
func TestStreamRefusedByAServerThatListens(t *testing.T) {
	p := byHand(t, func(c net.Conn, r *bufio.Reader) {
		_, _ = io.WriteString(c, "HTTP/1.1 404 Not Found\r\nContent-Length: 51\r\n\r\n"+
			`{"type":"error","error_code":404,"error":"no such"}`)
		_, _ = io.Copy(io.Discard, r)
	})
	src := &counted{Reader: noise(1000)}
	for range 50 {
		_, _, err := p.ImportStream(testContext(t), "x", src, nil)
		if !errors.Is(err, ErrNotFound) || src.begun.Load() != 0 {
			t.Fatalf("got %v; the source was read %d times", err, src.begun.Load())
		}
	}
}

// A server that closes the connection as soon as it has refused is heard, all of what it says.
func TestStreamRefusedAndClosed(t *testing.T) {
	text := strings.Repeat("no space left on device, ", 10_000)
	body := string(mustJSON(t, errorBody(http.StatusInternalServerError, text)))
	p := byHand(t, func(c net.Conn, r *bufio.Reader) {
		_ = goOn(c, r)
		_, _ = io.WriteString(c, "HTTP/1.1 500 Internal Server Error\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+body)
	})
	for range 30 {
		_, _, err := p.ImportStream(testContext(t), "x", noise(1<<40), nil)
		var e *Error
		if !errors.As(err, &e) || e.Status != http.StatusInternalServerError || e.alien {
			t.Fatalf("got %v", err)
		}
	}
}

// What ends between the source's end and the body's still stops the body.
func TestStreamStoppedAtTheEnd(t *testing.T) {
	for name, stop := range map[string]func(s *inflow, cancel func()){
		"the context ended": func(_ *inflow, cancel func()) { cancel() },
		"the server answered": func(s *inflow, _ func()) {
			if whole, err := s.stop(); whole || err != nil {
				t.Errorf("the image is whole: %v, %v", whole, err)
			}
			s.end()
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			told := 0
			s := newInflow(ctx, noise(10), func(int64) { told++ })
			if b, err := s.next(); len(b) != 10 || err != nil {
				t.Fatal(b, err)
			}
			for !s.atEnd() {
				runtime.Gosched()
			}
			stop(s, cancel)
			before := told
			s.advance(10)
			if name == "the server answered" && told != before {
				t.Error("progress after the end")
			}
			if b, err := s.next(); err == nil {
				t.Errorf("got %q, and no error", b)
			}
			if s.whole.Load() {
				t.Error("the body is ended")
			}
		})
	}
}

func (s *inflow) atEnd() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

func TestStreamStalls(t *testing.T) {
	kinds(t, func(t *testing.T, f *fake) {
		release := make(chan struct{}) // a server that does not read does not see a closed connection either
		f.on("POST "+volumesPath, func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 1)
			<-release
		})
		defer close(release)
		p := f.pool(func(t *Target) { t.Stall = 300 * time.Millisecond })
		_, _, err := p.ImportStream(testContext(t), "x", noise(1<<40), nil)
		if !errors.Is(err, ErrAway) || !errors.Is(err, errStalled) || IsPermanent(err) {
			t.Errorf("got %v", err)
		}
	})
}

// On a unix socket it is also seen while the source blocks: what it gave before is still there to be taken.
func TestStreamStallsBehindItsSource(t *testing.T) {
	f := newFake(t, "incus")
	release := make(chan struct{})
	f.on("POST "+volumesPath, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 1)
		<-release
	})
	defer close(release)
	p := f.pool(func(t *Target) { t.Stall = 300 * time.Millisecond })
	r, w := io.Pipe()
	defer func() { _ = w.Close() }()
	go func() { _, _ = w.Write(make([]byte, 100_000)) }()
	_, _, err := p.ImportStream(testContext(t), "x", r, nil)
	if !errors.Is(err, ErrAway) || !errors.Is(err, errStalled) {
		t.Errorf("got %v", err)
	}
}

// Hours without a byte from the source are no stall; a minute without a byte to the server is one, and so is an answer
// that does not come.
func TestStreamWatch(t *testing.T) {
	const stall, answer = time.Minute, 10 * time.Minute
	// watched plays an import of three bytes, an hour each, and returns how long after the last one it was given up.
	watched := func(t *testing.T, takes func(b byte)) (after time.Duration, why string) {
		ctx, cancel := context.WithCancelCause(t.Context())
		var last time.Time
		n := 0
		s := newInflow(ctx, reading(func(b []byte) (int, error) {
			if n++; n > 3 {
				return 0, io.EOF
			}
			time.Sleep(time.Hour)
			last = time.Now()
			b[0] = byte(n)
			return 1, nil
		}), nil)
		watch := s.watch(stall, answer)
		go watch.run(ctx, cancel)
		_, err := s.WriteTo(writing(func(b []byte) (int, error) {
			for i := range b {
				takes(b[i])
				if ctx.Err() != nil {
					return i, ctx.Err()
				}
			}
			return len(b), nil
		}))
		if err == nil {
			<-ctx.Done()
		}
		_, _ = s.stop()
		s.end()
		if cause := context.Cause(ctx); !errors.Is(cause, errStalled) {
			t.Errorf("the cause is %v", cause)
		}
		return time.Since(last), context.Cause(ctx).Error()
	}
	t.Run("the server takes nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			after, why := watched(t, func(b byte) {
				if b == 3 {
					time.Sleep(2 * stall)
				}
			})
			// The writer slept on.
			if after < 2*stall || !strings.Contains(why, "took no byte for 1m0s, 2 were sent") {
				t.Errorf("after %v: %s", after, why)
			}
		})
	})
	t.Run("the server is slow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			after, why := watched(t, func(byte) { time.Sleep(stall - stall/4) })
			if after < answer || after > answer+2*stall || !strings.Contains(why, "all 3 bytes were sent, but no answer came for 10m0s") {
				t.Errorf("after %v: %s", after, why)
			}
		})
	})
}

// writing is a sink made of a function.
type writing func(p []byte) (int, error)

func (w writing) Write(p []byte) (int, error) { return w(p) }

// What the kernel holds is there to be taken, whatever the source does.
func TestStreamWatchOfTheKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		w := stallWatch{
			stall: time.Minute, answer: time.Hour, size: -1,
			look:   func() (int64, int) { return 5, 1 },
			source: func() (bool, bool) { return true, false },
		}
		begun := time.Now()
		w.run(ctx, cancel)
		if d := time.Since(begun); d < time.Minute || d > 2*time.Minute || !errors.Is(context.Cause(ctx), errStalled) {
			t.Errorf("given up after %v: %v", d, context.Cause(ctx))
		}
	})
}

// Where nobody looks for WriteTo, it is still a plain reader.
func TestStreamIsAReader(t *testing.T) {
	const size = 2*chunk + 11
	s := newInflow(t.Context(), noise(size), nil)
	got, err := io.ReadAll(struct{ io.Reader }{s})
	want, _ := io.ReadAll(noise(size))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	broken := errors.New("the disk is on fire")
	s = newInflow(t.Context(), io.MultiReader(noise(10), iotest.ErrReader(broken)), nil)
	if _, err := io.ReadAll(struct{ io.Reader }{s}); err == nil || errors.Is(err, broken) {
		t.Errorf("got %v, want an error that cannot be taken for the end", err)
	}
	if _, err := s.stop(); !errors.Is(err, broken) || !errors.Is(err, ErrSource) {
		t.Errorf("the source failed with %v", err)
	}
}
