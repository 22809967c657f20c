package sync

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"
	gosync "sync"
)

// witness takes the digest of bytes that are sent while they may still change, and tells afterwards whether a file has
// exactly these bytes. The first is a SHA-256, as everywhere. For the second that would be asked once more; instead each
// piece of it gets a tag, by a key that nobody but this witness has (GMAC, NIST SP 800-38D): whoever does not know the
// key can only guess bytes that have the same tag, and a tag takes a fifth of the time.
//
// One goroutine writes; it does all the rest beside that one.
type witness struct {
	empty, full chan []byte
	filling     []byte // of write
	gmac        cipher.AEAD

	once gosync.Once   // guards the end of full
	done chan struct{} // closed when all is in what follows
	hash hash.Hash
	tags [][gmacSize]byte // of each piece of hashBuffer bytes, the last may be shorter
	size int64
}

const gmacSize = 16

func newWitness() *witness {
	key := make([]byte, 16)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the key has a good length
	}
	gmac, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // so has the block
	}
	w := &witness{
		empty: make(chan []byte, hashBuffers), full: make(chan []byte, hashBuffers), gmac: gmac,
		done: make(chan struct{}), hash: sha256.New(),
	}
	for range hashBuffers {
		w.empty <- make([]byte, 0, hashBuffer)
	}
	go func() {
		defer close(w.done)
		for b := range w.full {
			_, _ = w.hash.Write(b) // never fails
			w.tags = append(w.tags, w.tag(len(w.tags), b))
			w.size += int64(len(b))
			w.empty <- b[:0]
		}
	}()
	return w
}

// tag is that of the n-th piece.
func (w *witness) tag(n int, piece []byte) (tag [gmacSize]byte) {
	nonce := make([]byte, w.gmac.NonceSize())
	binary.BigEndian.PutUint64(nonce, uint64(n)) //nolint:gosec // an index
	w.gmac.Seal(tag[:0], nonce, nil, piece)
	return tag
}

// write copies p, and returns before it is digested.
func (w *witness) write(p []byte) {
	for len(p) > 0 {
		if w.filling == nil {
			w.filling = <-w.empty
		}
		n := min(len(p), cap(w.filling)-len(w.filling))
		w.filling = append(w.filling, p[:n]...)
		p = p[n:]
		if len(w.filling) == cap(w.filling) {
			w.full <- w.filling
			w.filling = nil
		}
	}
}

// end waits until all is digested. Nobody may write any more.
func (w *witness) end() {
	w.once.Do(func() {
		if len(w.filling) > 0 {
			w.full <- w.filling
		}
		close(w.full)
	})
	<-w.done
}

// sum is the SHA-256 of all bytes in lower-case hex, after end.
func (w *witness) sum() string { return hex.EncodeToString(w.hash.Sum(nil)) }

// same reads the first bytes of f, as many as were written, and reports whether they are these bytes; after end. The
// error is that of reading, or ctx's. It reads by itself alone: the server writes the volume meanwhile and takes longer, and
// a second reader was measured to take from a server on two cores more than it saves.
func (w *witness) same(ctx context.Context, f *os.File) (bool, error) {
	b := make([]byte, hashBuffer)
	for n, tag := range w.tags {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		at := int64(n) * hashBuffer
		piece := b[:min(hashBuffer, w.size-at)]
		read, err := f.ReadAt(piece, at)
		switch {
		case read < len(piece) && !errors.Is(err, io.EOF):
			return false, err
		case read < len(piece) || w.tag(n, piece) != tag: // shorter by now, or other bytes
			return false, nil
		}
	}
	return true, nil
}
