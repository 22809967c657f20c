package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"isosyncd/config"
	"isosyncd/lxd"
	"isosyncd/store"
	isosync "isosyncd/sync"
)

// connection is how a command or the daemon gets at its pool.
type connection struct {
	dial  func(ctx context.Context) (isosync.Remote, error)
	store *store.Store // the embedded one, if this process serves it
	addr  string       // whom it dials, for people
	close func()       // after the last use of a Remote
}

// resolveRemote finds the server that the settings name. It sends nothing yet, but it starts the embedded store if that
// is it. The error says that no server could be found, and is a *badConfig. closer is for after the last use.
func resolveRemote(ctx context.Context, cfg *config.Loaded) (
	dial func(context.Context) (isosync.Remote, error), closer func(), err error,
) {
	c, err := openRemote(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, err
	}
	return c.dial, c.close, nil
}

// openRemote is resolveRemote for who wants to know more.
func openRemote(ctx context.Context, cfg *config.Loaded, log *slog.Logger) (*connection, error) {
	if dir, ok := strings.CutPrefix(cfg.Remote, "store:"); ok {
		return embed(ctx, dir, cfg, log)
	}
	t, err := findTarget(cfg)
	if err != nil {
		return nil, &badConfig{err}
	}
	return dialer(t, cfg), nil
}

// findTarget finds out which server the settings mean, and as whom to talk to it.
func findTarget(cfg *config.Loaded) (lxd.Target, error) {
	kind, rest, _ := strings.Cut(cfg.Remote, ":")
	switch {
	case cfg.Remote == "":
		addr, _, err := lxd.Find()
		if err != nil {
			return lxd.Target{}, fmt.Errorf("%w (to use no server at all: --remote store:DIR)", err)
		}
		return lxd.Target{Addr: addr}, nil
	case kind == "unix" || strings.HasPrefix(cfg.Remote, "/"):
		return lxd.Target{Addr: cfg.Remote}, nil
	case kind == "https":
		return withKeys(lxd.Target{Addr: cfg.Remote}, keyDir(cfg)), nil
	case kind == "lxc" || kind == "incus":
		t, err := lxd.ClientRemote(kind, rest)
		if err != nil {
			return t, fmt.Errorf("remote %s: %w", cfg.Remote, err)
		}
		return t, nil
	}
	return loadRemote(cfg.StateDir, cfg.Remote)
}

// dialer dials t each time anew.
func dialer(t lxd.Target, cfg *config.Loaded) *connection {
	if cfg.Project != "" {
		t.Project = cfg.Project
	}
	t.Member = cfg.Target
	dial := func(ctx context.Context) (isosync.Remote, error) {
		client, err := lxd.Dial(ctx, t)
		if err != nil {
			return nil, err
		}
		pool, err := client.Pool(ctx, cfg.Pool)
		if err != nil {
			client.Close()
			return nil, err
		}
		return pool, nil
	}
	return &connection{dial: dial, addr: t.Addr, close: func() {}}
}

// keyDir is where the keys for a remote given as https:// are: a systemd credential wins over the state directory.
func keyDir(cfg *config.Loaded) string {
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		if _, err := os.Stat(filepath.Join(dir, clientKey)); err == nil {
			return dir
		}
	}
	return cfg.StateDir
}

// The files of a client's identity. lxd.NewClientKey makes the first two.
const (
	clientCert = "client.crt"
	clientKey  = "client.key"
	serverCert = "server.crt" // the pinned one; without it, the system's authorities decide
	remoteFile = "remote.json"
)

// withKeys adds those of the files that are there.
func withKeys(t lxd.Target, dir string) lxd.Target {
	for _, f := range []struct {
		field *string
		name  string
	}{{&t.CertFile, clientCert}, {&t.KeyFile, clientKey}, {&t.ServerCertFile, serverCert}} {
		path := filepath.Join(dir, f.name)
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			*f.field = path // also if it cannot be read: the error then names it
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, bearerToken)); err == nil {
		t.Bearer = strings.TrimSpace(string(b))
	}
	return t
}

// savedRemote is what `isosyncd remote add` keeps of a server, beside the keys.
type savedRemote struct {
	Addr        string `json:"addr"`
	Project     string `json:"project,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"` // SHA-256 of the server's certificate
}

// remoteDir is where the remote of that name is kept; the name has been checked with config.RemoteName.
func remoteDir(stateDir, name string) string { return filepath.Join(stateDir, "remotes", name) }

// loadRemote reads what saveRemote wrote.
func loadRemote(stateDir, name string) (lxd.Target, error) {
	dir := remoteDir(stateDir, name)
	text, err := os.ReadFile(filepath.Join(dir, remoteFile))
	var saved savedRemote
	switch {
	case errors.Is(err, fs.ErrNotExist):
		known, lerr := savedRemotes(stateDir)
		if lerr != nil || len(known) == 0 {
			return lxd.Target{}, fmt.Errorf("remote %s is not known; make it known with: isosyncd remote add %s", name, name)
		}
		return lxd.Target{}, fmt.Errorf("remote %s is not known; there are: %s", name, strings.Join(known, ", "))
	case err == nil:
		err = json.Unmarshal(text, &saved)
	}
	if err != nil {
		return lxd.Target{}, fmt.Errorf("remote %s: %w", name, err)
	}
	t := lxd.Target{Addr: saved.Addr, Project: saved.Project, Fingerprint: saved.Fingerprint}
	if !strings.HasPrefix(saved.Addr, "https:") {
		return t, nil
	}
	return withKeys(t, dir), nil
}

// saveRemote keeps a server under a name. The keys are in remoteDir already. Everything there then belongs to the owner
// of the state directory: root adds a remote, and the daemon reads it.
func saveRemote(stateDir, name string, t lxd.Target) error {
	dir := remoteDir(stateDir, name)
	text, err := json.MarshalIndent(savedRemote{t.Addr, t.Project, t.Fingerprint}, "", "  ")
	if err != nil {
		return fmt.Errorf("remote %s: %w", name, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("remote %s: %w", name, err)
	}
	tmp := filepath.Join(dir, remoteFile+".new")
	err = os.WriteFile(tmp, append(text, '\n'), 0o600)
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, remoteFile))
	}
	if err == nil {
		err = giveToOwner(stateDir, filepath.Join(stateDir, "remotes"))
	}
	if err != nil {
		return fmt.Errorf("remote %s: %w", name, err)
	}
	return nil
}

// giveToOwner makes everything under dir belong to whom stateDir belongs to, which only root can, and only root needs.
func giveToOwner(stateDir, dir string) error {
	st, err := os.Stat(stateDir)
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(sys.Uid), int(sys.Gid))
	})
}

// savedRemotes lists the names that saveRemote was given, sorted.
func savedRemotes(stateDir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(stateDir, "remotes"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if _, serr := os.Stat(filepath.Join(remoteDir(stateDir, e.Name()), remoteFile)); serr == nil {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, err
}
