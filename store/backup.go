package store

import (
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// backup is a promise to give the bytes of a volume back. As they never change, nothing has to be stored; it is
// forgotten when the store is closed, and when the volume is deleted.
type backup struct {
	Name       string    `json:"name"`
	CreatedAt  time.Time `json:"created_at"`
	ExpiresAt  time.Time `json:"expires_at"`
	VolumeOnly bool      `json:"volume_only"`
	Optimized  bool      `json:"optimized_storage"`
}

// refuseBackup is what LXD says; it cannot give an ISO volume back (SERVER-API 3.5).
func (s *Store) refuseBackup(w http.ResponseWriter, r *request, v *volume) error {
	return s.start(w, r, "Creating custom volume backup", v.key(), func() error {
		return refuse(http.StatusBadRequest, `Volume of content type "iso" cannot be backed up`)
	})
}

// createBackup serves POST .../backups: with a name it makes a backup, and without one, where the client takes bytes
// for an answer, it gives the image at once (Incus' direct_backup).
func (s *Store) createBackup(w http.ResponseWriter, r *request) (reply, error) {
	v, err := s.volume(r)
	if err != nil {
		return reply{}, err
	}
	if s.vendor != vendorIncus {
		return reply{}, s.refuseBackup(w, r, v)
	}
	b := &backup{CreatedAt: time.Now().UTC()}
	if err := r.decode(w, b); err != nil {
		return reply{}, err
	}
	if r.Header.Get("Accept") == "application/octet-stream" && b.Name == "" {
		return reply{}, s.send(w, v)
	}
	if b.Name == "" {
		b.Name = "backup-" + newUUID() // the client learns it from the operation
	}
	if strings.Contains(b.Name, "/") {
		return reply{}, refuse(http.StatusBadRequest, "Backup names may not contain slashes")
	}
	k := v.key()
	o := s.ops.begin(r.project, "Creating custom volume backup", k, map[string][]string{"backups": {backupURL(k, b)}})
	return reply{}, s.run(w, o, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.volumes[k] == nil {
			return errNoVolume
		}
		if slices.ContainsFunc(s.backups[k], func(o *backup) bool { return o.Name == b.Name }) {
			return refuse(http.StatusConflict, "Backup %q already exists", b.Name)
		}
		s.backups[k] = append(s.backups[k], b)
		return nil
	})
}

func backupURL(k key, b *backup) string {
	return apiURL(k.project, "storage-pools", k.pool, "volumes", "custom", k.name, "backups", b.Name)
}

func (s *Store) listBackups(_ http.ResponseWriter, r *request) (reply, error) {
	v, err := s.volume(r)
	if err != nil {
		return reply{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	k := v.key()
	list, urls := []backup{}, []string{}
	for _, b := range s.backups[k] {
		list = append(list, *b)
		urls = append(urls, backupURL(k, b))
	}
	if r.recursive() {
		return reply{metadata: list}, nil
	}
	return reply{metadata: urls}, nil
}

// findBackup looks for the backup that a request names.
func (s *Store) findBackup(r *request) (*volume, *backup, error) {
	v, err := s.volume(r)
	if err != nil {
		return nil, nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, b := range s.backups[v.key()] {
		if b.Name == r.path[3] {
			return v, b, nil
		}
	}
	return nil, nil, refuse(http.StatusNotFound, "Storage volume backup not found")
}

func (s *Store) getBackup(_ http.ResponseWriter, r *request) (reply, error) {
	_, b, err := s.findBackup(r)
	if err != nil {
		return reply{}, err
	}
	return reply{metadata: b}, nil
}

func (s *Store) deleteBackup(w http.ResponseWriter, r *request) (reply, error) {
	v, b, err := s.findBackup(r)
	if err != nil {
		return reply{}, err
	}
	k := v.key()
	return reply{}, s.start(w, r, "Removing custom volume backup", k, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.backups[k] = slices.DeleteFunc(slices.Clone(s.backups[k]), func(o *backup) bool { return o == b })
		return nil
	})
}

func (s *Store) exportBackup(w http.ResponseWriter, r *request) (reply, error) {
	v, _, err := s.findBackup(r)
	if err != nil {
		return reply{}, err
	}
	return reply{}, s.send(w, v)
}

// send answers with the bytes of a volume.
func (s *Store) send(w http.ResponseWriter, v *volume) error {
	f, err := os.Open(s.dataPath(v.key()))
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return errNoVolume
		}
		return err
	}
	defer func() { _ = f.Close() }()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(v.Size, 10))
	w.WriteHeader(http.StatusOK)
	if _, err := io.CopyN(w, f, v.Size); err != nil {
		s.log.Info("a download was not finished", "volume", v.Name, "err", err)
		panic(http.ErrAbortHandler) // the only way to say so: the status is out
	}
	return errAnswered
}
