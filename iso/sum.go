package iso

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
)

// The application-use area of the primary descriptor (ECMA-119 8.4.32), which implantisomd5 writes to.
const (
	appUseOffset = 883
	appUseSize   = 512
)

// ErrSum is the class of every SumError.
var ErrSum = errors.New("embedded checksum does not match")

// SumError says that an image is not what its maker embedded the MD5 sum of.
type SumError struct {
	Want, Got string // MD5, lower-case hex
}

func (e *SumError) Error() string {
	return fmt.Sprintf("its content has the MD5 sum %s, but the image itself says %s: it was damaged on the way", e.Got, e.Want)
}

// Is reports that every SumError is an ErrSum.
func (e *SumError) Is(target error) bool { return target == ErrSum }

// EmbeddedSum is what implantisomd5 left in an image, as Fedora, RHEL and their kin do. The sum is no proof of origin,
// but it finds damage and unwritten parts anywhere in the image but its last sectors. Never changed once made.
type EmbeddedSum struct {
	MD5    string // lower-case hex, 32 digits
	End    int64  // bytes from the start of the image that the sum is over; > 0
	AppUse int64  // byte offset of the area that is taken as spaces
}

// parseSum reads the sum from a primary descriptor at byte offset off. The text there is "key = value" fields, each
// closed by a semicolon. Like checkisomd5 it wants both the sum and the number of sectors that it leaves out, and takes
// the size from the big-endian field. Nil = there is none. The sums of fragments that may follow only serve to fail
// early, and are not looked at.
func parseSum(b *[sectorSize]byte, off int64) *EmbeddedSum {
	var sum string
	skip := int64(-1)
	for _, field := range strings.Split(string(b[appUseOffset:appUseOffset+appUseSize]), ";") {
		if v, ok := strings.CutPrefix(field, "ISO MD5SUM = "); ok && sum == "" {
			sum = strings.ToLower(strings.TrimSpace(v))
		}
		if v, ok := strings.CutPrefix(field, "SKIPSECTORS = "); ok && skip < 0 {
			n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 31)
			if err != nil {
				return nil
			}
			skip = int64(n)
		}
	}
	if raw, err := hex.DecodeString(sum); err != nil || len(raw) != md5.Size || skip < 0 {
		return nil
	}
	end := (int64(binary.BigEndian.Uint32(b[84:])) - skip) * sectorSize
	if end <= off+sectorSize {
		return nil
	}
	return &EmbeddedSum{MD5: sum, End: end, AppUse: off + appUseOffset}
}

// Verifier starts a check of an image against s.
func (s *EmbeddedSum) Verifier() *SumVerifier {
	return &SumVerifier{sum: s, hash: md5.New(), blank: bytes.Repeat([]byte(" "), appUseSize)}
}

// SumVerifier is an io.Writer that is fed an image from its first byte on, in order and in pieces of any size.
type SumVerifier struct {
	sum  *EmbeddedSum
	hash hash.Hash
	seen int64 // bytes
	// blank stands in for the application-use area.
	blank []byte
}

// Write takes the next bytes of the image. It never fails; what lies behind the part that the sum is over is ignored.
func (v *SumVerifier) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && v.seen < v.sum.End {
		// Up to the next place where something changes: the area's start, its end, the end of the part.
		in, until := false, v.sum.End
		switch areaEnd := v.sum.AppUse + appUseSize; {
		case v.seen < v.sum.AppUse:
			until = v.sum.AppUse
		case v.seen < areaEnd:
			in, until = true, areaEnd
		}
		piece := p[:min(int64(len(p)), until-v.seen)]
		if in {
			_, _ = v.hash.Write(v.blank[:len(piece)])
		} else {
			_, _ = v.hash.Write(piece)
		}
		v.seen += int64(len(piece))
		p = p[len(piece):]
	}
	return n, nil
}

// Err says what came out: nil where the content is what the image says, a *SumError where it is not, and a
// *TruncatedError where too little was written. It changes nothing, and more may be written after it.
func (v *SumVerifier) Err() error {
	if v.seen < v.sum.End {
		return &TruncatedError{Declared: v.sum.End, Actual: v.seen, Reason: "embedded checksum"}
	}
	if got := hex.EncodeToString(v.hash.Sum(nil)); got != v.sum.MD5 {
		return &SumError{Want: v.sum.MD5, Got: got}
	}
	return nil
}
