package fusefs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"

	isosync "isosyncd/sync"
)

const (
	imageExt = ".iso"
	// maxName is the longest name of a directory entry, in bytes (NAME_MAX).
	maxName = 255
	// controlName is the directory of status files. No volume's entry is called so: those end in .iso.
	controlName = ".isosyncd"
)

// entryName maps the name of a volume, which may be any bytes the server took, to that of its file. Different volumes
// have different names, whatever else is in the pool:
//
//	debian-12     debian-12.iso
//	a/b           a%2Fb.iso       also NUL, control characters, bytes that are no UTF-8, marks that turn text around
//	a%2Fb         a%252Fb.iso     every % is escaped, so no name can pretend to be the escape of another
//	.             %2E.iso         so is .., which would be a legal file name but not one to meet
//	(empty)       %.iso
//	251 bytes +   first part, then %~, 32 hex digits of the SHA-256 of the whole name, .iso
func entryName(volume string) string {
	switch volume {
	case "":
		return "%" + imageExt
	case ".", "..":
		return strings.Repeat("%2E", len(volume)) + imageExt
	}
	var b strings.Builder
	for i := 0; i < len(volume); {
		r, n := utf8.DecodeRuneInString(volume[i:])
		if plainRune(r, n) {
			b.WriteString(volume[i : i+n])
		} else {
			for _, c := range []byte(volume[i : i+n]) {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		}
		i += n
	}
	name := b.String()
	if len(name)+len(imageExt) <= maxName {
		return name + imageExt
	}
	sum := sha256.Sum256([]byte(volume))
	tail := "%~" + hex.EncodeToString(sum[:16]) + imageExt
	return cutEscaped(name, maxName-len(tail)) + tail
}

// cutEscaped cuts to at most n bytes, between characters and between escapes.
func cutEscaped(name string, n int) string {
	name = name[:n]
	if i := strings.LastIndexByte(name, '%'); i >= 0 && i > n-3 {
		name = name[:i]
	}
	for !utf8.ValidString(name) {
		name = name[:len(name)-1]
	}
	return name
}

// plainRune reports whether a character of n bytes may stand in a file name as it is.
func plainRune(r rune, n int) bool {
	switch {
	case r == utf8.RuneError && n <= 1, r == '/', r == '%', r < 0x20, 0x7f <= r && r < 0xa0:
		return false
	case r == '\u061c', '\u200e' <= r && r <= '\u200f', '\u2028' <= r && r <= '\u202e', '\u2066' <= r && r <= '\u2069':
		return false // line and paragraph separators, and what changes the direction of text
	}
	return true
}

// temporarySuffixes end the names that programs give to files that they are still writing: browsers, KDE, curl, wget,
// rsync --temp-dir, WinSCP, torrent clients, editors.
var temporarySuffixes = []string{
	".part", ".partial", ".crdownload", ".download", ".opdownload", ".filepart", ".tmp", ".temp", ".!ut", ".!qB", ".!bt", "~",
}

// isTemporary reports whether a name is one that a program gives to a file before it renames it to the final one: it
// begins with a dot (rsync, GLib, Syncthing), has .iso before its end (win.iso.AbC, win.iso.1), or ends as above.
func isTemporary(name string) bool {
	if isosync.IsImage(name) || name == controlName {
		return false
	}
	lower := strings.ToLower(name)
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "~") || strings.Contains(lower, imageExt+".") ||
		strings.HasPrefix(lower, "unconfirmed ") {
		return true
	}
	for _, s := range temporarySuffixes {
		if strings.HasSuffix(lower, strings.ToLower(s)) {
			return true
		}
	}
	return false
}
