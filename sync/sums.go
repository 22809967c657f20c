package sync

import (
	"bytes"
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf16"
)

const (
	maxList      = 4 << 20 // bytes of a checksum list
	maxListLines = 100_000
)

// algorithms by strength, the strongest first. SHA-224 and SHA-384 lines are skipped: nobody publishes images by them.
var algorithms = []string{"sha512", "sha256", "sha1", "md5"}

// strength orders algorithms: the least number is the strongest.
func strength(algorithm string) int { return slices.Index(algorithms, algorithm) }

// algorithmOf tells the algorithm by the number of hex digits; "" = none that we know.
func algorithmOf(digits int) string {
	switch digits {
	case 128:
		return "sha512"
	case 64:
		return "sha256"
	case 40:
		return "sha1"
	case 32:
		return "md5"
	}
	return ""
}

// sumsOf is what one list says of one file.
type sumsOf struct {
	Sums  []Sum // the strongest first; one for each algorithm
	Twice bool  // the list names the file twice, with different sums: it cannot be believed
}

// isList reports whether a file of the folder is a checksum list by its name. image is the file that a sidecar such as
// win.iso.sha256 is beside of; "" for a list of many, such as SHA256SUMS or Fedora-39-CHECKSUM.
func isList(name string) (image string, ok bool) {
	if strings.HasPrefix(name, ".") {
		return "", false
	}
	lower := strings.ToLower(name)
	stem := strings.TrimSuffix(strings.TrimSuffix(lower, ".asc"), ".txt")
	for _, a := range algorithms {
		switch stem {
		case a, a + "sum", a + "sums", "checksum." + a, "checksums." + a:
			return "", true
		}
		for _, ext := range []string{"." + a, "." + a + "sum", "." + a + "sums"} {
			if s, ok := strings.CutSuffix(stem, ext); ok && s != "" {
				return sidecarOf(name[:len(s)]), true
			}
		}
		if strings.HasSuffix(stem, "-"+a+"sums") || strings.HasSuffix(stem, "-"+a+"sum") {
			return "", true
		}
	}
	switch stem {
	case "checksum", "checksums":
		return "", true
	}
	for _, end := range []string{"-checksum", ".checksum", "-checksums", ".checksums"} {
		if s, ok := strings.CutSuffix(stem, end); ok && s != "" {
			if IsImage(name[:len(s)]) {
				return name[:len(s)], true
			}
			return "", true
		}
	}
	return "", false
}

// sidecarOf is the image that win.iso.sha256, or win.sha256, is about.
func sidecarOf(stem string) string {
	if IsImage(stem) {
		return stem
	}
	return stem + imageExt
}

// parseSums reads a checksum list and returns what it says, by file name.
//
// It takes the lines of sha256sum and its kin (text and binary marker, names escaped with a leading backslash), of their
// --tag form and BSD's (SHA256 (name) = hex), and of openssl dgst; an alone-standing sum where the list is a sidecar; with
// LF or CRLF, in UTF-8 or UTF-16 with a byte order mark, and inside a PGP clear-signed message, whose signature is not
// looked at. Lines that are none of these are skipped: lists have comments. An entry with a folder before the name is
// about another file, but in a sidecar, where people run sha256sum with a path. A sidecar with one name in it is about
// its image whatever that name is: images get renamed, and openSUSE publishes such lists.
//
// data beyond 4 MiB or 100,000 lines is an error: half a list is none.
func parseSums(list string, data []byte) (map[string]sumsOf, error) {
	if len(data) > maxList {
		return nil, fmt.Errorf("it has more than %d MiB", maxList>>20)
	}
	image, _ := isList(list)
	b := sumsBuilder{list: list, image: image, of: map[string]sumsOf{}}
	text := decodeText(data)
	signature := false
	for n := 0; len(text) > 0; n++ {
		if n == maxListLines {
			return nil, fmt.Errorf("it has more than %d lines", maxListLines)
		}
		var line string
		line, text, _ = strings.Cut(text, "\n")
		line = strings.TrimSuffix(line, "\r")
		switch {
		case strings.HasPrefix(line, "-----BEGIN PGP SIGNATURE"):
			signature = true
		case strings.HasPrefix(line, "-----END PGP SIGNATURE"):
			signature = false
		case !signature:
			b.line(strings.TrimPrefix(line, "- ")) // dash-escaped, RFC 9580 7.2
		}
	}
	return b.done(), nil
}

// decodeText drops a byte order mark, and makes UTF-8 of the UTF-16 that PowerShell's > writes.
func decodeText(data []byte) string {
	if rest, ok := bytes.CutPrefix(data, []byte("\xef\xbb\xbf")); ok {
		return string(rest)
	}
	little := bytes.HasPrefix(data, []byte{0xff, 0xfe})
	if !little && !bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		return string(data)
	}
	units := make([]uint16, 0, len(data)/2)
	for i := 2; i+1 < len(data); i += 2 {
		lo, hi := data[i], data[i+1]
		if !little {
			lo, hi = hi, lo
		}
		units = append(units, uint16(hi)<<8|uint16(lo))
	}
	return string(utf16.Decode(units))
}

