package lxdtest

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// File makes a file of size bytes, whose content is the test's own: it follows from the test's name and size, and no
// part repeats. Beyond 16 MiB it has a hole in its middle. It is no ISO image. It is closed when the test ends.
func File(t testing.TB, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image.iso"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	name := fnv.New64a()
	_, _ = name.Write([]byte(t.Name()))
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], name.Sum64())
	binary.LittleEndian.PutUint64(seed[8:], uint64(size))
	noise := rand.NewChaCha8(seed)
	const most = 16 << 20
	head := min(size, most/2)
	if _, err := io.CopyN(f, noise, head); err != nil {
		t.Fatal(err)
	}
	tail := min(size-head, most/2)
	if _, err := io.CopyN(io.NewOffsetWriter(f, size-tail), noise, tail); err != nil {
		t.Fatal(err)
	}
	return f
}

// Sum is the SHA-256 of the first size bytes of a reader; it fails the test if there are less.
func Sum(t testing.TB, r io.Reader, size int64) [sha256.Size]byte {
	t.Helper()
	h := sha256.New()
	if _, err := io.CopyN(h, r, size); err != nil {
		t.Fatalf("read %d bytes: %v", size, err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// SumFile is Sum of the first size bytes of a file by name.
func SumFile(t testing.TB, path string, size int64) [sha256.Size]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	return Sum(t, f, size)
}
