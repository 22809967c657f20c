package lxd

import "testing"

// BenchmarkImport1GiB sends a file from the page cache to a server that throws it away.
func BenchmarkImport1GiB(b *testing.B) {
	p := discarding(b)
	const size = 1 << 30
	img := image(b, size)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Import(b.Context(), "x", img, size, func(int64) {}); err != nil {
			b.Fatal(err)
		}
	}
}
