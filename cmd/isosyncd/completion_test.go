package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	isosync "isosyncd/sync"
)

// complete asks the program as the shells' scripts do, and drops the directive.
func complete(t *testing.T, args ...string) []string {
	t.Helper()
	alone(t)
	r := invoke(t, append([]string{"__completeNoDesc"}, args...)...)
	if r.code != 0 {
		t.Fatalf("%d %s", r.code, r.stderr)
	}
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	return slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, ":") })
}

func TestCompletion(t *testing.T) {
	snap := told(scenes()["mixed"])
	snap.Files = append(snap.Files, isosync.FileStatus{Name: "$(reboot).iso", Volume: "reboot", Problem: &isosync.Problem{Code: isosync.CodeNotISO}})
	snap.Volumes[2].Volume.Name = "x" // foreign, and x.iso maps to it
	_, socket, _ := toldDaemon(t, snap)
	state := t.TempDir()
	if err := os.MkdirAll(remoteDir(state, "prod"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(remoteDir(state, "prod"), remoteFile), []byte(`{"addr":"https://h:8443"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want []string // all of them
		not  []string
	}{
		{[]string{""}, []string{"status", "retry", "adopt", "import", "check", "sync", "remote", "run", "list"}, []string{"__complete"}},
		{[]string{"sta"}, []string{"status"}, []string{"retry"}},
		// Names that a shell would not take as they are do not appear, whatever the folder holds.
		{[]string{"retry", "--control", socket, ""}, []string{"win.iso", "x.iso", "new.iso"}, []string{"debian.iso", "$(reboot).iso", "theirs\n"}},
		{[]string{"retry", "--control", socket, "w"}, []string{"win.iso"}, []string{"x.iso"}},
		{[]string{"retry", "--control", socket, "win.iso", ""}, []string{"x.iso"}, []string{"win.iso"}},
		{[]string{"adopt", "--control", socket, ""}, []string{"x"}, []string{"debian", "left-over"}},
		{[]string{"retry", "--control", socket + "-none", ""}, nil, []string{"win.iso"}},
		{[]string{"remote", "remove", "--state-dir", state, ""}, []string{"prod"}, nil},
		{[]string{"list", "--state-dir", state, "--remote", ""}, []string{"prod", "incus:", "lxc:", "store:"}, nil},
		{[]string{"run", "--state-dir", state, "--remote", "p"}, []string{"prod"}, []string{"lxc:"}},
		{[]string{"import", ""}, []string{"iso"}, nil}, // the extension: the shell does the rest
		{[]string{"check", ""}, []string{"iso", "ISO"}, nil},
		{[]string{"run", "--replace", ""}, []string{"staged", "in-place", "never"}, nil},
	} {
		got := complete(t, c.args...)
		for _, w := range c.want {
			if !slices.Contains(got, w) {
				t.Errorf("%q: %q is missing in %q", c.args, w, got)
			}
		}
		for _, n := range c.not {
			if slices.Contains(got, n) {
				t.Errorf("%q: %q is in %q", c.args, n, got)
			}
		}
	}
}

// The scripts are ones that their shells can read.
func TestCompletionScripts(t *testing.T) {
	alone(t)
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		r := invoke(t, "completion", shell)
		if r.code != 0 || !strings.Contains(r.stdout, "isosyncd") {
			t.Errorf("%s: %d %s", shell, r.code, r.stderr)
			continue
		}
		exe, err := exec.LookPath(shell)
		if err != nil || shell == "powershell" {
			continue
		}
		cmd := exec.CommandContext(t.Context(), exe, "-n")
		cmd.Stdin = strings.NewReader(r.stdout)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s -n: %v %s", shell, err, out)
		}
	}
}
