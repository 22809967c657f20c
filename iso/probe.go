package iso

import "io"

// headBuffer holds the start of an image: partition tables, and what magic there is of other kinds of file.
type headBuffer [4096]byte

// Probe looks at an image of size bytes and says what it is. It reads at most MaxRead bytes, needs memory independent
// of the image, and never trusts a number of the image for more than comparing it.
//
// The error is nil for an image that is whole as far as it can tell by itself. It is a *TruncatedError where the file
// ends before the image does, a *NotISOError where it is something else, and anything else where reading failed. Info
// holds what is known also beside an error.
//
// The rule: the firm end is the largest end that ISO 9660 or UDF descriptors claim (UDF on write-once media claims
// none); a shorter file is incomplete. The soft end is the largest that MBR or GPT slots claim; a shorter file is
// incomplete, Soft. So is one whose GPT names a backup that is not there. A root directory of zeros was never written.
// A longer file is normal: padding, appended partitions, more sessions.
func Probe(r io.ReaderAt, size int64) (Info, error) {
	src := newSource(r, size)
	info := Info{Size: src.size}

	var head headBuffer
	n := src.read(head[:], 0)

	vol := readVolumes(src, &info)
	var disc udf
	if vol.nsr {
		disc = readUDF(src, &info)
	}
	isISO, isUDF := vol.primary, disc.blockSize == sectorSize
	if disc.blockSize != 0 && !isUDF {
		disc.end = 0
	}
	if src.err == nil && !isISO && !isUDF {
		return info, src.neither(head[:n], vol, disc)
	}

	if isISO {
		info.Formats = append(info.Formats, "iso9660")
		readElTorito(src, vol.catalog, &info)
	}
	if isUDF {
		info.Formats = append(info.Formats, "udf")
	}
	zeroRoot := readRoot(src, vol.root, &info)
	tab := readTables(src, head[:n])
	tab.describe(&info)
	info.DeclaredSize = max(vol.end, disc.end)
	if src.err != nil {
		return info, src.err
	}
	return info, verdict(info, vol, disc, tab, zeroRoot)
}

// verdict compares what the image claims with what the file has: nil or a *TruncatedError.
func verdict(info Info, vol volumes, disc udf, tab tables, zeroRoot bool) error {
	size := info.Size
	switch {
	case vol.end > size && vol.end >= disc.end:
		return &TruncatedError{Declared: vol.end, Actual: size, Reason: "ISO 9660 volume size"}
	case disc.end > size:
		return &TruncatedError{Declared: disc.end, Actual: size, Reason: disc.claim}
	case vol.cut:
		return &TruncatedError{Actual: size, Reason: "it ends within its volume descriptors"}
	case vol.primary && vol.root+sectorSize > size && vol.root > 0:
		return &TruncatedError{Declared: vol.root + sectorSize, Actual: size, Reason: "ISO 9660 root directory"}
	case zeroRoot:
		return &TruncatedError{Actual: size, Reason: "its root directory holds nothing but zeros, so it was never written"}
	case info.SoftSize > size:
		return &TruncatedError{Declared: info.SoftSize, Actual: size, Reason: tab.claim(), Soft: true}
	case tab.gpt.valid && !tab.gpt.backup:
		return &TruncatedError{Actual: size, Reason: "the backup GPT is missing, so its end was never written", Soft: true}
	}
	return nil
}

// neither says why a file without a mountable file system of a disc is refused.
func (s *source) neither(head []byte, vol volumes, disc udf) error {
	switch {
	case vol.cut:
		return &TruncatedError{Actual: s.size, Reason: "it ends within its volume descriptors"}
	case disc.blockSize != 0:
		return &NotISOError{LooksLike: "a UDF file system of a hard disk or USB stick", Remedy: remedyDisk}
	case disc.end > s.size:
		return &TruncatedError{Declared: disc.end, Actual: s.size, Reason: disc.claim}
	case vol.nsr && s.size <= udfAnchor*sectorSize+sectorSize:
		return &TruncatedError{Declared: (udfAnchor + 1) * sectorSize, Actual: s.size, Reason: "UDF anchor"}
	case vol.nsr:
		return &TruncatedError{Actual: s.size, Reason: "it starts as a UDF image, but its UDF volume descriptors are missing"}
	case vol.magic:
		return &NotISOError{LooksLike: "a damaged ISO 9660 image without a primary volume descriptor", Remedy: remedyAgain}
	}
	if s.size < firstDescriptor+sectorSize {
		// A copy that has only begun. The table in front says that more must come, whatever it is.
		if tab := readTables(s, head); tab.end() > s.size {
			return &TruncatedError{Declared: tab.end(), Actual: s.size, Reason: tab.claim(), Soft: true}
		}
	}
	like := s.lookalike(head)
	if s.err != nil {
		return s.err
	}
	return &like
}
