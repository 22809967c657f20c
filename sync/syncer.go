package sync

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	gosync "sync"
	"sync/atomic"
	"time"

	"isosyncd/iso"
)

// Syncer keeps one folder and one pool together. One goroutine decides (decider.loop); the scanner, the lister, the
// event reader and the workers only tell it what they found.
type Syncer struct {
	cfg     Config
	journal *journal
	spool   *spool
	inbox   *inbox
	moved   string // where an unreadable journal went; "" = it was readable
	totals  counters

	snapshot atomic.Pointer[Snapshot]
	alive    atomic.Int64 // UnixNano of the deciding goroutine's last turn
	ready    chan struct{}
	running  atomic.Bool

	requests chan func(*decider)
	stopped  chan struct{} // closed when Run returns
	wakeScan chan struct{} // 1-buffered, like wakeList: many hints are one
	wakeList chan struct{}
	hints    chan struct{} // likewise: somebody, perhaps we, changed something on the server
}

// New opens the state directory. It does no I/O on folder or server; ErrLocked if another process has the directory.
func New(cfg Config) (*Syncer, error) {
	if cfg.Step == nil {
		cfg.Step = func(string) {}
	}
	if cfg.Human == nil {
		cfg.Human = iso.Describe
	}
	if err := private(cfg.StateDir); err != nil {
		return nil, err
	}
	j, moved, err := openJournal(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	sp, err := openSpool(filepath.Join(cfg.StateDir, "spool"))
	if err != nil {
		return nil, errors.Join(err, j.close())
	}
	s := &Syncer{
		cfg: cfg, journal: j, spool: sp, moved: moved,
		inbox: newInbox(inboxConfig{
			Path: cfg.Folder, SettleDelay: cfg.SettleDelay, Owner: cfg.Owner, Now: time.Now, Log: cfg.Log, Leases: !cfg.NoLeases,
			Early: cfg.Policy.EarlyFrom > 0,
		}),
		ready:    make(chan struct{}),
		requests: make(chan func(*decider)),
		stopped:  make(chan struct{}),
		wakeScan: make(chan struct{}, 1),
		wakeList: make(chan struct{}, 1),
		hints:    make(chan struct{}, 1),
	}
	s.snapshot.Store(&Snapshot{At: time.Now(), Folder: cfg.Folder, Owner: cfg.Owner, next: make(chan struct{})})
	return s, nil
}

// private makes the state directory, and refuses one that others may write to: the journal decides what is deleted.
func private(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	st, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("state directory %s can be written by others (mode %04o); make it 0700", dir, st.Mode().Perm())
	}
	return nil
}

// Close releases the state directory. Run must have returned.
func (s *Syncer) Close() error { return s.journal.close() }

// Run works until ctx ends, and returns nil then. It may be called once.
func (s *Syncer) Run(ctx context.Context) error {
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("a Syncer runs once")
	}
	defer close(s.stopped)
	if s.moved != "" {
		s.cfg.Log.Warn("the journal could not be read and was set aside; volumes are known again by their marks",
			"file", s.moved)
	}
	s.inbox.sweep()
	ctx, cancel := context.WithCancel(ctx)
	var wg gosync.WaitGroup
	defer wg.Wait()
	defer cancel()

	d := newDecider(s, func(f func()) { wg.Go(f) })
	wg.Go(func() { s.inbox.watchLeases(ctx) })
	if !s.cfg.noWatch {
		wg.Go(func() { s.watch(ctx) })
	}
	wg.Go(func() { d.scanner(ctx) })
	return d.loop(ctx)
}

// watch turns events of the folder into wakes. Without a watch the periodic scan does it alone.
func (s *Syncer) watch(ctx context.Context) {
	err := s.inbox.watch(ctx, s.Rescan)
	if err != nil && ctx.Err() == nil {
		s.cfg.Log.Warn("the folder cannot be watched; it is scanned every scan_interval",
			"elapsed", s.cfg.ScanInterval, "err", err)
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Rescan looks at the folder again soon.
func (s *Syncer) Rescan() { wake(s.wakeScan) }

// Refresh lists the pool again soon.
func (s *Syncer) Refresh() { wake(s.wakeList) }

// Snapshot is the newest one; never nil.
func (s *Syncer) Snapshot() *Snapshot { return s.snapshot.Load() }

// Ready is closed after the first scan of the folder and the first answer of the server, good or bad.
func (s *Syncer) Ready() <-chan struct{} { return s.ready }

// Alive is when the deciding goroutine last took a turn; it does so every few seconds. A watchdog is fed by it.
func (s *Syncer) Alive() time.Time { return time.Unix(0, s.alive.Load()) }

// errStopped answers requests to a Syncer that does not run.
var errStopped = errors.New("isosyncd is stopping")

// do runs f on the deciding goroutine.
func (s *Syncer) do(ctx context.Context, f func(*decider) error) error {
	done := make(chan error, 1)
	select {
	case s.requests <- func(d *decider) { done <- f(d) }:
	case <-s.stopped:
		return errStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-s.stopped:
		return errStopped
	}
}

// counters are the live form of Totals.
type counters struct {
	imports, copies, replaced, deleted, failures atomic.Int64
	bytesSent, bytesHashed                       atomic.Int64
	hashTime, sendTime, storeTime                atomic.Int64 // nanoseconds
	scans, lists                                 atomic.Int64
}

func (c *counters) hashed(n int64, d time.Duration) { c.bytesHashed.Add(n); c.hashTime.Add(int64(d)) }
func (c *counters) sent(n int64, d time.Duration)   { c.bytesSent.Add(n); c.sendTime.Add(int64(d)) }
func (c *counters) stored(d time.Duration)          { c.storeTime.Add(int64(d)) }

func (c *counters) totals() Totals {
	seconds := func(n *atomic.Int64) float64 { return time.Duration(n.Load()).Seconds() }
	return Totals{
		Imports: c.imports.Load(), Copies: c.copies.Load(), Replaced: c.replaced.Load(), Deleted: c.deleted.Load(),
		Failures: c.failures.Load(), BytesSent: c.bytesSent.Load(), BytesHashed: c.bytesHashed.Load(),
		HashSeconds: seconds(&c.hashTime), UploadSeconds: seconds(&c.sendTime), StoreSeconds: seconds(&c.storeTime),
		Scans: c.scans.Load(), Lists: c.lists.Load(),
	}
}

// backoff is how long to wait after the n-th failure in a row, n >= 1: 1 s doubling to 5 min, with a fifth of jitter so
// that many do not come back at once.
func backoff(n int) time.Duration {
	const longest = 5 * time.Minute
	d := longest
	if n < 10 {
		d = min(longest, time.Second<<(n-1))
	}
	return d - time.Duration(rand.Int64N(int64(d)/5+1))
}