type sumsBuilder struct {
	list, image string
	of          map[string]sumsOf
	alone       sumsOf // sums without a name
}

func (b *sumsBuilder) line(line string) {
	if name, s, ok := parseTagged(line); ok {
		b.add(name, s)
		return
	}
	if name, s, ok := parseGNU(line); ok {
		b.add(name, s)
		return
	}
	if s, ok := b.sum(strings.TrimSpace(line)); ok {
		b.alone = b.alone.with(s)
	}
}

func (b *sumsBuilder) sum(digits string) (Sum, bool) {
	a := algorithmOf(len(digits))
	s := strings.ToLower(digits)
	if a == "" || !lowerHex(s) {
		return Sum{}, false
	}
	return Sum{Algorithm: a, Hex: s, List: b.list}, true
}

func (b *sumsBuilder) add(name, digits string) {
	s, ok := b.sum(digits)
	if !ok {
		return
	}
	name = strings.TrimPrefix(name, "./")
	if b.image != "" {
		// Windows writes back slashes; a name that has one itself is nothing that a sidecar needs to tell apart.
		name = path.Base(strings.ReplaceAll(name, `\`, "/"))
	}
	if name != "" && !strings.Contains(name, "/") {
		b.of[name] = b.of[name].with(s)
	}
}

// done gives the sums of a sidecar to its image.
func (b *sumsBuilder) done() map[string]sumsOf {
	if b.image == "" {
		return b.of
	}
	about := b.of[b.image]
	if _, named := b.of[b.image]; !named && len(b.of) == 1 {
		for _, only := range b.of {
			about = only
		}
	}
	if len(about.Sums) == 0 {
		about = b.alone
	}
	if len(about.Sums) == 0 {
		return b.of
	}
	b.of[b.image] = about
	return b.of
}

func (o sumsOf) with(s Sum) sumsOf {
	for _, old := range o.Sums {
		if old.Algorithm == s.Algorithm {
			o.Twice = o.Twice || old.Hex != s.Hex
			return o
		}
	}
	o.Sums = append(o.Sums, s)
	sortSums(o.Sums)
	return o
}

func sortSums(sums []Sum) {
	slices.SortFunc(sums, func(a, b Sum) int {
		return cmp.Or(cmp.Compare(strength(a.Algorithm), strength(b.Algorithm)),
			cmp.Compare(a.List, b.List), cmp.Compare(a.Hex, b.Hex))
	})
}

// parseGNU reads "hex  name", "hex *name" and, with a leading backslash, escaped names.
func parseGNU(line string) (name, digits string, ok bool) {
	escaped := strings.HasPrefix(line, `\`)
	line = strings.TrimLeft(strings.TrimPrefix(line, `\`), " \t")
	end := strings.IndexAny(line, " \t")
	if end < 0 || algorithmOf(end) == "" {
		return "", "", false
	}
	digits, name = line[:end], line[end+1:]
	if strings.HasPrefix(name, " ") || strings.HasPrefix(name, "*") {
		name = name[1:]
	}
	if escaped {
		if name, ok = unescapeGNU(name); !ok {
			return "", "", false
		}
	}
	return name, digits, name != ""
}

// tags are the names that --tag forms use, upper case, by algorithm.
var tags = map[string]string{
	"SHA512": "sha512", "SHA2-512": "sha512", "SHA256": "sha256", "SHA2-256": "sha256", "SHA1": "sha1", "MD5": "md5",
}

// parseTagged reads "SHA256 (name) = hex", also without the spaces as openssl writes it. The last ")" ends the name.
func parseTagged(line string) (name, digits string, ok bool) {
	escaped := strings.HasPrefix(line, `\`)
	line = strings.TrimPrefix(line, `\`)
	tag, rest, found := strings.Cut(line, "(")
	algorithm := tags[strings.ToUpper(strings.TrimSpace(tag))]
	end := strings.LastIndexByte(rest, ')')
	if !found || algorithm == "" || end < 0 {
		return "", "", false
	}
	name, rest = rest[:end], strings.TrimSpace(rest[end+1:])
	digits, found = strings.CutPrefix(rest, "=")
	digits = strings.TrimSpace(digits)
	if !found || algorithmOf(len(digits)) != algorithm {
		return "", "", false
	}
	if escaped {
		if name, ok = unescapeGNU(name); !ok {
			return "", "", false
		}
	}
	return name, digits, name != ""
}

// unescapeGNU undoes what coreutils does to names with a line end or backslash in them.
func unescapeGNU(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i++; i == len(s) {
			return "", false
		}
		switch s[i] {
		case '\\':
			b.WriteByte('\\')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		default:
			return "", false
		}
	}
	return b.String(), true
}
