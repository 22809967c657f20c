package fusefs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	isosync "isosyncd/sync"
)

const (
	// fsName is the source in /proc/self/mounts, and the type there is fuse.isosyncd: by them a mount is known as ours.
	fsName = "isosyncd"
	// maxRequest is how much one READ or WRITE carries: the most that Linux allows without a sysctl.
	maxRequest = 1 << 20
	// DefaultReserve is what drafts leave free on the folder's file system, in bytes.
	DefaultReserve = 512 << 20
	// sweepInterval is between two looks at what nobody came back for.
	sweepInterval = 5 * time.Second
	// leaveWait is how long the mount may take to go after it was told to.
	leaveWait = 5 * time.Second
)

// Config of a mount. Dir, Heart and Log are needed.
type Config struct {
	Dir        string // made if it is not there; must be empty
	Heart      Heart
	Openers    []Opener     // asked, after the heart, for local files with the bytes of volumes
	Export     Exporter     // gives them back from the server; nil = it cannot
	CacheDir   string       // for what Export gave; needed with it
	CacheSize  int64        // bytes; an image that is larger cannot be read from the server
	Wait       isosync.Wait // what close waits for; "" = WaitImport
	AllowOther bool         // other users may read; a normal user needs user_allow_other in /etc/fuse.conf
	UID, GID   uint32       // owner of all files
	Reserve    int64        // bytes that drafts leave free on the folder's file system; 0 = no limit
	Log        *slog.Logger

	anyName       bool        // tests of go-fuse write files under names of their own
	noPassthrough bool        // tests read through us also where the kernel could do it
	trace         *log.Logger // tests count requests: one line for each
	tune          func(*tree) // tests change times and the like before the first request
}

// ErrUnmounted is what Serve returns if somebody else unmounted.
var ErrUnmounted = errors.New("unmounted by somebody else")

// Mount is a mounted directory.
type Mount struct {
	dir    string
	tree   *tree
	server *fuse.Server
	log    *slog.Logger
	served chan struct{} // closed when no more requests come
	minor  uint32        // of the device number: the name under /sys/fs/fuse/connections
}

// New mounts. What a crash left at Dir is removed; anything else that is there is an error.
func New(cfg Config) (*Mount, error) {
	if cfg.Wait == "" {
		cfg.Wait = isosync.WaitImport
	}
	dir, err := realDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	if err := apart(dir, cfg.Heart.Snapshot().Folder); err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	if err := clearStale(dir, cfg.Log); err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	if err := emptyDir(dir); err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	t := newTree(cfg)
	if cfg.tune != nil {
		cfg.tune(t)
	}
	if cfg.Export != nil {
		t.cache, err = openCache(cfg.CacheDir, cfg.CacheSize, cfg.Export, cfg.Log)
		if err != nil {
			return nil, fmt.Errorf("mount %s: %w", dir, err)
		}
		t.cache.work, t.cache.until = &t.work, t.until
	}
	root := &rootNode{tree: t}
	server, err := fuse.NewServer(fs.NewNodeFS(root, nodeOptions()), dir, mountOptions(cfg))
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w%s", dir, err, mountHint(cfg))
	}
	m := &Mount{dir: dir, tree: t, server: server, log: cfg.Log, served: make(chan struct{})}
	go func() {
		defer close(m.served)
		server.Serve()
	}()
	if err := server.WaitMount(); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s: %w", dir, err), m.leave(context.Background()))
	}
	for _, mnt := range mountsAt(dir) {
		m.minor = mnt.minor
	}
	cfg.Log.Info("mounted", "file", dir)
	return m, nil
}

// nodeOptions leaves all timeouts to the nodes, which say them.
func nodeOptions() *fs.Options {
	return &fs.Options{NullPermissions: true, RootStableAttr: &fs.StableAttr{Ino: rootIno, Gen: 1}}
}

