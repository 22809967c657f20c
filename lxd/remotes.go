package lxd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ClientRemote reads a remote of the official command-line client on this host: kind is "lxc" or "incus", name is the
// remote's, "" = the client's default. Nothing is written. The client's configuration is that of the user who runs
// this process; LXC_CONF-style variables of the clients are honoured (SERVER-API 7).
func ClientRemote(kind, name string) (Target, error) {
	home, _ := os.UserHomeDir() // "" = there is none, and so no configuration there
	return clientConfig{getenv: os.Getenv, home: home, find: finder{getenv: os.Getenv, access: access}}.remote(kind, name)
}

// clientConfig is where a client's configuration is looked for.
type clientConfig struct {
	getenv func(string) string
	home   string
	find   finder
}

// wireRemote is an entry of config.yml.
type wireRemote struct {
	Addr     string `yaml:"addr"`
	AuthType string `yaml:"auth_type"`
	Project  string `yaml:"project"`
	Protocol string `yaml:"protocol"`
	Public   bool   `yaml:"public"`
	LastAddr string `yaml:"last_working_address"` // Incus
}

type wireConfig struct {
	Default string                `yaml:"default-remote"`
	Remotes map[string]wireRemote `yaml:"remotes"`
}

func (c clientConfig) remote(kind, name string) (Target, error) {
	vendor, ok := map[string]string{"lxc": "lxd", "incus": "incus"}[kind]
	if !ok {
		return Target{}, fmt.Errorf("client %q: want lxc or incus", kind)
	}
	user, global := c.dirs(vendor)
	config := wireConfig{Remotes: map[string]wireRemote{}}
	dirs := make(map[string]string) // where each remote was found
	// The user's remotes win over the host's.
	for _, dir := range append(global, user...) {
		var w wireConfig
		text, err := os.ReadFile(filepath.Join(dir, "config.yml"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = yaml.Unmarshal(text, &w)
		}
		if err != nil {
			return Target{}, fmt.Errorf("configuration of %s: %w", kind, err)
		}
		if w.Default != "" {
			config.Default = w.Default
		}
		for n, r := range w.Remotes {
			config.Remotes[n], dirs[n] = r, dir
		}
	}
	if name == "" {
		name = config.Default
	}
	r, ok := config.Remotes[name]
	if name == "" || name == "local" || (ok && strings.TrimSuffix(r.Addr, "//") == "unix:") {
		addr, _, err := c.find.find(vendor) // "local" is built in
		return Target{Addr: addr, Project: r.Project}, err
	}
	if !ok {
		return Target{}, fmt.Errorf("configuration of %s: there is no remote %s (there are: %s)", kind, name, strings.Join(usable(config.Remotes), ", "))
	}
	if r.Public || r.Protocol == "simplestreams" {
		return Target{}, fmt.Errorf("configuration of %s: remote %s only serves images, and cannot hold volumes", kind, name)
	}
	if r.AuthType != "" && r.AuthType != "tls" {
		return Target{}, fmt.Errorf("configuration of %s: remote %s logs in by %s, which needs a person; use a client certificate", kind, name, r.AuthType)
	}
	return c.target(dirs[name], name, r)
}

// usable lists the remotes that can hold volumes.
func usable(remotes map[string]wireRemote) []string {
	names := []string{"local"}
	for n, r := range remotes {
		if n != "local" && !r.Public && r.Protocol != "simplestreams" {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

// dirs lists the configuration directories of a client, in the order in which they are read: later ones win.
func (c clientConfig) dirs(vendor string) (user, global []string) {
	env, sub, etc := "LXD", "lxc", "/etc/lxd"
	if vendor == "incus" {
		env, sub, etc = "INCUS", "incus", "/etc/incus"
	}
	global = []string{etc}
	if d := c.getenv(env + "_GLOBAL_CONF"); d != "" {
		global = []string{d}
	}
	if d := c.getenv(env + "_CONF"); d != "" {
		return []string{d}, global
	}
	if c.home == "" {
		return nil, global
	}
	if vendor == "incus" {
		if d := c.getenv("XDG_CONFIG_HOME"); filepath.IsAbs(d) {
			return []string{filepath.Join(d, sub)}, global
		}
		return []string{filepath.Join(c.home, ".config", sub)}, global
	}
	// The snap's client has a home of its own; it is the newer one where both are.
	return []string{filepath.Join(c.home, ".config", sub), filepath.Join(c.home, "snap/lxd/common/config")}, global
}

// target makes a Target of a remote that was found in dir.
func (c clientConfig) target(dir, name string, r wireRemote) (Target, error) {
	addr := r.Addr
	if first, _, several := strings.Cut(addr, ","); several {
		addr = strings.TrimSpace(first) // Incus: a list of addresses, one of which worked
		if r.LastAddr != "" {
			addr = r.LastAddr
		}
	}
	t := Target{Addr: addr, Project: r.Project}
	if strings.HasPrefix(addr, "unix:") {
		return t, nil
	}
	if strings.ContainsAny(name, "/\x00") {
		return Target{}, fmt.Errorf("remote %q: no such name is possible", name)
	}
	exists := func(parts ...string) string {
		p := filepath.Join(append([]string{dir}, parts...)...)
		if _, err := os.Stat(p); err != nil {
			return ""
		}
		return p
	}
	t.CertFile, t.KeyFile = exists("clientcerts", name+".crt"), exists("clientcerts", name+".key") // Incus
	if t.CertFile == "" || t.KeyFile == "" {
		t.CertFile, t.KeyFile = exists("client.crt"), exists("client.key")
	}
	t.ServerCertFile = exists("servercerts", name+".crt")
	if t.ServerCertFile == "" {
		if t.CAFile = exists("clientcerts", name+".ca"); t.CAFile == "" {
			t.CAFile = exists("client.ca")
		}
	}
	if t.CertFile == "" || t.KeyFile == "" {
		return Target{}, fmt.Errorf("remote %s: there is no client certificate in %s", name, dir)
	}
	return t, nil
}
