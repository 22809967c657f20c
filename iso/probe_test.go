package iso

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
)

// Each case makes an image and says what the verdict on it must contain; "" = accepted.
func TestVerdicts(t *testing.T) {
	const blocks, size = 100, 100 * sectorSize
	for _, c := range []struct {
		name string
		size int64
		make func(p *patches)
		want string
	}{
		{"whole", size, func(p *patches) {}, ""},
		{"a byte short", size - 1, func(p *patches) {}, "has 204799 of 204800 bytes (ISO 9660 volume size)"},
		{"any magic in front", size, func(p *patches) { p.put(0, []byte("QFI\xfb")); p.put(1080, []byte("\x53\xef")) }, ""},
		{"Nero footer of an image at offset 0", size + 12, func(p *patches) { p.put(size, []byte("NER5")) }, ""},
		{"big-endian size is zero", size, func(p *patches) { p.put(32768+84, make([]byte, 4)) }, ""},
		{"big-endian size differs: the other counts", size, func(p *patches) { p.put(32768+84, []byte{0x7f, 0, 0, 0}) }, ""},
		{"little-endian size is zero", size - 1, func(p *patches) { p.put(32768+80, make([]byte, 4)) }, "of 204800 bytes"},
		{"blocks of 512", size, func(p *patches) {
			p.put(32768+128, []byte{0, 2, 2, 0})
			p.put(20*512, []byte{34})
		}, ""},
		{"blocks of 1024, short", 100*1024 - 1, func(p *patches) {
			p.put(32768+128, []byte{0, 4, 4, 0})
			p.put(20*1024, []byte{34})
		}, "of 102400 bytes"},
		{"a block size that cannot be", size - 1, func(p *patches) { p.put(32768+128, []byte{0xff, 0xff, 0xff, 0xff}) }, "of 204800 bytes"},
		{"no terminator", size, func(p *patches) { p.put(17*sectorSize, make([]byte, sectorSize)) }, ""},
		{"root directory of zeros", size, func(p *patches) { p.put(20*sectorSize, make([]byte, 3)) }, "root directory holds nothing but zeros"},
		{"root directory behind the volume", size, func(p *patches) { p.put(32768+158, []byte{200}) }, "of 411648 bytes (ISO 9660 root directory)"},
		{"no primary descriptor", size, func(p *patches) { p.put(32768, []byte{2}) }, "damaged ISO 9660 image"},
		{"primary behind the boot record", size, func(p *patches) {
			p.put(16*sectorSize, descriptor(0))
			p.put(17*sectorSize, primary("LATE", blocks))
			p.put(18*sectorSize, descriptor(255))
		}, ""},

		{"MBR wants more", size, func(p *patches) { p.putMBR([3]uint32{0x17, 0, 401}) }, "of 205312 bytes (MBR partition)"},
		{"MBR signature over an empty table", size, func(p *patches) { p.putMBR() }, ""},
		{"MBR slot of type 0", size, func(p *patches) { p.putMBR([3]uint32{0, 0, 9999}) }, ""},
		{"code where the table would be", size, func(p *patches) {
			p.putMBR([3]uint32{0x17, 0, 9999})
			p.put(446+16, []byte{0x33})
		}, ""},
		{"protective slot over everything", size, func(p *patches) { p.putMBR([3]uint32{0xEE, 1, 0xFFFFFFFF}) }, ""},
		{"GPT wants more", size, func(p *patches) { p.putGPT(401) }, "of 205312 bytes (GPT)"},
		{"GPT whole", size, func(p *patches) { p.putGPT(400) }, ""},
		{"GPT without its backup", size, func(p *patches) { p.putGPT(400); p.put(399*512, make([]byte, 8)) }, "backup GPT is missing"},
		{"GPT with a wrong CRC is a remnant", size, func(p *patches) { p.putGPT(401); p.put(512+40, []byte{1}) }, ""},
		{"GPT whose backup is nowhere", size, func(p *patches) { p.putGPT(1); p.put(512, gptHeaderAt(1<<60)) }, ""},
		{"appended EFI system partition", size, func(p *patches) { p.putMBR([3]uint32{0xEF, 300, 100}) }, ""},

		{"UDF bridge", 401 * sectorSize, func(p *patches) { p.putUDF(18, 101, "U") }, ""},
		{"UDF bridge, partition cut", 400 * sectorSize, func(p *patches) { p.putUDF(18, 101, "U") }, "of 821248 bytes (UDF partition)"},
		{"UDF bridge without any anchor", 257 * sectorSize, func(p *patches) { p.putUDF(18, 101, "U"); p.put(256*sectorSize, make([]byte, 512)) }, ""},
		{"UDF bridge, anchor with a wrong checksum", 400 * sectorSize, func(p *patches) { p.putUDF(18, 101, "U"); p.put(256*sectorSize+4, []byte{0}) }, ""},
		{"UDF bridge, partition with a wrong CRC", 400 * sectorSize, func(p *patches) { p.putUDF(18, 101, "U"); p.put(32*sectorSize+300, []byte{1}) }, ""},
		{"UDF with a virtual allocation table", 400 * sectorSize, func(p *patches) {
			p.putUDF(18, 101000, "U")
			p.putLogicalVolume(33, 1, "U", "\x01\x06\x01\x00\x00\x00", virtualMap())
		}, ""},
		{"UDF, the higher logical volume prevails", 400 * sectorSize, func(p *patches) {
			p.putUDF(18, 50, "OLD")
			p.putLogicalVolume(34, 2, "NEW")
		}, ""},
		{"UDF descriptors behind the end", 400 * sectorSize, func(p *patches) {
			p.putUDF(18, 50, "U")
			p.put(256*sectorSize, anchorTo(9000))
		}, "UDF volume descriptors"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := plainISO("MADE", blocks)
			c.make(&p)
			_, err := probe(t, p, c.size)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func virtualMap() string {
	m := make([]byte, 64)
	m[0], m[1] = 2, 64
	copy(m[5:], "*UDF Virtual Partition")
	return string(m)
}

func anchorTo(sector uint32) []byte {
	anchor := make([]byte, 512)
	binary.LittleEndian.PutUint32(anchor[16:], 16*sectorSize)
	binary.LittleEndian.PutUint32(anchor[20:], sector)
	sealTag(anchor, tagAnchor, 256)
	return anchor
}

func gptHeaderAt(backup uint64) []byte {
	h := make([]byte, 512)
	copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	binary.LittleEndian.PutUint64(h[24:], 1)
	binary.LittleEndian.PutUint64(h[32:], backup)
	sealGPT(h)
	return h
}

// UDF alone, without ISO 9660: what is there, what is missing, and whose disk it is.
func TestPureUDF(t *testing.T) {
	for _, c := range []struct {
		name string
		size int64
		make func(p *patches)
		want string
	}{
		{"whole", 401 * sectorSize, func(p *patches) {}, ""},
		{"partition cut", 401*sectorSize - 1, func(p *patches) {}, "UDF partition"},
		{"before its anchor", 256 * sectorSize, func(p *patches) {}, "of 526336 bytes (UDF anchor)"},
		{"within the recognition sequence", 17 * sectorSize, func(p *patches) {}, "ends within its volume descriptors"},
		{"anchors lost", 401 * sectorSize, func(p *patches) { p.put(256*sectorSize, make([]byte, 512)) }, "its UDF volume descriptors are missing"},
		{"sequence lost", 401 * sectorSize, func(p *patches) { p.put(32*sectorSize, make([]byte, 2*sectorSize)) }, "its UDF volume descriptors are missing"},
		{"anchor at the last sector only", 401 * sectorSize, func(p *patches) {
			p.put(256*sectorSize, make([]byte, 512))
			a := anchorTo(32)
			sealTag(a, tagAnchor, 400)
			p.put(400*sectorSize, a)
		}, ""},
		{"blocks of 512 bytes", 401 * sectorSize, func(p *patches) {
			p.put(256*512, anchorTo(32))
			p.put(256*sectorSize, make([]byte, 512))
		}, "UDF file system of a hard disk"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p patches
			p.putUDF(16, 101, "PURE")
			c.make(&p)
			info, err := probe(t, p, c.size)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			if err == nil && (info.Label != "PURE" || info.UDFRevision != "2.01" || info.VolumeSize != 0) {
				t.Errorf("%+v", info)
			}
		})
	}
}

// A level 3 image of the largest size that ISO 9660 can say, 8 TiB, costs no more than a small one.
func TestLargest(t *testing.T) {
	const size = (1<<32 - 1) * sectorSize
	p := plainISO("LARGEST", 1<<32-1)
	info, err := probe(t, p, size)
	if err != nil || info.DeclaredSize != size || info.VolumeSize != size {
		t.Errorf("%v, declared %d", err, info.DeclaredSize)
	}
	if _, err := probe(t, p, size-1); !errors.Is(err, ErrTruncated) {
		t.Error(err)
	}
	if n := testing.AllocsPerRun(10, func() { _, _ = Probe(p, size) }); n > 100 {
		t.Errorf("%v allocations", n)
	}
}

// An image made to be read for long: descriptors without end, two UDF sequences of the largest length, and a GPT with
// as many entries as its field holds.
func TestReadsAreBounded(t *testing.T) {
	p := plainISO("HOSTILE", 100)
	for i := int64(17); i < 2000; i++ {
		p.put(i*sectorSize, descriptor(2))
	}
	p.put(40*sectorSize, []byte("\x00NSR03\x01"))
	seq := int64(3000)
	for i := range int64(4000) {
		d := make([]byte, 512)
		sealTag(d, 4, uint32(seq+i))
		p.put((seq+i)*sectorSize, d)
	}
	anchor := make([]byte, 512)
	for _, off := range []int{16, 24} {
		binary.LittleEndian.PutUint32(anchor[off:], 0xFFFFF800)
		binary.LittleEndian.PutUint32(anchor[off+4:], uint32(seq))
	}
	sealTag(anchor, tagAnchor, 256)
	p.put(256*sectorSize, anchor)
	h := make([]byte, 512)
	copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	binary.LittleEndian.PutUint64(h[24:], 1)
	binary.LittleEndian.PutUint64(h[72:], 2)
	binary.LittleEndian.PutUint32(h[80:], 0xFFFFFFFF)
	binary.LittleEndian.PutUint32(h[84:], 256)
	sealGPT(h)
	p.put(512, h)

	c := &counted{ReaderAt: p}
	_, err := Probe(c, 1<<40)
	if c.asked > MaxRead || c.asked < MaxRead/2 {
		t.Errorf("read %d bytes of at most %d; the test must come near: %v", c.asked, MaxRead, err)
	}
}

// failing is an image with a fault from a byte on.
type failing struct {
	io.ReaderAt
	from int64
	err  error
}

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if n := f.from - off; n < int64(len(p)) {
		n, _ := f.ReaderAt.ReadAt(p[:max(n, 0)], off)
		return n, f.err
	}
	return f.ReaderAt.ReadAt(p, off)
}

// A disk that cannot be read is not "not an image", and a file that shrinks meanwhile is incomplete.
func TestReadErrors(t *testing.T) {
	image := plainISO("MADE", 100)
	for _, from := range []int64{0, 100, 4096, 33000, 17 * sectorSize, 20 * sectorSize} {
		_, err := probe(t, failing{image, from, syscall.EIO}, 100*sectorSize)
		if !errors.Is(err, syscall.EIO) || errors.Is(err, ErrNotISO) || errors.Is(err, ErrTruncated) {
			t.Errorf("EIO from byte %d: %v", from, err)
		}
		_, err = probe(t, failing{image, from, io.EOF}, 100*sectorSize)
		if !errors.Is(err, ErrTruncated) || !strings.Contains(err.Error(), "became shorter") {
			t.Errorf("end of file at byte %d: %v", from, err)
		}
	}
}

func TestNegativeSize(t *testing.T) {
	info, err := Probe(patches{}, -1)
	if info.Size != 0 || !errors.Is(err, ErrNotISO) {
		t.Errorf("%+v %v", info, err)
	}
}

// Joliet's label counts where it says more; padding by spaces and by NULs goes.
func TestLabels(t *testing.T) {
	joliet := func(label string) []byte {
		d := descriptor(2)
		copy(d[88:], "%/E")
		for i := range 16 {
			binary.BigEndian.PutUint16(d[40+2*i:], ' ')
		}
		for i, r := range []rune(label) {
			binary.BigEndian.PutUint16(d[40+2*i:], uint16(r))
		}
		return d
	}
	for _, c := range []struct{ iso, joliet, want string }{
		{"SHORT   ", "Größerer Name", "Größerer Name"},
		{"A_LABEL_OF_MORE_THAN_16_LETTERS", "A label of more ", "A_LABEL_OF_MORE_THAN_16_LETTERS"},
		{"SAME", "Same", "SAME"},
		{"NUL\x00JUNK", "", "NUL"},
	} {
		p := plainISO(c.iso, 100)
		p.put(17*sectorSize, joliet(c.joliet))
		p.put(18*sectorSize, descriptor(255))
		info, err := probe(t, p, 100*sectorSize)
		if err != nil || info.Label != c.want || !info.Joliet {
			t.Errorf("%q and %q: %q, %v", c.iso, c.joliet, info.Label, err)
		}
	}
}

func TestElTorito(t *testing.T) {
	validation := func(platform byte) []byte {
		b := make([]byte, 32)
		b[0], b[1], b[30], b[31] = 1, platform, 0x55, 0xAA
		var sum uint16
		for i := 0; i < 32; i += 2 {
			sum += binary.LittleEndian.Uint16(b[i:])
		}
		binary.LittleEndian.PutUint16(b[28:], -sum)
		return b
	}
	entry := func(kind byte, rest ...byte) []byte {
		b := make([]byte, 32)
		b[0] = kind
		copy(b[1:], rest)
		return b
	}
	damaged := validation(0)
	damaged[4] = 1
	for _, c := range []struct {
		name       string
		catalog    [][]byte
		bios, uefi bool
	}{
		{"BIOS", [][]byte{validation(0), entry(0x88)}, true, false},
		{"UEFI", [][]byte{validation(0xEF), entry(0x88)}, false, true},
		{"PowerPC", [][]byte{validation(1), entry(0x88)}, false, false},
		{"not bootable", [][]byte{validation(0), entry(0)}, false, false},
		{"checksum wrong", [][]byte{damaged, entry(0x88)}, false, false},
		{"BIOS, then UEFI", [][]byte{validation(0), entry(0x88), entry(0x91, 0xEF, 1), entry(0x88)}, true, true},
		{"UEFI in the second section", [][]byte{validation(0), entry(0), entry(0x90, 2, 1), entry(0x88), entry(0x91, 0xEF, 1), entry(0x88)}, false, true},
		{"behind an extension", [][]byte{validation(0), entry(0), entry(0x91, 0xEF, 2), entry(0), entry(0x44), entry(0x88)}, false, true},
		{"no entry is there", [][]byte{validation(0), entry(0), entry(0x91, 0xEF, 0), entry(0x88)}, false, false},
		{"more entries than fit", [][]byte{validation(0), entry(0x88), entry(0x90, 0xEF, 0xff, 0xff), entry(0x88)}, true, true},
		{"behind the last section", [][]byte{validation(0), entry(0x88), entry(0x91, 0, 0), entry(0x91, 0xEF, 1), entry(0x88)}, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := plainISO("BOOT", 100)
			boot := descriptor(0)
			copy(boot[7:], "EL TORITO SPECIFICATION")
			boot[0x47] = 30
			p.put(17*sectorSize, boot)
			p.put(18*sectorSize, descriptor(255))
			for i, b := range c.catalog {
				p.put(30*sectorSize+32*int64(i), b)
			}
			info, err := probe(t, p, 100*sectorSize)
			if err != nil || info.BootBIOS != c.bios || info.BootUEFI != c.uefi {
				t.Errorf("BIOS %v, UEFI %v, %v", info.BootBIOS, info.BootUEFI, err)
			}
		})
	}
}

func TestEFISystemPartition(t *testing.T) {
	p := plainISO("GPT", 100)
	p.putGPT(400, "\x01", strings.Repeat("x", 16), espType)
	info, err := probe(t, p, 100*sectorSize)
	if err != nil || !info.HybridGPT || !info.BootUEFI || info.SoftSize != 400*512 {
		t.Errorf("%+v %v", info, err)
	}
	p = plainISO("GPT", 100)
	p.putGPT(400, "\x01")
	p.put(1024+4*128, []byte(espType)) // behind the last entry
	if info, _ := probe(t, p, 100*sectorSize); info.BootUEFI {
		t.Error("took what lies behind the entries for one")
	}
}
