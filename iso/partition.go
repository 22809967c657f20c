package iso

import (
	"bytes"
	"encoding/binary"
)

const diskSector = 512 // bytes of a sector in MBR, GPT and APM

// Types of MBR slots that matter here.
const (
	slotProtective = 0xEE // a GPT follows
	slotESP        = 0xEF // EFI system partition
)

// tables is what partition tables of hard disks claim. An image that also starts from a USB stick carries them beside
// its disc file system.
type tables struct {
	mbr    bool  // a plausible MBR with a used slot
	mbrEnd int64 // largest end of a slot, bytes; 0 = none
	esp    bool  // a slot or entry is an EFI system partition
	gpt    gpt
	apm    bool
}

// readTables reads the tables; head is the start of the image.
func readTables(s *source, head []byte) tables {
	var t tables
	t.readMBR(head)
	t.gpt = readGPT(s, head)
	t.esp = t.esp || t.gpt.esp
	t.apm = appleMap(s, head)
	return t
}

// readMBR reads the four slots at byte 446. The signature alone means nothing: isolinux and HFS masters leave an empty
// table, and boot sectors of file systems have code there, which the status byte of a slot gives away.
func (t *tables) readMBR(head []byte) {
	if len(head) < diskSector || head[510] != 0x55 || head[511] != 0xAA {
		return
	}
	var used, esp bool
	var end int64
	for slot := head[446:510]; len(slot) > 0; slot = slot[16:] {
		if slot[0] != 0 && slot[0] != 0x80 {
			return
		}
		kind := slot[4]
		start := int64(binary.LittleEndian.Uint32(slot[8:]))
		count := int64(binary.LittleEndian.Uint32(slot[12:]))
		if kind == 0 || count == 0 {
			continue
		}
		used = true
		esp = esp || kind == slotESP
		if kind == slotProtective && count == 0xFFFFFFFF {
			continue // UEFI 5.2.3: "or larger than fits here", and some always write that
		}
		end = max(end, (start+count)*diskSector)
	}
	t.mbr, t.mbrEnd, t.esp = used, end, esp
}

// appleMap reports whether there is an Apple partition map: a driver descriptor in front, and its first entry at byte
// 512 or, with blocks of a CD, 2048 (Inside Macintosh: Devices, 3-24).
func appleMap(s *source, head []byte) bool {
	if !bytes.HasPrefix(head, []byte("ER")) {
		return false
	}
	var pm [2]byte
	for _, off := range []int64{diskSector, sectorSize} {
		if s.read(pm[:], off) == len(pm) && string(pm[:]) == "PM" {
			return true
		}
	}
	return false
}

// describe notes in info what the tables of an ISO image say of it.
func (t *tables) describe(info *Info) {
	info.HybridMBR = t.mbr
	info.HybridGPT = t.gpt.valid
	info.APM = t.apm
	info.BootUEFI = info.BootUEFI || t.esp
	info.SoftSize = t.end()
}

// end is the largest end that MBR and GPT claim, bytes; 0 without both.
func (t *tables) end() int64 { return max(t.mbrEnd, t.gpt.end) }

// claim names the table that claims end.
func (t *tables) claim() string {
	if t.gpt.end >= t.mbrEnd {
		return "GPT"
	}
	return "MBR partition"
}
