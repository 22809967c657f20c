package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"isosyncd/config"
	"isosyncd/lxd"
	"isosyncd/lxd/lxdtest"
)

func TestSavedRemotes(t *testing.T) {
	state := t.TempDir()
	dir := remoteDir(state, "prod")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	crt, key := filepath.Join(dir, clientCert), filepath.Join(dir, clientKey)
	if err := lxd.NewClientKey(crt, key); err != nil {
		t.Fatal(err)
	}
	want := lxd.Target{Addr: "https://host:8443", Project: "images", Fingerprint: strings.Repeat("ab", 32), CertFile: crt, KeyFile: key}
	if err := saveRemote(state, "prod", want); err != nil {
		t.Fatal(err)
	}
	got, err := findTarget(&config.Loaded{Settings: config.Settings{Remote: "prod", StateDir: state}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("target (-want +got):\n%s", diff)
	}
	st, err := os.Stat(filepath.Join(dir, remoteFile))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", st.Mode(), err)
	}
	if _, err := loadRemote(state, "other"); err == nil || !strings.Contains(err.Error(), "there are: prod") {
		t.Errorf("error %v, want one that names prod", err)
	}
	if err := os.WriteFile(filepath.Join(dir, remoteFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadRemote(state, "prod"); err == nil {
		t.Error("half a file was believed")
	}
}

func TestFindTarget(t *testing.T) {
	alone(t)
	state := t.TempDir()
	find := func(remote string) lxd.Target {
		t.Helper()
		got, err := findTarget(&config.Loaded{Settings: config.Settings{Remote: remote, StateDir: state}})
		if err != nil {
			t.Errorf("%s: %v", remote, err)
		}
		return got
	}
	for _, addr := range []string{"unix:/x/unix.socket", "/x/unix.socket", "https://host"} {
		if diff := cmp.Diff(lxd.Target{Addr: addr}, find(addr)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", addr, diff)
		}
	}
	for _, name := range []string{clientCert, clientKey, serverCert} {
		if err := os.WriteFile(filepath.Join(state, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := lxd.Target{
		Addr: "https://host", CertFile: filepath.Join(state, clientCert), KeyFile: filepath.Join(state, clientKey),
		ServerCertFile: filepath.Join(state, serverCert),
	}
	if diff := cmp.Diff(want, find("https://host")); diff != "" {
		t.Errorf("keys of the state directory (-want +got):\n%s", diff)
	}
	credentials := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	if err := os.WriteFile(filepath.Join(credentials, clientKey), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := find("https://host").KeyFile; got != filepath.Join(credentials, clientKey) {
		t.Errorf("key %s, want systemd's credential", got)
	}
}

// TestEmbeddedStore: a store is served from this process, in a directory whose path may be too long for a socket, and
// others that name it find the one that serves it.
func TestEmbeddedStore(t *testing.T) {
	alone(t)
	for _, long := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "isos")
		if long {
			dir = filepath.Join(dir, strings.Repeat("x", 120))
		}
		cfg := &config.Loaded{Settings: config.Settings{Remote: "store:" + dir}}
		c, err := openRemote(t.Context(), cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		socket := strings.TrimPrefix(c.addr, "unix:")
		st, err := os.Stat(filepath.Dir(socket))
		if err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("the socket's directory has mode %v, %v; want 0700", st.Mode(), err)
		}
		pool, err := c.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if pool.Name() != "default" {
			t.Errorf("pool %s, want default", pool.Name())
		}
		other, err := openRemote(t.Context(), cfg, slog.New(slog.DiscardHandler))
		switch {
		case long && err == nil:
			t.Error("a second one serves the same directory")
		case !long && err != nil:
			t.Error(err)
		case !long:
			if _, err := other.dial(t.Context()); err != nil || other.store != nil {
				t.Errorf("the second one: %v, serves itself: %v", err, other.store != nil)
			}
			other.close()
		}
		c.close()
		c.close() // harmless
		if _, err := os.Lstat(socket); !os.IsNotExist(err) {
			t.Errorf("the socket is left behind: %v", err)
		}
	}
}

// TestListServers lists volumes of the store and of a real server, by text and JSON.
func TestListServers(t *testing.T) {
	lxdtest.Each(t, func(t *testing.T, server *lxdtest.Server) {
		alone(t)
		pool := server.Pool(t)
		const size = 1 << 20
		op, err := pool.Import(t.Context(), "win", lxdtest.File(t, size), size, nil)
		if err == nil {
			err = pool.Wait(t.Context(), op)
		}
		if err == nil {
			err = pool.Describe(t.Context(), "win", `Windows n [isosyncd owner=me sha256=`+strings.Repeat("ab", 32)+` file="win.iso"]`)
		}
		if err != nil {
			t.Fatal(err)
		}
		args := []string{"list", "--remote", server.Addr(), "--project", server.Project(), "--pool", "default", "--owner", "me"}
		got := invoke(t, append(args, "--json")...)
		var l listing
		if err := json.Unmarshal([]byte(got.stdout), &l); err != nil || got.code != 0 {
			t.Fatalf("exit code %d, %v: %s%s", got.code, err, got.stdout, got.stderr)
		}
		if len(l.Volumes) != 1 || l.Pool != "default" {
			t.Fatalf("listing %+v", l)
		}
		v := l.Volumes[0]
		if v.CreatedAt.IsZero() {
			t.Error("the volume has no date")
		}
		v.CreatedAt = l.Volumes[0].CreatedAt
		want := listed{
			Name: "win", Size: size, Ours: true, Owner: "me", SHA256: strings.Repeat("ab", 32), File: "win.iso",
			Description: "Windows n", UsedBy: []string{}, CreatedAt: v.CreatedAt,
		}
		if diff := cmp.Diff(want, v); diff != "" {
			t.Errorf("volume (-want +got):\n%s", diff)
		}
		text := invoke(t, args...)
		for _, want := range []string{"VOLUME", "win", "1.0 MiB", "this one", "abababababab", "win.iso", "Windows n"} {
			if !strings.Contains(text.stdout, want) {
				t.Errorf("the table lacks %q:\n%s", want, text.stdout)
			}
		}
		if strings.Contains(text.stdout, "\x1b") {
			t.Errorf("colours where there is no terminal: %q", text.stdout)
		}
	})
}

// TestStoreCommand serves a store, and ends in an orderly way.
func TestStoreCommand(t *testing.T) {
	alone(t)
	dir := filepath.Join(t.TempDir(), "isos")
	d := start(t, "store", dir)
	lxdtest.Eventually(t, "the store to answer", func() bool {
		return invoke(t, "list", "--remote", "unix:"+storeSocket(dir)).code == 0
	})
	if got := invoke(t, "store", dir); got.code != 1 || !strings.Contains(got.stderr, "in use by another process") {
		t.Errorf("a second one: exit code %d, %q", got.code, got.stderr)
	}
	got := invoke(t, "list", "--remote", "unix:"+storeSocket(dir))
	if want := "There is no ISO volume in pool default"; !strings.HasPrefix(got.stdout, want) {
		t.Errorf("list prints %q, want %q", got.stdout, want)
	}
	if code := d.stop(); code != 0 {
		t.Errorf("exit code %d: %s", code, d.log)
	}
}

// TestNoSecretsInConfig: nothing that config prints comes from a key file.
func TestNoSecretsInConfig(t *testing.T) {
	alone(t)
	state := t.TempDir()
	const canary = "CANARY-5f2b"
	if err := os.WriteFile(filepath.Join(state, clientKey), []byte(canary), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	run(t.Context(), []string{"config", "--state-dir", state, "--remote", "https://host"}, &out, &out)
	run(t.Context(), []string{"list", "--state-dir", state, "--remote", "https://127.0.0.1:1"}, &out, &out)
	if strings.Contains(out.String(), canary) {
		t.Errorf("a key was printed: %s", out.String())
	}
}
