package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"isosyncd/config"
	"isosyncd/store"
)

func newStoreCommand(a *app) *cobra.Command {
	var listen, dialect, level string
	cmd := &cobra.Command{
		Use:   "store DIR",
		Short: "Serve a directory as a store of ISO volumes that speaks LXD's interface",
		Long: `Serve a directory as a store of ISO volumes over the part of LXD's (or Incus') REST interface that they need. It has
a pool "default". The lxc and incus programs can talk to it, and isosyncd can with --remote unix:PATH.

Whoever may connect to the socket may do everything there: keep its directory private.`,
		Example: `  isosyncd store /srv/isos
  LXD_SOCKET=/srv/isos/run/unix.socket lxc storage volume list default
  isosyncd run --folder /srv/iso-drop --remote unix:/srv/isos/run/unix.socket`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("store %s: %w", args[0], err)
			}
			path := storeSocket(dir)
			if listen != "" {
				var ok bool
				if path, ok = strings.CutPrefix(listen, "unix:"); !ok || path == "" {
					return usage(cmd, "--listen must be unix:PATH, and not %q", listen)
				}
			}
			if dialect != "lxd" && dialect != "incus" {
				return usage(cmd, "--dialect must be lxd or incus, and not %q", dialect)
			}
			log, err := newLogger(a.stderr, &config.Settings{LogLevel: level, LogFormat: "auto"})
			if err != nil {
				return usage(cmd, "%w", err)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			s, err := store.Open(dir, store.Options{Vendor: dialect, Log: log.Logger})
			if err != nil {
				return err
			}
			defer func() {
				grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeClose)
				defer cancel()
				if err := s.Close(grace); err != nil {
					log.Warn("closed while something was under way; it is swept at the next start", "err", err)
				}
			}()
			ln, err := listenPrivate(ctx, path)
			if err != nil {
				return fmt.Errorf("store %s: %w", dir, err)
			}
			log.Info("serving the store", "file", dir, "addr", "unix:"+path)
			return s.Serve(ctx, ln)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "", "socket to listen on, as `unix:PATH` (default unix:DIR/run/unix.socket)")
	cmd.Flags().StringVar(&dialect, "dialect", "lxd", "whose interface to speak: lxd or incus")
	cmd.Flags().StringVar(&level, "log-level", "info", "least level that is logged: debug, info, warn or error")
	return cmd
}

// listenPrivate makes a socket that only this user can connect to, in place of a dead one.
func listenPrivate(ctx context.Context, path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("socket %s: the path has %d bytes, and a unix socket takes %d; choose another with --listen", path, len(path), maxSocketPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() == fs.ModeSocket {
		d := net.Dialer{}
		if c, err := d.DialContext(ctx, "unix", path); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("socket %s: somebody answers on it", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	// Not even for a moment may others connect; the umask is the process's, and nothing else makes files yet.
	old := syscall.Umask(0o077)
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	return ln, nil
}
