package lxd

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// arrival is what the server got.
type arrival struct {
	header http.Header
	length int64
	coding []string
	uri    string
	sum    string
	n      int64
	err    error
}

// receive takes an import whole and accepts it.
func (f *fake) receive() (http.HandlerFunc, *[]arrival) {
	var mu sync.Mutex
	var list []arrival
	return func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		mu.Lock()
		list = append(list, arrival{r.Header, r.ContentLength, r.TransferEncoding, r.RequestURI, fmt.Sprintf("%x", h.Sum(nil)), n, err})
		mu.Unlock()
		f.async("op-1")(w, r)
	}, &list
}

func TestImportRequest(t *testing.T) {
	for vendor, prefix := range map[string]string{"lxd": "X-Lxd-", "incus": "X-Incus-"} {
		t.Run(vendor, func(t *testing.T) {
			f := newFake(t, vendor)
			handler, got := f.receive()
			f.on("POST "+volumesPath, handler)
			img := image(t, 9<<20+17)
			var told []int64
			op, err := f.pool().Import(testContext(t), "debian 13+ü", img, 9<<20+17, func(n int64) { told = append(told, n) })
			if err != nil || op != "/1.0/operations/op-1" {
				t.Fatalf("got %q, %v", op, err)
			}
			a := (*got)[0]
			if a.length != 9<<20+17 || a.n != a.length || len(a.coding) != 0 || a.err != nil {
				t.Errorf("got %d bytes of %d, coding %v, %v", a.n, a.length, a.coding, a.err)
			}
			if want := sumOf(t, img, 9<<20+17); a.sum != want {
				t.Errorf("got bytes %s, want %s", a.sum, want)
			}
			for name, want := range map[string]string{
				"Content-Type": "application/octet-stream", "User-Agent": "isosyncd", prefix + "Type": "iso", prefix + "Name": "debian 13+ü",
				"Expect": "100-continue",
			} {
				if a.header.Get(name) != want {
					t.Errorf("header %s is %q, want %q", name, a.header.Get(name), want)
				}
			}
			other := map[string]string{"lxd": "X-Incus-Type", "incus": "X-Lxd-Type"}[vendor]
			if a.header.Get(other) != "" {
				t.Errorf("header %s was sent to %s", other, vendor)
			}
			if want := volumesPath + "?project=default"; a.uri != want {
				t.Errorf("asked %s, want %s", a.uri, want)
			}
			if len(told) == 0 || told[len(told)-1] != 9<<20+17 || !slices.IsSorted(told) {
				t.Errorf("progress said %v", told)
			}
		})
	}
}

