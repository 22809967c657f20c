package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// key names a volume. project is the one that holds it.
type key struct{ pool, project, name string }

// volume is what NAME.json holds. It is not changed once it is in the store's map.
type volume struct {
	Name        string    `json:"name"`
	Project     string    `json:"project"`
	Size        int64     `json:"size"` // bytes
	Description string    `json:"description"`
	CreatedAt   time.Time `json:"created_at"`
	UUID        string    `json:"uuid"` // of this incarnation

	pool string
}

func (v *volume) key() key { return key{v.pool, v.Project, v.Name} }

// httpError is an error that has a status of its own; any other is a 500.
type httpError struct {
	status int
	text   string
}

func (e *httpError) Error() string { return e.text }

func refuse(status int, format string, args ...any) error {
	return &httpError{status, fmt.Sprintf(format, args...)}
}

func errExists(k key) error {
	return refuse(http.StatusConflict, "Cannot create volume %q, volume already exists on storage pool %q", k.name, k.pool)
}

var (
	errNoVolume = &httpError{http.StatusNotFound, "Storage volume not found"}
	errInUse    = &httpError{http.StatusBadRequest, "The storage volume is still in use"}
)

// maxName bounds a name, in bytes. LXD has no limit of its own; the file systems below it have this one.
const maxName = 255

// checkName applies the rule of the dialect (SERVER-API 1.4): LXD's of today, and that of Incus before 7.3, which is
// nearly none. Both are stricter than what can be stored safely.
func checkName(vendor, name string) error {
	bad := func(why string) error { return refuse(http.StatusBadRequest, "Invalid volume name %q: %s", name, why) }
	switch {
	case name == "":
		return refuse(http.StatusBadRequest, "Missing volume name")
	case len(name) > maxName:
		return bad(fmt.Sprintf("it has more than %d bytes", maxName))
	case !utf8.ValidString(name):
		return bad("it is not UTF-8 text")
	case strings.Contains(name, "/"):
		return bad("it may not contain slashes")
	case strings.ContainsFunc(name, unicode.IsControl):
		return bad("it may not contain control characters")
	case vendor == vendorIncus:
		return nil
	case strings.Contains(name, "\\"):
		return bad("it may not contain backslashes")
	case strings.Contains(name, ".."):
		return bad("it may not contain two full stops in a row")
	case strings.ContainsFunc(name, unicode.IsSpace):
		return bad("it may not contain white space")
	}
	return nil
}

// find returns a volume.
func (s *Store) find(k key) (*volume, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	v := s.volumes[k]
	if v == nil {
		return nil, errNoVolume
	}
	return v, nil
}

