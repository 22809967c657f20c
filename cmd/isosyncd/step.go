//go:build !failpoint

package main

import isosync "isosyncd/sync"

// failpoints is nil: this build has none.
func failpoints() func(step string) { return nil }

// earlySize is how large an image must be, in bytes, to be sent early.
func earlySize() int64 { return isosync.EarlySize }
