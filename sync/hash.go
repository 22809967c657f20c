package sync

import (
	"context"
	"crypto/md5" // this one and the next: lists of old images have nothing else
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	gosync "sync"

	"golang.org/x/sys/unix"

	"isosyncd/iso"
)

const (
	hashBuffer  = 1 << 20 // bytes
	hashBuffers = 3       // one is filled, one waits, one is hashed
)

// hashFile reads the first size bytes of f, by pread only, and returns their digests in lower-case hex: sha256 always,
// and those of the algorithms that it knows. sum, if not nil, is what the image says of itself; where it is wrong the
// error is an *iso.SumError, and the digests are returned beside it. progress, if not nil, is told the bytes done.
//
// Any other error comes without digests: a *Problem with CodeChanged if the file is shorter than size, with
// CodeUnreadable if it cannot be read; or ctx's. A single read is not interrupted.
func hashFile(ctx context.Context, f *os.File, size int64, algorithms []string, sum *iso.EmbeddedSum,
	progress func(done int64),
) (map[string]string, error) {
	hashes := map[string]hash.Hash{"sha256": sha256.New()}
	for _, a := range algorithms {
		switch a {
		case "sha512":
			hashes[a] = sha512.New()
		case "sha1":
			hashes[a] = sha1.New()
		case "md5":
			hashes[a] = md5.New()
		}
	}
	sinks := make([]io.Writer, 0, len(hashes)+1)
	for _, h := range hashes {
		sinks = append(sinks, h)
	}
	var embedded *iso.SumVerifier
	if sum != nil {
		embedded = sum.Verifier()
		sinks = append(sinks, embedded)
	}
	if err := feed(ctx, f, size, sinks, progress); err != nil {
		return nil, err
	}
	out := make(map[string]string, len(hashes))
	for a, h := range hashes {
		out[a] = hex.EncodeToString(h.Sum(nil))
	}
	var bad *iso.SumError
	if embedded != nil && errors.As(embedded.Err(), &bad) {
		return out, bad
	}
	return out, nil // what is too short for its embedded sum, the probe has said so
}

// chunk is a filled buffer, or why there are no more.
type chunk struct {
	data []byte
	err  error
}

// feed gives the first size bytes of f to each sink. Reading goes on while the sinks work, and they work side by side.
func feed(ctx context.Context, f *os.File, size int64, sinks []io.Writer, progress func(done int64)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	empty := make(chan []byte, hashBuffers)
	for range min(hashBuffers, size/hashBuffer+1) {
		empty <- make([]byte, min(hashBuffer, max(size, 1)))
	}
	full := make(chan chunk, hashBuffers)
	var reader gosync.WaitGroup
	defer reader.Wait() // f is the caller's again when we return
	defer cancel()
	reader.Go(func() {
		defer close(full)
		for off := int64(0); off < size; {
			var b []byte
			select {
			case b = <-empty:
			case <-ctx.Done():
				return
			}
			b = b[:min(int64(cap(b)), size-off)]
			n, err := f.ReadAt(b, off)
			if n == len(b) {
				err = nil
			}
			full <- chunk{data: b[:n], err: err} // never blocks: as many places as buffers
			if err != nil {
				return
			}
			off += int64(n)
		}
	})
	var done int64
	for c := range full {
		if c.err != nil {
			return readProblem(f.Name(), c.err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		write(sinks, c.data)
		done += int64(len(c.data))
		if progress != nil {
			progress(done)
		}
		empty <- c.data[:cap(c.data)]
	}
	return ctx.Err()
}

// write gives data to all sinks at once; hashes never fail.
func write(sinks []io.Writer, data []byte) {
	var wg gosync.WaitGroup
	for _, s := range sinks[1:] {
		wg.Go(func() { _, _ = s.Write(data) })
	}
	_, _ = sinks[0].Write(data)
	wg.Wait()
}

// readProblem says why the bytes of an opened file could not be had.
func readProblem(name string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return changed(name)
	}
	p := &Problem{
		Code: CodeUnreadable, Waits: true,
		Text:   fmt.Sprintf("%s cannot be read: %v", quoteName(name), unwrapErrno(err)),
		Remedy: "look at the disk and the system log; it is tried again by itself",
	}
	return p
}

// unwrapErrno leaves out the path that os puts into its errors: the text has the name already.
func unwrapErrno(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
