package sync

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// TestWitness: it has the SHA-256 of what was written, in whatever pieces, and sees every change of a file from that.
func TestWitness(t *testing.T) {
	random := rand.New(rand.NewPCG(seedOf(t), 0))
	for _, size := range []int{1, 4096, hashBuffer - 1, hashBuffer, hashBuffer + 1, 3*hashBuffer + 12345} {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		w := newWitness()
		for rest := b; len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(hashBuffer*3/2))
			w.write(rest[:n])
			rest = rest[n:]
		}
		w.end()
		if w.sum() != hexOf(b) || w.size != int64(size) {
			t.Errorf("%d bytes: %d, sum %s", size, w.size, w.sum())
		}
		f, err := os.OpenFile(filepath.Join(t.TempDir(), "f"), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		put := func(off int, b ...byte) {
			t.Helper()
			if _, err := f.WriteAt(b, int64(off)); err != nil {
				t.Fatal(err)
			}
		}
		same := func(what string, want bool) {
			t.Helper()
			if got, err := w.same(t.Context(), f); err != nil || got != want {
				t.Errorf("%d bytes, %s: same %v, %v", size, what, got, err)
			}
		}
		put(0, b...)
		same("these", true)
		for _, at := range []int{0, size / 2, size - 1, random.IntN(size)} {
			put(at, b[at]^1)
			same("a bit is another", false)
			put(at, b[at])
		}
		same("put right", true)
		if size > 2*hashBuffer { // two pieces change places
			put(0, b[hashBuffer:2*hashBuffer]...)
			put(hashBuffer, b[:hashBuffer]...)
			same("two pieces in the other order", false)
		}
		put(0, b...)
		if err := f.Truncate(int64(size - 1)); err != nil {
			t.Fatal(err)
		}
		same("too short", false)
	}
}

// TestWitnessesDiffer: no two have the same key, so that nothing can be learned from one about another.
func TestWitnessesDiffer(t *testing.T) {
	a, b := newWitness(), newWitness()
	a.write([]byte("x"))
	b.write([]byte("x"))
	a.end()
	b.end()
	if a.tags[0] == b.tags[0] {
		t.Error("the same tag twice")
	}
}

// BenchmarkWitness: to ask whether a file has the bytes that were sent, beside hashing it again.
func BenchmarkWitness(b *testing.B) {
	const size = 64 << 20
	f, err := os.Create(filepath.Join(b.TempDir(), "f"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	w := newWitness()
	data := make([]byte, hashBuffer)
	for range size / hashBuffer {
		w.write(data)
		if _, err := f.Write(data); err != nil {
			b.Fatal(err)
		}
	}
	w.end()
	b.Run("same", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			if ok, err := w.same(b.Context(), f); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
	b.Run("sha256", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			if _, err := hashFile(b.Context(), f, size, nil, nil, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}
