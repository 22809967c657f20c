package fusefs

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	isosync "isosyncd/sync"
)

// How long things last and wait.
const (
	attrTimeout = 900 * time.Millisecond // of attributes, and of names that a listing gave
	// draftLife is how long a file under a temporary name, or an empty one, waits for what comes next.
	draftLife = 24 * time.Hour
	// pendingLife is how long the kernel may take to come back for an overwrite that it was told to look up again.
	pendingLife = 10 * time.Second
	// lockedWait bounds what UNLINK and RENAME wait for the server: the kernel's lock of the directory is held.
	lockedWait = 30 * time.Second
	// renameWait is how long the RENAME that makes a draft an image waits for its import, once its bytes are safe.
	renameWait = 5 * time.Second
)

// ghostLife is how long a file that could not be renamed keeps its old name, though its bytes are the heart's: mv(1) looks
// at it again and tries a second time, and shall then say why it failed.
const ghostLife = 2 * time.Second

// maxNotes bounds the failures that are remembered for .isosyncd/errors.
const maxNotes = 1000

// tree is what all nodes of a mount share.
type tree struct {
	heart    Heart
	openers  []Opener // the heart first
	cache    *cache   // nil = the server cannot give bytes back
	wait     isosync.Wait
	reserve  int64 // bytes that drafts leave free on the folder's file system
	log      *slog.Logger
	uid, gid uint32
	anyName  bool
	born     time.Time
	locked   time.Duration // lockedWait; tests shorten it
	settle   time.Duration // renameWait
	// Who has a draft open; tests that have no kernel put something else here.
	holders   func(ino uint64, tid uint32) holding
	anyHolder func(ino uint64) holding
	// Whether the signal that interrupted a thread is one that should; the same.
	interrupted func(tid uint32) bool

	stop    chan struct{} // closed when the mount goes away
	work    sync.WaitGroup
	lastIno atomic.Uint64 // of drafts

	viewMu  sync.Mutex // making a view
	current atomic.Pointer[view]

	mu      sync.Mutex
	stopped bool               // guarded by mu: stop is closed
	drafts  map[*draft]bool    // guarded by mu
	pending map[uint32]pending // guarded by mu: overwrites that a thread is about to look up again
	notes   map[string]note    // guarded by mu: failures by name
}

// pending is an overwrite between the OPEN of the volume, which was refused with ESTALE, and that of the draft.
type pending struct {
	name  string // of the volume's entry
	draft *draft // nil = the volume was gone, and the lookup that follows tells which one is meant
	since time.Time
}

// note is a failure that .isosyncd/errors tells.
type note struct {
	at  time.Time
	err error
}

func newTree(cfg Config) *tree {
	t := &tree{
		heart: cfg.Heart, openers: append([]Opener{cfg.Heart}, cfg.Openers...), wait: cfg.Wait, reserve: cfg.Reserve,
		log: cfg.Log, uid: cfg.UID, gid: cfg.GID, anyName: cfg.anyName, born: time.Now(), locked: lockedWait, settle: renameWait,
		holders: holdersOf, anyHolder: anyHolder, interrupted: interrupted, stop: make(chan struct{}),
		drafts: map[*draft]bool{}, pending: map[uint32]pending{}, notes: map[string]note{},
	}
	t.lastIno.Store(draftInos | uint64(t.born.UnixNano())>>2&(draftInos-1))
	return t
}

// view is the newest Snapshot as a directory.
func (t *tree) view() *view {
	snap := t.heart.Snapshot()
	if v := t.current.Load(); v != nil && v.snap == snap {
		return v
	}
	t.viewMu.Lock()
	defer t.viewMu.Unlock()
	old := t.current.Load()
	snap = t.heart.Snapshot()
	if old != nil && old.snap == snap {
		return old
	}
	v := newView(snap, old)
	t.current.Store(v)
	return v
}

// until makes a context that ends with ctx, which is a request's, and with the mount; its cause is errStopping then.
func (t *tree) until(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	t.work.Go(func() {
		select {
		case <-t.stop:
			cancel(errStopping)
		case <-ctx.Done():
		}
	})
	return ctx, func() { cancel(nil) }
}

// cause is err, or what ended ctx if that is why.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}

// refuse remembers why an operation on name failed, and gives the number for it.
func (t *tree) refuse(name string, err error) syscall.Errno {
	return t.refuseAs(name, err, toErrno(err))
}

func (t *tree) refuseAs(name string, err error, errno syscall.Errno) syscall.Errno {
	if errno == syscall.EINTR || errno == 0 {
		return errno
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, have := t.notes[name]; !have && len(t.notes) >= maxNotes {
		oldest := ""
		for n, note := range t.notes {
			if oldest == "" || note.at.Before(t.notes[oldest].at) {
				oldest = n
			}
		}
		delete(t.notes, oldest)
	}
	t.notes[name] = note{at: time.Now(), err: err}
	return errno
}

// forgive forgets a failure, since the same name went well.
func (t *tree) forgive(names ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range names {
		delete(t.notes, n)
	}
}

// sweep ends what nobody came back for. It is called now and then.
func (t *tree) sweep(now time.Time) {
	v := t.view()
	var lost []*draft
	t.mu.Lock()
	for tid, p := range t.pending {
		if now.Sub(p.since) > pendingLife {
			delete(t.pending, tid)
		}
	}
	for d := range t.drafts {
		if d.expired(now, v) {
			lost = append(lost, d)
		}
	}
	t.mu.Unlock()
	for _, d := range lost {
		if d.keeps() {
			t.log.Info("a file under a temporary name was given up: nobody renamed it", "file", d.title())
		}
		t.drop(d)
	}
}
