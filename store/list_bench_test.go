package store_test

import (
	"fmt"
	"testing"

	"isosyncd/lxd/lxdtest"
	"isosyncd/store"
)

// BenchmarkList1000 lists 1,000 volumes, by the client and over the socket.
func BenchmarkList1000(b *testing.B) {
	const n = 1000
	s := serve(b, b.TempDir(), store.Options{})
	mustPut(b, s.pool, "image-000", 40960)
	ctx := lxdtest.Context(b)
	for i := 1; i < n; i++ {
		operation, err := s.pool.Copy(ctx, "image-000", fmt.Sprintf("image-%03d", i), "")
		if err == nil {
			err = s.pool.Wait(ctx, operation)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if list, err := s.pool.Volumes(ctx); err != nil || len(list) != n {
			b.Fatal(len(list), err)
		}
	}
}
