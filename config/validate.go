package config

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const maxOwner = 128 // bytes; a description is bounded, and has the file name in it, too

// ownerRune reports what an owner may consist of: what stands unquoted in a mark.
func ownerRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._:/@+-", r)
}

// RemoteName matches the names that `isosyncd remote add` gives.
func RemoteName(name string) bool { return remoteName.MatchString(name) }

var remoteName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// check says what is wrong with settings by themselves, whatever uses them. It looks at no file.
func (s *Settings) check() []string {
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for _, k := range Keys() {
		if text := s.Text(k.Name); k.Kind == KindChoice && !slices.Contains(k.Choices, text) {
			fault("%s must be %s, and not %q", k.Name, orList(k.Choices), text)
		}
	}
	for _, p := range []struct{ key, path string }{
		{"folder", s.Folder}, {"state_dir", s.StateDir}, {"mount", s.Mount}, {"control", s.Control},
	} {
		if p.path != "" && !filepath.IsAbs(p.path) {
			fault("%s must be an absolute path, and not %q", p.key, p.path)
		}
	}
	for _, d := range []struct {
		key   string
		value time.Duration
		most  time.Duration
	}{
		{"settle_delay", s.SettleDelay, time.Hour},
		{"scan_interval", s.ScanInterval, 24 * time.Hour},
		{"refresh_interval", s.RefreshInterval, 24 * time.Hour},
		{"prune_delay", s.PruneDelay, 30 * 24 * time.Hour},
	} {
		if d.value > d.most {
			fault("%s must be at most %s, and not %s", d.key, shortDuration(d.most), shortDuration(d.value))
		}
	}
	if s.MaxUploads < 1 || s.MaxUploads > 16 {
		fault("max_uploads must be 1 to 16, and not %d", s.MaxUploads)
	}
	if s.Prune && s.Consume {
		fault("prune and consume exclude each other: a consumed file is gone, and prune would delete its volume; choose one")
	}
	if s.StateDir == "" {
		fault("state_dir is empty and has no default, because this user has no home directory; set it")
	}
	if len(s.Owner) > maxOwner || strings.ContainsFunc(s.Owner, func(r rune) bool { return !ownerRune(r) }) {
		fault("owner must be at most %d letters, digits and . _ : / @ + -, and not %q", maxOwner, s.Owner)
	}
	if f := checkAddress(s.MetricsAddress); f != "" {
		fault("%s", f)
	}
	if f := checkRemote(s.Remote); f != "" {
		fault("%s", f)
	}
	return faults
}

func checkAddress(address string) string {
	if address == "" {
		return ""
	}
	_, port, err := net.SplitHostPort(address)
	if _, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil {
		return fmt.Sprintf("metrics_address must be host:port, such as localhost:9112, and not %q", address)
	}
	return ""
}

// checkRemote looks at the form of a remote; what is there is seen when it is used.
func checkRemote(remote string) string {
	kind, rest, colon := strings.Cut(remote, ":")
	switch {
	case remote == "" || strings.HasPrefix(remote, "/"):
		return ""
	case kind == "http":
		return "remote must not be plain http, because anybody on the way could change the images; use https://"
	case kind == "https" && strings.HasPrefix(rest, "//") && len(rest) > 2:
		return ""
	case kind == "unix" || kind == "store":
		if filepath.IsAbs(rest) {
			return ""
		}
		return fmt.Sprintf("remote must have an absolute path after %s:, and not %q", kind, rest)
	case colon && (kind == "lxc" || kind == "incus") && rest != "":
		return ""
	case !colon && RemoteName(remote):
		return ""
	}
	return fmt.Sprintf("remote must be empty, unix:PATH, https://HOST, lxc:NAME, incus:NAME, store:DIR, or a name of isosyncd remote add, and not %q", remote)
}

// CheckRun says what else must be right for a daemon to start: its directories. The error is an *Error.
func (l *Loaded) CheckRun() error {
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if l.Folder == "" {
		fault("folder is not set; set it to the directory that images are dropped into, such as /srv/iso-drop")
	} else if f := checkDirectory("folder", l.Folder); f != "" {
		fault("%s", f)
	}
	// A mount point that is missing is made, and one that a crash left makes errors until it is cleared: neither is a fault.
	if st, err := os.Stat(l.Mount); l.Mount != "" && err == nil && !st.IsDir() {
		fault("mount %s is not a directory", l.Mount)
	}
	store, embedded := strings.CutPrefix(l.Remote, "store:")
	if !embedded {
		store = ""
	}
	for _, pair := range []struct {
		key, path, inKey, in, why string
	}{
		{"mount", l.Mount, "folder", l.Folder, "it would hide what is dropped there"},
		{"folder", l.Folder, "mount", l.Mount, "it would hide what is dropped there"},
		{"folder", l.Folder, "state_dir", l.StateDir, "isosyncd's own copies would be taken for dropped files"},
		{"state_dir", l.StateDir, "folder", l.Folder, "isosyncd's own copies would be taken for dropped files"},
		{"mount", l.Mount, "state_dir", l.StateDir, "it would hide the journal"},
		{"state_dir", l.StateDir, "mount", l.Mount, "it would hide the journal"},
		{"the directory of remote store:", store, "folder", l.Folder, "the volumes would be taken for dropped files"},
		{"folder", l.Folder, "the directory of remote store:", store, "the volumes would be taken for dropped files"},
		{"the directory of remote store:", store, "mount", l.Mount, "it would hide the volumes"},
	} {
		if pair.path != "" && pair.in != "" && within(pair.path, pair.in) {
			fault("%s %s must not be %s %s or inside of it: %s", pair.key, pair.path, pair.inKey, pair.in, pair.why)
		}
	}
	if len(faults) == 0 {
		return nil
	}
	// Two directories that are the same one are found from both sides.
	return &Error{File: l.File, Faults: slices.Compact(faults)}
}

func checkDirectory(key, path string) string {
	st, err := os.Stat(path)
	switch {
	case os.IsNotExist(err):
		return fmt.Sprintf("%s %s does not exist; make it, such as with: mkdir -p %s", key, path, path)
	case err != nil:
		return fmt.Sprintf("%s %s cannot be looked at: %v", key, path, err)
	case !st.IsDir():
		return fmt.Sprintf("%s %s is not a directory", key, path)
	}
	return ""
}

// real resolves links as far as the path exists.
func real(path string) string {
	path = filepath.Clean(path)
	if p, err := filepath.EvalSymlinks(path); err == nil {
		return p
	}
	dir := filepath.Dir(path)
	if dir == path {
		return path
	}
	return filepath.Join(real(dir), filepath.Base(path))
}

// within reports whether path is dir or inside of it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(real(dir), real(path))
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// orList writes "a, b or c".
func orList(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
