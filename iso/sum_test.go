package iso

import (
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// verify feeds image to a verifier in pieces of so many bytes.
func verify(s *EmbeddedSum, image []byte, piece int) error {
	v := s.Verifier()
	for len(image) > 0 {
		n := min(piece, len(image))
		if m, err := v.Write(image[:n]); m != n || err != nil {
			return fmt.Errorf("Write returned %d, %w", m, err)
		}
		image = image[n:]
	}
	return v.Err()
}

// The sample's sum was made by md5sum(1) and dd(1), from the description of the format.
func TestEmbeddedSum(t *testing.T) {
	image := sample(t, "md5sum.iso")
	info, err := probeBytes(t, image)
	if err != nil || info.Sum == nil {
		t.Fatal(err, info.Sum)
	}
	sum := info.Sum
	if want := int64(len(image)) - 15*sectorSize; sum.End != want || sum.AppUse != 32768+883 {
		t.Errorf("over %d bytes, want %d; area at %d", sum.End, want, sum.AppUse)
	}
	for _, piece := range []int{1, 7, 512, 883, 4096, 32768, 1 << 20} {
		if err := verify(sum, image, piece); err != nil {
			t.Errorf("in pieces of %d: %v", piece, err)
		}
	}

	// A flipped bit is found wherever it is, but in the area itself and behind the end.
	for off := int64(0); off < int64(len(image)); off += 97 {
		image[off] ^= 0x10
		err := verify(sum, image, 4096)
		outside := off >= sum.End || off >= sum.AppUse && off < sum.AppUse+512
		var bad *SumError
		if outside && err != nil || !outside && (!errors.Is(err, ErrSum) || !errors.As(err, &bad) || bad.Want != sum.MD5) {
			t.Errorf("flip at byte %d: %v", off, err)
		}
		image[off] ^= 0x10
	}
	for _, off := range []int64{sum.AppUse - 1, sum.AppUse, sum.AppUse + 511, sum.AppUse + 512, sum.End - 1, sum.End} {
		image[off] ^= 1
		outside := off == sum.End || off == sum.AppUse || off == sum.AppUse+511
		if err := verify(sum, image, 1000); errors.Is(err, ErrSum) == outside {
			t.Errorf("flip at byte %d: %v", off, err)
		}
		image[off] ^= 1
	}

	// A tail that was never written, in a file of full length.
	clear(image[40960:])
	if err := verify(sum, image, 4096); !errors.Is(err, ErrSum) {
		t.Errorf("zeroed tail: %v", err)
	}
	var cut *TruncatedError
	if err := verify(sum, image[:sum.End-1], 4096); !errors.As(err, &cut) || cut.Declared != sum.End || cut.Actual != sum.End-1 {
		t.Errorf("too little: %v", err)
	}
}

// Err is no end: more may follow, and it may be asked again.
func TestSumVerifierErrTwice(t *testing.T) {
	image := sample(t, "md5sum.iso")
	info, _ := probeBytes(t, image)
	v := info.Sum.Verifier()
	_, _ = v.Write(image[:50000])
	if err := v.Err(); !errors.Is(err, ErrTruncated) {
		t.Error(err)
	}
	if _, err := io.Copy(v, strings.NewReader(string(image[50000:]))); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := v.Err(); err != nil {
			t.Error(err)
		}
	}
}

func TestParseSum(t *testing.T) {
	const sum = "0123456789abcdef0123456789abcdef"
	old := "ISO MD5SUM = " + sum + ";SKIPSECTORS = 15;RHLISOSTATUS=0;THIS IS NOT THE SAME AS RUNNING MD5SUM ON THIS ISO!!"
	for _, c := range []struct {
		text string
		end  int64 // 0 = no sum
	}{
		{old, 85 * sectorSize},
		{strings.ToUpper(sum[:0]) + strings.Replace(old, sum, strings.ToUpper(sum), 1), 85 * sectorSize},
		{"SKIPSECTORS = 0;ISO MD5SUM = " + sum + ";", 100 * sectorSize},
		{"ISO MD5SUM = " + sum + "; THIS IS THE FIRST VERSION, WITHOUT SKIPSECTORS", 0},
		{"ISO MD5SUM = " + sum + ";SKIPSECTORS = -1;", 0},
		{"ISO MD5SUM = " + sum + ";SKIPSECTORS = 99999999999999999999;", 0},
		{"ISO MD5SUM = " + sum + ";SKIPSECTORS = 100;", 0},
		{"ISO MD5SUM = " + sum + ";SKIPSECTORS = 83;", 0},
		{"ISO MD5SUM = " + sum + ";SKIPSECTORS = 82;", 18 * sectorSize},
		{"ISO MD5SUM = 0123;SKIPSECTORS = 15;", 0},
		{"ISO MD5SUM = zz" + sum[2:] + ";SKIPSECTORS = 15;", 0},
		{strings.Repeat("x", 480) + ";ISO MD5SUM = " + sum, 0},
		{"", 0},
	} {
		p := plainISO("SUM", 100)
		p.put(32768+883, []byte(fmt.Sprintf("%-512.512s", c.text)))
		info, err := probe(t, p, 100*sectorSize)
		switch {
		case err != nil:
			t.Error(err)
		case c.end == 0 && info.Sum != nil:
			t.Errorf("%q: %+v", c.text, info.Sum)
		case c.end != 0 && (info.Sum == nil || info.Sum.End != c.end || info.Sum.MD5 != sum):
			t.Errorf("%q: %+v, want an end of %d", c.text, info.Sum, c.end)
		}
	}
}

// An image whose sum is made here, in the form without fragments, with the descriptor elsewhere than usual.
func TestSumOfLatePrimary(t *testing.T) {
	image := make([]byte, 100*sectorSize)
	var p patches
	p.put(16*sectorSize, descriptor(0))
	p.put(17*sectorSize, primary("LATE", 100))
	p.put(17*sectorSize+883, []byte(strings.Repeat(" ", 512)))
	p.put(18*sectorSize, descriptor(255))
	p.put(20*sectorSize, []byte{34})
	_, _ = p.ReadAt(image, 0)
	sum := md5.Sum(image[:85*sectorSize])
	copy(image[17*sectorSize+883:], "ISO MD5SUM = "+hex.EncodeToString(sum[:])+";SKIPSECTORS = 15;RHLISOSTATUS=1;")
	info, err := probeBytes(t, image)
	if err != nil || info.Sum == nil {
		t.Fatal(err, info.Sum)
	}
	if err := verify(info.Sum, image, 1000); err != nil {
		t.Error(err)
	}
}
