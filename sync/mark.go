package sync

import (
	"strconv"
	"strings"
	"unicode"
)

// Mark is what the description of a volume of ours carries besides the text for people: the server lets nothing else of
// an ISO volume be set (SERVER-API 3.1). It is the commit record: a volume without it does not count as good.
type Mark struct {
	Owner  string // the owner setting of the isosyncd that made the volume; not empty
	SHA256 string // of the volume's bytes, 64 lower-case hex digits
	File   string // the file of the folder it came from, any bytes
}

const (
	markOpen  = "[isosyncd "
	markClose = "]"
	// maxHuman bounds what people read of a description, mark included, in bytes. A long file name may exceed it by
	// itself; then the text for people is left out.
	maxHuman = 1024
)

// String is the mark alone: [isosyncd owner=NAME sha256=HEX file="QUOTED"], ASCII only.
func (m Mark) String() string {
	return markOpen + "owner=" + ownerToken(m.Owner) + " sha256=" + m.SHA256 +
		" file=" + strconv.QuoteToASCII(m.File) + markClose
}

// Describe is the description of a volume with this mark: human, made fit for one line, then the mark.
func (m Mark) Describe(human string) string {
	mark := m.String()
	human = cleanHuman(human)
	if most := max(0, maxHuman-len(mark)-1); len(human) > most {
		human = strings.TrimSpace(strings.ToValidUTF8(human[:most], ""))
	}
	if human == "" {
		return mark
	}
	return human + " " + mark
}

// ParseMark splits a description into the text for people and our mark. People may edit what stands before and behind
// the mark; the mark itself must be byte for byte as Describe writes it. Two marks contradict each other, so a
// description with two has none: what is not surely ours is never touched. human is the whole text if ok is false.
func ParseMark(description string) (human string, m Mark, ok bool) {
	rest := description
	for {
		i := strings.Index(rest, markOpen)
		if i < 0 {
			break
		}
		rest = rest[i:]
		found, n := parseMark(rest)
		if n == 0 {
			rest = rest[len(markOpen):]
			continue
		}
		if ok {
			return description, Mark{}, false
		}
		at := len(description) - len(rest)
		before, after := strings.TrimSpace(description[:at]), strings.TrimSpace(rest[n:])
		m, ok = found, true
		human = strings.TrimSpace(before + " " + after)
		rest = rest[n:]
	}
	if !ok {
		return description, Mark{}, false
	}
	return human, m, true
}

// parseMark reads the mark that s begins with, and returns its length; 0 = it is none.
func parseMark(s string) (m Mark, n int) {
	rest := s[len(markOpen):]
	var ok bool
	if rest, ok = strings.CutPrefix(rest, "owner="); !ok {
		return m, 0
	}
	if strings.HasPrefix(rest, `"`) {
		if m.Owner, rest, ok = cutQuoted(rest); ok {
			rest, ok = strings.CutPrefix(rest, " ")
		}
	} else {
		m.Owner, rest, ok = strings.Cut(rest, " ")
	}
	if !ok || m.Owner == "" {
		return m, 0
	}
	const digits = 64
	if rest, ok = strings.CutPrefix(rest, "sha256="); !ok || len(rest) < digits || !lowerHex(rest[:digits]) {
		return m, 0
	}
	m.SHA256, rest = rest[:digits], rest[digits:]
	if rest, ok = strings.CutPrefix(rest, " file="); !ok {
		return m, 0
	}
	if m.File, _, ok = cutQuoted(rest); !ok {
		return m, 0
	}
	// One spelling only: whoever else writes marks by hand does not make them ours by chance.
	if mark := m.String(); strings.HasPrefix(s, mark) {
		return m, len(mark)
	}
	return m, 0
}

func cutQuoted(s string) (value, rest string, ok bool) {
	q, err := strconv.QuotedPrefix(s)
	if err != nil || q[0] != '"' {
		return "", "", false
	}
	value, err = strconv.Unquote(q)
	return value, s[len(q):], err == nil
}

func lowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// ownerToken writes an owner so that it is one word: quoted if it is not one by itself.
func ownerToken(owner string) string {
	plain := owner != ""
	for i := range len(owner) {
		if c := owner[i]; !alphanumeric(c) && !strings.ContainsRune("._:/@+-", rune(c)) {
			plain = false
		}
	}
	if plain {
		return owner
	}
	return strconv.QuoteToASCII(owner)
}

// cleanHuman makes one line of a text that may hold anything, since parts of it come from inside images: nothing
// unprintable, no two spaces in a row, and nothing that begins like a mark.
func cleanHuman(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) || unseen(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	return strings.ReplaceAll(s, strings.TrimSpace(markOpen), "(isosyncd")
}
