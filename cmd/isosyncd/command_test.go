package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"isosyncd/config"
	"isosyncd/iso"
)

// result is what a command did.
type result struct {
	code           int
	stdout, stderr string
}

// invoke runs the program in this process, with a configuration that nothing of this host has a part in.
func invoke(t *testing.T, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(t.Context(), args, &out, &errs)
	return result{code, out.String(), errs.String()}
}

// alone keeps the host's servers, settings and units away.
func alone(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	for name, value := range map[string]string{
		"LXD_SOCKET": "", "LXD_DIR": "", "INCUS_SOCKET": "", "INCUS_DIR": "", "LXD_CONF": dir, "INCUS_CONF": dir,
		"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "", "LISTEN_FDS": "", "CREDENTIALS_DIRECTORY": "",
		"RUNTIME_DIRECTORY": filepath.Join(dir, "run"), "STATE_DIRECTORY": filepath.Join(dir, "state"),
		"ISOSYNCD_CONFIG": empty(t), "ISOSYNCD_FAILPOINT": "", "ISOSYNCD_FAILPOINT_TRACE": "",
	} {
		t.Setenv(name, value)
	}
}

// empty is a configuration file without settings.
func empty(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExitCodes(t *testing.T) {
	alone(t)
	sample := filepath.Join("..", "..", "testdata", "iso", "plain.iso")
	tests := []struct {
		args []string
		code int
		err  string // in stderr; "" = nothing may be there
	}{
		{args: nil},
		{args: []string{"--help"}},
		{args: []string{"version"}},
		{args: []string{"config", "--example"}},
		{args: []string{"inspect", sample}},
		{args: []string{"inspect", sample, "none.iso"}, code: 1},
		{args: []string{"completion", "bash"}},
		{args: []string{"lst"}, code: 2, err: `there is no command "lst"; did you mean list?`},
		{args: []string{"frobnicate"}, code: 2, err: `there is no command "frobnicate"`},
		{args: []string{"list", "--jsn"}, code: 2, err: "unknown flag: --jsn\nSee: isosyncd list --help"},
		{args: []string{"list", "extra"}, code: 2, err: "See: isosyncd list --help"},
		{args: []string{"inspect"}, code: 2, err: "requires at least 1 arg"},
		{args: []string{"store"}, code: 2, err: "accepts 1 arg"},
		{args: []string{"store", "/x", "--listen", "tcp:1"}, code: 2, err: "--listen must be unix:PATH"},
		{args: []string{"store", "/x", "--dialect", "lxc"}, code: 2, err: "--dialect must be lxd or incus"},
		{args: []string{"config", "--example", "--json"}, code: 2, err: "[example json] were all set\nSee: isosyncd config --help"},
		{args: []string{"config", "--settle-delay", "10"}, code: 78, err: "settle_delay must have a unit"},
		{args: []string{"list", "--config", "/none/such.yaml"}, code: 78, err: "/none/such.yaml: there is no such file"},
		{args: []string{"list", "--remote", "nobody"}, code: 78, err: "remote nobody is not known; make it known with: isosyncd remote add nobody"},
		{args: []string{"list", "--remote", "incus:nobody"}, code: 78, err: "nobody"},
		{args: []string{"run"}, code: 78, err: "folder is not set"},
		{args: []string{"run", "--folder", "/none/such"}, code: 78, err: "folder /none/such does not exist; make it, such as with: mkdir -p /none/such"},
		{args: []string{"run", "--prune", "--consume"}, code: 78, err: "prune and consume exclude each other"},
		{args: []string{"mount"}, code: 2, err: "accepts 1 arg"},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			got := invoke(t, tt.args...)
			if got.code != tt.code {
				t.Errorf("exit code %d, want %d; stderr: %s", got.code, tt.code, got.stderr)
			}
			if !strings.Contains(got.stderr, tt.err) || tt.err == "" && got.stderr != "" {
				t.Errorf("stderr %q, want %q", got.stderr, tt.err)
			}
			if tt.err != "" && got.stdout != "" && got.code == 2 {
				t.Errorf("an error printed to stdout: %q", got.stdout)
			}
		})
	}
}

// TestHelp: each command says what it does, and shows it.
func TestHelp(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s has no description", c.CommandPath())
		}
		top := c.HasParent() && !c.Parent().HasParent() && !c.HasSubCommands()
		if top && !c.Hidden && c.Example == "" && c.Name() != "version" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(newRootCommand(&app{}))
}

// TestRunFlags: run has a flag for each setting, and list's flags are some of them.
func TestRunFlags(t *testing.T) {
	run := newRunCommand(&app{})
	for _, k := range config.Keys() {
		if run.Flags().Lookup(k.Flag()) == nil {
			t.Errorf("run has no flag --%s", k.Flag())
		}
	}
}

