package fusefs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mountEntry is a line of /proc/self/mountinfo.
type mountEntry struct {
	dir, fstype, source string
	minor               uint32 // of the device
}

func (m mountEntry) ours() bool { return m.fstype == "fuse."+fsName }

// parseMountinfo reads mountinfo (proc_pid_mountinfo(5)); lines that it does not understand are left out.
func parseMountinfo(data []byte) []mountEntry {
	var out []mountEntry
	for line := range strings.Lines(string(data)) {
		left, right, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		a, b := strings.Fields(left), strings.Fields(right)
		if !ok || len(a) < 6 || len(b) < 2 {
			continue
		}
		_, minor, _ := strings.Cut(a[2], ":")
		n, err := strconv.ParseUint(minor, 10, 32)
		if err != nil {
			continue
		}
		out = append(out, mountEntry{dir: unescape(a[4]), fstype: b[0], source: unescape(b[1]), minor: uint32(n)})
	}
	return out
}

// unescape undoes the octal escapes of blanks, tabs, line ends and backslashes.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mountsAt lists what is mounted at dir, the topmost last. The directory itself is not touched.
func mountsAt(dir string) []mountEntry {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var out []mountEntry
	for _, m := range parseMountinfo(data) {
		if m.dir == dir {
			out = append(out, m)
		}
	}
	return out
}

// realDir is the path that mountinfo has: without links. What is mounted at dir itself may be dead, so that is only looked
// at if it is a link.
func realDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if st, err := os.Lstat(dir); err == nil && st.Mode()&fs.ModeSymlink != 0 {
		return filepath.EvalSymlinks(dir)
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return "", err
	}
	return filepath.Join(parent, filepath.Base(dir)), nil
}

// aliveWait is how long a mount may take to show that a daemon answers for it.
const aliveWait = 5 * time.Second

// clearStale removes a mount of ours whose daemon is gone: each access to it is ENOTCONN, and mounting over it fails.
func clearStale(dir string, log *slog.Logger) error {
	for {
		at := mountsAt(dir)
		if len(at) == 0 || !at[len(at)-1].ours() {
			return nil
		}
		alive, err := answers(dir)
		if err != nil {
			return err
		}
		if alive {
			return errors.New("another isosyncd is mounted there")
		}
		log.Warn("a mount that a crash left is removed", "file", dir)
		ctx, cancel := context.WithTimeout(context.Background(), aliveWait)
		err = unmount(ctx, dir, true)
		cancel()
		if err != nil {
			return fmt.Errorf("remove the stale mount: %w", err)
		}
	}
}

// answers reports whether a daemon answers for the mount at dir.
func answers(dir string) (bool, error) {
	result := make(chan error, 1)
	go func() { // it outlives us if the daemon hangs, which is why it is not awaited
		var st unix.Statfs_t
		result <- unix.Statfs(dir, &st) // always asks; stat(2) may be answered from the kernel's cache for a while
	}()
	timer := time.NewTimer(aliveWait)
	defer timer.Stop()
	select {
	case err := <-result:
		return !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED), nil
	case <-timer.C:
		return false, errors.New("another isosyncd is mounted there and does not answer; stop it first")
	}
}

// emptyDir makes the directory if need be. One with something in it is never covered.
func emptyDir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // nothing was written
	if _, err := d.Readdirnames(1); !errors.Is(err, io.EOF) {
		if err != nil {
			return err
		}
		return errors.New("the directory is not empty; its files would be hidden")
	}
	return nil
}

// apart refuses a mount in the folder, or over it: the daemon would wait for itself.
func apart(dir, folder string) error {
	if folder == "" {
		return nil
	}
	folder, err := realDir(folder)
	if err != nil {
		return err
	}
	for _, pair := range [][2]string{{dir, folder}, {folder, dir}} {
		if rel, err := filepath.Rel(pair[0], pair[1]); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return fmt.Errorf("the mount and the folder %s are in one another", folder)
		}
	}
	return nil
}
