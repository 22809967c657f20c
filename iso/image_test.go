package iso

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// counted counts the bytes that are asked of an image.
type counted struct {
	io.ReaderAt
	asked int64
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	c.asked += int64(len(p))
	return c.ReaderAt.ReadAt(p, off)
}

// probe is Probe, and checks what holds for every input.
func probe(t testing.TB, r io.ReaderAt, size int64) (Info, error) {
	t.Helper()
	c := &counted{ReaderAt: r}
	info, err := Probe(c, size)
	if c.asked > MaxRead {
		t.Errorf("read %d bytes, more than MaxRead", c.asked)
	}
	var (
		cut *TruncatedError
		not *NotISOError
	)
	switch {
	case err == nil:
		if len(info.Formats) == 0 {
			t.Error("accepted without a format")
		}
		if info.DeclaredSize > size || info.SoftSize > size {
			t.Errorf("accepted %d bytes of a declared %d, soft %d", size, info.DeclaredSize, info.SoftSize)
		}
	case errors.As(err, &cut):
		if cut.Reason == "" || cut.Declared != 0 && cut.Declared <= cut.Actual {
			t.Errorf("senseless verdict: %+v", cut)
		}
		if !cut.Soft && cut.Declared == 0 && info.DeclaredSize > size {
			t.Errorf("declares %d bytes, has %d, and the verdict does not say so: %v", info.DeclaredSize, size, cut)
		}
	case errors.As(err, &not):
		if not.LooksLike == "" || not.Remedy == "" {
			t.Errorf("refused without a word: %+v", not)
		}
		if len(info.Formats) != 0 {
			t.Errorf("refused as %q, with formats %q", not.LooksLike, info.Formats)
		}
	}
	if d := Describe(info); strings.ContainsAny(d, "[]\n\x1b") || len([]rune(d)) > 110 {
		t.Errorf("Describe returned %q", d)
	}
	return info, err
}

// probeBytes is probe of an image in memory.
func probeBytes(t testing.TB, b []byte) (Info, error) {
	t.Helper()
	return probe(t, strings.NewReader(string(b)), int64(len(b)))
}

// sample reads a file of testdata/iso.
func sample(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "testdata", "iso", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// debianImages says whether tests of images that Debian packages ship may skip.
const debianImages = "debian-images"

// debian returns the path of a file of a Debian package. Without it the test skips, or fails where
// ISOSYNCD_TEST_REQUIRE names debian-images.
func debian(t testing.TB, path string) string {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		if slices.Contains(strings.Split(os.Getenv("ISOSYNCD_TEST_REQUIRE"), ","), debianImages) {
			t.Fatalf("%s is required: %v", debianImages, err)
		}
		t.Skipf("SKIPPED, not tested: %s is missing: %v", debianImages, err)
	}
	return path
}

// patches is a sparse image: pieces over zeros. Later ones win.
type patches []struct {
	off  int64
	data []byte
}

func (p patches) ReadAt(b []byte, off int64) (int, error) {
	clear(b)
	for _, piece := range p {
		if from := piece.off - off; from < int64(len(b)) && from+int64(len(piece.data)) > 0 {
			copy(b[max(from, 0):], piece.data[max(-from, 0):])
		}
	}
	return len(b), nil
}

func (p *patches) put(off int64, data []byte) {
	*p = append(*p, patches{{off, data}}...)
}

// descriptor makes a volume descriptor of ISO 9660.
func descriptor(kind byte) []byte {
	d := make([]byte, sectorSize)
	d[0], d[6] = kind, 1
	copy(d[1:], "CD001")
	return d
}

func putBoth32(b []byte, n uint32) {
	binary.LittleEndian.PutUint32(b, n)
	binary.BigEndian.PutUint32(b[4:], n)
}

// primary makes a primary descriptor of a volume of so many 2048-byte blocks, with its root directory in block 20.
func primary(label string, blocks uint32) []byte {
	d := descriptor(1)
	copy(d[8:], strings.Repeat(" ", 64))
	copy(d[40:], label)
	putBoth32(d[80:], blocks)
	binary.LittleEndian.PutUint16(d[128:], sectorSize)
	binary.BigEndian.PutUint16(d[130:], sectorSize)
	d[156] = 34
	putBoth32(d[158:], 20)
	putBoth32(d[166:], sectorSize)
	return d
}

