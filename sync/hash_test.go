package sync

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"isosyncd/iso"
)

func tempFile(t testing.TB, data []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.iso")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestHashFile(t *testing.T) {
	for _, size := range []int{0, 1, hashBuffer - 1, hashBuffer, hashBuffer + 1, 5*hashBuffer + 123} {
		data := bytes.Repeat([]byte("0123456789abcdef!"), size/17+1)[:size]
		f := tempFile(t, append(bytes.Clone(data), "what was appended later"...))
		if _, err := f.Seek(7, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		var last int64
		sums, err := hashFile(t.Context(), f, int64(size), []string{"md5", "sha1", "sha512", "sha256", "crc32"}, nil,
			func(done int64) {
				if done <= last {
					t.Errorf("progress went from %d to %d", last, done)
				}
				last = done
			})
		if err != nil {
			t.Fatal(err)
		}
		m, s1, s5 := md5.Sum(data), sha1.Sum(data), sha512.Sum512(data)
		want := map[string]string{
			"sha256": hexOf(data), "md5": hex.EncodeToString(m[:]), "sha1": hex.EncodeToString(s1[:]), "sha512": hex.EncodeToString(s5[:]),
		}
		for a, w := range want {
			if sums[a] != w {
				t.Errorf("%d bytes: %s = %s, want %s", size, a, sums[a], w)
			}
		}
		if len(sums) != len(want) || last != int64(size) {
			t.Errorf("%d bytes: %d sums, progress ended at %d", size, len(sums), last)
		}
		if off, err := f.Seek(0, io.SeekCurrent); err != nil || off != 7 {
			t.Errorf("the shared offset moved to %d", off)
		}
	}
}

func TestHashFileErrors(t *testing.T) {
	f := tempFile(t, make([]byte, 2*hashBuffer))
	sums, err := hashFile(t.Context(), f, 2*hashBuffer+1, nil, nil, nil)
	wantCode(t, "shorter than it was", err, CodeChanged)
	if sums != nil {
		t.Error("digests of half a file")
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = hashFile(ctx, f, 2*hashBuffer, nil, nil, func(int64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	_, err = hashFile(ctx, f, 0, nil, nil, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
	d, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_, err = hashFile(t.Context(), d, 10, nil, nil, nil) // EISDIR, as any error of the disk
	wantCode(t, "unreadable", err, CodeUnreadable)
	wantCode(t, "EIO", readProblem("x", &os.PathError{Op: "read", Path: "x", Err: unix.EIO}), CodeUnreadable)
}

// TestHashFileChecksTheEmbeddedSum: what implantisomd5 left in the image is compared in the same pass.
func TestHashFileChecksTheEmbeddedSum(t *testing.T) {
	data := testImage(t, "md5sum.iso")
	f := tempFile(t, data)
	info, err := iso.ProbeFile(f)
	if err != nil || info.Sum == nil {
		t.Fatalf("the image is no example: %v", err)
	}
	if sums, err := hashFile(t.Context(), f, info.Size, nil, info.Sum, nil); err != nil || sums["sha256"] != hexOf(data) {
		t.Errorf("good: %v, %v", sums, err)
	}
	data[info.Sum.End-1] ^= 1
	sums, err := hashFile(t.Context(), tempFile(t, data), info.Size, []string{"md5"}, info.Sum, nil)
	var bad *iso.SumError
	if !errors.As(err, &bad) || sums["sha256"] != hexOf(data) || sums["md5"] == "" {
		t.Errorf("damaged: %v, %v", sums, err)
	}
}

func BenchmarkHashFile(b *testing.B) {
	f := tempFile(b, make([]byte, 64<<20))
	b.SetBytes(64 << 20)
	for b.Loop() {
		if _, err := hashFile(b.Context(), f, 64<<20, nil, nil, nil); err != nil {
			b.Fatal(err)
		}
	}
}
