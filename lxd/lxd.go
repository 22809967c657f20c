// Package lxd is a small client of the REST API that LXD and Incus share, as far as ISO volumes of a storage pool
// need it. Its vocabulary is that of the official clients. What the servers really do, and where the two differ, is
// written down in the project's SERVER-API notes; comments here cite them as "SERVER-API 3.3".
package lxd

import (
	"errors"
	"fmt"
	"time"
)

// Volume is a custom storage volume as the server lists it.
type Volume struct {
	Name        string
	ContentType string // "iso", "filesystem", "block"
	Size        int64  // config.size, bytes; some LXD drivers round it up (SERVER-API 2.1); -1 = not stated
	Description string
	UsedBy      []string // API URLs, such as /1.0/profiles/default; filtered by our permissions
	CreatedAt   time.Time
	UUID        string // volatile.uuid, LXD only
	Location    string // cluster member; "" or "none" where it does not matter
}

// Incarnation tells a volume from another of the same name that was there before or comes after it: the server gives
// nothing better than its clock on Incus, and a UUID on LXD.
func (v Volume) Incarnation() string {
	if v.UUID != "" {
		return v.UUID
	}
	return v.CreatedAt.UTC().Format(time.RFC3339Nano)
}

// Space is what GET /1.0/storage-pools/POOL/resources says, in bytes; Total 0 = the driver does not tell.
type Space struct {
	Used, Total int64
}

// Free is what is left, or -1 where the driver does not tell.
func (s Space) Free() int64 {
	if s.Total <= 0 {
		return -1
	}
	return max(0, s.Total-s.Used)
}

// Server is what GET /1.0 says.
type Server struct {
	Vendor     string // "lxd" or "incus"
	Version    string
	Name       string
	Clustered  bool
	Extensions map[string]bool
	Addr       string // as dialled: unix:/path or https://host:8443
}

// Event is one message of the event stream. Events are hints: none carries enough to act on (SERVER-API 5).
type Event struct {
	Type   string // "lifecycle" or "operation"; "connected" for the first one of each stream, made by this client
	Action string // of a lifecycle event, such as "storage-volume-created"
}

// Sentinels that callers branch on. They are found with errors.Is; the error they come from is an *Error or wraps the
// cause.
var (
	ErrNotFound  = errors.New("not found")
	ErrInUse     = errors.New("volume is in use")
	ErrDenied    = errors.New("permission denied by the server")
	ErrNoISO     = errors.New("server does not know ISO volumes")
	ErrNoServer  = errors.New("no server found")
	ErrAway      = errors.New("server is away")             // nothing was received: refused, reset, timed out
	ErrUnknown   = errors.New("outcome unknown")            // the operation vanished before its end was seen (SERVER-API 6)
	ErrNotRead   = errors.New("server cannot give it back") // no way to read an ISO volume's content
	ErrIdentity  = errors.New("server certificate is not the pinned one")
	ErrUntrusted = errors.New("server does not trust this client")
	ErrSource    = errors.New("source cannot be read") // the local file, while it was being sent
)

// Error is an answer of the server that is not success.
type Error struct {
	Op         string        // what was attempted, such as "import debian-13"
	Status     int           // HTTP status or error_code, 400 to 599
	Message    string        // the server's own words, cut to 1 KiB; for people, never for decisions
	RetryAfter time.Duration // 0 = the server did not say
	InOp       bool          // the failure of an operation, not of the request that began it

	alien bool // said by something that is neither LXD nor Incus, such as a proxy: its status decides nothing
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s (%d)", e.Op, e.Message, e.Status) }