// create makes a volume of a temporary data file, which is gone afterwards, either way. Whatever it fails of, there is
// no volume then; but when the machine dies meanwhile there may be one.
func (s *Store) create(v *volume, tmp *os.File) (err error) {
	defer func() {
		_ = tmp.Close()
		if s.stopped() == nil && err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	if err := s.pass(PointBegin, v.Name); err != nil {
		return err
	}
	if err := tmp.Chmod(0o400); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := s.pass(PointSynced, v.Name); err != nil {
		return err
	}
	return s.commit(v, func(path string) error { return renameNew(tmp.Name(), path) })
}

// commit makes a volume visible; place puts its synced data file where it belongs, which must fail with fs.ErrExist
// if something is there.
func (s *Store) commit(v *volume, place func(path string) error) error {
	k := v.key()
	s.change.Lock()
	defer s.change.Unlock()
	if err := s.stopped(); err != nil {
		return err
	}
	if !s.state.hasPool(k.pool) {
		return errNoPool
	}
	if !s.state.hasProject(k.project) {
		return errNoProject
	}
	if _, err := s.find(k); err == nil {
		return errExists(k)
	}
	if _, err := os.Lstat(s.dataPath(k)); err == nil {
		return fmt.Errorf("a file that is no volume is in the way: %s", s.dataPath(k))
	}
	if err := makeDir(s.volumeDir(k)); err != nil {
		return err
	}
	if err := writeJSON(s.metaPath(k), v); err != nil {
		return err
	}
	err := s.pass(PointDescribed, v.Name)
	if err == nil {
		err = place(s.dataPath(k))
	}
	if err != nil {
		if s.stopped() == nil {
			_ = os.Remove(s.metaPath(k))
		}
		return err
	}
	err = s.pass(PointCommitted, v.Name)
	if err == nil {
		err = syncDir(s.volumeDir(k))
	}
	if err != nil {
		// It may or may not last: nobody must hear of a volume that could vanish.
		if s.stopped() == nil {
			_ = os.Remove(s.dataPath(k))
			_ = os.Remove(s.metaPath(k))
		}
		return err
	}
	s.mu.Lock()
	s.volumes[k] = v
	s.mu.Unlock()
	return nil
}

// copyVolume makes a volume of another one. As the bytes never change, both can be one file; where the file system
// has no links, or not so many, they are copied.
func (s *Store) copyVolume(from key, v *volume) error {
	if err := s.pass(PointBegin, v.Name); err != nil {
		return err
	}
	old, err := s.find(from)
	if err != nil {
		return err
	}
	v.Size = old.Size
	if v.Description == "" {
		v.Description = old.Description
	}
	err = s.commit(v, func(path string) error { return os.Link(s.dataPath(from), path) })
	var link *os.LinkError
	switch {
	case err == nil, !errors.As(err, &link), errors.Is(err, fs.ErrExist):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return errNoVolume // somebody was quicker
	}
	src, err := os.Open(s.dataPath(from))
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	tmp, err := s.temp(v.pool)
	if err != nil {
		return err
	}
	// In pieces, so that Close is noticed.
	const piece = 64 << 20
	for err == nil {
		if _, err = io.CopyN(tmp, src, piece); err == nil {
			err = s.stopped()
		}
	}
	if !errors.Is(err, io.EOF) {
		s.drop(tmp)
		return err
	}
	return s.create(v, tmp)
}

// temp makes an upload's file.
func (s *Store) temp(pool string) (*os.File, error) {
	return os.OpenFile(filepath.Join(s.poolDir(pool), tmpDir, newUUID()), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
}

// drop removes an upload's file, unless things must be left as they are.
func (s *Store) drop(tmp *os.File) {
	_ = tmp.Close()
	if s.stopped() == nil {
		_ = os.Remove(tmp.Name())
	}
}

// describe changes the description.
func (s *Store) describe(k key, description string) error {
	if err := s.pass(PointBegin, k.name); err != nil {
		return err
	}
	s.change.Lock()
	defer s.change.Unlock()
	if err := s.stopped(); err != nil {
		return err
	}
	v, err := s.find(k)
	if err != nil {
		return err
	}
	changed := *v
	changed.Description = description
	if err := writeJSON(s.metaPath(k), &changed); err != nil {
		return err
	}
	s.mu.Lock()
	s.volumes[k] = &changed
	s.mu.Unlock()
	return nil
}

// remove deletes a volume that nothing refers to. Whoever has its file open keeps the bytes.
func (s *Store) remove(k key) error {
	if err := s.pass(PointBegin, k.name); err != nil {
		return err
	}
	s.change.Lock()
	defer s.change.Unlock()
	if err := s.stopped(); err != nil {
		return err
	}
	if err := s.unused(k); err != nil {
		return err
	}
	if err := os.Remove(s.dataPath(k)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// From here on it is gone, whatever else fails.
	s.mu.Lock()
	delete(s.volumes, k)
	delete(s.backups, k)
	s.mu.Unlock()
	if err := s.pass(PointUnlinked, k.name); err != nil {
		return err
	}
	return errors.Join(os.Remove(s.metaPath(k)), syncDir(s.volumeDir(k)))
}

// unused reports why a volume cannot be removed or renamed.
func (s *Store) unused(k key) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.volumes[k] == nil {
		return errNoVolume
	}
	if len(s.state.users(k)) > 0 {
		return errInUse
	}
	return nil
}

// rename gives a volume another name. Unlike on the servers (SERVER-API 3.2) it must not be in use: a crash between
// the volume's change and that of its users would leave them without.
func (s *Store) rename(k key, name string) error {
	if err := s.pass(PointBegin, k.name); err != nil {
		return err
	}
	s.change.Lock()
	defer s.change.Unlock()
	if err := s.stopped(); err != nil {
		return err
	}
	if err := s.unused(k); err != nil {
		return err
	}
	old, err := s.find(k)
	if err != nil {
		return err
	}
	v := *old
	v.Name = name
	to := v.key()
	if _, err := s.find(to); err == nil {
		return refuse(http.StatusConflict, "Volume by that name already exists")
	}
	if err := writeJSON(s.metaPath(to), &v); err != nil {
		return err
	}
	if err = s.pass(PointDescribed, k.name); err == nil {
		err = renameNew(s.dataPath(k), s.dataPath(to))
	}
	if err != nil {
		if s.stopped() == nil {
			_ = os.Remove(s.metaPath(to))
		}
		return err
	}
	s.mu.Lock()
	delete(s.volumes, k)
	s.volumes[to] = &v
	if b := s.backups[k]; b != nil {
		delete(s.backups, k)
		s.backups[to] = b
	}
	s.mu.Unlock()
	if err := s.pass(PointCommitted, k.name); err != nil {
		return err
	}
	return errors.Join(os.Remove(s.metaPath(k)), syncDir(s.volumeDir(k)))
}
