package lxd

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"
)

// noise is n bytes that do not repeat, the same each time.
func noise(n int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{7}), n) }

func sumOfNoise(t *testing.T, n int64) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, noise(n)); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// kinds runs a test over each kind of connection.
func kinds(t *testing.T, test func(t *testing.T, f *fake)) {
	t.Run("unix", func(t *testing.T) { test(t, newFake(t, "incus")) })
	t.Run("tls", func(t *testing.T) { test(t, newTLSFake(t, "incus")) })
}

// swallow reads an import to its end, which it hands on: nil = the server believes that it has it all.
func (f *fake) swallow() <-chan error {
	ended := make(chan error, 1)
	f.on("POST "+volumesPath, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
		f.async("op-1")(w, r)
	})
	return ended
}

// counted counts the Reads of a source.
type counted struct {
	io.Reader
	begun, ended atomic.Int32
}

func (c *counted) Read(p []byte) (int, error) {
	c.begun.Add(1)
	defer c.ended.Add(1)
	return c.Reader.Read(p)
}

// reading is a source made of a function.
type reading func(p []byte) (int, error)

func (r reading) Read(p []byte) (int, error) { return r(p) }

// rises wants progress that only grows, to the end.
func rises(t *testing.T, told []int64, end int64) {
	t.Helper()
	if len(told) == 0 || told[len(told)-1] != end || !slices.IsSorted(told) || len(slices.Compact(slices.Clone(told))) != len(told) {
		t.Errorf("progress said %v", told)
	}
}

func TestStreamRequest(t *testing.T) {
	for vendor, prefix := range map[string]string{"lxd": "X-Lxd-", "incus": "X-Incus-"} {
		t.Run(vendor, func(t *testing.T) {
			f := newFake(t, vendor)
			handler, got := f.receive()
			f.on("POST "+volumesPath, handler)
			const size = 3<<20 + 17
			var told []int64
			op, sent, err := f.pool().ImportStream(testContext(t), "debian 13+ü", noise(size), func(n int64) { told = append(told, n) })
			if err != nil || op != "/1.0/operations/op-1" || sent != size {
				t.Fatalf("got %q, %d, %v", op, sent, err)
			}
			a := (*got)[0]
			if a.length != -1 || a.n != size || !slices.Equal(a.coding, []string{"chunked"}) || a.err != nil {
				t.Errorf("got %d bytes, length %d, coding %v, %v", a.n, a.length, a.coding, a.err)
			}
			if want := sumOfNoise(t, size); a.sum != want {
				t.Errorf("got bytes %s, want %s", a.sum, want)
			}
			for name, want := range map[string]string{
				"Content-Type": "application/octet-stream", "User-Agent": "isosyncd", prefix + "Type": "iso", prefix + "Name": "debian 13+ü",
				"Expect": "100-continue", "Content-Length": "", "Connection": "close",
			} {
				if a.header.Get(name) != want {
					t.Errorf("header %s is %q, want %q", name, a.header.Get(name), want)
				}
			}
			if want := volumesPath + "?project=default"; a.uri != want {
				t.Errorf("asked %s, want %s", a.uri, want)
			}
			rises(t, told, size)
		})
	}
}

// Whatever a source gives at a time, and with what, arrives.
func TestStreamSources(t *testing.T) {
	kinds(t, func(t *testing.T, f *fake) {
		handler, got := f.receive()
		f.on("POST "+volumesPath, handler)
		p := f.pool()
		for name, c := range map[string]struct {
			size int64
			src  func(io.Reader) io.Reader
		}{
			"one byte at a time":         {5000, iotest.OneByteReader},
			"half of what is asked for":  {3<<20 + 1, iotest.HalfReader},
			"the end with the last byte": {2 * chunk, iotest.DataErrReader},
			"one byte":                   {1, iotest.DataErrReader},
			"nothing now and then": {1000, func(r io.Reader) io.Reader {
				turn := 0
				return reading(func(p []byte) (int, error) {
					if turn++; turn%50 != 0 {
						return 0, nil
					}
					return r.Read(p[:min(len(p), 100)])
				})
			}},
		} {
			t.Run(name, func(t *testing.T) {
				var told []int64
				_, sent, err := p.ImportStream(testContext(t), "x", c.src(noise(c.size)), func(n int64) { told = append(told, n) })
				rises(t, told, c.size)
				if err != nil || sent != c.size {
					t.Fatalf("got %d, %v", sent, err)
				}
				if a := (*got)[len(*got)-1]; a.n != c.size || a.sum != sumOfNoise(t, c.size) {
					t.Errorf("%d bytes arrived of %d, or others", a.n, c.size)
				}
			})
		}
	})
}

