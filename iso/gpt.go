package iso

import (
	"encoding/binary"
	"hash/crc32"
)

const (
	maxGPTTable = 128 << 10 // bytes of the entries that are looked at; UEFI asks for 16 KiB
	minGPTEntry = 128       // bytes
	maxGPTEntry = 256
)

// espType is C12A7328-F81F-11D2-BA4B-00A0C93EC93B, the type of an EFI system partition, as recorded (UEFI 5.3.3).
const espType = "\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b"

// gpt is what a GUID partition table in sectors of 512 bytes says.
type gpt struct {
	valid  bool  // the header and its CRC are right
	end    int64 // of the backup header, which is the last sector; bytes
	backup bool  // the backup header is there, or none is claimed
	esp    bool
}

// readGPT reads the header in sector 1 (UEFI 5.3.2), its entries, and looks for the backup header. A header whose CRC
// is wrong counts as none: it is a remnant, and its numbers mean nothing.
func readGPT(s *source, head []byte) gpt {
	if len(head) < 2*diskSector {
		return gpt{}
	}
	h := head[diskSector : 2*diskSector]
	if !gptHeader(h) || binary.LittleEndian.Uint64(h[24:]) != 1 {
		return gpt{}
	}
	g := gpt{valid: true, backup: true}
	if lba := binary.LittleEndian.Uint64(h[32:]); lba > 1 && lba < 1<<53 {
		g.end = (int64(lba) + 1) * diskSector
		var b [diskSector]byte
		g.backup = s.read(b[:], g.end-diskSector) == len(b) && string(b[:8]) == "EFI PART"
	}
	entries := binary.LittleEndian.Uint64(h[72:])
	count := binary.LittleEndian.Uint32(h[80:])
	width := binary.LittleEndian.Uint32(h[84:])
	if entries < 2 || entries >= 1<<53 || width < minGPTEntry || width > maxGPTEntry || width%8 != 0 {
		return g
	}
	g.esp = hasESP(s, int64(entries)*diskSector, int(min(count, maxGPTTable/width)), int(width))
	return g
}

// gptHeader checks a header's signature, size and CRC.
func gptHeader(h []byte) bool {
	size := binary.LittleEndian.Uint32(h[12:])
	if string(h[:8]) != "EFI PART" || size < 92 || size > diskSector {
		return false
	}
	var b [diskSector]byte
	copy(b[:], h[:size])
	clear(b[16:20]) // the CRC is taken as 0 in its own sum
	return crc32.ChecksumIEEE(b[:size]) == binary.LittleEndian.Uint32(h[16:])
}

// hasESP looks for an EFI system partition among count entries of width bytes at byte offset off.
func hasESP(s *source, off int64, count, width int) bool {
	var b [4096]byte
	for perRead := len(b) / width; count > 0; count -= perRead {
		n := s.read(b[:perRead*width], off)
		if n == 0 {
			return false
		}
		for i := range min(count, n/width) {
			if string(b[i*width:i*width+16]) == espType {
				return true
			}
		}
		off += int64(perRead * width)
	}
	return false
}
