package lxd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Target says which server to talk to, and as whom. The zero value is no server: Find or ClientRemote gives one.
//
// Wherever PEM text and a file are both given, the text wins. A key file that others than its owner and group can
// read is refused.
type Target struct {
	Addr    string // unix:/path/to/unix.socket, or https://host[:8443]
	Project string // "" = "default", or user-UID on the socket of Incus' unprivileged users
	Member  string // cluster member that holds the volumes of a local pool; "" = the one that answers

	CertFile, KeyFile string // PEM files of the client certificate and its key
	CertPEM, KeyPEM   []byte // the same as text

	ServerCertFile string // PEM file of the one certificate that the server may have
	ServerCertPEM  []byte // the same as text
	Fingerprint    string // SHA-256 of that certificate in hex; colons, blanks and case do not matter
	CAFile         string // PEM file of the authorities to trust where nothing is pinned; "" = the system's

	Bearer string // token of a LXD 6.7 bearer identity; only ever sent over TLS

	// Stall is how long an upload may stand still before it is given up; 0 = 60 s.
	Stall time.Duration
}

// String leaves out everything secret, so that a Target can be printed by mistake.
func (t Target) String() string {
	s := t.Addr
	if t.Project != "" {
		s += " project " + t.Project
	}
	if t.Member != "" {
		s += " member " + t.Member
	}
	return s
}

// GoString is String: %#v must not print a key either.
func (t Target) GoString() string { return "lxd.Target(" + t.String() + ")" }

// LogValue is String, for slog.
func (t Target) LogValue() slog.Value { return slog.StringValue(t.String()) }

// defaultPort is where both servers listen for HTTPS.
const defaultPort = "8443"

// endpoint splits Addr: either a socket path or a host:port.
func (t Target) endpoint() (socket, host string, err error) {
	addr := t.Addr
	switch {
	case addr == "":
		return "", "", fmt.Errorf("%w: no address given", ErrNoServer)
	case strings.HasPrefix(addr, "/"):
		return addr, "", nil
	case strings.HasPrefix(addr, "unix:"):
		// unix:/p, unix:///p and the unix://p of old client configurations.
		p := strings.TrimPrefix(addr, "unix:")
		if rest, ok := strings.CutPrefix(p, "//"); ok {
			p = "/" + strings.TrimLeft(rest, "/")
		}
		if !filepath.IsAbs(p) || p == "/" {
			return "", "", fmt.Errorf("address %q: a unix socket needs an absolute path, such as unix:/var/lib/incus/unix.socket", addr)
		}
		return p, "", nil
	case strings.HasPrefix(addr, "http://"):
		return "", "", fmt.Errorf("address %q: plain http is refused, because anybody on the way could change the images; use https://", addr)
	}
	u, err := url.Parse(addr)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return "", "", fmt.Errorf("address %q: want unix:/path/to/unix.socket or https://host:8443", redactURL(addr))
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Path != "" && u.Path != "/") {
		return "", "", fmt.Errorf("address %q: want only a host and a port after https://", redactURL(addr))
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	return "", net.JoinHostPort(u.Hostname(), port), nil
}

// redactURL drops what may be a password from an address that is about to be printed.
func redactURL(addr string) string {
	scheme, rest, ok := strings.Cut(addr, "://")
	if !ok {
		return addr
	}
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		rest = "…@" + rest[i+1:]
	}
	rest, _, _ = strings.Cut(rest, "?")
	return scheme + "://" + rest
}

