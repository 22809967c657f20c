// Package store is the server half of LX045 over plain files: a store of ISO volumes that speaks the part of the LXD
// (and Incus) REST API that such volumes need. Its clients are package lxd and the lxc and incus programs.
//
// On disk, for whoever looks:
//
//	DIR/lock                          held while a process serves DIR
//	DIR/state.json                    pools, projects and profiles
//	DIR/pools/POOL/PROJECT/NAME.iso   the bytes of a volume, read-only; exactly as they were sent
//	DIR/pools/POOL/PROJECT/NAME.json  what else is known of it
//	DIR/pools/POOL/.tmp/              uploads under way; swept at the start
//
// A volume exists from the moment when its complete and synced data file is renamed to NAME.iso, and until that file
// is unlinked; its JSON file is there before and after. So a process or machine that dies leaves whole volumes only,
// and what else lies around belongs to nobody and is swept.
//
// What it does not do: other content types, instances, snapshots, quotas, clusters, certificates. It refuses them.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Options of Open. The zero value is right for a store that serves LXD's dialect.
type Options struct {
	// Vendor is whose dialect to speak: "lxd" (and "") or "incus". Only Incus' can give the bytes of a volume back.
	Vendor string
	// Log is told what a person should know; nil = nobody is.
	Log *slog.Logger
	// Gate, if not nil, is called by each operation at its start and at each point after which a crash would leave
	// something else on disk. It may block; an error fails the operation there. It must return when stop is closed.
	// It is for tests.
	Gate func(point Point, volume string, stop <-chan struct{}) error
}

// Point is where a Gate stands.
type Point string

// The points of an operation, in their order.
const (
	PointBegin     Point = "begin"     // the operation runs; nothing is done yet
	PointSynced    Point = "synced"    // the data is on the disk, under a temporary name
	PointDescribed Point = "described" // NAME.json is there, NAME.iso is not
	PointCommitted Point = "committed" // NAME.iso is there, and not synced yet
	PointUnlinked  Point = "unlinked"  // of a deletion: NAME.iso is gone, NAME.json is not
)

// Store is an open store. It is safe for use by several goroutines.
type Store struct {
	dir    string
	vendor string
	log    *slog.Logger
	gate   func(Point, string, <-chan struct{}) error
	lock   *os.File
	ops    *operations
	hub    *hub

	change sync.Mutex // held while something on disk changes, but for uploads; taken before mu

	mu      sync.RWMutex
	state   state             // guarded by mu; persisted
	volumes map[key]*volume   // guarded by mu; a volume is never changed, but exchanged
	backups map[key][]*backup // guarded by mu

	life     sync.Mutex
	active   int           // guarded by life; requests and operations under way
	closing  bool          // guarded by life
	idle     chan struct{} // guarded by life; closed when active gets to 0 while closing
	stop     chan struct{} // closed when what is under way must be left as it is
	stopOnce sync.Once     // guards stop
}

// ErrLocked is wrapped by Open's error when another process serves the directory.
var ErrLocked = errors.New("in use by another process")

// Open opens the store in dir, which is made if it is missing, with a pool "default" if it has none. It sweeps what a
// crash left.
func Open(dir string, opts Options) (*Store, error) {
	s := &Store{
		dir:     dir,
		vendor:  opts.Vendor,
		log:     opts.Log,
		gate:    opts.Gate,
		volumes: map[key]*volume{},
		backups: map[key][]*backup{},
		idle:    make(chan struct{}),
		stop:    make(chan struct{}),
	}
	switch s.vendor {
	case "":
		s.vendor = vendorLXD
	case vendorLXD, vendorIncus:
	default:
		return nil, fmt.Errorf("open store: there is no dialect %q; want lxd or incus", opts.Vendor)
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(filepath.Join(dir, "pools"), 0o750); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	lock, err := lockFile(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	s.lock = lock
	s.hub = newHub()
	s.ops = newOperations(s.vendor, s.hub, forgetAfter)
	if err := s.load(); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	return s, nil
}

// lockFile takes the lock, which is given back by closing the file, or by dying.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("lock: %w", err)
	}
	return f, nil
}

// Close takes no more requests, and waits for what is under way until ctx is done; then it leaves that as it stands,
// like a process that is killed: the next Open sweeps it. Event streams are ended first. It may be called once.
func (s *Store) Close(ctx context.Context) error {
	s.life.Lock()
	s.closing = true
	if s.active == 0 {
		s.closeIdle()
	}
	s.life.Unlock()
	s.hub.close()
	var err error
	select {
	case <-s.idle:
	case <-ctx.Done():
		err = context.Cause(ctx)
		s.stopOnce.Do(func() { close(s.stop) })
		<-s.idle
	}
	s.ops.close()
	// A child process that is just being started shares the lock until it runs its own program.
	_ = unix.Flock(int(s.lock.Fd()), unix.LOCK_UN)
	if e := s.lock.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// closeIdle is called with life held.
func (s *Store) closeIdle() {
	select {
	case <-s.idle:
	default:
		close(s.idle)
	}
}

// enter counts a request or operation that begins; false = the store is being closed.
func (s *Store) enter() bool {
	s.life.Lock()
	defer s.life.Unlock()
	if s.closing {
		return false
	}
	s.active++
	return true
}

// again counts an operation that a request, which is counted already, begins.
func (s *Store) again() {
	s.life.Lock()
	defer s.life.Unlock()
	s.active++
}

func (s *Store) leave() {
	s.life.Lock()
	defer s.life.Unlock()
	if s.active--; s.active == 0 && s.closing {
		s.closeIdle()
	}
}

// errStopped is the end of an operation that Close left.
var errStopped = errors.New("the store was closed")

// stopped reports errStopped once what is under way must be left as it is. Nothing on disk is touched after that.
func (s *Store) stopped() error {
	select {
	case <-s.stop:
		return errStopped
	default:
		return nil
	}
}

// pass is called at the points of operations.
func (s *Store) pass(p Point, volume string) error {
	if s.gate != nil {
		if err := s.gate(p, volume, s.stop); err != nil {
			return err
		}
	}
	return s.stopped()
}

// Serve answers the connections of l until ctx is done, and then closes l, gives requests a moment to end, and cuts
// off the rest. The error is nil if it ended because of ctx. Who may connect is up to l: the store trusts everybody.
func (s *Store) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       30 * time.Second, // as both servers (SERVER-API 6)
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve store: %w", err)
	case <-ctx.Done():
	}
	const moment = 2 * time.Second
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), moment)
	defer cancel()
	if srv.Shutdown(grace) != nil {
		_ = srv.Close()
	}
	_ = <-ended
	return nil
}

// VolumePath is where the bytes of a volume are. The file never changes; it may be unlinked while it is open.
// os.ErrNotExist where there is no such volume.
func (s *Store) VolumePath(project, pool, name string) (string, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if _, ok := s.volumes[key{pool, s.state.storageProject(project), name}]; !ok {
		return "", fmt.Errorf("volume %q of pool %q: %w", name, pool, os.ErrNotExist)
	}
	return s.dataPath(key{pool, s.state.storageProject(project), name}), nil
}
