package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// tmpDir is where a pool keeps uploads under way. No escaped name begins with a full stop.
const tmpDir = ".tmp"

// newPrefix is that of what writeJSON is writing.
const newPrefix = ".new-"

// maxFileName is what file systems allow, in bytes, less what is appended: .json, or the suffix of a temporary file.
const maxFileName = 255 - 16

// fileName makes a file name of any name: letters, digits, "-", "_" and full stops but the first stay; every other
// byte becomes %XX. What gets too long is cut, and told apart by a digest. Two names never get the same file name.
func fileName(name string) string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		plain := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '-' || c == '_' || c == '.' && i > 0
		if plain {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	if b.Len() <= maxFileName {
		return b.String()
	}
	sum := sha256.Sum256([]byte(name))
	// "%=" is no escape sequence, so that no short name looks like this.
	return b.String()[:64] + "%=" + hex.EncodeToString(sum[:])
}

func (s *Store) poolDir(pool string) string { return filepath.Join(s.dir, "pools", fileName(pool)) }

func (s *Store) volumeDir(k key) string { return filepath.Join(s.poolDir(k.pool), fileName(k.project)) }

func (s *Store) dataPath(k key) string { return filepath.Join(s.volumeDir(k), fileName(k.name)+".iso") }

func (s *Store) metaPath(k key) string {
	return filepath.Join(s.volumeDir(k), fileName(k.name)+".json")
}

// syncDir makes what was renamed or unlinked in a directory last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

// makeDir makes a directory that lasts. Its parent must be there.
func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o750)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// writeJSON replaces a file as a whole, and makes that last.
func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), newPrefix+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err == nil {
		err = f.Chmod(0o640)
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return syncDir(filepath.Dir(path))
}

// readJSON reads a file that writeJSON wrote.
func readJSON(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// renameNew renames a file to a name that is free, else fs.ErrExist.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// The file system does not know the flag. The lock keeps other stores away, so a look is nearly as good.
		if _, err := os.Lstat(to); err == nil {
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: fs.ErrExist}
		}
		return os.Rename(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// format is the version of what is on disk.
const format = 1

// load reads everything, and sweeps what a crash left.
func (s *Store) load() error {
	path := filepath.Join(s.dir, "state.json")
	s.sweepNew(s.dir)
	err := readJSON(path, &s.state)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.state = newState()
	case err != nil:
		return err
	case s.state.Format != format:
		return fmt.Errorf("%s has format %d, this program knows %d only", path, s.state.Format, format)
	}
	for _, p := range s.state.Pools {
		if err := s.loadPool(p.Name); err != nil {
			return err
		}
	}
	if len(s.state.Pools) > 0 {
		return nil
	}
	s.state.Pools = append(s.state.Pools, poolRecord{Name: "default"})
	if err := s.makePool("default"); err != nil {
		return err
	}
	return writeJSON(path, s.state)
}

func (s *Store) makePool(name string) error {
	return errors.Join(makeDir(s.poolDir(name)), makeDir(filepath.Join(s.poolDir(name), tmpDir)))
}

// loadPool reads the volumes of a pool.
func (s *Store) loadPool(pool string) error {
	dir := s.poolDir(pool)
	// A pool whose directory is gone may be a disk that is not mounted: to carry on would make it look empty.
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("pool %q: %w", pool, err)
	}
	tmp := filepath.Join(dir, tmpDir)
	if err := errors.Join(os.RemoveAll(tmp), makeDir(tmp)); err != nil {
		return fmt.Errorf("pool %q: sweep: %w", pool, err)
	}
	for _, e := range entries {
		if e.Name() == tmpDir || !e.IsDir() {
			continue
		}
		if err := s.loadProject(pool, filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("pool %q: %w", pool, err)
		}
	}
	return nil
}

// loadProject reads the volumes of a directory. A metadata file without data is what a crash left of a volume that
// was just made or deleted. Anything else that is odd is somebody's, and stays; but it is no volume.
func (s *Store) loadProject(pool, dir string) error {
	s.sweepNew(dir)
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, n := range names {
		base, ok := strings.CutSuffix(n.Name(), ".json")
		if !ok {
			continue
		}
		path := filepath.Join(dir, n.Name())
		info, err := os.Lstat(filepath.Join(dir, base+".iso"))
		if errors.Is(err, fs.ErrNotExist) {
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		var v volume
		if err == nil {
			err = readJSON(path, &v)
		}
		if err != nil {
			return err
		}
		v.pool = pool
		k := v.key()
		switch {
		case s.metaPath(k) != path:
			s.log.Warn("a volume's file does not have its name; it is left alone", "file", path, "volume", v.Name)
		case !info.Mode().IsRegular() || info.Size() != v.Size:
			s.log.Error("a volume's file does not have its size; it is not shown", "file", s.dataPath(k), "size", info.Size(), "want", v.Size)
		default:
			s.volumes[k] = &v
			known[base+".iso"] = true
		}
	}
	for _, n := range names {
		if strings.HasSuffix(n.Name(), ".iso") && !known[n.Name()] {
			s.log.Warn("a file in the store is no volume; it is left alone", "file", filepath.Join(dir, n.Name()))
		}
	}
	return nil
}

// sweepNew removes what writeJSON was writing.
func (s *Store) sweepNew(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // whoever needs the directory will say so
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), newPrefix) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			s.log.Warn("a left-over cannot be removed", "file", e.Name(), "err", err)
		}
	}
}
