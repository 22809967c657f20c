// Package sync is the heart of isosyncd: it turns a folder of ISO images into volumes of a pool, and never loses one.
//
// Outside this folder it is imported as isosync, so that a bare sync. is the standard library everywhere.
package sync

import (
	"context"
	"io"
	"os"
	"time"

	"isosyncd/iso"
	"isosyncd/lxd"
)

// Remote is one pool of one project of a server. *lxd.Pool is the real one.
//
// Every call takes a context and may be used from several goroutines. Errors are those of package lxd.
type Remote interface {
	// Server says whom we talk to; it does no I/O.
	Server() lxd.Server
	// Name and Driver of the pool, such as "default" and "zfs"; no I/O.
	Name() string
	Driver() string
	Project() string
	// Space asks for the pool's space.
	Space(ctx context.Context) (lxd.Space, error)
	// Volumes lists all custom volumes of the pool, of every content type, without snapshots.
	Volumes(ctx context.Context) ([]lxd.Volume, error)
	// Volume asks for one; lxd.ErrNotFound where there is none.
	Volume(ctx context.Context, name string) (lxd.Volume, error)
	// Import sends size bytes of f, from its start, and returns the operation that makes the volume: nothing exists
	// for good until Wait says so. f's own offset is not used. progress, if not nil, is told the bytes sent so far.
	Import(ctx context.Context, name string, f *os.File, size int64, progress func(sent int64)) (operation string, err error)
	// ImportStream sends what src gives until io.EOF: nothing else ends the image. Any other error of src, or the end of
	// ctx, drops the request, and nothing comes of it.
	ImportStream(ctx context.Context, name string, src io.Reader, progress func(sent int64)) (operation string, sent int64, err error)
	// Wait returns when the operation ended: nil = success, lxd.ErrUnknown = nobody can tell any more.
	Wait(ctx context.Context, operation string) error
	// Running returns an operation that is at work on that volume now, or "".
	Running(ctx context.Context, name string) (operation string, err error)
	// Describe sets the description: the only thing of an ISO volume that can change.
	Describe(ctx context.Context, name, description string) error
	// Copy makes a volume from another on the server.
	Copy(ctx context.Context, from, to, description string) (operation string, err error)
	// Delete removes a volume, and waits for it; lxd.ErrInUse if it is referenced, nil if it was not there.
	Delete(ctx context.Context, name string) error
	// Events calls f for each event until the stream ends; the first is always Type "connected".
	Events(ctx context.Context, f func(lxd.Event)) error
}

var _ Remote = (*lxd.Pool)(nil)

// Identity tells whether a file is still the one that was looked at. Comparable.
type Identity struct {
	Dev, Ino     uint64
	Size         int64 // bytes
	MTime, CTime int64 // nanoseconds since 1970; may lie, in any direction
}

// Code names a kind of problem. It is stable: scripts, metrics and errno tables rest on it.
type Code string

// The problems there are. Those marked "waits" go away by themselves when the cause does.
const (
	CodeWriting    Code = "writing"     // waits: somebody has the file open for writing, or it is not still yet
	CodeIncomplete Code = "incomplete"  // waits: the image says it is longer than the file
	CodeNotISO     Code = "not-iso"     //
	CodeChecksum   Code = "checksum"    // a list names the file, and disagrees
	CodeNoChecksum Code = "no-checksum" // waits: require_checksum, and no list names the file
	CodeName       Code = "name"        // no volume name can be made of the file name
	CodeClash      Code = "clash"       // another file has the same volume name
	CodeNotRegular Code = "not-regular" // a directory, link, FIFO, socket or device
	CodeUnreadable Code = "unreadable"  // permission or I/O error
	CodeForeign    Code = "foreign"     // a volume of that name is there, and not ours
	CodeInUse      Code = "in-use"      // waits: an instance or profile uses the old volume
	CodeRemoved    Code = "removed"     // the volume was deleted on the server
	CodeReplaceOff Code = "replace-off" // replace: never
	CodeNoSpace    Code = "no-space"    // waits: the pool lacks room
	CodeLimit      Code = "limit"       // the project's limits refuse it
	CodeDenied     Code = "denied"      // the server refuses us
	CodeAway       Code = "away"        // waits: the server does not answer
	CodeServer     Code = "server"      // waits: the server failed; tried again
	CodeRefused    Code = "refused"     // the server says no, for good
	CodeFolder     Code = "folder"      // the folder is missing or was exchanged
	CodePrune      Code = "prune"       // prune would remove too much
	CodeChanged    Code = "changed"     // waits: the file changed while it was read
)

// Problem says why a file or volume is not where it should be: what, why, and what to do.
type Problem struct {
	Code   Code
	Text   string // one sentence without a full stop: what happened and why
	Remedy string // one sentence without a full stop: what to do, and what will happen by itself
	Waits  bool   // it goes away by itself when its cause does; else somebody must act
}

func (p *Problem) Error() string { return p.Text + "; " + p.Remedy }

