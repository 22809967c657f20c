package iso

import (
	"bytes"
	"encoding/binary"
)

// What a person can do about a file that is no ISO image.
const (
	remedyAgain    = "get the image again"
	remedyUnpack   = "unpack it, and copy the ISO image that is inside"
	remedyDisk     = "import it as a block volume or as a virtual machine's disk, not as an ISO image"
	remedyConvert  = "convert it to an image of 2048-byte sectors first, with bchunk, ccd2iso, iat or the program that made it"
	remedyDownload = "the download went wrong: open the address in a browser, and get the image itself"
	remedyFetch    = "it only points to an image: fetch that, and copy it here"
	remedyRename   = "give it another name, or take it out of this folder"
	remedyWait     = "wait for the copy to end, or copy it again"
	remedyFolder   = "make an ISO image of its contents, for example with xorriso or genisoimage"
)

// magic is a kind of file that shows by fixed bytes at a fixed place.
type magic struct {
	off    int
	bytes  string
	like   string
	remedy string
}

// magics are looked for in the first 4096 bytes, in this order.
var magics = [...]magic{
	// Packed.
	{0, "\x1f\x8b", "gzip-compressed data", remedyUnpack},
	{0, "\xfd7zXZ\x00", "xz-compressed data", remedyUnpack},
	{0, "\x28\xb5\x2f\xfd", "zstd-compressed data", remedyUnpack},
	{0, "BZh", "bzip2-compressed data", remedyUnpack},
	{0, "LZIP", "lzip-compressed data", remedyUnpack},
	{0, "\x04\x22\x4d\x18", "lz4-compressed data", remedyUnpack},
	{0, "\x5d\x00\x00", "lzma-compressed data", remedyUnpack},
	{0, "\x1f\x9d", "compress-ed data (.Z)", remedyUnpack},
	{0, "PK\x03\x04", "a zip archive", remedyUnpack},
	{0, "PK\x05\x06", "an empty zip archive", remedyAgain},
	{0, "PK\x07\x08", "a part of a zip archive", remedyUnpack},
	{0, "7z\xbc\xaf\x27\x1c", "a 7-Zip archive", remedyUnpack},
	{0, "Rar!\x1a\x07", "a RAR archive", remedyUnpack},
	{0, "MSCF", "a Windows cabinet archive", remedyUnpack},
	{0, "!<arch>", "an ar archive or Debian package", remedyUnpack},
	{0, "\xed\xab\xee\xdb", "an RPM package", remedyUnpack},
	{0, "07070", "a cpio archive", remedyUnpack},
	{257, "ustar", "a tar archive", remedyUnpack},

	// Disks of virtual machines.
	{0, "QFI\xfb", "a qcow2 disk image", remedyDisk},
	{0, "QED\x00", "a QED disk image", remedyDisk},
	{0, "KDMV", "a VMDK disk image", remedyDisk},
	{0, "COWD", "a VMDK disk image", remedyDisk},
	{0, "vhdxfile", "a VHDX disk image", remedyDisk},
	{0, "conectix", "a VHD disk image", remedyDisk},
	{64, "\x7f\x10\xda\xbe", "a VDI disk image", remedyDisk},
	{0, "WithoutFreeSpace", "a Parallels disk image", remedyDisk},
	{0, "WithouFreSpacExt", "a Parallels disk image", remedyDisk},
	{0, "\x3a\xff\x26\xed", "an Android sparse image", remedyDisk},

	// Discs in wrappers.
	{0, "\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00", "a CD image of raw 2352-byte sectors", remedyConvert},
	{0, "CISO", "a CISO-compressed disc image", remedyConvert},
	{0, "ZISO", "a ZSO-compressed disc image", remedyConvert},
	{0, "DAX\x00", "a DAX-compressed disc image", remedyConvert},
	{0, "MComprHD", "a CHD disc image", remedyConvert},
	{0, "DAA\x00", "a DAA disc image", remedyConvert},
	{0, "IsZ!", "an ISZ disc image", remedyConvert},
	{0, "ECM\x00", "an ECM-encoded disc image", remedyConvert},
	{0, "MEDIA DESCRIPTOR", "an MDS or MDX disc descriptor", remedyConvert},
	{0, "JigsawDownload", "a jigdo template", "build the image with jigdo-lite first"},
	{0, "MSWIM\x00\x00\x00", "a Windows image (WIM)", remedyFolder},

	// File systems and containers without a partition table.
	{0, "LUKS\xba\xbe", "a LUKS-encrypted disk", remedyDisk},
	{0, "hsqs", "a squashfs file system", remedyDisk},
	{0, "sqsh", "a squashfs file system", remedyDisk},
	{0, "XFSB", "an XFS file system", remedyDisk},
	{0, "\x45\x3d\xcd\x28", "a cramfs file system", remedyDisk},
	{0, "-rom1fs-", "a romfs file system", remedyDisk},
	{3, "NTFS    ", "an NTFS file system", remedyDisk},
	{3, "EXFAT   ", "an exFAT file system", remedyDisk},
	{54, "FAT1", "a FAT file system", remedyDisk},
	{82, "FAT32", "a FAT file system", remedyDisk},
	{32, "NXSB", "an APFS container", remedyDisk},
	{512, "LABELONE", "an LVM physical volume", remedyDisk},
	{1024, "\xe2\xe1\xf5\xe0", "an EROFS file system", remedyDisk},
	{1024, "\x10\x20\xf5\xf2", "an F2FS file system", remedyDisk},
	{1080, "\x53\xef", "an ext2, ext3 or ext4 file system", remedyDisk},
	{1024, "H+\x00", "an HFS+ file system of a Macintosh", remedyDisk},
	{1024, "HX\x00", "an HFS+ file system of a Macintosh", remedyDisk},
	{1024, "BD", "an HFS file system of a Macintosh", remedyDisk},
	{4086, "SWAPSPACE2", "Linux swap space", remedyDisk},

	// Other things that end up under the name of an image.
	{0, "\x7fELF", "a Linux program (ELF)", remedyRename},
	{0, "MZ", "a Windows program", "run it where it belongs: some such programs make or download the image"},
	{0, "\xcf\xfa\xed\xfe", "a macOS program", remedyRename},
	{0, "\x89PNG", "a PNG picture", remedyRename},
	{0, "\xff\xd8\xff", "a JPEG picture", remedyRename},
	{0, "GIF8", "a GIF picture", remedyRename},
	{0, "SQLite format 3\x00", "an SQLite database", remedyRename},
	{0, "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an MSI package or old Office document", remedyRename},
	{0, "\x00\x05\x16\x07", "an AppleDouble file of macOS, not the image itself", "delete it, and copy the image without the \"._\" in its name"},
	{0, "L\x00\x00\x00\x01\x14\x02\x00", "a Windows shortcut", remedyFetch},
}

