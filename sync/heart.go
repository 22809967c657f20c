package sync

import (
	"context"
	"log/slog"
	"os"
	"time"

	"isosyncd/iso"
)

// Config is what a Syncer needs. Durations are positive; there are no defaults here, package config has them.
type Config struct {
	Folder          string // absolute path of the drop folder; must exist when Run starts
	StateDir        string // absolute path, ours alone (0700): journal, spool, lock
	Owner           string // goes into each mark: the same owner takes its volumes up again after a loss of StateDir
	Dial            func(ctx context.Context) (Remote, error)
	SettleDelay     time.Duration // how long a file is still before it counts as finished, where leases do not work
	ScanInterval    time.Duration // between full scans of the folder, events or not
	RefreshInterval time.Duration // between full lists of the pool, events or not
	MaxUploads      int           // at a time, 1 to 16
	Policy          Policy
	StatusFiles     StatusFiles
	Log             *slog.Logger
	NoLeases        bool                  // the folder's file system has none that work, as NFS: stillness counts
	Human           func(iso.Info) string // what a description says before the mark; nil = iso.Describe
	// Step, if not nil, is called at each named step of a change, before the next one: tests die there.
	Step func(name string)

	noWatch bool // tests in a synctest bubble scan by the clock alone
}

// EarlySize is a decent Policy.EarlyFrom: an image of less is finished before much of it is sent.
const EarlySize = 32 << 20

// Wait says how long Submit waits.
type Wait string

// The choices for Wait.
const (
	WaitImport Wait = "import" // until the volume is there and marked, or a Problem holds it
	WaitStaged Wait = "staged" // until the bytes are safe in the folder
)

// heart is what the other rooms use of a Syncer; each declares the part that it needs as an interface of its own.
// It stands here so that the whole of it is seen at once.
type heart interface {
	// Run works until ctx ends; nil after an orderly stop.
	Run(ctx context.Context) error
	// Close releases the state directory; after Run.
	Close() error
	// Snapshot never blocks and is never nil.
	Snapshot() *Snapshot
	// Ready is closed after the first scan and the first answer of the server; Alive feeds a watchdog.
	Ready() <-chan struct{}
	Alive() time.Time
	// Rescan looks at the folder again soon, Refresh at the pool.
	Rescan()
	Refresh()
	// Retry forgets the failures of a file or volume, also a volume's removal on the server, and tries again.
	Retry(ctx context.Context, name string) error
	// Adopt makes a foreign ISO volume ours, if a file of the folder maps to its name and has its size.
	Adopt(ctx context.Context, volume string) error

	// NewDraft makes a hidden file in the folder, open for reading and writing; the folder's scan ignores it.
	NewDraft(name string) (*os.File, error)
	// Submit puts the draft, whole and closed for writing by then, into the folder as name, and waits as told.
	// It takes the draft over, and closes it, whatever happens. The error is a *Problem (errors.As) or ctx's.
	// A name that is there already is replaced, as with cp.
	Submit(ctx context.Context, draft *os.File, name string, wait Wait) error
	// Discard removes a draft.
	Discard(draft *os.File)
	// Remove deletes one of our volumes and the folder's file for it; a *Problem (CodeForeign, CodeInUse) if it may not.
	Remove(ctx context.Context, volume string) error
	// Rename makes volume to from volume from (server-side copy, then delete) and renames the folder's file.
	Rename(ctx context.Context, from, to string) error
	// Open gives the local file that holds exactly the bytes of the volume, or an error that is fs.ErrNotExist.
	Open(volume string) (*os.File, error)
}

var _ heart = (*Syncer)(nil)