// The kernel moves the bytes on a unix socket: none of them enters this process. The same is seen with
// strace -e sendfile.
func TestImportBySendfile(t *testing.T) {
	f := newFake(t, "incus")
	handler, got := f.receive()
	f.on("POST "+volumesPath, handler)
	img := image(t, 20<<20)
	u, err := newUpload(img, 20<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := f.pool()
	if _, _, err := p.importOnce(testContext(t), p.client.transport, "import x", "x", u); err != nil {
		t.Fatal(err)
	}
	if n := u.kernel.Load(); n != 20<<20 {
		t.Errorf("sendfile moved %d bytes of %d", n, 20<<20)
	}
	if want := sumOf(t, img, 20<<20); (*got)[0].sum != want {
		t.Error("other bytes arrived")
	}
}

func TestImportOverTLS(t *testing.T) {
	f := newTLSFake(t, "lxd")
	handler, got := f.receive()
	f.on("POST "+volumesPath, handler)
	const size = 5<<20 + 1
	img := image(t, size)
	op, err := f.pool().Import(testContext(t), "x", img, size, nil)
	if err != nil || op == "" {
		t.Fatal(err)
	}
	if want := sumOf(t, img, size); (*got)[0].sum != want || (*got)[0].length != size {
		t.Errorf("got %+v", (*got)[0])
	}
}

// A file may grow behind the part that is asked for, be unlinked, and have any offset; its offset stays.
func TestImportLeavesTheFileAlone(t *testing.T) {
	f := newFake(t, "incus")
	handler, got := f.receive()
	f.on("POST "+volumesPath, handler)
	img := image(t, 6<<20)
	if _, err := img.Seek(12345, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(img.Name()); err != nil {
		t.Fatal(err)
	}
	p := f.pool()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := p.Import(testContext(t), "x", img, 5<<20, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	want := sumOf(t, img, 5<<20)
	if len(*got) != 4 {
		t.Fatalf("%d uploads arrived", len(*got))
	}
	for _, a := range *got {
		if a.sum != want || a.n != 5<<20 {
			t.Errorf("%d bytes arrived, with sum %s", a.n, a.sum)
		}
	}
	if at, err := img.Seek(0, io.SeekCurrent); err != nil || at != 12345 {
		t.Errorf("the offset is %d, %v", at, err)
	}
}

func TestImportRefusedBeforeTheBytes(t *testing.T) {
	both(t, func(t *testing.T, f *fake) {
		f.on("POST "+volumesPath, f.fail(http.StatusBadRequest, "Invalid volume name"))
		p := f.pool()
		u, err := newUpload(image(t, 1<<20), 1<<20, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, stale, err := p.importOnce(testContext(t), p.client.transport, "import x", "x", u)
		var e *Error
		if !errors.As(err, &e) || e.Status != http.StatusBadRequest || e.Op != "import x" || !IsPermanent(err) || stale {
			t.Errorf("got %v, stale %v", err, stale)
		}
		if u.started.Load() || u.sent.Load() != 0 {
			t.Errorf("%d bytes were sent", u.sent.Load())
		}
	})
}

// A server that refuses in the middle is heard, although it closes the connection (quota of Incus, SERVER-API 1.6).
func TestImportRefusedInTheMiddle(t *testing.T) {
	f := newFake(t, "incus")
	f.on("POST "+volumesPath, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
		f.fail(http.StatusInternalServerError, "reached 1048576 bytes, exceeding quota of 1048575")(w, r)
	})
	_, err := f.pool().Import(testContext(t), "x", image(t, 32<<20), 32<<20, nil)
	var e *Error
	if !errors.As(err, &e) || e.Status != http.StatusInternalServerError || IsPermanent(err) {
		t.Errorf("got %v", err)
	}
}

// An answer of success that comes before the last byte was sent is about something else than our image.
func TestImportBelievesNoEarlySuccess(t *testing.T) {
	f := newFake(t, "incus")
	f.on("POST "+volumesPath, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
		f.async("op-1")(w, r)
	})
	op, err := f.pool().Import(testContext(t), "x", image(t, 32<<20), 32<<20, nil)
	if !errors.Is(err, ErrAway) || op != "" {
		t.Errorf("got %q, %v", op, err)
	}
}

func TestImportOfAFileThatShrinks(t *testing.T) {
	for _, kind := range []string{"unix", "tls"} {
		t.Run(kind, func(t *testing.T) {
			f := newFake(t, "incus")
			if kind == "tls" {
				f = newTLSFake(t, "incus")
			}
			const size = 48 << 20
			img := image(t, size)
			got := make(chan error, 1)
			f.on("POST "+volumesPath, func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
				_ = img.Truncate(40 << 20) // more than can be on the way
				_, err := io.Copy(io.Discard, r.Body)
				got <- err
			})
			_, err := f.pool().Import(testContext(t), "x", img, size, nil)
			if !errors.Is(err, ErrSource) || IsPermanent(err) || errors.Is(err, ErrAway) {
				t.Errorf("got %v", err)
			}
			if err := <-got; err == nil {
				t.Error("the server believes that it has it all")
			}
		})
	}
}

func TestImportOfWhatCannotBeSent(t *testing.T) {
	f := newFake(t, "incus")
	p := f.pool()
	before := len(f.requests())
	img := image(t, 100)
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	closed := image(t, 100)
	_ = closed.Close()
	for name, c := range map[string]struct {
		volume string
		file   *os.File
		size   int64
		source bool
	}{
		"shorter than said": {"x", img, 101, true},
		"a directory":       {"x", dir, 1, true},
		"closed":            {"x", closed, 100, true},
		"empty":             {"x", img, 0, false},
		"no name":           {"", img, 100, false},
		"a snapshot's name": {"a/b", img, 100, false},
		"a header's end":    {"a\r\nX-Evil: 1", img, 100, false},
		"blanks around it":  {" a", img, 100, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := p.Import(testContext(t), c.volume, c.file, c.size, nil)
			if err == nil || errors.Is(err, ErrSource) != c.source || IsPermanent(err) == c.source {
				t.Errorf("got %v, permanent %v", err, IsPermanent(err))
			}
		})
	}
	if after := len(f.requests()); after != before {
		t.Errorf("%d requests were sent", after-before)
	}
}

