package iso

import (
	"errors"
	"fmt"
	"io"
)

// source reads an image: never past its size, and never more than MaxRead bytes in all, whatever the image says.
type source struct {
	r    io.ReaderAt
	size int64 // of the file, bytes
	left int64 // bytes that may still be read
	err  error // of the first read that failed; what was read after it is zeros
}

func newSource(r io.ReaderAt, size int64) *source {
	return &source{r: r, size: max(size, 0), left: MaxRead}
}

// read fills buf from offset off as far as the file and the allowance go, zeroes the rest, and returns how many bytes
// of buf came from the file. Callers hand in buffers of a fixed size.
func (s *source) read(buf []byte, off int64) int {
	clear(buf)
	if s.err != nil || off < 0 || off >= s.size {
		return 0
	}
	want := min(int64(len(buf)), s.size-off)
	if want > s.left {
		return 0
	}
	s.left -= want
	n, err := s.r.ReadAt(buf[:want], off)
	n = min(max(n, 0), int(want))
	if int64(n) == want {
		return n
	}
	clear(buf[n:])
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		s.err = &TruncatedError{Actual: off + int64(n), Declared: s.size, Reason: "the file became shorter while it was read"}
	} else {
		s.err = fmt.Errorf("read image at byte %d: %w", off, err)
	}
	return n
}

// sector reads the 2048-byte sector lba, as read does.
func (s *source) sector(buf *[sectorSize]byte, lba int64) int {
	if lba < 0 || lba > s.size/sectorSize {
		clear(buf[:])
		return 0
	}
	return s.read(buf[:], lba*sectorSize)
}

// allZero reports whether b holds nothing but zeros.
func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