func TestStreamSourceFails(t *testing.T) {
	broken := errors.New("the disk is on fire")
	kinds(t, func(t *testing.T, f *fake) {
		ended := f.swallow()
		p := f.pool()
		for name, c := range map[string]struct {
			src  io.Reader
			want error
		}{
			"at once":          {iotest.ErrReader(broken), broken},
			"mid-chunk":        {io.MultiReader(noise(3*chunk+100), iotest.ErrReader(broken)), broken},
			"between chunks":   {io.MultiReader(noise(4*chunk), iotest.ErrReader(broken)), broken},
			"with bytes":       {iotest.DataErrReader(io.MultiReader(noise(100), iotest.ErrReader(broken))), broken},
			"an end in it":     {io.MultiReader(noise(100), iotest.ErrReader(fmt.Errorf("%w: %w", broken, io.EOF))), broken},
			"an early end":     {io.MultiReader(noise(100), iotest.ErrReader(io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF},
			"a context's end":  {io.MultiReader(noise(100), iotest.ErrReader(context.Canceled)), context.Canceled},
			"nothing for ever": {io.MultiReader(noise(100), reading(func([]byte) (int, error) { return 0, nil })), io.ErrNoProgress},
		} {
			t.Run(name, func(t *testing.T) {
				op, _, err := p.ImportStream(testContext(t), "x", c.src, nil)
				if op != "" || !errors.Is(err, ErrSource) || !errors.Is(err, c.want) || errors.Is(err, ErrAway) || IsPermanent(err) {
					t.Errorf("got %q, %v", op, err)
				}
				if err := <-ended; err == nil {
					t.Error("the server believes that it has it all")
				}
			})
		}
	})
}

func TestStreamOfNothing(t *testing.T) {
	kinds(t, func(t *testing.T, f *fake) {
		ended := f.swallow()
		op, sent, err := f.pool().ImportStream(testContext(t), "x", noise(0), nil)
		var e *Error
		if op != "" || sent != 0 || !errors.As(err, &e) || e.Op != "import x" || !IsPermanent(err) || errors.Is(err, ErrSource) {
			t.Errorf("got %q, %d, %v", op, sent, err)
		}
		if err := <-ended; err == nil {
			t.Error("the server took an empty image")
		}
	})
}

func TestStreamOfABadName(t *testing.T) {
	f := newFake(t, "incus")
	p := f.pool()
	before := len(f.requests())
	src := &counted{Reader: noise(100)}
	for _, name := range []string{"", "a/b", "a\r\nX-Evil: 1", " a"} {
		if _, _, err := p.ImportStream(testContext(t), name, src, nil); !IsPermanent(err) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if after := len(f.requests()); after != before || src.begun.Load() != 0 {
		t.Errorf("%d requests were sent, the source was read %d times", after-before, src.begun.Load())
	}
}

// A refusal that comes first leaves the source alone, and does not wait for it.
func TestStreamRefusedBeforeTheBytes(t *testing.T) {
	kinds(t, func(t *testing.T, f *fake) {
		f.on("POST "+volumesPath, f.fail(http.StatusNotFound, "Project not found"))
		r, w := io.Pipe()
		defer func() { _ = w.Close() }()
		src := &counted{Reader: r}
		_, sent, err := f.pool().ImportStream(testContext(t), "x", src, nil)
		var e *Error
		if !errors.As(err, &e) || e.Status != http.StatusNotFound || e.Op != "import x" || sent != 0 {
			t.Errorf("got %d, %v", sent, err)
		}
		if n := src.begun.Load(); n != 0 {
			t.Errorf("the source was read %d times", n)
		}
	})
}

// A refusal in the middle is heard while the source blocks. The Read that is under way is the last one.
func TestStreamRefusedInTheMiddle(t *testing.T) {
	for _, status := range []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusInternalServerError} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			kinds(t, func(t *testing.T, f *fake) {
				f.on("POST "+volumesPath, func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.CopyN(io.Discard, r.Body, 1000)
					f.fail(status, "reached 1000 bytes, exceeding quota of 999")(w, r)
				})
				p := f.pool()
				leak := goleak.IgnoreCurrent()
				r, w := io.Pipe()
				src := &counted{Reader: r}
				go func() { _, _ = w.Write(make([]byte, 1000)) }()
				_, _, err := p.ImportStream(testContext(t), "x", src, nil)
				var e *Error
				if !errors.As(err, &e) || e.Status != status {
					t.Errorf("got %v", err)
				}
				begun, ended := src.begun.Load(), src.ended.Load()
				if begun > ended+1 {
					t.Errorf("%d Reads were under way", begun-ended)
				}
				// What the last one still gives ends nothing.
				_ = w.Close()
				goleak.VerifyNone(t, leak)
				if n := src.begun.Load(); n > ended+1 {
					t.Errorf("%d Reads were begun after the end", n-ended-1)
				}
			})
		})
	}
}

