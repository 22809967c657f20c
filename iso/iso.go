// Package iso says what a disc image is: its formats, label, the size its own descriptors claim, how it boots, and
// whether the file that holds it is whole. It reads at most MaxRead bytes of an image, whatever the image says.
package iso

import (
	"errors"
	"fmt"
)

// MaxRead bounds what one Probe reads, in bytes.
const MaxRead = 512 << 10

// Info is what an image says of itself. Texts are as found, trimmed of padding; they come from strangers, so escape
// them before they reach a terminal, a path or a header.
type Info struct {
	Size         int64    // of the file, bytes
	Formats      []string // "iso9660", "udf": what a reader could mount, in that order
	Label        string   // ISO 9660 volume id (Joliet's where it is longer), else the UDF label
	System       string   // ISO 9660 system id (PVD 8, 32 bytes)
	Publisher    string
	Preparer     string
	Application  string
	VolumeSize   int64 // space size x block size of the primary descriptor, bytes; 0 without ISO 9660
	DeclaredSize int64 // firm end: the largest end that ISO 9660 or UDF descriptors claim, bytes
	SoftSize     int64 // the largest end that MBR or GPT slots claim, bytes; 0 = no hybrid table
	BootBIOS     bool  // El Torito entry for x86 BIOS
	BootUEFI     bool  // El Torito entry for UEFI, or an EFI system partition in a hybrid table
	HybridMBR    bool
	HybridGPT    bool
	APM          bool
	Joliet       bool
	RockRidge    bool
	UDFRevision  string       // such as "1.02"; empty without UDF
	Hole         Hole         // the first one inside that is worth a thought; ProbeFile only
	Sum          *EmbeddedSum // what implantisomd5 left in the image; nil = none
}

// Hole is a part of a file that was never written, in bytes; Length 0 = there is none. Inside an image it may be a piece
// that a download still lacks, or zeros that a copy did not write: it says nothing by itself.
type Hole struct {
	Offset, Length int64
}

// ErrNotISO is the class of every NotISOError.
var ErrNotISO = errors.New("not an ISO image")

// ErrTruncated is the class of every TruncatedError.
var ErrTruncated = errors.New("image is incomplete")

// NotISOError names what a file is instead of an ISO image, and what a person can do.
type NotISOError struct {
	LooksLike string // such as "xz-compressed data"; never empty
	Remedy    string // such as "unpack it first"; never empty
}

func (e *NotISOError) Error() string {
	return fmt.Sprintf("not an ISO image: it looks like %s; %s", e.LooksLike, e.Remedy)
}

// Is reports that every NotISOError is an ErrNotISO.
func (e *NotISOError) Is(target error) bool { return target == ErrNotISO }

// TruncatedError says that a file ends before the image does.
type TruncatedError struct {
	Declared int64  // bytes that the image needs; 0 where only Reason is known
	Actual   int64  // bytes that the file has
	Reason   string // who claims it, such as "ISO 9660 volume size", or what is missing, such as "a hole at its end"
	Soft     bool   // only a hybrid partition table claims it: some intact images of the wild do that too
}

func (e *TruncatedError) Error() string {
	if e.Declared > e.Actual {
		return fmt.Sprintf("incomplete: has %d of %d bytes (%s)", e.Actual, e.Declared, e.Reason)
	}
	return "incomplete: " + e.Reason
}

// Is reports that every TruncatedError is an ErrTruncated.
func (e *TruncatedError) Is(target error) bool { return target == ErrTruncated }
