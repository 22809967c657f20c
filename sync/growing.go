package sync

import (
	"errors"
	"fmt"
	"io"
	"os"
	gosync "sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	growPiece = 256 << 10 // bytes: less is not worth a request's chunk while more may come
	growSoon  = 5 * time.Millisecond
	growLate  = 200 * time.Millisecond
	growIdle  = 30 * time.Second
)

// errIdle ends a reader whose file does not grow any more, though it is not finished: whoever holds up a connection
// for it would hold up the server's disk as well.
var errIdle = fmt.Errorf("nothing was written for %v", growIdle)

// growing reads a file from its start while somebody writes it: never behind its end, and never into a hole, which may
// be filled later. There it waits. It ends only after finish has said how long the file is, and release that all of it
// counts; and it is the witness of exactly what it gave, whatever became of the file meanwhile.
//
// Only one goroutine may read; the rest may be called from any.
type growing struct {
	io    gosync.Mutex // a request that was given up may still read for a moment
	file  *os.File     // guarded by io; its offset is used
	at    int64        // guarded by io; of the reader
	heard *witness     // guarded by io
	over  bool         // guarded by io

	mu        gosync.Mutex
	size      int64         // guarded by mu; -1 = not known yet
	released  bool          // guarded by mu
	abandoned bool          // guarded by mu
	told      chan struct{} // guarded by mu; closed, and made anew, when one of these changed
}

// newGrowing takes f over; close releases it.
func newGrowing(f *os.File) *growing {
	return &growing{file: f, heard: newWitness(), size: -1, told: make(chan struct{})}
}

// finish says that nobody writes the file any more, and how many bytes it has.
func (g *growing) finish(size int64) { g.tell(func() { g.size = size }) }

// release lets the reader see the end.
func (g *growing) release() { g.tell(func() { g.released = true }) }

func (g *growing) tell(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
	close(g.told)
	g.told = make(chan struct{})
}

// abandon ends a Read that waits, with errStale.
func (g *growing) abandon() { g.tell(func() { g.abandoned = true }) }

// close releases the file. Whoever reads gets errStale.
func (g *growing) close() {
	g.abandon()
	g.given().end()
	_ = g.file.Close() // read only
}

// given is the witness of what was read. Nothing can be read any more.
func (g *growing) given() *witness {
	g.io.Lock()
	defer g.io.Unlock()
	g.over = true
	return g.heard
}

// Read gives what is there; it waits until that is a decent piece, or for a moment. The error is io.EOF, errIdle, a
// *Problem with CodeChanged where the file became shorter than what was read, another where it cannot be read, or
// errStale after abandon.
func (g *growing) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for began := time.Now(); ; {
		g.mu.Lock()
		size, released, abandoned, told := g.size, g.released, g.abandoned, g.told
		g.mu.Unlock()
		if abandoned {
			return 0, errStale
		}
		waited := time.Since(began)
		least := min(growPiece, int64(len(p)))
		if size >= 0 || waited >= growLate {
			least = 1
		}
		n, end, err := g.take(p, size, least)
		switch {
		case n > 0 || err != nil:
			return n, err
		case end && released:
			return 0, io.EOF
		case size < 0 && waited >= growIdle:
			return 0, errIdle
		}
		select {
		case <-told:
		case <-time.After(min(growLate, growSoon+waited)): // no event tells of bytes in the middle of a file's life
		}
	}
}

// there is how many bytes behind the reader can be had.
func (g *growing) there(size int64) (int64, error) {
	if size >= 0 {
		if size < g.at {
			return 0, changed(g.file.Name())
		}
		return size - g.at, nil
	}
	hole, err := unix.Seek(int(g.file.Fd()), g.at, unix.SEEK_HOLE)
	switch {
	case err == nil:
		return max(0, hole-g.at), nil
	case errors.Is(err, unix.ENXIO): // at the end, or behind it
		var st entryStat
		if st, err = fstat(int(g.file.Fd())); err == nil && st.id.Size < g.at {
			return 0, changed(g.file.Name())
		}
	}
	if err != nil {
		return 0, readProblem(g.file.Name(), err)
	}
	return 0, nil
}

// take gives what is there, if it is at least so much. end says that nothing more will be.
func (g *growing) take(p []byte, size, least int64) (n int, end bool, err error) {
	g.io.Lock()
	defer g.io.Unlock()
	if g.over {
		return 0, false, errStale
	}
	there, err := g.there(size)
	if err != nil || there < least {
		return 0, err == nil && size >= 0 && g.at == size, err
	}
	n, err = g.file.ReadAt(p[:min(int64(len(p)), there)], g.at)
	if n > 0 {
		g.at += int64(n)
		g.heard.write(p[:n])
		return n, false, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return 0, false, changed(g.file.Name())
	}
	return 0, false, readProblem(g.file.Name(), err)
}
