package lxdtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// RequireEnv names the environment variable that lists, with commas, what must not be missing: Need fails the test
// instead of skipping it. CI sets it to what its machines have. "all" requires everything.
const RequireEnv = "ISOSYNCD_TEST_REQUIRE"

// SkipLogEnv names the environment variable that may name a file to which each skip is appended as one line.
const SkipLogEnv = "ISOSYNCD_TEST_SKIPLOG"

// Need skips the test, loudly, unless this machine has all of what is listed: "incus" (the daemon, its client and
// root), "fuse" (a usable /dev/fuse), "root", "btrfs" (tools, loop devices and root), "nspawn", or else the name of a
// program, such as "xorriso".
func Need(t testing.TB, what ...string) {
	t.Helper()
	for _, w := range what {
		missing := lacks(w)
		if missing == "" {
			continue
		}
		if required(w) {
			t.Fatalf("%s requires %q, but: %s", RequireEnv, w, missing)
		}
		line := fmt.Sprintf("SKIPPED: %s needs %q: %s", t.Name(), w, missing)
		record(t, line)
		t.Skip(line)
	}
}

func required(what string) bool {
	for f := range strings.SplitSeq(os.Getenv(RequireEnv), ",") {
		if f = strings.TrimSpace(f); f == what || f == "all" {
			return true
		}
	}
	return false
}

// record keeps the skip where CI can count it.
func record(t testing.TB, line string) {
	path := os.Getenv(SkipLogEnv)
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = fmt.Fprintln(f, line)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Errorf("record the skip: %v", err)
	}
}

// lacks says what is missing and what to do about it; "" = nothing.
func lacks(what string) string {
	switch what {
	case "root":
		if os.Geteuid() != 0 {
			return "it must run as root"
		}
		return ""
	case "incus":
		if incusd() == "" {
			return "there is no incusd; install the Debian packages incus-base and incus-client, or run .ci/packages"
		}
		return firstOf(lacksProgram("incus"), lacks("root"))
	case "fuse":
		f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
		if err != nil {
			return err.Error() + "; load the module fuse, and run as root or in a group that may use it"
		}
		_ = f.Close()
		return lacksProgram("fusermount3")
	case "btrfs":
		return firstOf(lacks("root"), lacksProgram("mkfs.btrfs"), lacksLoop(), lacksFilesystem("btrfs"))
	case "nspawn":
		return firstOf(lacks("root"), lacksProgram("systemd-nspawn"))
	}
	return lacksProgram(what)
}

func firstOf(missing ...string) string {
	i := slices.IndexFunc(missing, func(s string) bool { return s != "" })
	if i < 0 {
		return ""
	}
	return missing[i]
}

// packages names the Debian package of a program whose name differs from it.
func packages(program string) string {
	switch program {
	case "incus":
		return "incus-client"
	case "fusermount3":
		return "fuse3"
	case "mkfs.btrfs":
		return "btrfs-progs"
	case "systemd-nspawn":
		return "systemd-container"
	case "grub-mkrescue":
		return "grub-common"
	}
	return program
}

func lacksProgram(name string) string {
	if _, err := exec.LookPath(name); err != nil {
		return fmt.Sprintf("there is no program %s; install the Debian package %s, or run .ci/packages", name, packages(name))
	}
	return ""
}

func lacksLoop() string {
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return "there are no loop devices; load the module loop"
	}
	return ""
}

// lacksFilesystem looks whether the kernel knows a file system, or has a chance to load it.
func lacksFilesystem(name string) string {
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err.Error()
	}
	if slices.Contains(strings.Fields(string(known)), name) {
		return ""
	}
	if _, err := exec.LookPath("modprobe"); err == nil {
		return "" // the daemon will load it
	}
	return "the kernel does not know " + name
}

// incusd finds the daemon where distributions put it; "" = nowhere.
func incusd() string {
	for _, p := range []string{"/usr/libexec/incus/incusd", "/usr/lib/incus/incusd", "/opt/incus/bin/incusd"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	p, err := exec.LookPath("incusd")
	if err != nil {
		return ""
	}
	return p
}