// Sum is what a checksum list beside the image says of it.
type Sum struct {
	Algorithm string // "sha512", "sha256", "sha1" or "md5"
	Hex       string // lower case
	List      string // name of the list's file
}

// File is one *.iso entry of the folder, as the inbox sees it. It is data: comparable parts only, never changed once
// handed over.
type File struct {
	Name   string // as in the folder; any bytes but slash and NUL
	Volume string // the volume name it maps to; "" where none can be made
	ID     Identity
	Info   iso.Info
	Sums   []Sum    // what lists say of it; empty = none names it
	Held   *Problem // why it cannot be imported as it is; nil = settled, whole, an ISO image
	Since  time.Time
	// Expect is how many bytes, at least, a file will have that is still being written and whose beginning is that of an
	// image; else 0.
	Expect int64
	Draft  string // the hidden file that will get this name when it is finished; "" = it has it
}

// State is where a file stands.
type State string

// The states of a file, in the order of a good life; the last three are for people.
const (
	StateSettling  State = "settling"  // not whole yet, or not still yet
	StateQueued    State = "queued"    // its turn comes
	StateHashing   State = "hashing"   //
	StateUploading State = "uploading" // bytes go to the server
	StateStoring   State = "storing"   // the server writes them to the pool
	StatePresent   State = "present"   // the volume is there, ours, marked with the file's digest
	StateWaiting   State = "waiting"   // a Problem that goes away by itself
	StateRetrying  State = "retrying"  // failed, will be tried again at NotBefore
	StateFailed    State = "failed"    // a Problem that needs somebody
)

// Progress of the step at work. Done and Total are bytes; Total 0 = the server does not tell.
type Progress struct {
	Done, Total int64
	Started     time.Time
}

// FileStatus is a file in a Snapshot.
type FileStatus struct {
	Name      string
	Volume    string
	State     State
	Problem   *Problem
	Since     time.Time // of State
	NotBefore time.Time // of the next try; zero = none is planned
	Attempts  int
	ID        Identity
	Digest    string // SHA-256, hex; "" = not known yet
	Info      iso.Info
	Progress  *Progress
}

// VolumeStatus is an ISO volume of the pool in a Snapshot, ours or not.
type VolumeStatus struct {
	lxd.Volume
	Ours    bool
	Stage   bool   // one of ours that only exists while another is replaced
	Partial bool   // unmarked, and our journal says that we were making it: its bytes may be torn
	Digest  string // from our mark
	File    string // of the folder whose bytes it has; "" = none
	Human   string // the description without our mark
	Problem *Problem
}

// ServerStatus is what is known of the connection.
type ServerStatus struct {
	Online    bool
	Problem   *Problem  // nil while online
	Since     time.Time // of Online
	Listed    time.Time // when the volumes were last listed; zero = never
	Server    lxd.Server
	Pool      string
	Driver    string
	Project   string
	Space     lxd.Space
	Events    bool // the event stream is up
	Reconnect int  // event streams that were opened
}

// Snapshot is the whole state at one moment. It is immutable and shared.
type Snapshot struct {
	At      time.Time
	Folder  string
	Problem *Problem // with the folder as a whole
	Owner   string
	Server  ServerStatus
	Files   []FileStatus   // by Name
	Volumes []VolumeStatus // by Name; the last list that was had, also while the server is away
	Totals  Totals
	next    chan struct{}
}

// Next is closed when a newer snapshot is there.
func (s *Snapshot) Next() <-chan struct{} { return s.next }

// Totals count since the start of the process.
type Totals struct {
	Imports, Copies, Replaced, Deleted, Failures int64
	BytesSent, BytesHashed                       int64
	HashSeconds, UploadSeconds, StoreSeconds     float64
	Scans, Lists                                 int64
}

// Policy is what the planner may do on its own. The zero value is the most careful one, but for Replace.
type Policy struct {
	Replace         Replace
	Prune           bool // delete our volumes whose file is gone
	RestoreDeleted  bool // import again what somebody deleted on the server
	Consume         bool // remove a file once its volume is verified; exclusive with Prune
	RequireChecksum bool // import nothing that no checksum list names
	// EarlyFrom is how many bytes a file must have, or say that it will have, to be sent while it is still being written;
	// 0 = none is.
	EarlyFrom int64
	// PruneDelay is how long a file must be missing, over at least two full scans, before its volume is pruned.
	PruneDelay time.Duration
}

// Replace says how a volume gets new bytes. A volume is never renamed: that corrupts it (SERVER-API 3.3).
type Replace string

// The ways to replace.
const (
	ReplaceStaged  Replace = "staged"   // needs room for both: import beside, delete the old one, copy on the server
	ReplaceInPlace Replace = "in-place" // keeps a private copy of the new bytes, deletes, imports
	ReplaceNever   Replace = "never"
)

// StatusFiles says which files get a text file beside them.
type StatusFiles string

// The choices for StatusFiles.
const (
	StatusProblems StatusFiles = "problems"
	StatusAll      StatusFiles = "all"
	StatusOff      StatusFiles = "off"
)
