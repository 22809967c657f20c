package store

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// copyBuffer is how much of an upload is in memory at a time, in bytes. The kernel is told nothing about what comes:
// to allocate the file beforehand, or to have it written out on the way, made imports two to ten times as slow on ext4.
const copyBuffer = 1 << 20

// createVolume serves POST .../volumes[/custom]: the bytes of an image, or a JSON text that says what to copy.
func (s *Store) createVolume(w http.ResponseWriter, r *request) (reply, error) {
	if len(r.path) > 1 && r.path[1] != "custom" {
		return reply{}, refuse(http.StatusBadRequest, "Currently not allowed to create storage volumes of type %q", r.path[1])
	}
	if !s.knowsPool(r.path[0]) {
		return reply{}, errNoPool
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && kind == "application/octet-stream" {
		return reply{}, s.importVolume(w, r)
	}
	return reply{}, s.createFromJSON(w, r)
}

func (s *Store) knowsPool(name string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.hasPool(name)
}

// importHeader reads a header that LXD and Incus call differently. Both are understood.
func importHeader(h http.Header, name string) string {
	if v := h.Get("X-LXD-" + name); v != "" {
		return v
	}
	return h.Get("X-Incus-" + name)
}

// importVolume receives an image. Whatever can be refused is refused before the first byte: the servers do so only
// after the last one (SERVER-API 1.2).
func (s *Store) importVolume(w http.ResponseWriter, r *request) error {
	k := key{r.path[0], r.owner, importHeader(r.Header, "Name")}
	kind := importHeader(r.Header, "Type")
	err := checkName(s.vendor, k.name)
	switch {
	case kind != "iso":
		return refuse(http.StatusBadRequest, "This store holds ISO images only: the header X-LXD-type or X-Incus-type must be iso, not %q", kind)
	case err != nil:
		return err
	case r.ContentLength == 0:
		return refuse(http.StatusBadRequest, "Size cannot be zero")
	}
	if _, err := s.find(k); err == nil {
		return errExists(k)
	}
	if err := s.room(k.pool, r.ContentLength); err != nil {
		return err
	}
	tmp, err := s.temp(k.pool)
	if err != nil {
		return err
	}
	n, err := receive(tmp, r.Body, r.ContentLength)
	if err == nil && n == 0 {
		err = refuse(http.StatusBadRequest, "Size cannot be zero")
	}
	if err != nil {
		s.drop(tmp)
		return err
	}
	v := &volume{Name: k.name, Project: k.project, Size: n, CreatedAt: time.Now().UTC(), UUID: newUUID(), pool: k.pool}
	return s.start(w, r, "Creating storage volume", k, func() error {
		err := s.create(v, tmp)
		if err == nil {
			s.lifecycle("created", k, map[string]any{"type": "custom", "location": "none"})
		}
		return err
	})
}

// room refuses what cannot fit, before it fills the disk. A file system that compresses might have taken some of it.
func (s *Store) room(pool string, size int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.poolDir(pool), &fs); err != nil {
		return &os.PathError{Op: "statfs", Path: s.poolDir(pool), Err: err}
	}
	// Bfree, and not Bavail: whether the rest is for us the write will tell.
	if free := fs.Bfree * uint64(fs.Frsize); size > 0 && uint64(size) > free {
		return fmt.Errorf("write %d bytes to pool %q, which has %d left: %w", size, pool, free, unix.ENOSPC)
	}
	return nil
}

// receive copies a body, of which size bytes are announced (-1 = nothing is), to a file. net/http makes an error of a body
// that is shorter than it said, and of a chunked one without its last chunk.
func receive(f *os.File, body io.Reader, size int64) (int64, error) {
	if size < 0 {
		size = copyBuffer
	}
	buf := make([]byte, min(copyBuffer, max(size, 4<<10)))
	var n int64
	for {
		m, err := fill(body, buf)
		if _, werr := f.Write(buf[:m]); werr != nil {
			return n, werr
		}
		n += int64(m)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("receive the image: %w", err)
		}
	}
}

// fill reads until the buffer is full. Unlike io.ReadFull it leaves the reader's error as it is: io.EOF is the end, and
// io.ErrUnexpectedEOF a body that was cut.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// createFromJSON makes a volume of another one. Nothing else can be made without its bytes.
func (s *Store) createFromJSON(w http.ResponseWriter, r *request) error {
	var body struct {
		Name        string `json:"name"`
		ContentType string `json:"content_type"`
		Description string `json:"description"`
		Source      struct {
			Type    string `json:"type"`
			Name    string `json:"name"`
			Pool    string `json:"pool"`
			Project string `json:"project"`
		} `json:"source"`
	}
	if err := r.decode(w, &body); err != nil {
		return err
	}
	k := key{r.path[0], r.owner, body.Name}
	if err := checkName(s.vendor, body.Name); err != nil {
		return err
	}
	if _, err := s.find(k); err == nil {
		return refuse(http.StatusConflict, "Volume by that name already exists")
	}
	src := body.Source
	switch {
	case src.Type == "" && body.ContentType == "iso":
		return refuse(http.StatusBadRequest, "Creation of empty iso volumes is not allowed, either copy or import")
	case src.Type != "copy":
		return refuse(http.StatusBadRequest, "This store makes volumes by import and by copy only")
	case body.ContentType != "" && body.ContentType != "iso":
		return refuse(http.StatusBadRequest, "This store holds volumes of content type iso only")
	}
	from := key{src.Pool, r.owner, src.Name}
	if from.pool == "" {
		from.pool = k.pool
	}
	if src.Project != "" {
		s.mu.RLock()
		known := s.state.hasProject(src.Project)
		from.project = s.state.storageProject(src.Project)
		s.mu.RUnlock()
		if !known {
			return errNoProject
		}
	}
	v := &volume{Name: k.name, Project: k.project, Description: body.Description, CreatedAt: time.Now().UTC(), UUID: newUUID(), pool: k.pool}
	return s.start(w, r, "Copying storage volume", k, func() error {
		err := s.copyVolume(from, v)
		if err == nil {
			s.lifecycle("created", k, map[string]any{"type": "custom"})
		}
		return err
	})
}