// A server that refuses what it does not read is heard too, although the connection takes no more.
func TestStreamRefusedWhileSending(t *testing.T) {
	kinds(t, func(t *testing.T, f *fake) {
		f.on("POST "+volumesPath, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
			f.fail(http.StatusInternalServerError, "no space left on device")(w, r)
		})
		_, _, err := f.pool().ImportStream(testContext(t), "x", noise(1<<40), nil)
		var e *Error
		if !errors.As(err, &e) || e.Status != http.StatusInternalServerError || IsPermanent(err) {
			t.Errorf("got %v", err)
		}
	})
}

// A server that goes away is noticed while the source blocks.
func TestStreamServerGone(t *testing.T) {
	kinds(t, func(t *testing.T, f *fake) {
		f.on("POST "+volumesPath, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 10)
			hangUp(w, r)
		})
		r, w := io.Pipe()
		defer func() { _ = w.Close() }()
		go func() { _, _ = w.Write(make([]byte, 10)) }()
		op, sent, err := f.pool().ImportStream(testContext(t), "x", r, nil)
		if op != "" || sent != 10 || !errors.Is(err, ErrAway) || errors.Is(err, ErrSource) || IsPermanent(err) {
			t.Errorf("got %q, %d, %v", op, sent, err)
		}
	})
}

func TestStreamCancelled(t *testing.T) {
	reason := errors.New("a writer came back")
	// Each is given what ends the context, and what says that it has ended.
	for name, source := range map[string]func(cancel func(), done <-chan struct{}) io.Reader{
		"while the source blocks": func(cancel func(), _ <-chan struct{}) io.Reader {
			r, w := io.Pipe()
			go func() {
				_, _ = w.Write(make([]byte, 1000))
				cancel()
			}()
			t.Cleanup(func() { _ = w.Close() })
			return r
		},
		"while bytes are sent": func(cancel func(), _ <-chan struct{}) io.Reader {
			return io.MultiReader(noise(64<<20), reading(func(p []byte) (int, error) {
				cancel()
				return len(p), nil
			}))
		},
		"and the source says so": func(cancel func(), done <-chan struct{}) io.Reader {
			return io.MultiReader(noise(1000), reading(func([]byte) (int, error) {
				cancel()
				<-done
				return 0, context.Canceled
			}))
		},
		"and the source fails": func(cancel func(), done <-chan struct{}) io.Reader {
			return io.MultiReader(noise(1000), reading(func([]byte) (int, error) {
				cancel()
				<-done
				return 0, errors.New("I was told to stop")
			}))
		},
		"and the source ends": func(cancel func(), done <-chan struct{}) io.Reader {
			return io.MultiReader(noise(1000), reading(func([]byte) (int, error) {
				cancel()
				<-done
				return 0, io.EOF
			}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			kinds(t, func(t *testing.T, f *fake) {
				ended := f.swallow()
				ctx, cancel := context.WithCancelCause(testContext(t))
				var after atomic.Bool
				op, _, err := f.pool().ImportStream(ctx, "x", source(func() { cancel(reason) }, ctx.Done()), func(int64) {
					if after.Load() {
						t.Error("progress after ImportStream returned")
					}
				})
				after.Store(true)
				if op != "" || !errors.Is(err, reason) || errors.Is(err, ErrAway) || errors.Is(err, ErrSource) {
					t.Errorf("got %q, %v", op, err)
				}
				if err := <-ended; err == nil {
					t.Error("the server believes that it has it all")
				}
			})
		})
	}
}

// What was sent is told also when nothing comes after it.
func TestStreamProgressOfAPause(t *testing.T) {
	f := newFake(t, "incus")
	f.swallow()
	r, w := io.Pipe()
	told := make(chan int64, 1000)
	go func() {
		for want := int64(1000); want <= 3000; want += 1000 {
			_, _ = w.Write(make([]byte, 1000))
			for n := range told {
				if n == want {
					break
				}
			}
		}
		_ = w.Close()
	}()
	if _, sent, err := f.pool().ImportStream(testContext(t), "x", r, func(n int64) { told <- n }); err != nil || sent != 3000 {
		t.Errorf("got %d, %v", sent, err)
	}
}

// The memory that a stream takes does not depend on its length.
func TestStreamMemory(t *testing.T) {
	f := newFake(t, "incus")
	f.swallow()
	p := f.pool()
	const size = 256 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, sent, err := p.ImportStream(testContext(t), "x", noise(size), nil); err != nil || sent != size {
		t.Fatal(sent, err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
		t.Errorf("%d bytes were allocated to send %d", n, size)
	}
}