func mountOptions(cfg Config) *fuse.MountOptions {
	o := &fuse.MountOptions{
		FsName: fsName, Name: fsName,
		AllowOther: cfg.AllowOther,
		// fusermount3 gives nosuid and nodev by itself, and refuses nothing of these.
		Options: []string{"nosuid", "nodev", "noexec"},
		// Whoever may mount does so by itself: root, and the service, which has CAP_SYS_ADMIN and nothing that runs with
		// more rights than it. For all others go-fuse goes on to fusermount3.
		DirectMount:              true,
		MaxWrite:                 maxRequest,
		MaxReadAhead:             maxRequest,
		MaxBackground:            64,
		ExplicitDataCacheControl: true, // content never changes under an inode, so no page is ever dropped for a new mtime
		// OPEN is told of O_TRUNC, which is what makes it an overwrite. No file here has capabilities or a set-user-ID
		// bit, so a write has none to take away, and the kernel need not ask at each.
		ExtraCapabilities: fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_HANDLE_KILLPRIV_V2,
		Logger:            log.New(debugLog{cfg.Log}, "", 0),
	}
	// In a private mount all files belong to the only one who can enter, and 0444 would only keep cp from writing over
	// an image. Root is not stopped by it anyway.
	if cfg.AllowOther || os.Geteuid() == 0 {
		o.Options = append(o.Options, "default_permissions")
	}
	if cfg.trace != nil {
		o.Debug, o.Logger = true, cfg.trace
	}
	if cfg.noPassthrough {
		o.DisabledCapabilities |= fuse.CAP_PASSTHROUGH
	}
	return o
}

// debugLog takes what the library has to say: remarks for whoever looks for a fault in it.
type debugLog struct{ log *slog.Logger }

func (d debugLog) Write(p []byte) (int, error) {
	d.log.Debug("fuse", "err", strings.TrimSpace(string(p)))
	return len(p), nil
}

var _ io.Writer = debugLog{}

func mountHint(cfg Config) string {
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Geteuid() == 0 {
		return "; is /dev/fuse there?"
	}
	switch {
	case cfg.AllowOther:
		return "; allow_other needs a line user_allow_other in /etc/fuse.conf, and fusermount3 must be installed"
	}
	return "; fusermount3 must be installed, and the directory must be yours"
}

// Serve answers until ctx ends, then unmounts, and returns nil. It is ErrUnmounted if somebody else did that.
func (m *Mount) Serve(ctx context.Context) error {
	sweep := time.NewTicker(sweepInterval)
	defer sweep.Stop()
	for {
		select {
		case now := <-sweep.C:
			m.tree.sweep(now)
			continue
		case <-m.served:
			m.tree.halt()
			m.tree.keep(context.WithoutCancel(ctx))
			m.tree.work.Wait()
			return fmt.Errorf("mount %s: %w", m.dir, ErrUnmounted)
		case <-ctx.Done():
		}
		break
	}
	return m.leave(context.WithoutCancel(ctx))
}

// leave ends all waits and unmounts: orderly if nobody is there, else lazily, which the log says. Files that are open
// then give errors, but for those that the kernel reads by itself.
func (m *Mount) leave(ctx context.Context) error {
	m.tree.halt()
	err := unmount(ctx, m.dir, false)
	if err != nil {
		m.log.Warn("the mount is busy, so it is detached: it is gone for new users, and files that are open fail",
			"file", m.dir, "err", err)
		err = unmount(ctx, m.dir, true)
	}
	timer := time.NewTimer(leaveWait)
	defer timer.Stop()
	select {
	case <-m.served:
		m.tree.keep(ctx)
		m.tree.work.Wait()
		m.log.Info("unmounted", "file", m.dir)
		return nil // whatever the helper thought of it
	case <-timer.C:
	}
	if abort := m.abort(); abort == nil {
		<-m.served
		err = nil
	}
	m.tree.keep(ctx)
	if err != nil {
		return fmt.Errorf("unmount %s: %w", m.dir, err)
	}
	return nil
}

// abort ends the connection in the kernel, so that nobody waits for us any more.
func (m *Mount) abort() error {
	path := filepath.Join("/sys/fs/fuse/connections", strconv.Itoa(int(m.minor)), "abort")
	return os.WriteFile(path, []byte("1"), 0)
}

// unmount removes what is mounted at dir: with lazy also if it is in use, and what is open then fails.
func unmount(ctx context.Context, dir string, lazy bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH | unix.MNT_FORCE // forced = the connection is aborted first
	}
	if err := unix.Unmount(dir, flags); !errors.Is(err, unix.EPERM) {
		return err
	}
	args := []string{"-u", dir}
	if lazy {
		args = []string{"-u", "-z", dir}
	}
	out, err := exec.CommandContext(ctx, "fusermount3", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
