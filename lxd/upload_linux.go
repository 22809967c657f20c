package lxd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// upload is the body of an import: the first size bytes of a file, on their way. net/http reads and closes it from a
// goroutine that may outlive the request, so it has a descriptor of its own, and an offset that is nobody else's:
// neither the file's offset nor its open state matters to it.
type upload struct {
	file *os.File
	size int64

	sent    atomic.Int64  // bytes given to the kernel
	kernel  atomic.Int64  // those of them that never were in this process
	started atomic.Bool   // the body was asked for: the request's head is out
	closed  chan struct{} // net/http is done with it
	over    chan struct{} // RoundTrip returned
	once    sync.Once     // guards closed

	mu       sync.Mutex
	progress func(int64) // guarded by mu; nil = nobody wants to know
	told     time.Time   // guarded by mu; when progress was called last
	err      error       // guarded by mu; why the source cannot be read
}

const (
	// piece is how much one sendfile moves at most, so that a cancelled upload stops soon.
	piece = 4 << 20
	// tellEvery spaces the calls of progress.
	tellEvery = 100 * time.Millisecond
	// lastWords is how long a connection that takes no more bytes stays open, so that the answer which says why can
	// still be read. net/http would else report the write error, and drop the answer.
	lastWords = 2 * time.Second
)

// newUpload duplicates f's descriptor. The duplicate shares f's offset, which is never used.
func newUpload(f *os.File, size int64, progress func(int64)) (*upload, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, sourceError(err)
	}
	fd := -1
	ctlErr := raw.Control(func(from uintptr) { fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(ctlErr, err); err != nil {
		return nil, sourceError(err)
	}
	u := &upload{
		file: os.NewFile(uintptr(fd), f.Name()), size: size, progress: progress,
		closed: make(chan struct{}), over: make(chan struct{}),
	}
	info, err := u.file.Stat()
	switch {
	case err != nil:
		err = sourceError(err)
	case !info.Mode().IsRegular():
		err = sourceError(errors.New("it is not a regular file"))
	case info.Size() < size:
		err = sourceError(shrunk(info.Size(), size))
	default:
		return u, nil
	}
	_ = u.file.Close()
	return nil, err
}

func shrunk(is, want int64) error {
	return fmt.Errorf("it ends at byte %d of %d: it shrank", is, want)
}

// sourceError marks what is wrong with the local file.
func sourceError(err error) error { return fmt.Errorf("%w: %w", ErrSource, err) }

// Close ends the use of the file.
func (u *upload) Close() error {
	u.once.Do(func() {
		close(u.closed)
		_ = u.file.Close()
	})
	return nil
}

// Read gives the next bytes; at the end of size io.EOF, also if the file is longer.
func (u *upload) Read(p []byte) (int, error) {
	u.started.Store(true)
	n, err := u.peek(p)
	u.advance(int64(n))
	return n, err
}

// peek reads at the position without moving it.
func (u *upload) peek(p []byte) (int, error) {
	at := u.sent.Load()
	if at >= u.size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), u.size-at)]
	n, err := u.file.ReadAt(p, at)
	if n > 0 {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = shrunk(at, u.size)
	}
	return 0, u.fail(err)
}

// moveTo sends the next n bytes to c, by sendfile where there is no TLS.
func (u *upload) moveTo(c *conn, n int64) (int64, error) {
	u.started.Store(true)
	end := min(u.sent.Load()+n, u.size)
	begin := u.sent.Load()
	var err error
	if c.plain {
		err = u.sendfile(c, end)
	}
	if !c.plain || errors.Is(err, errNoSendfile) {
		err = u.copy(c, end)
	}
	var src *sourceFailure
	if err != nil && !errors.As(err, &src) {
		select {
		case <-u.over:
		case <-c.closed: // net/http gave the connection up: there is no answer
		case <-time.After(lastWords):
		}
	}
	if err == nil && u.sent.Load() == u.size {
		u.tell(true)
	}
	return u.sent.Load() - begin, err
}

// errNoSendfile says that this file or socket cannot do it.
var errNoSendfile = errors.New("no sendfile")

// sendfile moves bytes up to the offset end, one piece for each look at whether the connection was closed meanwhile.
func (u *upload) sendfile(c *conn, end int64) error {
	src, err := u.file.SyscallConn()
	if err != nil {
		return u.fail(err)
	}
	for at := u.sent.Load(); at < end; at = u.sent.Load() {
		n, werr := 0, error(nil)
		var cerr error
		err := src.Control(func(in uintptr) {
			cerr = c.raw.Write(func(out uintptr) bool {
				for {
					offset := at
					n, werr = unix.Sendfile(int(out), int(in), &offset, int(min(end-at, piece)))
					if !errors.Is(werr, unix.EINTR) {
						return !errors.Is(werr, unix.EAGAIN)
					}
				}
			})
		})
		switch {
		case err != nil:
			return u.fail(err)
		case cerr != nil:
			return cerr
		case errors.Is(werr, unix.EINVAL) || errors.Is(werr, unix.ENOSYS) || errors.Is(werr, unix.EOPNOTSUPP):
			return errNoSendfile
		case werr != nil:
			return u.blame(werr)
		case n == 0:
			return u.fail(shrunk(at, u.size))
		}
		u.kernel.Add(int64(n))
		u.advance(int64(n))
	}
	return nil
}

// blame finds out which end an error of sendfile is about, as the number does not tell: it looks at the file again.
func (u *upload) blame(errno error) error {
	if !errors.Is(errno, unix.EPIPE) && !errors.Is(errno, unix.ECONNRESET) {
		var b [1]byte
		if _, err := u.peek(b[:]); err != nil {
			return err
		}
	}
	return os.NewSyscallError("sendfile", errno)
}

// copy moves bytes up to the offset end by way of memory.
func (u *upload) copy(c *conn, end int64) error {
	buf := make([]byte, 128<<10)
	for at := u.sent.Load(); at < end; at = u.sent.Load() {
		n, err := u.peek(buf[:min(end-at, int64(len(buf)))])
		if err != nil {
			return err
		}
		n, err = c.Write(buf[:n])
		u.advance(int64(n))
		if err != nil {
			return err
		}
	}
	return nil
}

// advance counts bytes as sent.
func (u *upload) advance(n int64) {
	if n > 0 {
		u.sent.Add(n)
		u.tell(false)
	}
}

// tell calls progress, now and then or for certain.
func (u *upload) tell(now bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.progress == nil {
		return
	}
	if at := time.Now(); now || at.Sub(u.told) >= tellEvery {
		u.told = at
		u.progress(u.sent.Load())
	}
}

// sourceFailure marks an error of the file on its way through net/http.
type sourceFailure struct{ error }

func (s *sourceFailure) Unwrap() error { return s.error }

// fail remembers that the source cannot be read. The error makes net/http drop the connection: the request ends
// short of its Content-Length, which the server refuses (RELIABILITY 1.4).
func (u *upload) fail(err error) error {
	if errors.Is(err, os.ErrClosed) || errors.Is(err, syscall.EBADF) {
		return err // the request was given up, and its body closed
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil {
		u.err = sourceError(err)
	}
	return &sourceFailure{u.err}
}

// end is called when RoundTrip returned: from then on progress is not called any more, nor will it be.
// It returns what was wrong with the source.
func (u *upload) end() error {
	close(u.over)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.progress = nil
	return u.err
}
