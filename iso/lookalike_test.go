package iso

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"unicode/utf16"
)

// Kinds that no sample shows.
func TestLookalikes(t *testing.T) {
	wide := func(s string) string {
		b := []byte("\xff\xfe")
		for _, u := range utf16.Encode([]rune(s)) {
			b = binary.LittleEndian.AppendUint16(b, u)
		}
		return string(b)
	}
	noise := strings.Repeat("\x07\x91\xfe\x00", 20000)
	at := func(off int, s string) string { return noise[:off] + s + noise[off+len(s):] }
	zeros := strings.Repeat("\x00", 80000)
	zerosAt := func(off int, s string) string { return zeros[:off] + s + zeros[off+len(s):] }
	for want, content := range map[string]string{
		"gzip":                       "\x1f\x8b\x08" + zeros,
		"7-Zip":                      "7z\xbc\xaf\x27\x1c" + noise,
		"RAR":                        "Rar!\x1a\x07\x01" + noise,
		"WIM":                        "MSWIM\x00\x00\x00" + noise,
		"CISO":                       "CISO\x00\x00" + noise,
		"LUKS":                       "LUKS\xba\xbe" + noise,
		"VHDX":                       "vhdxfile" + noise,
		"VMDK disk descriptor":       "# Disk DescriptorFile\nversion=1\nCID=1\n",
		"DMG":                        noise[:70000] + "koly" + zeros[:508],
		"UIF":                        noise[:70000] + "bbis" + zeros[:60],
		"Nero":                       noise[:70000] + "NERO\x00\x00\x00\x00",
		"CDI":                        noise[:70000] + "\x06\x00\x00\x80\x00\x01\x00\x00",
		"2448-byte":                  at(16*2448+17, "CD001"),
		"2352-byte":                  at(16*2352+25, "CD001"),
		"pregap":                     strings.Repeat("\x07\x91\xfe\x00", 100000)[:32768+307200+1] + "CD001" + noise,
		"CD-i":                       at(32769, "CD-I "),
		"Btrfs":                      at(0x10040, "_BHRfS_M"),
		"ext2":                       zerosAt(1080, "\x53\xef"),
		"HFS file system":            zerosAt(1024, "BD"),
		"HFS+":                       zerosAt(1024, "H+\x00\x04"),
		"NTFS":                       zerosAt(3, "NTFS    "),
		"swap":                       zerosAt(4086, "SWAPSPACE2"),
		"Apple partition map":        "ER\x02\x00" + zeros[4:512] + "PM" + zeros,
		"boot sector":                zerosAt(446, strings.Repeat("\x33", 64)+"\x55\xaa"),
		"ELF":                        "\x7fELF\x02" + noise,
		"Windows program":            "MZ\x90\x00" + noise,
		"AppleDouble":                "\x00\x05\x16\x07" + zeros,
		"Windows shortcut":           "L\x00\x00\x00\x01\x14\x02\x00" + zeros,
		"jigdo template":             "JigsawDownload template 1.0 jigit\r\n\r\n" + noise,
		"jigdo file":                 "# JigDo file\n[Jigdo]\n",
		"metalink":                   "<?xml version=\"1.0\"?>\n<metalink xmlns=\"urn:ietf:params:xml:ns:metalink\">",
		"a shortcut":                 "[Desktop Entry]\nType=Link\n",
		"git-annex":                  "/annex/objects/SHA256E-s1--1.iso\n",
		"list of checksums":          "# comment\nSHA256 (a.iso) = " + strings.Repeat("a", 64) + "\n",
		"HTML":                       "\ufeff \n<HTML><body>" + strings.Repeat("much ", 40000),
		"JSON":                       "\n[ {\"a\": 1} ]",
		"its headers":                "HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n",
		"PGP":                        "-----BEGIN PGP SIGNATURE-----\n",
		"script":                     "#!/bin/sh\nexit\n",
		"blank text":                 " \n\t\n",
		"like text;":                 wide("Notes about an image.\r\n"),
		"XML":                        "<svg xmlns='x'/>",
		"CloneCD":                    "[CloneCD]\r\nVersion=3\r\n",
		"too short":                  "\x01\x02\x03",
		"unknown":                    noise,
		"torrent":                    "d13:announce-listll3:abcee\x00\x01\xff",
		"symbolic link":              "XSym\n0004\n",
		"tar":                        zerosAt(257, "ustar"),
		"file of zeros":              zeros,
		"Latin-1, which is text too": "",
	} {
		if content == "" {
			content, want = "na\xefve caf\xe9, with enough of plain letters around them\n", "like text;"
		}
		_, err := probeBytes(t, []byte(content))
		var not *NotISOError
		if !errors.As(err, &not) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}