// lookalike names what a file is that has neither ISO 9660 nor UDF; head is its start. Text comes before
// the magics, since any text may have the few letters of one somewhere.
func (s *source) lookalike(head []byte) NotISOError {
	if s.size == 0 {
		return NotISOError{"an empty file", remedyAgain}
	}
	if like, ok := s.tail(); ok {
		return like
	}
	if isTorrent(head) {
		return NotISOError{"a torrent file", remedyFetch}
	}
	if isText(head) {
		return textLookalike(string(head))
	}
	for _, m := range magics {
		if len(head) >= m.off && bytes.HasPrefix(head[m.off:], []byte(m.bytes)) {
			return NotISOError{m.like, m.remedy}
		}
	}
	if like, ok := s.elsewhere(); ok {
		return like
	}
	if characterTable(head) && s.size == 512 {
		return NotISOError{"a character conversion table, as minicom has", remedyRename}
	}
	switch tab := readTables(s, head); {
	case tab.gpt.valid:
		return NotISOError{"a disk image with a GPT", remedyDisk}
	case tab.mbr:
		return NotISOError{"a disk image with an MBR partition table", remedyDisk}
	case tab.apm:
		return NotISOError{"a disk image with an Apple partition map", remedyDisk}
	case len(head) >= diskSector && head[510] == 0x55 && head[511] == 0xAA:
		return NotISOError{"a disk or floppy image with a boot sector", remedyDisk}
	case isUTF16(head):
		return NotISOError{"text", remedyRename}
	case allZero(head) && s.zerosAt(firstDescriptor) && s.zerosAt(s.size/2):
		return NotISOError{"a file of zeros", "nothing was written yet, or the copy was lost: " + remedyWait}
	case s.size < firstDescriptor+sectorSize:
		return NotISOError{"a file too short for an ISO image", remedyWait}
	}
	return NotISOError{"data of an unknown kind", "look with the command file(1) what it is"}
}

