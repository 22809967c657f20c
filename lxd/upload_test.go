package lxd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// image makes a file of n bytes that differ from place to place.
func image(t testing.TB, n int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	var seed [32]byte
	if _, err := io.CopyN(f, rand.NewChaCha8(seed), n); err != nil {
		t.Fatal(err)
	}
	return f
}

func sumOf(t *testing.T, f *os.File, n int64) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, n)); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func TestStallWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		var sent atomic.Int64
		var queued atomic.Int64
		w := stallWatch{stall: time.Minute, answer: 10 * time.Minute, size: 100, look: func() (int64, int) { return sent.Load(), int(queued.Load()) }}
		done := make(chan time.Time, 1)
		go func() {
			w.run(ctx, cancel)
			done <- time.Now()
		}()
		// An hour in which the server only takes from the send buffer.
		sent.Store(50)
		for range 60 {
			time.Sleep(time.Minute - time.Second)
			queued.Add(-1)
		}
		sent.Store(100)
		last := time.Now()
		// Then all is sent, and the answer does not come: a longer time.
		at := <-done
		if wait := at.Sub(last); wait < 10*time.Minute || wait > 11*time.Minute {
			t.Errorf("gave up after %v", wait)
		}
		if !errors.Is(context.Cause(ctx), errStalled) {
			t.Errorf("the cause is %v", context.Cause(ctx))
		}
	})
}

func TestBlame(t *testing.T) {
	u, err := newUpload(image(t, 1000), 1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = u.Close() }()
	if err := u.blame(unix.EIO); errors.Is(err, ErrSource) || !errors.Is(err, unix.EIO) {
		t.Errorf("a file that can be read is blamed: %v", err)
	}
	u.sent.Store(500)
	if err := os.Truncate(u.file.Name(), 100); err != nil {
		t.Fatal(err)
	}
	if err := u.blame(unix.EIO); !errors.Is(err, ErrSource) {
		t.Errorf("got %v", err)
	}
	if err := u.blame(unix.EPIPE); errors.Is(err, ErrSource) {
		t.Errorf("the file is blamed for a closed connection: %v", err)
	}
}

// Where the body is not met by our connection, it is still a plain reader.
func TestUploadIsAReader(t *testing.T) {
	img := image(t, 70000)
	u, err := newUpload(img, 65000, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(u)
	want := make([]byte, 65000)
	if _, rerr := img.ReadAt(want, 0); rerr != nil {
		t.Fatal(rerr)
	}
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if err := errors.Join(u.Close(), u.Close()); err != nil {
		t.Error(err)
	}
}
