package sync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"isosyncd/iso"
)

// This file is for those who want one thing of the heart without a Syncer: the commands that look at a single file.

// SumsBeside returns what the checksum lists in the file's folder say of it, the strongest first; none = no list names
// it. A list that names the file twice, with different sums, or that is too long, is an error: it cannot be believed.
func SumsBeside(path string) ([]Sum, error) {
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("checksum lists: %w", err)
	}
	var sums []Sum
	var bad []error
	for _, e := range entries {
		image, ok := isList(e.Name())
		if !ok || !e.Type().IsRegular() || image != "" && image != name {
			continue
		}
		data, err := readList(filepath.Join(dir, e.Name()))
		var of map[string]sumsOf
		if err == nil {
			of, err = parseSums(e.Name(), data)
		}
		said := of[name]
		if err == nil && said.Twice {
			err = fmt.Errorf("it names %s twice, with different sums", quoteName(name))
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("checksum list %s: %w", quoteName(e.Name()), err))
			continue
		}
		sums = append(sums, said.Sums...)
	}
	sortSums(sums)
	return sums, errors.Join(bad...)
}

// readList reads no more than parseSums takes.
func readList(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only: nothing is lost
	return io.ReadAll(io.LimitReader(f, maxList+1))
}

// HashFile reads the first size bytes of f by pread and returns their digests in hex: SHA-256 always, and whatever sums
// ask for. info may be that of the image: where it carries a sum of its own, that is checked as well, and damage is an
// *iso.SumError beside the digests. progress, if not nil, is told the bytes read so far.
func HashFile(ctx context.Context, f *os.File, size int64, sums []Sum, info iso.Info, progress func(done int64)) (map[string]string, error) {
	var algorithms []string
	for _, s := range sums {
		algorithms = append(algorithms, s.Algorithm)
	}
	return hashFile(ctx, f, size, algorithms, info.Sum, progress)
}

// WithNext returns a copy of s whose Next is the given channel: for what stands in for a Syncer.
func (s Snapshot) WithNext(next chan struct{}) *Snapshot {
	s.next = next
	return &s
}