// clientPair loads the client certificate; nil = none was given.
func (t Target) clientPair() (*tls.Certificate, error) {
	cert, key := t.CertPEM, t.KeyPEM
	var err error
	if len(cert) == 0 && t.CertFile != "" {
		if cert, err = os.ReadFile(t.CertFile); err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
	}
	if len(key) == 0 && t.KeyFile != "" {
		if key, err = readKey(t.KeyFile); err != nil {
			return nil, err
		}
	}
	switch {
	case len(cert) == 0 && len(key) == 0:
		return nil, nil
	case len(key) == 0:
		return nil, errors.New("client certificate: a certificate was given, but no key for it")
	case len(cert) == 0:
		return nil, errors.New("client certificate: a key was given, but no certificate for it")
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	return &pair, nil
}

// readKey reads a private key that is really private. The group may read it: that is how the access list of a
// systemd credential shows.
func readKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("client key: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("client key: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o037 != 0 {
		return nil, fmt.Errorf("client key: %s has mode %#o, so that others can use it; chmod 0600 it", path, perm)
	}
	b := make([]byte, min(info.Size()+1, 1<<20))
	n, err := f.ReadAt(b, 0)
	if err != nil && n == 0 {
		return nil, fmt.Errorf("client key: %w", err)
	}
	return b[:n], nil
}

// Find looks for the unix socket of a server on this host in the order of the official clients, LXD's first
// (SERVER-API 7). tried lists what was looked at, in order. The error wraps ErrNoServer, and says what it tried.
func Find() (addr string, tried []string, err error) {
	return finder{getenv: os.Getenv, access: access}.find("")
}

// finder looks for sockets in an environment.
type finder struct {
	getenv func(string) string
	// access reports nil if path is a socket that can be written to, an error that is fs.ErrNotExist if there is
	// none, another if it is not for us.
	access func(path string) error
}

// candidate is a socket that a client would take.
type candidate struct {
	path string
	sure bool // an environment variable names it: nothing else is looked at
}

// find returns the first usable socket of a vendor, "" = of both.
func (f finder) find(vendor string) (addr string, tried []string, err error) {
	var denied []string
	for _, c := range f.candidates(vendor) {
		tried = append(tried, c.path)
		err := f.access(c.path)
		if err == nil {
			return "unix:" + c.path, tried, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			denied = append(denied, fmt.Sprintf("%s (%v)", c.path, err))
		}
		if c.sure {
			break
		}
	}
	if len(denied) > 0 {
		return "", tried, fmt.Errorf("%w: there is one, but this user may not use it: %s; add the user to its group",
			ErrNoServer, strings.Join(denied, ", "))
	}
	return "", tried, fmt.Errorf("%w: tried %s; is LXD or Incus installed and running?", ErrNoServer, strings.Join(tried, ", "))
}

// candidates lists the sockets in order. Incus' socket for unprivileged users comes right after the real one of the
// same directory.
func (f finder) candidates(vendor string) []candidate {
	var list []candidate
	add := func(sure bool, parts ...string) { list = append(list, candidate{filepath.Join(parts...), sure}) }
	if vendor != "incus" {
		if s := f.getenv("LXD_SOCKET"); s != "" {
			add(true, s)
			return list
		}
		if d := f.getenv("LXD_DIR"); d != "" {
			add(true, d, "unix.socket")
			return list
		}
	}
	if vendor != "lxd" {
		if s := f.getenv("INCUS_SOCKET"); s != "" {
			add(true, s)
			return list
		}
		if d := f.getenv("INCUS_DIR"); d != "" {
			add(false, d, "unix.socket")
			add(true, d, userSocket)
			return list
		}
	}
	if vendor != "incus" {
		add(false, "/var/snap/lxd/common/lxd/unix.socket")
		add(false, "/var/lib/lxd/unix.socket")
	}
	if vendor != "lxd" {
		for _, d := range []string{"/run/incus", "/var/lib/incus"} {
			add(false, d, "unix.socket")
			add(false, d, userSocket)
		}
	}
	return list
}

// userSocket is where incus-user serves members of the group "incus", each in a project of their own.
const userSocket = "unix.socket.user"

// project is the project that requests name.
func (t Target) project() string {
	if t.Project != "" {
		return t.Project
	}
	if socket, _, err := t.endpoint(); err == nil && filepath.Base(socket) == userSocket {
		return fmt.Sprintf("user-%d", os.Getuid())
	}
	return "default"
}
