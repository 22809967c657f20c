package iso

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxLabel     = 64 // characters of a label in a description; ISO 9660's have 32 at most, UDF's 126
	maxPublisher = 40
)

// Describe says in a few words what an image is, such as "Debian 12.5.0 amd64 n", or "CDROM (Example Ltd)" where the
// label alone says little. It is one printable line of at most about 110 characters without square brackets, "" where
// the image says nothing of itself.
func Describe(info Info) string {
	label := printable(info.Label, maxLabel)
	publisher := printable(info.Publisher, maxPublisher)
	// "_NAME" is the name of a file in the image that says it (ECMA-119 8.4.20); not every writer means that.
	if strings.HasPrefix(publisher, "_") || !tellsMore(publisher, label) {
		return label
	}
	if label == "" {
		return publisher
	}
	return label + " (" + publisher + ")"
}

// tellsMore reports whether a publisher is worth a place beside a label: it is there, and no word of it is in the
// label, as in "Fedora-WS-Live-40" by "Fedora Project".
func tellsMore(publisher, label string) bool {
	if publisher == "" {
		return false
	}
	label = strings.ToLower(label)
	for word := range strings.FieldsFuncSeq(strings.ToLower(publisher), func(r rune) bool { return !unicode.IsLetter(r) }) {
		if len(word) > 3 && strings.Contains(label, word) {
			return false
		}
	}
	return true
}

// printable makes one line of at most limit characters that is safe on a terminal: no control or format characters,
// which includes those that turn the direction of text, no broken UTF-8, single spaces. Square brackets become round
// ones, so that a label cannot pose as the mark in a volume's description.
func printable(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '[':
			return '('
		case r == ']':
			return ')'
		case unicode.IsSpace(r), r == utf8.RuneError, !unicode.IsPrint(r):
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	n := 0
	for i := range s {
		if n++; n == limit && utf8.RuneCountInString(s[i:]) > 1 {
			return strings.TrimRight(s[:i], " ") + "…"
		}
	}
	return s
}
