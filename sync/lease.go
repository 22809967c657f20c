package sync

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/signal"
	gosync "sync"
	"time"

	"golang.org/x/sys/unix"
)

// leaseVerdict is what asking for a read lease tells of other programs.
type leaseVerdict int

const (
	leaseUnknown leaseVerdict = iota // leases do not work here, or not for us
	leaseFree                        // nobody has the file open for writing; the descriptor now holds a read lease
	leaseBusy                        // somebody has
)

// takeLease asks for a read lease (fcntl(2), F_SETLEASE) on a descriptor that is open for reading only. The kernel
// grants it while nobody has the file open for writing, to the file's owner or with CAP_LEASE. A writer that comes later
// waits in its open until the lease is released, at most /proc/sys/fs/lease-break-time (45 s).
func takeLease(f *os.File) leaseVerdict {
	switch _, err := setLease(f, unix.F_RDLCK); {
	case err == nil:
		return leaseFree
	case errors.Is(err, unix.EAGAIN):
		return leaseBusy
	}
	return leaseUnknown // EACCES: not the owner; EINVAL, EOPNOTSUPP, ENOLCK: the file system
}

func setLease(f *os.File, kind int) (int, error) {
	return retryEINTR(func() (int, error) { return unix.FcntlInt(f.Fd(), unix.F_SETLEASE, kind) })
}

// leaseHeld reports whether the read lease still stands: F_GETLEASE tells what it must become once a writer waits.
func leaseHeld(f *os.File) bool {
	kind, err := unix.FcntlInt(f.Fd(), unix.F_GETLEASE, 0)
	return err == nil && kind == unix.F_RDLCK
}

// pinned is a file that is being read: opened once, all of it is read from that one descriptor, and what a writer does to
// it meanwhile does not stay unseen.
type pinned struct {
	File   *os.File // read it by ReadAt: its offset may be shared
	leased bool     // a read lease stands between us and writers; else only check tells of them

	in   *inbox
	name string
	id   Identity
	stop chan struct{} // closed when a writer came
	once gosync.Once
}

// pin opens the file of that name for reading, if it still is the one with that identity. The error is a *Problem:
// CodeChanged, CodeWriting, CodeNotRegular or CodeUnreadable.
func (in *inbox) pin(name string, id Identity) (*pinned, error) {
	d, err := openFolder(in.cfg.Path)
	if err != nil {
		return nil, err
	}
	defer d.close()
	f, _, err := d.open(name)
	if err != nil {
		return nil, openProblem(name, err)
	}
	p := &pinned{File: f, in: in, name: name, id: id, stop: make(chan struct{})}
	if in.cfg.Leases {
		switch takeLease(f) {
		case leaseBusy:
			_ = f.Close() // read only
			return nil, writingProblem(name)
		case leaseFree:
			p.leased = true
		case leaseUnknown:
		}
	}
	// With the lease, or at least after it was asked for: what is still the same now was not written to in between.
	if st, err := fstat(int(f.Fd())); err != nil || st.id != id {
		_ = f.Close()
		return nil, changed(name)
	}
	if p.leased {
		in.pins.add(p)
	}
	return p, nil
}

// broken is closed when a writer opens the file. Without a lease it never is.
func (p *pinned) broken() <-chan struct{} { return p.stop }

// check returns nil if the file is what it was when it was pinned: no writer came, and both the descriptor and the name
// in the folder still have its identity. Else a *Problem with CodeChanged.
func (p *pinned) check() error {
	select {
	case <-p.stop:
		return changed(p.name)
	default:
	}
	if p.leased && !leaseHeld(p.File) {
		p.yield()
		return changed(p.name)
	}
	if st, err := fstat(int(p.File.Fd())); err != nil || st.id != p.id {
		return changed(p.name)
	}
	d, err := openFolder(p.in.cfg.Path)
	if err != nil {
		return err
	}
	defer d.close()
	if st, err := d.stat(p.name); err != nil || st.id != p.id {
		return changed(p.name)
	}
	return nil
}

// yield lets a writer go on at once, and tells whoever reads.
func (p *pinned) yield() {
	p.once.Do(func() {
		close(p.stop)
		_, _ = setLease(p.File, unix.F_UNLCK) // gone with the descriptor at the latest
	})
}

// Close releases lease and file.
func (p *pinned) Close() error {
	p.in.pins.remove(p)
	return p.File.Close()
}

// keep gives the open file away, without its lease: whoever reads it sees what writers do.
func (p *pinned) keep() *os.File {
	p.in.pins.remove(p)
	if p.leased {
		_, _ = setLease(p.File, unix.F_UNLCK) // gone with the descriptor at the latest
	}
	return p.File
}

// pinSet is the pins that have a lease.
type pinSet struct {
	mu    gosync.Mutex
	all   map[*pinned]struct{} // guarded by mu
	first chan struct{}        // 1-buffered: there is a pin again
}

func (s *pinSet) add(p *pinned) {
	s.mu.Lock()
	s.all[p] = struct{}{}
	s.mu.Unlock()
	select {
	case s.first <- struct{}{}:
	default:
	}
}

func (s *pinSet) remove(p *pinned) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, p)
}

// sweep yields the pins that a writer waits for, and returns how many pins there are. The lock is kept, so that no pin
// is closed, and its descriptor given to another file, in between.
func (s *pinSet) sweep() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.all {
		if !leaseHeld(p.File) {
			p.yield()
			delete(s.all, p)
		}
	}
	return len(s.all)
}

// leasePoll is how soon a waiting writer is noticed at the latest, should its signal be lost.
const leasePoll = 250 * time.Millisecond

// watchLeases serves the pins until ctx ends: the kernel signals SIGIO when a writer opens one of them, and does not say
// which. Without a pin it sleeps.
func (in *inbox) watchLeases(ctx context.Context) {
	if !in.cfg.Leases {
		<-ctx.Done()
		return
	}
	writer := make(chan os.Signal, 1)
	signal.Notify(writer, unix.SIGIO)
	defer signal.Stop(writer)
	timer := time.NewTimer(leasePoll)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-writer:
		case <-timer.C:
		case <-in.pins.first:
		}
		if in.pins.sweep() > 0 {
			timer.Reset(leasePoll)
		}
	}
}

// remove deletes the file of that name, if it still is the one with that identity. The error is a *Problem.
func (in *inbox) remove(name string, id Identity) error {
	d, err := openFolder(in.cfg.Path)
	if err != nil {
		return err
	}
	defer d.close()
	st, err := d.stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || st.id != id {
		return changed(name)
	}
	switch err := d.takeAway(name, st); {
	case errors.Is(err, errReplaced):
		return changed(name)
	case err != nil:
		return writeProblem("removed", name, err)
	}
	return nil
}
