package iso

import (
	"bytes"
	"encoding/binary"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	sectorSize      = 2048            // of every optical disc, and of ECMA-119's logical sectors here
	firstDescriptor = 16 * sectorSize // behind the system area (ECMA-119 6.2.1)
	maxDescriptors  = 64              // that a walk looks at; real images have 3 to 8
)

// volumes is what the descriptors from sector 16 on say: ISO 9660's, and behind or instead of them UDF's volume
// recognition sequence (ECMA-167 2/8.3.1), which shares the layout "type, five letters, version".
type volumes struct {
	magic   bool  // sector 16 is a descriptor of ISO 9660
	primary bool  // there is a primary volume descriptor
	closed  bool  // a terminator was seen, ISO 9660's or UDF's
	cut     bool  // the file ends before a terminator
	nsr     bool  // NSR02 or NSR03 is there: UDF
	end     int64 // space size x block size of the primary descriptor, bytes
	root    int64 // byte offset of the root directory; 0 = not known
	catalog int64 // sector of the El Torito boot catalogue; 0 = none
}

// readVolumes walks the descriptors from sector 16 on and fills in what they say of the image.
func readVolumes(s *source, info *Info) volumes {
	var (
		v      volumes
		b      [sectorSize]byte
		joliet string
	)
	for i := range int64(maxDescriptors) {
		off := firstDescriptor + i*sectorSize
		n := s.sector(&b, off/sectorSize)
		id := string(b[1:6])
		if i == 0 {
			v.magic = id == "CD001"
			if !v.magic && id != "BEA01" {
				return v
			}
		}
		if off+sectorSize > s.size && !v.closed {
			v.cut = true
		}
		if n < 7 || b[1] == 0 || id == "TEA01" {
			v.closed = v.closed || id == "TEA01"
			break
		}
		switch id {
		case "CD001":
			if label := v.descriptor(&b, off, info); label != "" {
				joliet = label
			}
		case "NSR02", "NSR03":
			v.nsr = true
		}
		if v.cut {
			break
		}
	}
	if utf8.RuneCountInString(joliet) > utf8.RuneCountInString(info.Label) {
		info.Label = joliet
	}
	return v
}

// descriptor reads one of ISO 9660's volume descriptors at byte offset off; it returns the label of a Joliet one.
func (v *volumes) descriptor(b *[sectorSize]byte, off int64, info *Info) (joliet string) {
	switch b[0] {
	case 0:
		if v.catalog == 0 && bytes.HasPrefix(b[7:], []byte("EL TORITO SPECIFICATION")) {
			v.catalog = int64(binary.LittleEndian.Uint32(b[0x47:]))
		}
	case 1:
		if !v.primary { // the second is a copy (ECMA-119 6.7.1.1)
			v.primaryDescriptor(b, off, info)
		}
	case 2:
		if label, ok := jolietLabel(b); ok {
			info.Joliet = true
			return label
		}
	case 255:
		v.closed = true
	}
	return ""
}

// primaryDescriptor reads the fields of ECMA-119 8.4 from the descriptor at byte offset off.
func (v *volumes) primaryDescriptor(b *[sectorSize]byte, off int64, info *Info) {
	v.primary = true
	block := int64(bothEndian16(b[128:]))
	if block != 512 && block != 1024 {
		block = sectorSize // a damaged field; every image seen has 2048
	}
	v.end = int64(bothEndian32(b[80:])) * block
	v.root = int64(bothEndian32(b[158:])) * block

	info.System = fieldText(b[8:40])
	info.Label = fieldText(b[40:72])
	info.Publisher = fieldText(b[318:446])
	info.Preparer = fieldText(b[446:574])
	info.Application = fieldText(b[574:702])
	info.VolumeSize = v.end
	info.Sum = parseSum(b, off)
}

// bothEndian32 reads a number that is recorded in both byte orders (ECMA-119 7.3.3). Where they differ the
// little-endian one counts, since that is what Linux, Windows and libosinfo read; some writers leave one of them zero.
func bothEndian32(b []byte) uint32 {
	if le := binary.LittleEndian.Uint32(b); le != 0 {
		return le
	}
	return binary.BigEndian.Uint32(b[4:])
}

// bothEndian16 is bothEndian32 for the 16-bit form (ECMA-119 7.2.3).
func bothEndian16(b []byte) uint16 {
	if le := binary.LittleEndian.Uint16(b); le != 0 {
		return le
	}
	return binary.BigEndian.Uint16(b[2:])
}

// fieldText returns a text field without its padding, spaces by the standard and NULs by habit.
func fieldText(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(bytes.TrimRight(b, " \t\r\n"))
}

// jolietLabel returns the volume id of a supplementary descriptor, if that is Joliet's: version 1, and one of the
// escape sequences for UCS-2 levels 1 to 3. Version 2 is an enhanced descriptor (ISO 9660:1999).
func jolietLabel(b *[sectorSize]byte) (string, bool) {
	if b[6] != 1 || b[88] != '%' || b[89] != '/' || !strings.ContainsRune("@CE", rune(b[90])) {
		return "", false
	}
	var units [16]uint16
	for i := range units {
		units[i] = binary.BigEndian.Uint16(b[40+2*i:])
	}
	label := string(utf16.Decode(units[:]))
	label, _, _ = strings.Cut(label, "\x00")
	return strings.TrimRight(label, " "), true
}

// readRoot looks at the first sector of the root directory, which carries the SUSP indicator (SUSP 5.3) of Rock Ridge;
// CD-ROM XA discs have it 14 bytes later. It reports whether that sector is there and holds nothing but zeros.
func readRoot(s *source, root int64, info *Info) (unwritten bool) {
	const susp = "SP\x07\x01\xbe\xef"
	var b [sectorSize]byte
	if root == 0 || s.read(b[:], root) < sectorSize {
		return false
	}
	info.RockRidge = bytes.HasPrefix(b[34:], []byte(susp)) || bytes.HasPrefix(b[48:], []byte(susp))
	return allZero(b[:])
}
