package iso

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf8"
)

// pack writes an image down as its pieces that are not zeros, so that a fuzzer does not spend its time on zeros: offset
// (4 bytes), length (2 bytes), data, and so on.
func pack(image []byte) []byte {
	const piece = 512
	var packed []byte
	for off := 0; off < len(image); off += piece {
		data := bytes.TrimRight(image[off:min(off+piece, len(image))], "\x00")
		if len(data) == 0 {
			continue
		}
		packed = binary.LittleEndian.AppendUint32(packed, uint32(off))
		packed = binary.LittleEndian.AppendUint16(packed, uint16(len(data)))
		packed = append(packed, data...)
	}
	return packed
}

// unpack is the other way; it takes anything.
func unpack(packed []byte) patches {
	var p patches
	for len(packed) >= 6 {
		off := int64(binary.LittleEndian.Uint32(packed))
		n := min(int(binary.LittleEndian.Uint16(packed[4:])), len(packed)-6)
		p.put(off, packed[6:6+n])
		packed = packed[6+n:]
	}
	return p
}

// check is probe, and what must hold of the reports on anything.
func check(t *testing.T, p patches, size int64) Info {
	t.Helper()
	info, err := probe(t, p, size)
	line, jsonErr := json.Marshal(Verdict("x", info, err))
	if jsonErr != nil || !utf8.Valid(line) || bytes.Contains(line, []byte("\n")) {
		t.Errorf("report %q: %v", line, jsonErr)
	}
	if info.Sum != nil {
		v := info.Sum.Verifier()
		_, _ = v.Write(make([]byte, 100))
		if v.Err() == nil {
			t.Error("a sum over 100 zeros fits")
		}
	}
	return info
}

func FuzzProbe(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("..", "testdata", "iso", "*.iso"))
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		image := sample(f, filepath.Base(name))
		packed := pack(image)
		if len(packed) > 32<<10 {
			packed = pack(image[:min(len(image), 40<<10)])
		}
		f.Add(packed, int64(len(image)))
	}
	f.Fuzz(func(t *testing.T, packed []byte, size int64) {
		check(t, unpack(packed), size)
	})
}

// The samples come back whole, or FuzzProbe would start from rubble.
func TestPack(t *testing.T) {
	image := sample(t, "udf-bridge.iso")
	got := make([]byte, len(image))
	_, _ = unpack(pack(image)).ReadAt(got, 0)
	if !bytes.Equal(got, image) {
		t.Error("not the same")
	}
}

// UDF, with the tags made right: else a fuzzer hardly gets past the checksums. A descriptor is the next 512 bytes of
// sequence, in a sector of its own, and four bits of kinds are its kind where they are not 0.
func FuzzUDF(f *testing.F) {
	for name, sectors := range map[string]int64{"udf-bridge.iso": 6, "udf.iso": 5, "udf-vat.iso": 5} {
		image := sample(f, name)
		anchor := image[256*sectorSize : 256*sectorSize+32]
		first := int64(binary.LittleEndian.Uint32(anchor[20:]))
		var sequence []byte
		for i := range sectors {
			sequence = append(sequence, image[(first+i)*sectorSize:(first+i)*sectorSize+512]...)
		}
		f.Add(anchor, sequence, int64(len(image)), uint16(0))
	}
	f.Add(make([]byte, 32), make([]byte, 512), int64(1<<20), uint16(0x0006))
	f.Fuzz(func(t *testing.T, anchor, sequence []byte, size int64, kinds uint16) {
		p := plainISO("FUZZ", 10)
		p.putUDF(18, 0, "")
		anchor = append(bytes.Clone(anchor), make([]byte, 512)...)[:512]
		main := binary.LittleEndian.Uint32(anchor[20:])
		sealTag(anchor, tagAnchor, udfAnchor)
		p.put(udfAnchor*sectorSize, anchor)
		for i := uint32(0); len(sequence) > 0; i++ {
			n := min(len(sequence), 512)
			d := append(bytes.Clone(sequence[:n]), make([]byte, sectorSize)...)[:sectorSize]
			sequence = sequence[n:]
			kind := binary.LittleEndian.Uint16(d)
			if i < 4 {
				if k := kinds >> (4 * i) & 0xf; k != 0 {
					kind = k
				}
			}
			sealTag(d, kind, main+i)
			p.put(int64(main+i)*sectorSize, d)
		}
		check(t, p, size)
	})
}