// zerosAt reports whether the sector at byte off, as far as the file reaches, is zeros.
func (s *source) zerosAt(off int64) bool {
	var b [sectorSize]byte
	s.read(b[:], off)
	return allZero(b[:])
}

// tail names kinds that show in the last bytes of a file.
func (s *source) tail() (NotISOError, bool) {
	var b [diskSector]byte
	if s.size < int64(len(b)) {
		return NotISOError{}, false
	}
	s.read(b[:], s.size-int64(len(b)))
	end := b[:]
	last := func(n int) []byte { return end[len(end)-n:] }
	switch {
	case bytes.HasPrefix(last(12), []byte("NER5")), bytes.HasPrefix(last(8), []byte("NERO")):
		return NotISOError{"a Nero disc image (NRG)", remedyConvert}, true
	case bytes.HasPrefix(end, []byte("koly")):
		return NotISOError{"a macOS disk image (DMG)", "convert it with dmg2img or hdiutil first"}, true
	case bytes.HasPrefix(end, []byte("conectix")):
		return NotISOError{"a VHD disk image", remedyDisk}, true
	case bytes.HasPrefix(last(64), []byte("bbis")):
		return NotISOError{"a UIF disc image", remedyConvert}, true
	}
	switch binary.LittleEndian.Uint32(last(8)) {
	case 0x80000004, 0x80000005, 0x80000006: // versions 2, 3 and 3.5
		return NotISOError{"a DiscJuggler disc image (CDI)", remedyConvert}, true
	}
	return NotISOError{}, false
}

// elsewhere finds the descriptors of a disc where another sector size puts them, and file systems whose magic lies far
// from the start.
func (s *source) elsewhere() (NotISOError, bool) {
	for _, m := range [...]magic{
		{16*2352 + 17, "CD001", "a CD image of raw 2352-byte sectors", remedyConvert},
		{16*2352 + 25, "CD001", "a CD image of raw 2352-byte sectors", remedyConvert},
		{16*2448 + 17, "CD001", "a CD image of raw 2448-byte sectors with subchannels", remedyConvert},
		{16*2448 + 25, "CD001", "a CD image of raw 2448-byte sectors with subchannels", remedyConvert},
		{16*2336 + 9, "CD001", "a CD image of 2336-byte sectors", remedyConvert},
		{firstDescriptor + 307200 + 1, "CD001", "a disc image with a pregap of 150 sectors in front", remedyConvert},
		{firstDescriptor + 9, "CDROM", "a High Sierra disc, the forerunner of ISO 9660", "copy its contents into a new ISO image"},
		{firstDescriptor + 1, "CD-I ", "a CD-i disc, which has no ISO 9660 file system", remedyRename},
		{0x10040, "_BHRfS_M", "a Btrfs file system", remedyDisk},
	} {
		var b [8]byte
		if s.read(b[:len(m.bytes)], int64(m.off)) == len(m.bytes) && string(b[:len(m.bytes)]) == m.bytes {
			return NotISOError{m.like, m.remedy}, true
		}
	}
	return NotISOError{}, false
}

// characterTable reports whether b is two maps of 256 characters, mostly onto themselves.
func characterTable(b []byte) bool {
	if len(b) < 512 {
		return false
	}
	same := 0
	for i, c := range b[:512] {
		if c == byte(i) {
			same++
		}
	}
	return same > 256
}