func TestConfigCommand(t *testing.T) {
	alone(t)
	folder := t.TempDir()
	t.Setenv("ISOSYNCD_POOL", "fast")
	t.Setenv("ISOSYNCD_POOOL", "typo")
	got := invoke(t, "config", "--folder", folder, "--max-uploads=3")
	if got.code != 0 {
		t.Fatalf("exit code %d: %s", got.code, got.stderr)
	}
	if want := "ISOSYNCD_POOOL is no setting and was ignored; did you mean ISOSYNCD_POOL?"; !strings.Contains(got.stderr, want) {
		t.Errorf("stderr %q, want %q", got.stderr, want)
	}
	lines := map[string][]string{}
	for line := range strings.Lines(got.stdout) {
		if f := strings.Fields(line); len(f) > 2 {
			lines[f[0]] = f[1:]
		}
	}
	for key, want := range map[string][]string{
		"folder:":       {folder, "#", "flag"},
		"max_uploads:":  {"3", "#", "flag"},
		"pool:":         {"fast", "#", "environment", "ISOSYNCD_POOL"},
		"settle_delay:": {"5s", "#", "default"},
		"project:":      {`""`, "#", "default"},
	} {
		if diff := cmp.Diff(want, lines[key]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
	}

	// What it prints is a configuration file that means the same.
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(got.stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ISOSYNCD_POOL", "")
	again := invoke(t, "config", "--json", "--config", path)
	var parsed struct {
		File     string
		Settings map[string]struct{ Value, Source string }
	}
	if err := json.Unmarshal([]byte(again.stdout), &parsed); err != nil {
		t.Fatalf("%v: %s", err, again.stdout)
	}
	if len(parsed.Settings) != len(config.Keys()) || parsed.File != path {
		t.Errorf("file %q, %d settings", parsed.File, len(parsed.Settings))
	}
	if s := parsed.Settings["pool"]; s.Value != "fast" || s.Source != "file" {
		t.Errorf("pool: %+v", s)
	}
}

func TestManualPages(t *testing.T) {
	alone(t)
	t.Setenv("SOURCE_DATE_EPOCH", "1000000000")
	dir := t.TempDir()
	if got := invoke(t, "man", dir); got.code != 0 {
		t.Fatalf("exit code %d: %s", got.code, got.stderr)
	}
	for _, name := range []string{"isosyncd.1", "isosyncd-run.1", "isosyncd-status.1"} {
		page, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if !bytes.Contains(page, []byte("Sep 2001")) {
			t.Errorf("%s does not have the date that SOURCE_DATE_EPOCH says: two builds would differ", name)
		}
	}
}

// TestInspectSamples compares inspect --json with what is known of the samples.
func TestInspectSamples(t *testing.T) {
	alone(t)
	dir := filepath.Join("..", "..", "testdata", "iso")
	f, err := os.Open(filepath.Join(dir, "expect.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	want := map[string]string{}
	args := []string{"inspect", "--json"}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "\t")
		if strings.HasPrefix(lines.Text(), "#") || len(fields) < 2 {
			continue
		}
		path := filepath.Join(dir, fields[0])
		want[path] = fields[1]
		args = append(args, path)
	}
	got := invoke(t, args...)
	if got.code != 1 || got.stderr != "" {
		t.Errorf("exit code %d, stderr %q; want 1, because some are bad, and nothing", got.code, got.stderr)
	}
	found := map[string]string{}
	for line := range strings.Lines(got.stdout) {
		var r iso.Report
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		found[r.File] = r.Verdict
	}
	if diff := cmp.Diff(want, found); diff != "" || len(want) == 0 {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	for path, verdict := range want {
		code := exitFailed
		if verdict == "accept" {
			code = 0
		}
		if got := invoke(t, "inspect", path); got.code != code || !strings.Contains(got.stdout, ": "+verdict+"\n") {
			t.Errorf("inspect %s: exit code %d, %q; want %d, %s", path, got.code, got.stdout, code, verdict)
		}
	}
}

// TestInspectEscapes: what an image or a file's name says never reaches the terminal as it is (I11).
func TestInspectEscapes(t *testing.T) {
	alone(t)
	sample, err := os.ReadFile(filepath.Join("..", "..", "testdata", "iso", "plain.iso"))
	if err != nil {
		t.Fatal(err)
	}
	const label = 16*2048 + 40
	copy(sample[label:], "\x1b[2J\x07\u202eEVIL\n                  ")
	path := filepath.Join(t.TempDir(), "a\x1b[31m\n\u202eb.iso")
	if err := os.WriteFile(path, sample, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"inspect", path}, {"inspect", "--json", path}, {"inspect", path + "\x1b"}} {
		got := invoke(t, args...)
		for _, bad := range []string{"\x1b", "\x07", "\u202e", "\n\u202e"} {
			if strings.Contains(got.stdout+got.stderr, bad) && (args[1] != "--json" || bad == "\x1b" || bad == "\x07") {
				t.Errorf("%q prints %q: %q", args, bad, got.stdout+got.stderr)
			}
		}
		if !strings.Contains(got.stdout, "EVIL") && got.code == 0 {
			t.Errorf("the label is lost: %q", got.stdout)
		}
	}
}

// TestInspectDoesNotHang: a FIFO without a writer, and a directory.
func TestInspectDoesNotHang(t *testing.T) {
	alone(t)
	fifo := mkfifo(t)
	for _, path := range []string{fifo, t.TempDir()} {
		if got := invoke(t, "inspect", path); got.code != 1 || !strings.Contains(got.stdout, "it is no regular file") {
			t.Errorf("inspect %s: exit code %d, %q", path, got.code, got.stdout)
		}
	}
}

// brokenPipe is a reader that went away.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, fs.ErrClosed }

// TestBrokenOutput: output that could not be written is no success.
func TestBrokenOutput(t *testing.T) {
	alone(t)
	for _, args := range [][]string{
		{"version"},
		{"config", "--example"},
		{"inspect", filepath.Join("..", "..", "testdata", "iso", "plain.iso")},
	} {
		if code := run(context.Background(), args, brokenPipe{}, brokenPipe{}); code != exitFailed {
			t.Errorf("%q: exit code %d, want %d", args, code, exitFailed)
		}
	}
}
