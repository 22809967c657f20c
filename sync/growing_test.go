package sync

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// TestGrowing: the reader never gives a byte that is not there for good as far as the file itself tells, waits for more,
// and gives up a file that nobody brings on.
func TestGrowing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "f")
		w, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		g := newGrowing(f)
		defer g.close()
		type piece struct {
			b   []byte
			err error
		}
		pieces := make(chan piece)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			for {
				b := make([]byte, 1<<20)
				n, err := g.Read(b)
				select {
				case pieces <- piece{b[:n], err}:
				case <-ctx.Done():
					return
				}
				if err != nil {
					return
				}
			}
		}()
		quiet := func(what string) {
			t.Helper()
			time.Sleep(growIdle / 2)
			synctest.Wait()
			select {
			case p := <-pieces:
				t.Fatalf("%s: read %d bytes, %v", what, len(p.b), p.err)
			default:
			}
		}
		put := func(off int64, b []byte) {
			t.Helper()
			if _, err := w.WriteAt(b, off); err != nil {
				t.Fatal(err)
			}
		}
		want := func(b []byte) {
			t.Helper()
			if p := <-pieces; p.err != nil || !bytes.Equal(p.b, b) {
				t.Fatalf("read %d bytes, %v, want %d", len(p.b), p.err, len(b))
			}
		}
		quiet("nothing is there")
		put(0, []byte("head"))
		want([]byte("head"))
		const far = 1 << 20
		put(far, []byte("tail"))
		put(4, bytes.Repeat([]byte("x"), 8188)) // the first blocks are whole, a hole follows
		want(bytes.Repeat([]byte("x"), 8188))
		quiet("a hole is next")
		g.finish(far + 4)
		var rest []byte
		for len(rest) < far+4-8192 {
			p := <-pieces
			if p.err != nil {
				t.Fatal(p.err)
			}
			rest = append(rest, p.b...)
		}
		whole, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(rest, whole[8192:]) {
			t.Fatalf("the rest differs; %v", err)
		}
		time.Sleep(10 * growIdle)
		quiet("the end is not released")
		g.release()
		if p := <-pieces; !errors.Is(p.err, io.EOF) {
			t.Fatalf("at the end: %v", p.err)
		}
		given := g.given()
		if given.end(); given.sum() != hexOf(whole) {
			t.Error("the digest is of something else")
		}
		if _, err := g.Read(make([]byte, 1)); !errors.Is(err, errStale) {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// TestGrowingIdle: a writer that stands still does not hold up the server for ever.
func TestGrowingIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		g := newGrowing(f)
		defer g.close()
		start := time.Now()
		if _, err := g.Read(make([]byte, 1)); !errors.Is(err, errIdle) {
			t.Errorf("%v", err)
		}
		if d := time.Since(start); d < growIdle || d > growIdle+growLate {
			t.Errorf("after %v", d)
		}
	})
}
