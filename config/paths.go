package config

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
)

const (
	etcDir      = "/etc/isosyncd"
	socketName  = "control.sock"
	programName = "isosyncd"
)

// places are the defaults that depend on who runs where.
type places struct {
	state, control string
}

// placesOf follows systemd's variables first, then what the units of the package give to the instance, then, for
// everybody but root, the XDG base directories.
func placesOf(instance string) places {
	unit := unitName(instance)
	p := places{state: filepath.Join("/var/lib", unit), control: filepath.Join("/run", unit, socketName)}
	if os.Geteuid() != 0 {
		home, _ := os.UserHomeDir() // "" = there is none: the check of state_dir says so
		p.state = filepath.Join(xdg("XDG_STATE_HOME", filepath.Join(home, ".local/state")), unit)
		if dir := xdg("XDG_RUNTIME_DIR", ""); dir != "" {
			p.control = filepath.Join(dir, unit, socketName)
		} else {
			p.control = filepath.Join(p.state, socketName)
		}
	}
	if dir := first(os.Getenv("STATE_DIRECTORY")); dir != "" {
		p.state = dir
	}
	if dir := first(os.Getenv("RUNTIME_DIRECTORY")); dir != "" {
		p.control = filepath.Join(dir, socketName)
	}
	return p
}

// first is the first of what systemd joins with colons.
func first(list string) string {
	dir, _, _ := strings.Cut(list, ":")
	return dir
}

// xdg is a base directory; the specification says to ignore relative ones.
func xdg(name, otherwise string) string {
	if dir := os.Getenv(name); filepath.IsAbs(dir) {
		return dir
	}
	return otherwise
}

// usualFile is the configuration file where none is named.
func usualFile() string {
	system := filepath.Join(etcDir, "config.yaml")
	if os.Geteuid() == 0 {
		return system
	}
	home, _ := os.UserHomeDir() // "" = there is none, and so no file there
	own := filepath.Join(xdg("XDG_CONFIG_HOME", filepath.Join(home, ".config")), programName, "config.yaml")
	if _, err := os.Stat(own); err == nil {
		return own
	}
	return system
}

// instanceOf is the NAME of isosyncd@NAME.service, whose file is /etc/isosyncd/NAME.yaml.
func instanceOf(file string) string {
	if filepath.Dir(file) != etcDir {
		return ""
	}
	name, ok := strings.CutSuffix(filepath.Base(file), ".yaml")
	if !ok || name == "config" {
		return ""
	}
	return name
}

func unitName(instance string) string {
	if instance == "" {
		return programName
	}
	return programName + "@" + instance
}

// ControlSockets lists where the control socket of the daemon with these settings may be, the likeliest first. There is
// more than one where nobody said: the own one of a user, and that of the system's service.
func (l *Loaded) ControlSockets() []string {
	system := filepath.Join("/run", unitName(l.Instance), socketName)
	if l.Sources["control"] != FromDefault || l.Control == system {
		return []string{l.Control}
	}
	return []string{l.Control, system}
}

// defaultOwner is host name and folder. What no owner may have is replaced, and then a hash keeps folders apart.
func defaultOwner(folder string) string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	return ownerOf(host, folder)
}

func ownerOf(host, folder string) string {
	if folder == "" {
		return host
	}
	owner := host + ":" + filepath.Clean(folder)
	fit := strings.Map(func(r rune) rune {
		if ownerRune(r) {
			return r
		}
		return '-'
	}, owner)
	if fit == owner && len(owner) <= maxOwner {
		return owner
	}
	sum := sha256.Sum256([]byte(owner))
	return fit[:min(len(fit), maxOwner-9)] + "-" + hex.EncodeToString(sum[:4])
}
