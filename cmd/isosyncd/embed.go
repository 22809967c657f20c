package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	gosync "sync"
	"time"

	"isosyncd/config"
	"isosyncd/lxd"
	"isosyncd/store"
)

const (
	maxSocketPath = 107             // bytes of sun_path less its NUL, unix(7)
	storeClose    = 5 * time.Second // what is under way may take to end; then it is swept at the next start
)

// storeSocket is where the store in dir listens. Only the owner gets into its directory: the store trusts everybody who
// connects.
func storeSocket(dir string) string { return filepath.Join(dir, "run", "unix.socket") }

// embed serves the store in dir from this process, and dials it. If another process serves that directory already, it
// dials that: isosyncd list works while the daemon runs.
func embed(ctx context.Context, dir string, cfg *config.Loaded, log *slog.Logger) (*connection, error) {
	s, err := store.Open(dir, store.Options{Log: log})
	if errors.Is(err, store.ErrLocked) {
		if _, serr := os.Stat(storeSocket(dir)); serr == nil {
			return dialer(lxd.Target{Addr: "unix:" + storeSocket(dir)}, cfg), nil
		}
	}
	if err != nil {
		return nil, err
	}
	ln, clean, err := storeListener(ctx, dir)
	if err != nil {
		return nil, errors.Join(err, s.Close(ctx))
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg gosync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(serving, ln); err != nil {
			log.Error("the embedded store ended", "err", err)
		}
	})
	c := dialer(lxd.Target{Addr: "unix:" + ln.Addr().String()}, cfg)
	c.store = s
	c.close = gosync.OnceFunc(func() {
		stop()
		wg.Wait()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeClose)
		defer cancel()
		if err := s.Close(grace); err != nil {
			log.Warn("the embedded store was closed while something was under way; it is swept at the next start", "err", err)
		}
		clean()
	})
	return c, nil
}

// storeListener listens in a private directory: in dir, or elsewhere if that makes too long a path for a socket.
func storeListener(ctx context.Context, dir string) (ln net.Listener, clean func(), err error) {
	path, clean := storeSocket(dir), func() {}
	if len(path) > maxSocketPath {
		tmp, err := os.MkdirTemp("", "isosyncd-store-")
		if err != nil {
			return nil, nil, fmt.Errorf("embedded store: %w", err)
		}
		path = filepath.Join(tmp, "unix.socket")
		clean = func() { _ = os.RemoveAll(tmp) } // an empty directory of ours; nothing rests on it
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		clean()
		return nil, nil, fmt.Errorf("embedded store: %w", err)
	}
	// We hold the store's lock: whatever socket is there is that of a process that died.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		clean()
		return nil, nil, fmt.Errorf("embedded store: %w", err)
	}
	var lc net.ListenConfig
	if ln, err = lc.Listen(ctx, "unix", path); err != nil {
		clean()
		return nil, nil, fmt.Errorf("embedded store: %w", err)
	}
	return ln, clean, nil
}
