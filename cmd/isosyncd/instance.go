package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	gosync "sync"
	"sync/atomic"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"isosyncd/config"
	"isosyncd/control"
	"isosyncd/fusefs"
	"isosyncd/iso"
	"isosyncd/lxd"
	isosync "isosyncd/sync"
)

// osinfoDir is where the osinfo-db package puts what it knows of operating systems' images.
const osinfoDir = "/usr/share/osinfo"

// instance is one running daemon: one folder, one pool.
type instance struct {
	cfg     *config.Loaded
	log     *logger
	notify  *notifier
	reload  func() (*config.Loaded, error)
	hangups <-chan os.Signal

	known func()                   // reads osinfo-db, unless it was read; set by heartConfig
	pool  atomic.Pointer[lxd.Pool] // that was dialled last; the mount reads images back by it
}

// run is the order of start; stop is its reverse. It returns nil after an orderly stop.
func (d *instance) run(ctx context.Context) error {
	// 1. The server is found, or the embedded store is started. Without any there is nothing to wait for.
	conn, err := openRemote(ctx, d.cfg, d.log.Logger)
	if err != nil {
		return err
	}
	defer conn.close()

	// 2. The state directory is ours, and the journal is read.
	heart, err := isosync.New(d.heartConfig(conn))
	if err != nil {
		return err
	}
	defer func() {
		if err := heart.Close(); err != nil {
			d.log.Error("the journal could not be closed", "err", err)
		}
	}()

	// 3. Sockets are opened while somebody is there to hear that they cannot be.
	socket, err := d.controlListener(ctx)
	if err != nil {
		return err
	}
	metrics, err := d.metricsListener(ctx)
	if err != nil {
		return errors.Join(err, socket.Close())
	}

	d.log.Info("starting", "version", versionText(), "file", d.cfg.Folder, "addr", conn.addr, "owner", d.cfg.Owner)
	defer d.log.Info("stopped")
	return d.serve(ctx, heart, conn, socket, metrics)
}

// serve runs everything at once. The heart stops last: the mount and the control socket wait for it.
func (d *instance) serve(ctx context.Context, heart *isosync.Syncer, conn *connection, socket, metrics net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	beating, stopHeart := context.WithCancel(context.WithoutCancel(ctx))
	defer stopHeart()
	// 4. The heart: sweeps, scans, lists, finishes what an earlier life left.
	g.Go(func() error { return heart.Run(beating) })

	// 5. What looks at the heart.
	var front gosync.WaitGroup
	start := func(f func() error) {
		front.Add(1)
		g.Go(func() error {
			defer front.Done()
			return f()
		})
	}
	m := control.NewMetrics(heart)
	start(func() error {
		return (&control.Socket{Heart: heart, Metrics: m, Log: d.log.Logger}).Serve(ctx, socket)
	})
	if metrics != nil {
		start(func() error { return control.ServeMetrics(ctx, metrics, m, d.log.Logger) })
	}
	start(func() error { d.notify.status(ctx, heart.Snapshot); return nil })
	start(func() error {
		interval, err := daemon.SdWatchdogEnabled(false)
		if err != nil {
			return fmt.Errorf("watchdog: %w", err)
		}
		d.notify.watchdog(ctx, interval, heart)
		return nil
	})
	start(func() error { d.mind(ctx, heart); return nil })

	// 6. After the first look at folder and server: the mount, and only then ready.
	start(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-heart.Ready(): // the mount answers from the snapshot that is there by now
		}
		if d.cfg.Mount == "" {
			d.ready()
			return nil
		}
		return d.showMount(ctx, heart, conn)
	})

	g.Go(func() error {
		<-ctx.Done()
		d.notify.tell(daemon.SdNotifyStopping)
		front.Wait()
		stopHeart()
		return nil
	})
	return g.Wait()
}

func (d *instance) ready() {
	d.log.Info("ready")
	d.notify.tell(daemon.SdNotifyReady)
	go d.known()
}

// showMount mounts, and serves the mount until ctx ends.
func (d *instance) showMount(ctx context.Context, heart *isosync.Syncer, conn *connection) error {
	cfg := fusefs.Config{
		Dir: d.cfg.Mount, Heart: heart, Log: d.log.Logger,
		Export: exporter{&d.pool}, CacheDir: filepath.Join(d.cfg.StateDir, "cache"), CacheSize: int64(d.cfg.CacheSize),
		Wait: isosync.Wait(d.cfg.MountWait), AllowOther: d.cfg.AllowOther,
		UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Reserve: fusefs.DefaultReserve,
	}
	if conn.store != nil {
		cfg.Openers = []fusefs.Opener{embeddedFiles{conn, heart}}
	}
	m, err := fusefs.New(cfg)
	if err != nil {
		return err
	}
	d.ready() // New returns when the kernel has the mount
	return m.Serve(ctx)
}

