package control

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Peer is who is at the other end of a unix socket, as the kernel says: as of connect(2), and not to be forged.
type Peer struct {
	PID    int32
	UID    uint32
	Groups []uint32 // primary and supplementary
}

type peerKey struct{}

// peerOf is kept with the connection: who connected does not change.
type peerOf struct {
	Peer
	err error
}

// withPeer asks for the credentials once for each connection.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	p, err := credentials(c)
	return context.WithValue(ctx, peerKey{}, peerOf{p, err})
}

var errNoCredentials = errors.New("the connection is no unix socket, so nobody knows who is at its other end")

func credentials(c net.Conn) (Peer, error) {
	sc, ok := c.(syscall.Conn)
	if _, isUnix := c.(*net.UnixConn); !ok || !isUnix {
		return Peer{}, errNoCredentials
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var p Peer
	var credErr error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); credErr != nil {
			return
		}
		p = Peer{PID: cred.Pid, UID: cred.Uid, Groups: append([]uint32{cred.Gid}, peerGroups(int(fd))...)}
	})
	return p, errors.Join(err, credErr)
}

// Allowed decides about peers: root, this process's own user, and members of the group, if it is not nil.
func allowed(p Peer, self uint32, group *uint32) bool {
	return p.UID == 0 || p.UID == self || group != nil && slices.Contains(p.Groups, *group)
}

// OwnerOrGroup allows root, the user of this process, and members of the group that the socket at addr belongs to if
// that group may write to it. A socket without a path in the file system (an abstract one) has no group: nothing of it
// keeps others out, so only root and this user remain.
func OwnerOrGroup(addr net.Addr) func(Peer) bool {
	var group *uint32
	if st, err := os.Stat(addr.String()); err == nil {
		sys, ok := st.Sys().(*syscall.Stat_t)
		if ok && st.Mode()&os.ModeSocket != 0 && st.Mode().Perm()&0o020 != 0 {
			group = &sys.Gid
		}
	}
	self := uint32(os.Geteuid())
	return func(p Peer) bool { return allowed(p, self, group) }
}

// guard refuses peers that are not allowed, before anything of their request is looked at.
func guard(next http.Handler, allow func(Peer) bool, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, ok := r.Context().Value(peerKey{}).(peerOf)
		if !ok || who.err != nil || !allow(who.Peer) {
			log.Warn("the control socket refused somebody", "uid", who.UID, "pid", who.PID, "err", who.err)
			refuse(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ownerOnly is for what may disclose memory: root and the daemon's own user.
func ownerOnly(next http.Handler) http.Handler {
	self := uint32(os.Geteuid())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if who, _ := r.Context().Value(peerKey{}).(peerOf); who.err != nil || !allowed(who.Peer, self, nil) {
			refuse(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func refuse(w http.ResponseWriter) {
	body, err := marshal(refusal{&Problem{
		Code: "denied", Text: "this user may not use the control socket",
		Remedy: "use root, or add the user to the socket's group", NeedsPerson: true,
	}})
	if err != nil {
		http.Error(w, "denied", http.StatusForbidden)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusForbidden)
	_, _ = w.Write(body) // whoever asked sees whether it came
}
