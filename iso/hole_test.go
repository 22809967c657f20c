package iso

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// holed writes a file of so many bytes whose given ranges are data and whose rest is holes. Where the file system makes
// no holes the test skips.
func holed(t *testing.T, size int64, image patches, ranges ...[2]int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "x.iso"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if off, err := f.Seek(0, seekHole); err != nil || off != 0 {
		t.Skipf("SKIPPED, not tested: holes: the file system of %s reports none (%d, %v)", f.Name(), off, err)
	}
	for _, r := range ranges {
		if _, err := io.Copy(io.NewOffsetWriter(f, r[0]), io.NewSectionReader(image, r[0], r[1]-r[0])); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestHoles(t *testing.T) {
	const (
		kib  = 1 << 10
		mib  = 1 << 20
		size = 4 * mib
	)
	image := plainISO("HOLES", size/sectorSize)
	hybrid := plainISO("HOLES", (size-600*kib)/sectorSize)
	hybrid.putMBR([3]uint32{0x17, 0, size / 512})
	torn := plainISO("HOLES", size/sectorSize)
	torn.putMBR([3]uint32{0x17, 0, 2 * size / 512})
	for _, c := range []struct {
		name   string
		image  patches
		ranges [][2]int64
		want   string // "" = accepted
		soft   bool
		inside Hole
	}{
		{"none", image, [][2]int64{{0, size}}, "", false, Hole{}},
		{"download that reserved its space", image, [][2]int64{{0, mib}}, "its last 3145728 bytes were never written", false, Hole{}},
		{"padding that a copy made a hole", image, [][2]int64{{0, size - 300*kib}}, "", false, Hole{}},
		{"more than padding", image, [][2]int64{{0, size - 304*kib}}, "its last 311296 bytes", false, Hole{}},
		{"what isohybrid rounds up", hybrid, [][2]int64{{0, size - 900*kib}}, "", false, Hole{}},
		{"more than it rounds up", hybrid, [][2]int64{{0, size - 904*kib}}, "its last 925696 bytes", false, Hole{}},
		{"system area", image, [][2]int64{{32 * kib, size}}, "", false, Hole{}},
		{"inside", image, [][2]int64{{0, mib}, {2 * mib, size}}, "", false, Hole{mib, mib}},
		{"small ones inside", image, [][2]int64{{0, mib}, {mib + 60*kib, 2 * mib}, {2*mib + 32*kib, size}}, "", false, Hole{}},
		{"behind small ones", image, [][2]int64{{0, mib}, {mib + 60*kib, 2 * mib}, {2*mib + 64*kib, size}}, "", false, Hole{2 * mib, 64 * kib}},
		{"inside and at the end", image, [][2]int64{{0, mib}, {2 * mib, 3 * mib}}, "its last 1048576 bytes", false, Hole{}},
		{"at the end, and the MBR wants more", torn, [][2]int64{{0, mib}}, "its last 3145728 bytes", false, Hole{}},
		{"inside, and the MBR wants more", torn, [][2]int64{{0, mib}, {2 * mib, size}}, "of 8388608 bytes (MBR partition)", true, Hole{}},
		{"nothing written", image, nil, "the part that describes the image was never written", false, Hole{}},
		{"written from the end", image, [][2]int64{{mib, size}}, "the part that describes the image was never written", false, Hole{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := holed(t, size, c.image, c.ranges...)
			info, err := ProbeFile(f)
			if info.Size != size {
				t.Errorf("size %d", info.Size)
			}
			if info.Hole != c.inside {
				t.Errorf("hole inside: %+v, want %+v", info.Hole, c.inside)
			}
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var cut *TruncatedError
			if !errors.As(err, &cut) || !strings.Contains(err.Error(), c.want) || cut.Soft != c.soft {
				t.Errorf("%v (%+v), want %q", err, cut, c.want)
			}
		})
	}
}

// What is no image at all stays that, holes or not, as long as its start is there.
func TestHolesOfOtherFiles(t *testing.T) {
	var disk patches
	disk.put(0, []byte("QFI\xfb"))
	disk.put(firstDescriptor, []byte("data"))
	f := holed(t, 1<<22, disk, [2]int64{0, 1 << 16})
	if _, err := ProbeFile(f); !errors.Is(err, ErrNotISO) {
		t.Error(err)
	}
}

func TestProbeFileOfDirectory(t *testing.T) {
	f, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := ProbeFile(f); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
	_ = f.Close()
	if _, err := ProbeFile(f); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}