func TestImportCancelled(t *testing.T) {
	f := newFake(t, "incus")
	begun, ended := make(chan struct{}), make(chan error, 1)
	f.on("POST "+volumesPath, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
		close(begun)
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	})
	ctx, cancel := context.WithCancelCause(testContext(t))
	reason := errors.New("a writer came back")
	go func() {
		<-begun
		cancel(reason)
	}()
	// The server takes what it gets at once, so the file has to be long to be cut.
	const size = 8 << 30
	img := image(t, 1)
	if err := img.Truncate(size); err != nil {
		t.Fatal(err)
	}
	var after atomic.Bool
	_, err := f.pool().Import(ctx, "x", img, size, func(int64) {
		if after.Load() {
			t.Error("progress after Import returned")
		}
	})
	after.Store(true)
	if !errors.Is(err, reason) || errors.Is(err, ErrAway) {
		t.Errorf("got %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("the server believes that it has it all")
	}
}

func TestImportStalls(t *testing.T) {
	for _, kind := range []string{"unix", "tls"} {
		t.Run(kind, func(t *testing.T) {
			f := newFake(t, "incus")
			if kind == "tls" {
				f = newTLSFake(t, "incus")
			}
			release := make(chan struct{}) // a server that does not read does not see a closed connection either
			f.on("POST "+volumesPath, func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.CopyN(io.Discard, r.Body, 1)
				<-release
			})
			defer close(release)
			p := f.pool(func(t *Target) { t.Stall = 300 * time.Millisecond })
			const size = 1 << 30
			img := image(t, 1)
			if err := img.Truncate(size); err != nil {
				t.Fatal(err)
			}
			_, err := p.Import(testContext(t), "x", img, size, nil)
			if !errors.Is(err, ErrAway) || !errors.Is(err, errStalled) || IsPermanent(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A kept connection that the server closed is replaced, if nothing of the image was sent on it.
func TestImportOnADeadConnection(t *testing.T) {
	f := newFake(t, "incus")
	handler, got := f.receive()
	f.on("POST "+volumesPath, in(hangUp, handler))
	p := f.pool() // leaves a kept connection
	op, err := p.Import(testContext(t), "x", image(t, 400<<10), 400<<10, nil)
	if err != nil || op == "" || len(*got) != 1 {
		t.Errorf("got %q, %v, %d uploads", op, err, len(*got))
	}
}

func TestImportIsNotRepeated(t *testing.T) {
	posts := func(f *fake) (n int) {
		for _, r := range f.requests() {
			if r == "POST "+volumesPath+"?project=default" {
				n++
			}
		}
		return n
	}
	t.Run("on a new connection", func(t *testing.T) {
		f := newFake(t, "incus")
		f.on("POST "+volumesPath, hangUp)
		p := f.pool()
		p.client.Close()
		_, err := p.Import(testContext(t), "x", image(t, 1000), 1000, nil)
		if !errors.Is(err, ErrAway) || posts(f) != 1 {
			t.Errorf("got %v, %d requests", err, posts(f))
		}
	})
	t.Run("after bytes were sent", func(t *testing.T) {
		f := newFake(t, "incus")
		f.on("POST "+volumesPath, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 10)
			hangUp(w, r)
		})
		_, err := f.pool().Import(testContext(t), "x", image(t, 1000), 1000, nil)
		if !errors.Is(err, ErrAway) || posts(f) != 1 {
			t.Errorf("got %v, %d requests", err, posts(f))
		}
	})
}

// Small images share a connection.
func TestImportKeepsTheConnection(t *testing.T) {
	f := newFake(t, "lxd")
	handler, _ := f.receive()
	f.on("POST "+volumesPath, handler)
	var opened atomic.Int32
	p := f.pool()
	dial := p.client.transport.DialContext
	p.client.Close()
	p.client.transport.DialContext = func(ctx context.Context, n, a string) (net.Conn, error) {
		opened.Add(1)
		return dial(ctx, n, a)
	}
	img := image(t, 400<<10)
	for i := range 20 {
		if _, err := p.Import(testContext(t), fmt.Sprintf("v%d", i), img, 400<<10, nil); err != nil {
			t.Fatal(err)
		}
	}
	// On a starved machine net/http may drop a connection whose writer is late to say that it is done.
	if n := opened.Load(); n > 10 {
		t.Errorf("%d connections for 20 uploads", n)
	}
}
