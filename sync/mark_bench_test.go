package sync

import (
	"strings"
	"testing"
)

// BenchmarkParseMark reads one description, as is done for each volume of each listing.
func BenchmarkParseMark(b *testing.B) {
	m := Mark{Owner: "host:/srv/iso-drop", SHA256: strings.Repeat("5f", 32), File: "debian-13.0.0-amd64-netinst.iso"}
	text := m.Describe("Debian 13 amd64 n, boots BIOS and UEFI")
	b.ReportAllocs()
	for b.Loop() {
		if _, got, ok := ParseMark(text); !ok || got != m {
			b.Fatal(got, ok)
		}
	}
}
