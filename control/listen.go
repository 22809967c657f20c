package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
)

const (
	// ActivationName is FileDescriptorName= of the socket unit.
	ActivationName = "control"

	socketMode = 0o660
	maxPath    = 107 // bytes of sun_path, unix(7)
)

// ErrInUse says that another process answers on the socket.
var ErrInUse = errors.New("another isosyncd answers on this socket")

// Activated gives the control socket that systemd handed over; nil = none. It may be called once: the descriptors are
// taken from the environment.
func Activated() (net.Listener, error) {
	byName, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("control socket from systemd: %w", err)
	}
	var found net.Listener
	for name, listeners := range byName {
		for _, ln := range listeners {
			switch {
			case ln == nil:
			case found == nil && (name == ActivationName || len(byName) == 1):
				found = ln
			default:
				_ = ln.Close() // not ours to answer on
			}
		}
	}
	if found == nil {
		return nil, nil
	}
	if _, ok := found.(*net.UnixListener); !ok {
		_ = found.Close()
		return nil, fmt.Errorf("control socket from systemd: %s is no unix socket; ListenStream= must be a path", found.Addr())
	}
	return found, nil
}

// Listen makes the socket at path with mode 0660, in place of a dead one that an earlier life left. The directory must
// be there: RuntimeDirectory= makes it. ErrInUse if somebody answers there; anything that is no socket is left alone.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("control socket %s: the path has %d bytes, and a unix socket takes %d", path, len(path), maxPath)
	}
	if err := removeDead(ctx, path); err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("the directory %s is missing: %w", filepath.Dir(path), err)
		}
		return nil, fmt.Errorf("control socket: %w", err)
	}
	// Until here the umask decides; whoever slips in is met by the check of credentials.
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), ln.Close())
	}
	return ln, nil
}

// removeDead removes a socket that nobody listens on.
func removeDead(ctx context.Context, path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode()&os.ModeSocket == 0:
		return errors.New("there is something that is no socket; remove it, or use another path")
	}
	d := net.Dialer{Timeout: 2 * time.Second}
	c, err := d.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		_ = c.Close() // only its being there counts
		return ErrInUse
	case !errors.Is(err, syscall.ECONNREFUSED):
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
