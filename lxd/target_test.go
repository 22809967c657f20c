package lxd

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestEndpoint(t *testing.T) {
	for addr, want := range map[string]struct{ socket, host string }{
		"unix:/a/b":                {"/a/b", ""},
		"unix:///a/b":              {"/a/b", ""},
		"unix://a/b":               {"/a/b", ""},
		"/a/b":                     {"/a/b", ""},
		"https://h":                {"", "h:8443"},
		"https://h/":               {"", "h:8443"},
		"https://h:1":              {"", "h:1"},
		"https://[::1]":            {"", "[::1]:8443"},
		"https://[::1]:9":          {"", "[::1]:9"},
		"":                         {},
		"unix:":                    {},
		"unix://":                  {},
		"unix:a":                   {},
		"http://h:8443":            {},
		"h:8443":                   {},
		"https://":                 {},
		"https://h/1.0":            {},
		"https://h?x=canary":       {},
		"https://u:canary@h":       {},
		"https://u:canary@h:x":     {},
		"ftp://h":                  {},
		"https://user:canary@h/%z": {},
	} {
		socket, host, err := Target{Addr: addr}.endpoint()
		if socket != want.socket || host != want.host || (err == nil) != (want.socket+want.host != "") {
			t.Errorf("%q is %q, %q, %v", addr, socket, host, err)
		}
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("%v gives a password away", err)
		}
	}
}

func TestFind(t *testing.T) {
	const (
		snap, native         = "/var/snap/lxd/common/lxd/unix.socket", "/var/lib/lxd/unix.socket"
		run, runUser         = "/run/incus/unix.socket", "/run/incus/unix.socket.user"
		incus, incusUserSock = "/var/lib/incus/unix.socket", "/var/lib/incus/unix.socket.user"
	)
	all := []string{snap, native, run, runUser, incus, incusUserSock}
	for name, c := range map[string]struct {
		env    map[string]string
		have   []string
		closed []string
		vendor string
		want   string
		tried  []string
	}{
		"nothing":                 {tried: all},
		"snap first":              {have: all, want: snap, tried: all[:1]},
		"native LXD":              {have: all[1:], want: native, tried: all[:2]},
		"Incus in /run":           {have: all[2:], want: run, tried: all[:3]},
		"Incus":                   {have: all[4:], want: incus, tried: all[:5]},
		"the users' socket":       {have: []string{incusUserSock}, closed: []string{incus}, want: incusUserSock, tried: all},
		"no right":                {closed: []string{native}, tried: all},
		"LXD_SOCKET":              {env: map[string]string{"LXD_SOCKET": "/s", "LXD_DIR": "/d"}, have: []string{"/s", snap}, want: "/s", tried: []string{"/s"}},
		"LXD_SOCKET, absent":      {env: map[string]string{"LXD_SOCKET": "/s"}, have: all, tried: []string{"/s"}},
		"LXD_DIR":                 {env: map[string]string{"LXD_DIR": "/d"}, have: []string{"/d/unix.socket", snap}, want: "/d/unix.socket", tried: []string{"/d/unix.socket"}},
		"INCUS_SOCKET":            {env: map[string]string{"INCUS_SOCKET": "/s"}, have: []string{"/s", snap}, want: "/s", tried: []string{"/s"}},
		"INCUS_DIR":               {env: map[string]string{"INCUS_DIR": "/d"}, have: []string{"/d/unix.socket", snap}, want: "/d/unix.socket", tried: []string{"/d/unix.socket"}},
		"INCUS_DIR, users":        {env: map[string]string{"INCUS_DIR": "/d"}, have: []string{"/d/unix.socket.user"}, want: "/d/unix.socket.user", tried: []string{"/d/unix.socket", "/d/unix.socket.user"}},
		"INCUS_DIR, absent":       {env: map[string]string{"INCUS_DIR": "/d"}, have: all, tried: []string{"/d/unix.socket", "/d/unix.socket.user"}},
		"LXD before Incus":        {env: map[string]string{"INCUS_DIR": "/d", "LXD_DIR": "/e"}, have: []string{"/d/unix.socket", "/e/unix.socket"}, want: "/e/unix.socket", tried: []string{"/e/unix.socket"}},
		"only Incus is asked for": {vendor: "incus", env: map[string]string{"LXD_DIR": "/d"}, have: []string{"/d/unix.socket", snap, incus}, want: incus, tried: all[2:5]},
		"only LXD is asked for":   {vendor: "lxd", env: map[string]string{"INCUS_DIR": "/d"}, have: []string{"/d/unix.socket", incus}, tried: all[:2]},
	} {
		t.Run(name, func(t *testing.T) {
			f := finder{
				getenv: func(k string) string { return c.env[k] },
				access: func(p string) error {
					switch {
					case slices.Contains(c.closed, p):
						return fs.ErrPermission
					case slices.Contains(c.have, p):
						return nil
					}
					return fs.ErrNotExist
				},
			}
			addr, tried, err := f.find(c.vendor)
			want := ""
			if c.want != "" {
				want = "unix:" + c.want
			}
			if addr != want || !reflect.DeepEqual(tried, c.tried) {
				t.Errorf("got %q, tried %q", addr, tried)
			}
			if (err == nil) != (want != "") || (err != nil && !errors.Is(err, ErrNoServer)) {
				t.Errorf("got %v", err)
			}
			if len(c.closed) > 0 && err != nil && !strings.Contains(err.Error(), c.closed[0]) {
				t.Errorf("%v does not name %s", err, c.closed[0])
			}
			if len(c.closed) == 0 && err != nil && !strings.Contains(err.Error(), c.tried[len(c.tried)-1]) {
				t.Errorf("%v does not name what was tried", err)
			}
		})
	}
}

