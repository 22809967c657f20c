package iso

import (
	"bytes"
	"encoding/binary"
	"strings"
	"unicode/utf8"
)

// textLookalike names a kind of text by how it starts; head is the start of the file.
func textLookalike(head string) NotISOError {
	text := strings.TrimLeft(strings.TrimPrefix(head, "\ufeff"), " \t\r\n\f")
	lower := strings.ToLower(text)
	starts := func(prefixes ...string) bool {
		for _, p := range prefixes {
			if strings.HasPrefix(lower, p) {
				return true
			}
		}
		return false
	}
	switch {
	case text == "":
		return NotISOError{"blank text", remedyRename}
	case starts("<!doctype html", "<html", "<head", "<body", "<script", "<title", "<meta ", "<!--"),
		starts("<?xml", "<!doctype") && strings.Contains(lower, "<html"):
		return NotISOError{"an HTML page", remedyDownload}
	case starts("<?xml", "<metalink") && strings.Contains(lower, "<metalink"):
		return NotISOError{"a metalink file", remedyFetch}
	case starts("<?xml", "<error", "<"):
		return NotISOError{"an XML document, such as a server's error message", remedyDownload}
	case starts("http/1.", "http/2"):
		return NotISOError{"a web server's answer with its headers", remedyDownload}
	case isJSON(text):
		return NotISOError{"a JSON document, such as a server's error message", remedyDownload}
	case starts("version https://git-lfs.github.com/spec/"):
		return NotISOError{"a Git LFS pointer, not the image itself", "run git lfs pull where it came from, and copy the image again"}
	case starts("/annex/objects/", "../.git/annex/", ".git/annex/objects/"):
		return NotISOError{"a git-annex pointer, not the image itself", "run git annex get where it came from, and copy the image again"}
	case starts("[jigdo]", "# jigdo"):
		return NotISOError{"a jigdo file", "build the image with jigdo-lite first"}
	case starts("[internetshortcut]", "[desktop entry]"):
		return NotISOError{"a shortcut", remedyFetch}
	case strings.Contains(lower, "track 0") && (starts("file ", "rem ", "catalog ") || strings.Contains(lower, "\nfile ")):
		return NotISOError{"a cue sheet without its image", remedyConvert}
	case isChecksumList(text):
		return NotISOError{"a list of checksums", "copy the image beside it, and give the list its usual name, such as SHA256SUMS"}
	case starts("# disk descriptorfile"):
		return NotISOError{"a VMDK disk descriptor", remedyDisk}
	case starts("[clonecd]"):
		return NotISOError{"a CloneCD sheet without its image", remedyConvert}
	case starts("xsym\n"):
		return NotISOError{"a symbolic link of a Samba share", remedyFetch}
	case starts("%pdf"):
		return NotISOError{"a PDF document", remedyRename}
	case starts("-----begin pgp"):
		return NotISOError{"a PGP signature or key", remedyRename}
	case starts("#!"):
		return NotISOError{"a script", remedyRename}
	}
	return NotISOError{"text", remedyRename}
}

// isText reports whether b, which may end within a character, is UTF-8 or an 8-bit code without control characters
// that text does not have.
func isText(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	odd := 0
	for rest := b; len(rest) > 0; {
		r, n := utf8.DecodeRune(rest)
		if r < ' ' && !strings.ContainsRune("\t\n\r\f\x1b\x1a", r) || r == 0x7f {
			return false
		}
		if r == utf8.RuneError && n == 1 {
			odd++
		}
		rest = rest[n:]
	}
	return odd <= max(len(b)/8, 3)
}

// isUTF16 reports whether b starts with a byte order mark and is mostly ASCII.
func isUTF16(b []byte) bool {
	if !bytes.HasPrefix(b, []byte("\xff\xfe")) && !bytes.HasPrefix(b, []byte("\xfe\xff")) {
		return false
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if b[0] == 0xfe {
		order = binary.BigEndian
	}
	ascii, all := 0, 0
	for rest := b[2:]; len(rest) >= 2; rest = rest[2:] {
		all++
		if c := order.Uint16(rest); c < 0x7f && (c >= ' ' || c == '\n' || c == '\r' || c == '\t') {
			ascii++
		}
	}
	return ascii*10 >= all*9
}

// isJSON reports whether text starts like a JSON object or array.
func isJSON(text string) bool {
	if text[0] != '{' && text[0] != '[' {
		return false
	}
	next := strings.TrimLeft(text[1:], " \t\r\n")
	return next != "" && strings.ContainsRune("\"{[]}", rune(next[0]))
}

// isTorrent reports whether b starts like a bencoded dictionary with one of the keys that come first in torrents.
func isTorrent(b []byte) bool {
	digits, key, ok := bytes.Cut(b[:min(len(b), 32)], []byte(":"))
	if !ok || len(digits) < 2 || digits[0] != 'd' || len(bytes.Trim(digits[1:], "0123456789")) > 0 {
		return false
	}
	for _, k := range []string{"announce", "comment", "created by", "creation date", "encoding", "httpseeds", "info", "nodes", "url-list"} {
		if bytes.HasPrefix(key, []byte(k)) {
			return true
		}
	}
	return false
}

// isChecksumList reports whether the first line that is no comment is a digest and a name, GNU or BSD style.
func isChecksumList(text string) bool {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || strings.HasPrefix(line, "-----BEGIN PGP SIGNED") || strings.HasPrefix(line, "Hash: ") {
			continue
		}
		if algorithm, rest, ok := strings.Cut(line, " ("); ok && strings.Contains(rest, ") = ") {
			switch algorithm {
			case "MD5", "SHA1", "SHA224", "SHA256", "SHA384", "SHA512":
				return true
			}
		}
		digest, _, _ := strings.Cut(line, " ")
		switch len(digest) {
		case 32, 40, 56, 64, 96, 128:
			return strings.Trim(strings.ToLower(digest), "0123456789abcdef") == ""
		}
		return false
	}
	return false
}
