package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlaces(t *testing.T) {
	clean(t)
	if got := placesOf("x"); os.Geteuid() == 0 && got != (places{"/var/lib/isosyncd@x", "/run/isosyncd@x/control.sock"}) {
		t.Errorf("for root: %+v", got)
	}
	t.Setenv("STATE_DIRECTORY", "/s/one:/s/two")
	t.Setenv("RUNTIME_DIRECTORY", "/r/one")
	if got := placesOf("x"); got != (places{"/s/one", "/r/one/control.sock"}) {
		t.Errorf("under systemd: %+v", got)
	}
}

// TestInstances: the file of isosyncd@NAME leads to the directories that its unit gives it.
func TestInstances(t *testing.T) {
	for file, want := range map[string]string{
		"/etc/isosyncd/config.yaml":  "",
		"/etc/isosyncd/win.yaml":     "win",
		"/etc/isosyncd/sub/win.yaml": "",
		"/etc/isosyncd/win.yml":      "",
		"/home/me/win.yaml":          "",
	} {
		if got := instanceOf(file); got != want {
			t.Errorf("%s is of instance %q, want %q", file, got, want)
		}
	}
}

func TestControlSockets(t *testing.T) {
	for _, tt := range []struct {
		l    Loaded
		want []string
	}{
		{Loaded{Settings: Settings{Control: "/x"}, Sources: map[string]Source{"control": FromFlag}}, []string{"/x"}},
		{Loaded{Settings: Settings{Control: "/x"}, Sources: map[string]Source{"control": FromDefault}}, []string{"/x", "/run/isosyncd/control.sock"}},
		{Loaded{Settings: Settings{Control: "/x"}, Instance: "w", Sources: map[string]Source{"control": FromDefault}}, []string{"/x", "/run/isosyncd@w/control.sock"}},
		{Loaded{Settings: Settings{Control: "/run/isosyncd/control.sock"}, Sources: map[string]Source{"control": FromDefault}}, []string{"/run/isosyncd/control.sock"}},
	} {
		if diff := cmp.Diff(tt.want, tt.l.ControlSockets()); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", tt.l, diff)
		}
	}
}

// TestOwners: the default owner is fit for a mark, always the same, and never that of another folder.
func TestOwners(t *testing.T) {
	seen := map[string]string{}
	for _, folder := range []string{
		"", "/srv/drop", "/srv/my drop", "/srv/my-drop", "/srv/mü", "/srv/m]", "/" + strings.Repeat("x", 200), "/" + strings.Repeat("x", 201),
	} {
		owner := ownerOf("host", folder)
		if faults := (&Settings{Owner: owner}).check(); strings.Contains(strings.Join(faults, ""), "owner") {
			t.Errorf("folder %q gives the owner %q: %q", folder, owner, faults)
		}
		if other, ok := seen[owner]; ok {
			t.Errorf("folders %q and %q have the same owner %q", folder, other, owner)
		}
		seen[owner] = folder
	}
	if got := ownerOf("host", "/srv/drop/"); got != "host:/srv/drop" {
		t.Errorf("owner %q, want host:/srv/drop", got)
	}
}

func TestCheckRun(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"drop", "drop/in", "mnt", "state"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("drop", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string {
		if name == "" {
			return ""
		}
		return filepath.Join(dir, name)
	}
	tests := []struct {
		name, folder, state, mount, remote string
		want                               string // in the only fault; "" = none
	}{
		{name: "good", folder: "drop", state: "state", mount: "mnt"},
		{name: "good without mount", folder: "drop", state: "new"},
		{name: "good with a mount that is to be made", folder: "drop", state: "state", mount: "new"},
		{name: "good store", folder: "drop", state: "state", remote: "isos"},
		{name: "neighbour with the same beginning", folder: "drop", state: "drop2"},
		{name: "no folder", state: "state", want: "folder is not set"},
		{name: "missing folder", folder: "none", state: "state", want: "does not exist; make it"},
		{name: "folder is a file", folder: "file", state: "state", want: "is not a directory"},
		{name: "mount is a file", folder: "drop", state: "state", mount: "file", want: "is not a directory"},
		{name: "mount is the folder", folder: "drop", state: "state", mount: "drop", want: "it would hide what is dropped there"},
		{name: "mount is the folder by a link", folder: "drop", state: "state", mount: "link", want: "it would hide what is dropped there"},
		{name: "folder in the mount", folder: "drop/in", state: "state", mount: "drop", want: "it would hide what is dropped there"},
		{name: "mount in the folder", folder: "drop", state: "state", mount: "drop/in", want: "it would hide what is dropped there"},
		{name: "folder in the state", folder: "drop/in", state: "drop", want: "taken for dropped files"},
		{name: "state in the folder", folder: "drop", state: "drop/new", want: "taken for dropped files"},
		{name: "state in the folder by a link", folder: "drop", state: "link/new/deep", want: "taken for dropped files"},
		{name: "mount in the state", folder: "drop", state: "state", mount: "state/m", want: "it would hide the journal"},
		{name: "state in the mount", folder: "drop", state: "mnt/s", mount: "mnt", want: "it would hide the journal"},
		{name: "store in the folder", folder: "drop", state: "state", remote: "drop/isos", want: "the volumes would be taken for dropped files"},
		{name: "folder in the store", folder: "drop/in", state: "state", remote: "drop", want: "the volumes would be taken for dropped files"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := &Loaded{Settings: Settings{Folder: in(tt.folder), StateDir: in(tt.state), Mount: in(tt.mount)}}
			if tt.remote != "" {
				l.Remote = "store:" + in(tt.remote)
			}
			err := l.CheckRun()
			var e *Error
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("error %v, want none", err)
			case tt.want == "":
			case !errors.As(err, &e):
				t.Errorf("error %v, want an *Error", err)
			case len(e.Faults) == 0 || !strings.Contains(e.Faults[0], tt.want):
				t.Errorf("faults %q, want one with %q", e.Faults, tt.want)
			}
		})
	}
}
