package lxd

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// conn is a connection that lets the kernel move the bytes of an image, and that can say how many of them are still
// on their way.
//
// net/http copies a body of known length with io.CopyBuffer from an *io.LimitedReader around the body, through its
// bufio.Writer (flushed before, as the body is not in memory) and its persistConnWriter, to the connection's ReadFrom.
// So ReadFrom is where the body and the socket meet. Without it the bytes would pass a 32 KiB buffer of this process:
// *net.UnixConn has no such ReadFrom, and *net.TCPConn's is hidden by any wrapper.
type conn struct {
	net.Conn
	raw    syscall.RawConn // of the socket below
	plain  bool            // no TLS in between
	closed chan struct{}
	once   sync.Once // guards closed
}

// Close closes the connection, and tells an upload that waits for the server's last words.
func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// sendBuffer is the send buffer of a unix socket in bytes. The default of about 200 KiB makes the two processes take
// turns; TCP sizes its own.
const sendBuffer = 4 << 20

// newConn wraps a connection; socket is what it runs on, itself or below TLS. It closes both if it cannot.
func newConn(c, socket net.Conn) (net.Conn, error) {
	sc, ok := socket.(syscall.Conn)
	if !ok {
		_ = c.Close()
		return nil, errors.New("connection without a socket")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	if _, ok := socket.(*net.UnixConn); ok {
		// Beyond net.core.wmem_max only root may go; either way a smaller buffer is no error.
		_ = raw.Control(func(fd uintptr) {
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer) != nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
			}
		})
	}
	return &conn{Conn: c, raw: raw, plain: c == socket, closed: make(chan struct{})}, nil
}

// ReadFrom moves an upload by itself, everything else by way of memory.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	if lr, ok := r.(*io.LimitedReader); ok {
		if u, ok := lr.R.(*upload); ok {
			n, err := u.moveTo(c, lr.N)
			lr.N -= n
			return n, err
		}
	}
	return io.Copy(struct{ io.Writer }{c.Conn}, r)
}

// queued is how much the kernel still holds of what was sent, in a unit of its own that only falls when the peer
// takes something; -1 = not known.
func (c *conn) queued() int {
	n := -1
	_ = c.raw.Control(func(fd uintptr) {
		if v, err := unix.IoctlGetInt(int(fd), unix.TIOCOUTQ); err == nil {
			n = v
		}
	})
	return n
}