// mind reads the configuration again when told to.
func (d *instance) mind(ctx context.Context, heart *isosync.Syncer) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.hangups:
		}
		// RELOADING needs the time since boot, so that systemd can tell its READY from an older one (sd_notify(3)).
		d.notify.tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
		now, err := d.reload()
		if err == nil {
			err = now.CheckRun()
		}
		if err != nil {
			d.log.Error("the new configuration is wrong, so the old one stays", "err", err)
		} else {
			applyReload(d.log, d.cfg, now)
		}
		heart.Rescan()
		heart.Refresh()
		d.notify.tell(daemon.SdNotifyReady)
	}
}

func (d *instance) heartConfig(conn *connection) isosync.Config {
	cfg := d.cfg
	return isosync.Config{
		Folder: filepath.Clean(cfg.Folder), StateDir: cfg.StateDir, Owner: cfg.Owner,
		Dial: func(ctx context.Context) (isosync.Remote, error) {
			r, err := conn.dial(ctx)
			if p, ok := r.(*lxd.Pool); ok && err == nil {
				d.pool.Store(p)
			}
			return r, err
		},
		SettleDelay: cfg.SettleDelay, ScanInterval: cfg.ScanInterval, RefreshInterval: cfg.RefreshInterval,
		MaxUploads: cfg.MaxUploads,
		Policy: isosync.Policy{
			Replace: isosync.Replace(cfg.Replace), Prune: cfg.Prune, PruneDelay: cfg.PruneDelay,
			RestoreDeleted: cfg.RestoreDeleted, Consume: cfg.Consume, RequireChecksum: cfg.RequireChecksum,
			EarlyFrom: earlyFrom(cfg.EarlyUpload),
		},
		StatusFiles: isosync.StatusFiles(cfg.StatusFiles),
		Log:         d.log.Logger,
		Human:       d.human(),
		Step:        failpoints(),
	}
}

// earlyFrom is how large an image must be, in bytes, to be sent while it is still being written; 0 = none is. A smaller
// one is finished before much of it is sent.
func earlyFrom(setting string) int64 {
	if setting == "off" {
		return 0
	}
	return earlySize()
}

// human names images as osinfo-db does, where it is installed and knows them. To read it takes up to a second: d.known does
// it beforehand, so that the first image does not wait.
func (d *instance) human() func(iso.Info) string {
	db := gosync.OnceValue(func() *iso.OSDB {
		db, err := iso.LoadOSDB(osinfoDir)
		if err != nil {
			d.log.Warn("a part of osinfo-db could not be read", "file", osinfoDir, "err", err)
		}
		return db
	})
	d.known = func() { db() }
	return func(info iso.Info) string {
		if name, guess := db().Name(info); name != "" && !guess {
			return name
		}
		return iso.Describe(info)
	}
}

// controlListener is the socket that systemd gave, or one of our own.
func (d *instance) controlListener(ctx context.Context) (net.Listener, error) {
	ln, err := control.Activated()
	if ln != nil || err != nil {
		return ln, err
	}
	path := d.cfg.Control
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("control socket: %w; choose another place with control", err)
	}
	return control.Listen(ctx, path)
}

// metricsListener is nil where no address is set.
func (d *instance) metricsListener(ctx context.Context) (net.Listener, error) {
	if d.cfg.MetricsAddress == "" {
		return nil, nil
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", d.cfg.MetricsAddress)
	if err != nil {
		return nil, fmt.Errorf("metrics_address: %w", err)
	}
	return ln, nil
}

// exporter gives images back from the server that was dialled last.
type exporter struct{ pool *atomic.Pointer[lxd.Pool] }

var _ fusefs.Exporter = exporter{}

// Export fails with lxd.ErrAway before the first connection.
func (e exporter) Export(ctx context.Context, volume string) (io.ReadCloser, int64, error) {
	p := e.pool.Load()
	if p == nil {
		return nil, 0, lxd.ErrAway
	}
	return p.Export(ctx, volume)
}

// embeddedFiles finds the bytes of volumes in the embedded store. Pool and project are those of the last listing.
type embeddedFiles struct {
	conn  *connection
	heart *isosync.Syncer
}

var _ fusefs.Opener = embeddedFiles{}

// Open gives the file with the bytes of a volume; fs.ErrNotExist if there is no such volume.
func (e embeddedFiles) Open(volume string) (*os.File, error) {
	server := e.heart.Snapshot().Server
	path, err := e.conn.store.VolumePath(server.Project, server.Pool, volume)
	if err != nil {
		return nil, err
	}
	return os.Open(path)
}
