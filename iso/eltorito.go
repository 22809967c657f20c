package iso

import "encoding/binary"

// Platform ids of El Torito entries (El Torito 1.0 table 2; 0xEF is UEFI 13.3.2.1's).
const (
	platformX86  = 0x00
	platformUEFI = 0xEF
)

// readElTorito reads the boot catalogue in the given sector, 0 = none, and notes for whom the disc boots. It looks at
// one sector, 64 entries: xorriso and genisoimage write no more. Where an entry's image ends is no claim of the disc's
// length: the count of sectors to load is mostly a constant.
func readElTorito(s *source, catalog int64, info *Info) {
	var b [sectorSize]byte
	if catalog == 0 || s.sector(&b, catalog) < 64 || !validationEntry(b[:32]) {
		return
	}
	note := func(platform, indicator byte) {
		if indicator != 0x88 { // "bootable"
			return
		}
		switch platform {
		case platformX86:
			info.BootBIOS = true
		case platformUEFI:
			info.BootUEFI = true
		}
	}
	note(b[1], b[32])

	// Then sections: a header, 0x91 for the last and 0x90 for others, and as many entries as it says.
	for off := 64; off+32 <= len(b); {
		kind, platform := b[off], b[off+1]
		if kind != 0x90 && kind != 0x91 {
			return
		}
		entries := int(binary.LittleEndian.Uint16(b[off+2:]))
		off += 32
		for ; entries > 0 && off+32 <= len(b); off += 32 {
			if b[off] == 0x44 { // an extension of the entry before
				continue
			}
			note(platform, b[off])
			entries--
		}
		if kind == 0x91 {
			return
		}
	}
}

// validationEntry reports whether a catalogue starts as it must: id 1, key 55 AA, and words that add up to 0.
func validationEntry(b []byte) bool {
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += binary.LittleEndian.Uint16(b[i:])
	}
	return b[0] == 1 && b[30] == 0x55 && b[31] == 0xAA && sum == 0
}
