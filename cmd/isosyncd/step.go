//go:build !failpoint

package main

// failpoints is nil: this build has none.
func failpoints() func(step string) { return nil }
