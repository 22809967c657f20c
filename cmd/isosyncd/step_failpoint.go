//go:build failpoint

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	isosync "isosyncd/sync"
)

// failpoints kills this process with SIGKILL at the step that ISOSYNCD_FAILPOINT names: NAME, or NAME:n for the n-th
// time. ISOSYNCD_FAILPOINT_TRACE names a file to which the name of each step that is taken is appended, one a line.
func failpoints() func(step string) {
	name, times, _ := strings.Cut(os.Getenv("ISOSYNCD_FAILPOINT"), ":")
	n, err := strconv.ParseInt(times, 10, 64)
	if err != nil {
		n = 1
	}
	trace := os.Getenv("ISOSYNCD_FAILPOINT_TRACE")
	var count atomic.Int64
	return func(step string) {
		if trace != "" {
			if err := appendLine(trace, step); err != nil {
				panic(fmt.Sprintf("failpoint trace: %v", err))
			}
		}
		if step == name && count.Add(1) == n {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal takes effect at once, but not always on this thread
		}
	}
}

func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(line + "\n"); err != nil {
		return err
	}
	return f.Close()
}

// earlySize is that of the release, or what ISOSYNCD_EARLY_FROM says, so that small images of tests are sent early too.
func earlySize() int64 {
	if n, err := strconv.ParseInt(os.Getenv("ISOSYNCD_EARLY_FROM"), 10, 64); err == nil {
		return n
	}
	return isosync.EarlySize
}