// plainISO makes the least image that is accepted: descriptors in sectors 16 and 17, and a root directory.
func plainISO(label string, blocks uint32) patches {
	var p patches
	p.put(16*sectorSize, primary(label, blocks))
	p.put(17*sectorSize, descriptor(255))
	p.put(20*sectorSize, []byte{34, 0, 20})
	return p
}

// putGPT adds a GPT of so many 512-byte sectors with entries of the given types, and its backup header.
func (p *patches) putGPT(sectors uint64, types ...string) {
	h := make([]byte, 512)
	copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	binary.LittleEndian.PutUint64(h[24:], 1)
	binary.LittleEndian.PutUint64(h[32:], sectors-1)
	binary.LittleEndian.PutUint64(h[72:], 2)
	binary.LittleEndian.PutUint32(h[80:], uint32(max(len(types), 4)))
	binary.LittleEndian.PutUint32(h[84:], 128)
	sealGPT(h)
	p.put(512, h)
	for i, kind := range types {
		p.put(1024+int64(i)*128, []byte(kind))
	}
	p.put(int64(sectors-1)*512, []byte("EFI PART"))
}

// sealGPT sets the CRC of a header.
func sealGPT(h []byte) {
	clear(h[16:20])
	size := min(max(binary.LittleEndian.Uint32(h[12:]), 20), uint32(len(h)))
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:size]))
}

// putMBR adds an MBR with the given slots: type, start and count in sectors.
func (p *patches) putMBR(slots ...[3]uint32) {
	b := make([]byte, 66)
	for i, s := range slots {
		b[16*i+4] = byte(s[0])
		binary.LittleEndian.PutUint32(b[16*i+8:], s[1])
		binary.LittleEndian.PutUint32(b[16*i+12:], s[2])
	}
	copy(b[64:], "\x55\xaa")
	p.put(446, b)
}

// sealTag makes a UDF descriptor's tag right: its kind, address, CRC and checksum.
func sealTag(d []byte, kind uint16, lba uint32) {
	binary.LittleEndian.PutUint16(d, kind)
	binary.LittleEndian.PutUint32(d[12:], lba)
	binary.LittleEndian.PutUint16(d[10:], uint16(len(d)-16))
	binary.LittleEndian.PutUint16(d[8:], crcITU(d[16:]))
	d[4] = 0
	for i, c := range d[:16] {
		if i != 4 {
			d[4] += c
		}
	}
}

// putUDF adds a UDF recognition sequence from the given sector on, an anchor in sector 256, and a descriptor sequence
// in sector 32 with a partition from block 300 on, of so many blocks; none of its reserve copy.
func (p *patches) putUDF(vrs int64, blocks uint32, label string) {
	for i, id := range []string{"BEA01", "NSR02", "TEA01"} {
		p.put((vrs+int64(i))*sectorSize, []byte("\x00"+id+"\x01"))
	}
	anchor := make([]byte, 512)
	binary.LittleEndian.PutUint32(anchor[16:], 16*sectorSize)
	binary.LittleEndian.PutUint32(anchor[20:], 32)
	sealTag(anchor, tagAnchor, 256)
	p.put(256*sectorSize, anchor)

	part := make([]byte, 512)
	binary.LittleEndian.PutUint32(part[188:], 300)
	binary.LittleEndian.PutUint32(part[192:], blocks)
	sealTag(part, tagPartition, 32)
	p.put(32*sectorSize, part)
	p.putLogicalVolume(33, 1, label)
}

func (p *patches) putLogicalVolume(lba int64, sequence uint32, label string, maps ...string) {
	lv := make([]byte, 1024)
	binary.LittleEndian.PutUint32(lv[16:], sequence)
	lv[84] = 8
	lv[211] = byte(1 + copy(lv[85:211], label))
	binary.LittleEndian.PutUint32(lv[212:], sectorSize)
	copy(lv[217:], "*OSTA UDF Compliant")
	binary.LittleEndian.PutUint16(lv[240:], 0x0201)
	n := 440
	for _, m := range maps {
		n += copy(lv[n:], m)
	}
	binary.LittleEndian.PutUint32(lv[264:], uint32(n-440))
	sealTag(lv, tagLogicalVolume, uint32(lba))
	p.put(lba*sectorSize, lv)
}
