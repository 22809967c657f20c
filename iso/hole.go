package iso

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// whence values of lseek(2) on Linux.
const (
	seekData = 3
	seekHole = 4
)

const (
	maxPadding = 300 << 10 // bytes of zeros that xorriso and mkisofs put behind an image: 150 sectors
	maxAlign   = 1 << 20   // bytes to which isohybrid rounds an image up, with zeros
	minHole    = 64 << 10  // bytes from which a hole inside counts: the system area, 32 KiB of zeros, often is one
	maxHoles   = 4096      // that are looked at in one file
	zfsMagic   = 0x2fc12fc1
)

// ProbeFile is Probe of a regular file, and asks the file system besides which parts were never written: a download that
// reserves its space first has its full size from the start.
//
// A hole at the end of more than 300 KiB makes the file incomplete; a shorter one is explained by padding, as are the
// bytes behind the firm end where they are no more than the 1 MiB that isohybrid rounds up to. So does a hole where the
// descriptors should be. A hole inside is only told, as Info.Hole: git, cp and tar make holes of zeros. ZFS makes holes of
// all zeros by itself, so there holes inside are not told. Other file systems than ext4, XFS, Btrfs, ZFS, tmpfs and the
// like report none, and then this is Probe.
//
// Asking moves f's offset, which every duplicate of its descriptor shares: use ReadAt and WriteAt beside it.
func ProbeFile(f *os.File) (Info, error) {
	stat, err := f.Stat()
	if err != nil {
		return Info{}, err
	}
	if !stat.Mode().IsRegular() {
		return Info{}, fmt.Errorf("probe %q: not a regular file", stat.Name())
	}
	info, err := Probe(f, stat.Size())
	if err = withHoles(f, info, err); err == nil && !zeroBlocksAreHoles(f) {
		info.Hole = holeBefore(f, dataEnd(f, info.Size))
	}
	return info, err
}

// withHoles joins what Probe said with what the holes say. A firm verdict comes before a soft one, and a refusal before
// both: but what cannot be told since it was never written is no refusal.
func withHoles(f *os.File, info Info, verdict error) error {
	size := info.Size
	var not *NotISOError
	if errors.As(verdict, &not) {
		if size >= firstDescriptor+sectorSize && hole(f, firstDescriptor, size) >= minHole {
			return &TruncatedError{Actual: size, Reason: "the part that describes the image was never written: a hole is there"}
		}
		return verdict
	}
	var cut *TruncatedError
	if errors.As(verdict, &cut) && !cut.Soft || verdict != nil && cut == nil {
		return verdict
	}
	start := dataEnd(f, size)
	explained := int64(maxPadding)
	if past := size - info.DeclaredSize; info.DeclaredSize > 0 && past > 0 && past <= maxAlign {
		explained += past
	}
	if length := size - start; length > explained {
		return &TruncatedError{
			Actual: size,
			Reason: fmt.Sprintf("its last %d bytes were never written: a hole is at its end", length),
		}
	}
	return verdict
}

// hole returns the length of the hole that off lies in, counted from off; 0 = there is data.
func hole(f *os.File, off, size int64) int64 {
	data, err := f.Seek(off, seekData)
	switch {
	case errors.Is(err, syscall.ENXIO): // no data from off to the end
		return size - off
	case err != nil:
		return 0
	}
	return data - off
}

// dataEnd returns where the last data of the file end: size, or the start of a hole at the end. It asks at most 63 times:
// "is there data from here on" changes only once along the file.
func dataEnd(f *os.File, size int64) int64 {
	none := func(off int64) bool {
		_, err := f.Seek(off, seekData)
		return errors.Is(err, syscall.ENXIO)
	}
	if size == 0 || !none(size-1) {
		return size
	}
	low, high := int64(0), size-1 // none(high) holds, and none(low-1) does not
	for low < high {
		if mid := low + (high-low)/2; none(mid) {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return high
}

// holeBefore returns the first hole of at least minHole bytes before end.
func holeBefore(f *os.File, end int64) Hole {
	off := int64(0)
	for range maxHoles {
		start, err := f.Seek(off, seekHole)
		if err != nil || start >= end {
			return Hole{}
		}
		if length := hole(f, start, end); length >= minHole {
			return Hole{Offset: start, Length: length}
		}
		if off, err = f.Seek(start, seekData); err != nil {
			return Hole{}
		}
	}
	return Hole{}
}

// zeroBlocksAreHoles reports whether f lies on a file system that stores no blocks of zeros.
func zeroBlocksAreHoles(f *os.File) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	var stat syscall.Statfs_t
	called := conn.Control(func(fd uintptr) { err = syscall.Fstatfs(int(fd), &stat) })
	return called == nil && err == nil && stat.Type == zfsMagic
}
