package sync

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// benchJournal is a journal that knows n volumes, each with the digest of its file.
func benchJournal(b *testing.B, n int) (*journal, string) {
	b.Helper()
	dir := b.TempDir()
	j, moved, err := openJournal(dir)
	if err != nil || moved != "" {
		b.Fatal(moved, err)
	}
	sum := strings.Repeat("5f", 32)
	for i := range n {
		name, id := fmt.Sprintf("image-%05d", i), Identity{Dev: 1, Ino: uint64(i), Size: 40960, MTime: 1, CTime: 1}
		j.later(name, func(r *Record) {
			r.File = name + ".iso"
			r.Present = &Presence{Digest: sum, Incarnation: "2026-01-01T00:00:00Z", Source: id, At: time.Unix(1, 0)}
		})
		j.putDigest(id, Digest{SHA256: sum})
	}
	if err := j.flush(); err != nil {
		b.Fatal(err)
	}
	return j, dir
}

// BenchmarkJournalUpdate changes one of 10,000 records durably: most of it is fsync.
func BenchmarkJournalUpdate(b *testing.B) {
	j, _ := benchJournal(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if err := j.update("image-05000", func(r *Record) { r.Intent = &Intent{Kind: IntentImport, Size: 40960} }); err != nil {
			b.Fatal(err)
		}
	}
	if err := j.close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkJournalLater changes one of 10,000 records without the disk.
func BenchmarkJournalLater(b *testing.B) {
	j, _ := benchJournal(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		j.later("image-05000", func(r *Record) { r.Consumed = true })
	}
	if err := j.close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkJournalOpen10000 reads 10,000 records and digests, as each start does.
func BenchmarkJournalOpen10000(b *testing.B) {
	j, dir := benchJournal(b, 10_000)
	if err := j.close(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		j, moved, err := openJournal(dir)
		if err != nil || moved != "" {
			b.Fatal(moved, err)
		}
		b.StopTimer()
		if err := j.close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
