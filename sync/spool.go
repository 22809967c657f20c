package sync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

const (
	// spoolReserve is what hold leaves free on the file system of the state directory, in bytes: the journal must always
	// have room.
	spoolReserve  = 512 << 20
	partialPrefix = ".partial-"
	copyPiece     = 16 << 20 // bytes that are copied between two looks at the context
)

// spool keeps private copies of images across the moment in which their old volume is deleted and the new one is not
// there yet. A copy is named by its SHA-256, whole, verified and on the disk as soon as it has that name.
type spool struct{ dir string }

// openSpool makes the directory, for us alone, and removes the copies that an earlier life did not finish.
func openSpool(dir string) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), partialPrefix) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, fmt.Errorf("spool: %w", err)
			}
		}
	}
	return &spool{dir: dir}, nil
}

// hold keeps a copy of the first size bytes of f, whose SHA-256 (lower-case hex) is digest. Where the file system can
// share the bytes it costs no room. The copy is read back and compared; it is on the disk when hold returns. The error
// is a *Problem (CodeNoSpace, CodeChanged, CodeUnreadable) or ctx's.
func (s *spool) hold(ctx context.Context, f *os.File, size int64, digest string) error {
	path, err := s.path(digest)
	if err != nil {
		return err
	}
	if st, err := os.Lstat(path); err == nil && st.Size() == size {
		return nil
	}
	tmp, err := os.OpenFile(filepath.Join(s.dir, randomName(partialPrefix)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return spoolProblem(size, err)
	}
	err = s.fill(ctx, tmp, f, size, digest)
	if cerr := tmp.Close(); err == nil && cerr != nil {
		err = spoolProblem(size, cerr)
	}
	if err == nil {
		if err = os.Rename(tmp.Name(), path); err != nil {
			err = spoolProblem(size, err)
		}
	}
	if err != nil {
		_ = os.Remove(tmp.Name()) // what stays is removed at the next start
		return err
	}
	return s.sync()
}

func (s *spool) fill(ctx context.Context, to, from *os.File, size int64, digest string) error {
	// A clone takes the whole file; what it has behind size, it has since the file changed.
	if err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); err != nil {
		if err := s.room(size); err != nil {
			return err
		}
		if err := copyBytes(ctx, to, from, size); err != nil {
			return spoolProblem(size, err)
		}
	}
	if st, err := to.Stat(); err != nil || st.Size() != size {
		return changed(filepath.Base(from.Name()))
	}
	if err := to.Sync(); err != nil {
		return spoolProblem(size, err)
	}
	sums, err := hashFile(ctx, to, size, nil, nil, nil)
	if err != nil {
		return err
	}
	if sums["sha256"] != digest {
		return changed(filepath.Base(from.Name()))
	}
	return nil
}

// room refuses what would leave less than spoolReserve.
func (s *spool) room(size int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return spoolProblem(size, err)
	}
	free := int64(st.Bavail) * st.Bsize
	if free-size >= spoolReserve {
		return nil
	}
	return &Problem{
		Code: CodeNoSpace, Waits: true,
		Text: fmt.Sprintf("the state directory lacks room for a copy: %s are needed and %s stay reserved, %s are free",
			humanize.IBytes(uint64(size)), humanize.IBytes(spoolReserve), humanize.IBytes(uint64(free))),
		Remedy: "free some room there, or use replace: staged; it goes ahead by itself then",
	}
}

// copyBytes copies inside the kernel where it can, and never moves an offset of from.
func copyBytes(ctx context.Context, to, from *os.File, size int64) error {
	var done int64
	for done < size {
		if err := ctx.Err(); err != nil {
			return err
		}
		in, out := done, done
		n, err := retryEINTR(func() (int, error) {
			return unix.CopyFileRange(int(from.Fd()), &in, int(to.Fd()), &out, int(min(copyPiece, size-done)), 0)
		})
		if err != nil || n == 0 {
			break // other file systems, old kernels, or the end: reading tells which
		}
		done += int64(n)
	}
	buf := make([]byte, hashBuffer)
	for done < size {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := from.ReadAt(buf[:min(int64(len(buf)), size-done)], done)
		if n == 0 {
			return readProblem(filepath.Base(from.Name()), err)
		}
		if _, err := to.WriteAt(buf[:n], done); err != nil {
			return err
		}
		done += int64(n)
	}
	return nil
}

// open opens a copy for reading; fs.ErrNotExist if there is none.
func (s *spool) open(digest string) (*os.File, error) {
	path, err := s.path(digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	return f, nil
}

// drop removes a copy. It is no error if there is none.
func (s *spool) drop(digest string) error {
	path, err := s.path(digest)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("spool: %w", err)
	}
	return s.sync()
}

// list returns the digests of all copies, sorted.
func (s *spool) list() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	var digests []string
	for _, e := range entries {
		if isDigest(e.Name()) {
			digests = append(digests, e.Name())
		}
	}
	return digests, nil
}

func isDigest(s string) bool { return len(s) == 64 && lowerHex(s) }

func (s *spool) path(digest string) (string, error) {
	if !isDigest(digest) {
		return "", fmt.Errorf("spool: %q is no SHA-256", digest)
	}
	return filepath.Join(s.dir, digest), nil
}

func (s *spool) sync() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}

func spoolProblem(size int64, err error) error {
	var p *Problem
	switch {
	case errors.As(err, &p), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return &Problem{
			Code: CodeNoSpace, Waits: true,
			Text:   "the state directory is full: a copy of " + humanize.IBytes(uint64(size)) + " does not fit",
			Remedy: "free some room there, or use replace: staged; it goes ahead by itself then",
		}
	case errors.Is(err, io.EOF):
		return &Problem{
			Code: CodeChanged, Waits: true, Text: "the file changed while it was copied", Remedy: "it is looked at again by itself",
		}
	}
	return fmt.Errorf("spool: %w", err)
}