func FuzzElTorito(f *testing.F) {
	for _, name := range []string{"bios.iso", "uefi.iso", "bios-uefi.iso", "gpt-hybrid.iso"} {
		image := sample(f, name)
		catalog := int64(binary.LittleEndian.Uint32(image[17*sectorSize+0x47:]))
		f.Add(bytes.TrimRight(image[catalog*sectorSize:(catalog+1)*sectorSize], "\x00"))
	}
	f.Fuzz(func(t *testing.T, catalog []byte) {
		catalog = append(bytes.Clone(catalog), make([]byte, 64)...)
		catalog[0], catalog[30], catalog[31] = 1, 0x55, 0xAA
		var sum uint16
		for i := 0; i < 32; i += 2 {
			if i != 28 {
				sum += binary.LittleEndian.Uint16(catalog[i:])
			}
		}
		binary.LittleEndian.PutUint16(catalog[28:], -sum)
		p := plainISO("FUZZ", 100)
		boot := descriptor(0)
		copy(boot[7:], "EL TORITO SPECIFICATION")
		boot[0x47] = 30
		p.put(17*sectorSize, boot)
		p.put(18*sectorSize, descriptor(255))
		p.put(30*sectorSize, catalog)
		info := check(t, p, 100*sectorSize)
		if !bytes.Contains(catalog, []byte{0x88}) && (info.BootBIOS || info.BootUEFI) {
			t.Error("boots without a bootable entry")
		}
	})
}

func FuzzGPT(f *testing.F) {
	image := sample(f, "gpt-hybrid.iso")
	f.Add(image[:512], image[512:1024], image[1024:2048], int64(len(image)))
	p := plainISO("X", 1)
	p.putGPT(400, espType)
	b := make([]byte, 2048)
	_, _ = p.ReadAt(b, 0)
	f.Add(b[:512], b[512:1024], b[1024:], int64(400*512))
	f.Fuzz(func(t *testing.T, mbr, header, entries []byte, size int64) {
		p := plainISO("FUZZ", 10)
		p.put(0, mbr[:min(len(mbr), 512)])
		h := append(bytes.Clone(header), make([]byte, 512)...)[:512]
		copy(h, "EFI PART")
		sealGPT(h)
		p.put(512, h)
		p.put(1024, entries[:min(len(entries), 16384)])
		if info := check(t, p, size); info.SoftSize < 0 || info.DeclaredSize < 0 {
			t.Errorf("%+v", info)
		}
	})
}

func FuzzOSInfo(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "osinfo", "os", "*", "*.xml"))
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, "EX9-Server", "LINUX", int64(1))
	}
	f.Fuzz(func(t *testing.T, doc []byte, label, system string, size int64) {
		db, systems := &OSDB{}, map[string]*osXML{}
		_ = db.decode(bytes.NewReader(doc), map[string]*pattern{}, systems)
		db.complete(systems)
		name, guess := db.Name(Info{Label: label, System: system, VolumeSize: size})
		if guess && name == "" {
			t.Error("guesses nothing")
		}
	})
}

func FuzzSum(f *testing.F) {
	image := sample(f, "md5sum.iso")
	f.Add(image[32768+appUseOffset:32768+appUseOffset+appUseSize], uint32(44))
	f.Fuzz(func(t *testing.T, text []byte, blocks uint32) {
		p := plainISO("FUZZ", blocks)
		p.put(32768+appUseOffset, text[:min(len(text), appUseSize)])
		info := check(t, p, int64(blocks)*sectorSize)
		if s := info.Sum; s != nil && (s.End <= 0 || s.End > info.VolumeSize || len(s.MD5) != 32) {
			t.Errorf("%+v of %d bytes", s, info.VolumeSize)
		}
	})
}
