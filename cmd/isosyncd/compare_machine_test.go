//go:build bench

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// describe says where and with what a run was made.
func (b *bench) describe(t *testing.T) [][2]string {
	t.Helper()
	out := func(name string, args ...string) string {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Env = append(os.Environ(), "LC_ALL=C", "INCUS_DIR="+b.server.Dir())
		text, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %q: %v", name, args, err)
		}
		return strings.TrimSpace(string(text))
	}
	server := b.server.Client(t).Server()
	rounds := fmt.Sprintf("median of %d rounds, in brackets the least and the most; all sides of a comparison take turns, and another one "+
		"begins each round; of a ratio, the median is that of the two medians, and the ends are those of the rounds", b.rounds)
	if b.quick {
		rounds = "one round of everything in small: the numbers mean nothing"
	}
	return [][2]string{
		{"date", time.Now().UTC().Format(time.DateOnly)},
		{"machine", fmt.Sprintf("%d cores of %s, %s of memory, Linux %s", runtime.NumCPU(), field(t, "/proc/cpuinfo", "model name"),
			fmt.Sprintf("%.0f GiB", kibibytes(t, "/proc/meminfo", "MemTotal")/(1<<30)), out("uname", "-r"))},
		{"file system", out("stat", "--file-system", "--format", "%T", b.dir) + ", that of the folder, the pool and the source alike"},
		{"versions", fmt.Sprintf("isosyncd %s, %s, Incus %s", out("git", "describe", "--tags", "--always", "--dirty"), runtime.Version(),
			server.Version)},
		{"method", rounds},
	}
}

// field is the first of that name in a file of the kernel's, such as "MemTotal:  1 kB".
func field(t testing.TB, file, name string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("%s has no %s", file, name)
	return ""
}

// kibibytes reads a field such as "VmHWM:  1234 kB", in bytes.
func kibibytes(t testing.TB, file, name string) float64 {
	t.Helper()
	var n float64
	if _, err := fmt.Sscanf(field(t, file, name), "%f kB", &n); err != nil {
		t.Fatalf("%s: %s: %v", file, name, err)
	}
	return n * 1024
}