func TestAccess(t *testing.T) {
	dir := shortDir(t)
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if err := access(filepath.Join(dir, "s")); err != nil {
		t.Error(err)
	}
	for _, p := range []string{dir, filepath.Join(dir, "none")} {
		if err := access(p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func TestProjectOfTheUsersSocket(t *testing.T) {
	for target, want := range map[*Target]string{
		{Addr: "unix:/run/incus/unix.socket"}:                    "default",
		{Addr: "unix:/run/incus/unix.socket.user"}:               fmt.Sprintf("user-%d", os.Getuid()),
		{Addr: "unix:/run/incus/unix.socket.user", Project: "p"}: "p",
		{Addr: "https://h"}:                                      "default",
	} {
		if got := target.project(); got != want {
			t.Errorf("%v is in project %s, want %s", target, got, want)
		}
	}
}

func TestClientRemote(t *testing.T) {
	home, etc := t.TempDir(), t.TempDir()
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lxc, incus := filepath.Join(home, ".config/lxc"), filepath.Join(home, ".config/incus")
	write(filepath.Join(lxc, "config.yml"), `
default-remote: lab
remotes:
  images: {addr: "https://images.example", protocol: simplestreams, public: true}
  lab: {addr: "https://lab.example:8443", auth_type: tls, project: isos, protocol: lxd, public: false}
  site: {addr: "https://site.example", protocol: lxd}
  sso: {addr: "https://sso.example", auth_type: oidc}
  box: {addr: "unix:///srv/box/unix.socket"}
  local: {addr: "unix://"}
aliases: {}
`)
	write(filepath.Join(lxc, "client.crt"), "c")
	write(filepath.Join(lxc, "client.key"), "k")
	write(filepath.Join(lxc, "client.ca"), "a")
	write(filepath.Join(lxc, "servercerts/lab.crt"), "s")
	write(filepath.Join(incus, "config.yml"), `
default-remote: local
remotes:
  many: {addr: "https://a:1, https://b:2", last_working_address: "https://b:2", protocol: incus}
  first: {addr: "https://a:1,https://b:2", protocol: incus}
`)
	write(filepath.Join(incus, "clientcerts/many.crt"), "c")
	write(filepath.Join(incus, "clientcerts/many.key"), "k")
	write(filepath.Join(incus, "clientcerts/many.ca"), "a")
	write(filepath.Join(etc, "config.yml"), "remotes: {host: {addr: \"https://host.example\"}, lab: {addr: \"https://wrong.example\"}}")
	write(filepath.Join(etc, "client.crt"), "c")
	write(filepath.Join(etc, "client.key"), "k")
	other := t.TempDir()
	write(filepath.Join(other, "config.yml"), "remotes: [")

	c := clientConfig{home: home, find: finder{
		getenv: func(string) string { return "" },
		access: func(p string) error {
			if strings.Contains(p, "/lib/") {
				return nil
			}
			return fs.ErrNotExist
		},
	}}
	env := map[string]string{"LXD_GLOBAL_CONF": etc, "INCUS_GLOBAL_CONF": etc}
	c.getenv = func(k string) string { return env[k] }
	for ask, want := range map[string]Target{
		"lxc:lab": {
			Addr: "https://lab.example:8443", Project: "isos", CertFile: lxc + "/client.crt", KeyFile: lxc + "/client.key",
			ServerCertFile: lxc + "/servercerts/lab.crt",
		},
		"lxc:site":   {Addr: "https://site.example", CertFile: lxc + "/client.crt", KeyFile: lxc + "/client.key", CAFile: lxc + "/client.ca"},
		"lxc:box":    {Addr: "unix:///srv/box/unix.socket"},
		"lxc:local":  {Addr: "unix:/var/lib/lxd/unix.socket"},
		"lxc:host":   {Addr: "https://host.example", CertFile: etc + "/client.crt", KeyFile: etc + "/client.key"},
		"incus:":     {Addr: "unix:/var/lib/incus/unix.socket"},
		"incus:many": {Addr: "https://b:2", CertFile: incus + "/clientcerts/many.crt", KeyFile: incus + "/clientcerts/many.key", CAFile: incus + "/clientcerts/many.ca"},
	} {
		kind, name, _ := strings.Cut(ask, ":")
		got, err := c.remote(kind, name)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %#v, %v, want %#v", ask, got, err, want)
		}
	}
	if got, err := c.remote("lxc", ""); err != nil || got.Addr != "https://lab.example:8443" {
		t.Errorf("the default is %v, %v", got, err)
	}
	for ask, words := range map[string]string{
		"lxc:images":  "images",
		"lxc:sso":     "oidc",
		"lxc:none":    "box, host, lab, local, site, sso",
		"podman:lab":  "podman",
		"incus:first": "client certificate",
	} {
		kind, name, _ := strings.Cut(ask, ":")
		if _, err := c.remote(kind, name); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v does not say %q", ask, err, words)
		}
	}
	env["LXD_CONF"] = other
	if _, err := c.remote("lxc", "lab"); err == nil {
		t.Error("a broken file is no error")
	}
	env["LXD_CONF"] = t.TempDir()
	if got, err := c.remote("lxc", "lab"); err != nil || got.Addr != "https://wrong.example" {
		t.Errorf("LXD_CONF is not honoured: %v, %v", got, err)
	}
}
