package iso

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unicode/utf16"
)

const (
	udfAnchor      = 256 // sector of the first anchor (ECMA-167 3/8.4.2.1); others are at the last and at the last - 256
	maxUDFSequence = 32  // descriptors of one sequence that are looked at; real ones have 5 to 7
	maxUDFMaps     = 8   // partition maps of a logical volume that are looked at; UDF allows 2 kinds at once
)

// Tag identifiers of descriptors (ECMA-167 3/7.2.1).
const (
	tagAnchor        = 2
	tagPartition     = 5
	tagLogicalVolume = 6
	tagTerminator    = 8
)

// udf is what the UDF descriptors say.
type udf struct {
	blockSize int64  // bytes; 0 = no logical volume was found
	end       int64  // that they claim, bytes; 0 with a virtual allocation table, whose partition is the blank disc
	claim     string // what claims end, for a message
	virtual   bool   // written in increments, with a virtual allocation table
	sequence  uint32 // of the logical volume descriptor that prevails (ECMA-167 3/8.4.3)
}

// extent is a run of sectors: where it starts, and its length in bytes.
type extent struct{ sector, length int64 }

func (e extent) end() int64 { return e.sector*sectorSize + e.length }

// readUDF reads the anchors and the volume descriptor sequences of an image whose recognition sequence has NSR02 or
// NSR03. It tells a volume with other than 2048-byte blocks too: that is a hard disk's, and no drive reads it as a disc.
func readUDF(s *source, info *Info) udf {
	last := s.size/sectorSize - 1
	for _, lba := range []int64{udfAnchor, last - udfAnchor, last} {
		main, reserve, ok := s.anchor(lba, sectorSize)
		if !ok {
			continue
		}
		d := s.udfSequence(main, info)
		if d.blockSize == 0 {
			d = s.udfSequence(reserve, info)
		}
		if d.virtual {
			return d
		}
		// Both copies of the sequence belong to the image; the second is often its last part.
		if claim := max(main.end(), reserve.end()); claim > d.end {
			d.end, d.claim = claim, "UDF volume descriptors"
		}
		return d
	}
	for _, block := range []int64{512, 4096} {
		if _, _, ok := s.anchor(udfAnchor, block); ok {
			return udf{blockSize: block}
		}
	}
	return udf{}
}

// anchor reads the anchor at the given block (ECMA-167 3/10.2), and the extents of the two sequences that it names.
func (s *source) anchor(lba, block int64) (main, reserve extent, ok bool) {
	var b [512]byte
	if lba < 0 || s.read(b[:], lba*block) < len(b) || !validTag(b[:], tagAnchor, lba) {
		return main, reserve, false
	}
	at := func(off int) extent {
		return extent{
			sector: int64(binary.LittleEndian.Uint32(b[off+4:])),
			length: int64(binary.LittleEndian.Uint32(b[off:])),
		}
	}
	return at(16), at(24), true
}

// udfSequence walks a volume descriptor sequence.
func (s *source) udfSequence(at extent, info *Info) udf {
	var (
		d         udf
		b         [sectorSize]byte
		partition int64 // the largest end of a partition, in blocks
	)
	for i := range min(at.length/sectorSize, maxUDFSequence) {
		lba := at.sector + i
		if s.sector(&b, lba) < sectorSize {
			break
		}
		tag := binary.LittleEndian.Uint16(b[:])
		if tag == tagTerminator || !validTag(b[:], tag, lba) {
			break
		}
		switch tag {
		case tagPartition:
			start := int64(binary.LittleEndian.Uint32(b[188:]))
			partition = max(partition, start+int64(binary.LittleEndian.Uint32(b[192:])))
		case tagLogicalVolume:
			d.logicalVolume(&b, info)
		}
	}
	if d.blockSize != 0 && !d.virtual && partition > 0 {
		d.end, d.claim = partition*d.blockSize, "UDF partition"
	}
	return d
}

// logicalVolume reads a logical volume descriptor (ECMA-167 3/10.6) unless one with a higher number was seen.
func (d *udf) logicalVolume(b *[sectorSize]byte, info *Info) {
	sequence := binary.LittleEndian.Uint32(b[16:])
	if d.blockSize != 0 && sequence < d.sequence {
		return
	}
	d.sequence = sequence
	d.blockSize = int64(binary.LittleEndian.Uint32(b[212:]))
	if rev := binary.LittleEndian.Uint16(b[240:]); bytes.HasPrefix(b[217:], []byte("*OSTA UDF Compliant")) {
		info.UDFRevision = fmt.Sprintf("%x.%02x", rev>>8, rev&0xff)
	}
	if info.Label == "" {
		info.Label = dstring(b[84:212])
	}

	// Partition maps: type 2 is 64 bytes long and carries the name of its kind (UDF 2.2.8).
	maps := b[440:min(440+int64(binary.LittleEndian.Uint32(b[264:])), sectorSize)]
	for range maxUDFMaps {
		if len(maps) < 2 || maps[1] < 2 || int(maps[1]) > len(maps) {
			return
		}
		m := maps[:maps[1]]
		if m[0] == 2 && len(m) == 64 && bytes.HasPrefix(m[5:], []byte("*UDF Virtual Partition")) {
			d.virtual = true
		}
		maps = maps[len(m):]
	}
}

// validTag checks a descriptor's tag (ECMA-167 3/7.2): its kind, its own address, its checksum, and the CRC over the
// body as far as b reaches.
func validTag(b []byte, kind uint16, lba int64) bool {
	if binary.LittleEndian.Uint16(b) != kind || int64(binary.LittleEndian.Uint32(b[12:])) != lba {
		return false
	}
	var sum byte
	for i, c := range b[:16] {
		if i != 4 {
			sum += c
		}
	}
	if sum != b[4] {
		return false
	}
	length := int(binary.LittleEndian.Uint16(b[10:]))
	return length > len(b)-16 || crcITU(b[16:16+length]) == binary.LittleEndian.Uint16(b[8:])
}

// crcITU is the CRC of ECMA-167 1/7.2.6: polynomial x^16+x^12+x^5+1, start value 0.
func crcITU(b []byte) uint16 {
	var crc uint16
	for _, c := range b {
		crc ^= uint16(c) << 8
		for range 8 {
			carry := crc&0x8000 != 0
			crc <<= 1
			if carry {
				crc ^= 0x1021
			}
		}
	}
	return crc
}

// dstring decodes a text field of OSTA compressed Unicode (UDF 2.1.1): its last byte is the length used, its first the
// width of a character in bits, 8 or 16.
func dstring(b []byte) string {
	used := min(int(b[len(b)-1]), len(b)-1)
	if used < 2 {
		return ""
	}
	text := b[1:used]
	units := make([]uint16, 0, 127)
	switch b[0] {
	case 8:
		for _, c := range text {
			units = append(units, uint16(c))
		}
	case 16:
		for ; len(text) >= 2; text = text[2:] {
			units = append(units, binary.BigEndian.Uint16(text))
		}
	}
	return fieldText([]byte(string(utf16.Decode(units))))
}
