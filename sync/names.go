package sync

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

const (
	// maxVolumeName is in bytes: Incus from 6.16 refuses more (SERVER-API 1.4).
	maxVolumeName = 64
	// stagePrefix begins the names of volumes that only exist while another is replaced.
	stagePrefix = "isosyncd-stage-"
	// ownPrefix begins the names of all hidden files that we make in the folder: drafts, notes being written, files
	// about to be removed.
	ownPrefix = ".isosyncd-"
	imageExt  = ".iso"
)

// letters that Unicode does not decompose, though people read them as plain ones.
var letters = map[rune]string{
	'ß': "ss", 'ẞ': "SS", 'ø': "o", 'Ø': "O", 'ł': "l", 'Ł': "L", 'đ': "d", 'Đ': "D", 'ð': "d", 'Ð': "D",
	'þ': "th", 'Þ': "Th", 'æ': "ae", 'Æ': "AE", 'œ': "oe", 'Œ': "OE", 'ħ': "h", 'Ħ': "H", 'ı': "i", 'ŧ': "t",
	'Ŧ': "T", 'ŋ': "n", 'Ŋ': "N", 'ĸ': "k", 'ɵ': "o",
}

// VolumeName maps the name of an image file to a volume name that every server and driver takes (SERVER-API 1.4):
//
//	^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$   without ".."
//
// A name that is such already, with or without .iso, is kept as it is. Else accents are dropped, every other run of
// characters becomes one dash, and what is too long is cut and gets a hash of the whole as its end. The mapping is a
// pure function, so two files may map to one name: the planner refuses one of them. The error is a *Problem with
// CodeName.
func VolumeName(file string) (string, error) {
	stem := file
	if n := len(file) - len(imageExt); n >= 0 && strings.EqualFold(file[n:], imageExt) {
		stem = file[:n]
	}
	name := foldName(stem)
	switch {
	case name == "":
		return "", &Problem{
			Code:   CodeName,
			Text:   "no volume name can be made of " + quoteName(file) + ": it has no Latin letters or digits",
			Remedy: "rename the file so that it has some",
		}
	case strings.HasPrefix(name, stagePrefix):
		return "", &Problem{
			Code:   CodeName,
			Text:   quoteName(file) + " would become a volume whose name begins with " + stagePrefix + ", which is reserved",
			Remedy: "rename the file",
		}
	case len(name) <= maxVolumeName:
		return name, nil
	}
	sum := sha256.Sum256([]byte(stem))
	tail := "-" + hex.EncodeToString(sum[:4])
	return strings.TrimRight(name[:maxVolumeName-len(tail)], "._-") + tail, nil
}

// foldName does all of VolumeName but the length.
func foldName(stem string) string {
	var b strings.Builder
	dash := false // a run of other characters stands before what comes next
	emit := func(c byte) {
		last := byte('-') // as if: nothing but a letter or digit begins a name
		if b.Len() > 0 {
			last = b.String()[b.Len()-1]
		}
		switch {
		case !alphanumeric(c) && b.Len() == 0, c == '.' && last == '.' && !dash:
			return
		case dash && last != '-' && c != '-':
			b.WriteByte('-')
		}
		dash = false
		b.WriteByte(c)
	}
	fold := func(s string) {
		for _, r := range s {
			switch {
			case r < utf8.RuneSelf && (alphanumeric(byte(r)) || r == '.' || r == '_' || r == '-'):
				emit(byte(r))
			case unicode.Is(unicode.M, r): // what NFKD split off a letter
			case letters[r] != "":
				for _, c := range []byte(letters[r]) {
					emit(c)
				}
			default:
				dash = true
			}
		}
	}
	fold(norm.NFKD.String(stem))
	return strings.TrimRight(b.String(), "._-")
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// IsImage reports whether a file of the folder with this name is meant to be imported: it ends in .iso, in any case,
// and is neither hidden nor the temporary file of a program. Such files are ignored without a word: browsers (.part,
// .crdownload, .download), GLib (.goutputstream-), rsync (.win.iso.AbCdEf), LibreOffice (.~lock.), editors (~), wget,
// curl, aria2, torrent clients (.!ut, .!qB), WinSCP (.filepart) and Syncthing (.syncthing., ~syncthing~) all use names
// that begin with a dot or do not end in .iso; the rest is listed here.
func IsImage(name string) bool {
	n := len(name) - len(imageExt)
	if n < 1 || !strings.EqualFold(name[n:], imageExt) || strings.ContainsAny(name, "/\x00") {
		return false
	}
	for _, p := range []string{".", "~$", "~syncthing~"} {
		if strings.HasPrefix(name, p) {
			return false
		}
	}
	return true
}

// StageName is the volume that holds the bytes with this SHA-256 (hex, 16 digits at least) while the volume that they
// are for is replaced.
func StageName(digest string) string { return stagePrefix + digest[:min(16, len(digest))] }

// IsStage reports whether a volume has a name that only stages of ours have.
func IsStage(volume string) bool { return strings.HasPrefix(volume, stagePrefix) }

// quoteName makes a name fit for a text that people read: as it is if it is plain, else in double quotes with
// everything escaped that could move a cursor, turn the direction of text, or not be seen (I11).
func quoteName(name string) string {
	const most = 1024 // bytes; names of files and volumes are shorter
	if len(name) > most {
		name = name[:most] + "..."
	}
	plain := name != "" && utf8.ValidString(name) && name == strings.TrimSpace(name)
	for _, r := range name {
		if !unicode.IsPrint(r) || r == '"' || r == '\\' || unseen(r) {
			plain = false
			break
		}
	}
	if plain {
		return name
	}
	q := strconv.Quote(name)
	if strings.ContainsFunc(q, unseen) {
		q = strconv.QuoteToASCII(name)
	}
	return q
}

// unseen reports runes that count as printable and leave no ink.
func unseen(r rune) bool {
	switch r {
	case '\u115f', '\u1160', '\u2800', '\u3164', '\uffa0':
		return true
	}
	return unicode.Is(unicode.Variation_Selector, r)
}
