package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"isosyncd/iso"
	isosync "isosyncd/sync"
)

// lookTimeout is for a look at the server when something went wrong already.
const lookTimeout = 30 * time.Second

var errChanged = errors.New("the file changed while it was read")

// source is a file that a command imports or checks. All of it is done with one descriptor, so that it is one file.
type source struct {
	f    *os.File
	path string
	name string // of the file, without folders
	id   isosync.Identity
}

// openSource opens a regular file that nobody is writing at the moment, as far as that can be told. Links are followed:
// a person named them.
func openSource(path string) (*source, error) {
	// O_NONBLOCK: a FIFO must not keep us waiting for its other end.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	s := &source{f: f, path: path, name: filepath.Base(path)}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", showName(path))
	}
	if err == nil {
		s.id, err = identify(f)
	}
	if err == nil {
		err = s.idle()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

func (s *source) close() { _ = s.f.Close() } // read only: nothing is lost

// idle asks for a read lease, which nobody gets while a writer has the file open, and gives it back at once. Where
// leases do not work, or are not for us, nothing is known.
func (s *source) idle() error {
	_, err := unix.FcntlInt(s.f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return fmt.Errorf("%s is being written; wait until that is finished", showName(s.path))
	case err != nil:
		return nil
	}
	_, err = unix.FcntlInt(s.f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	return err
}

func identify(f *os.File) (isosync.Identity, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return isosync.Identity{}, fmt.Errorf("look at %s: %w", showName(f.Name()), err)
	}
	return isosync.Identity{
		Dev: uint64(st.Dev), Ino: st.Ino, Size: st.Size, //nolint:unconvert // narrower on other architectures
		MTime: unix.TimespecToNsec(st.Mtim), CTime: unix.TimespecToNsec(st.Ctim),
	}, nil
}

// unchanged reports whether the file still is what it was when it was opened.
func (s *source) unchanged() error {
	id, err := identify(s.f)
	if err == nil && id != s.id {
		err = errChanged
	}
	return err
}

// examine learns everything about the file that preflight wants to know. It is read as a whole only if something says
// what its digest must be, or digest is set.
func (s *source) examine(ctx context.Context, name string, p *phases, digest bool) (*candidate, error) {
	c := &candidate{Path: s.path, Name: name, Size: s.id.Size}
	c.Info, c.ProbeErr = iso.ProbeFile(s.f)
	c.Sums, c.SumsErr = isosync.SumsBeside(s.path)
	if !digest && len(c.Sums) == 0 && c.Info.Sum == nil {
		return c, nil
	}
	progress := p.begin("reading "+showName(s.name), isosync.StateHashing, c.Size)
	sums, err := isosync.HashFile(ctx, s.f, c.Size, c.Sums, c.Info, progress)
	p.end()
	var damage *iso.SumError
	switch {
	case errors.As(err, &damage):
		c.Damage = damage
	case err != nil:
		return nil, fmt.Errorf("%s: %w", showName(s.path), err)
	}
	c.Digests = sums
	return c, s.unchanged()
}
