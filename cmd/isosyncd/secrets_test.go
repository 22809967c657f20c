package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"isosyncd/control"
	"isosyncd/lxd/lxdtest"
)

// Whatever happens, nothing secret is in the log, the status, the metrics, the folder, the journal, the arguments or the
// environment of the process. The daemon is one that does everything once: it connects, imports, fails and comes back.
func TestSecretsStaySecret(t *testing.T) {
	lxdtest.Need(t, "incus")
	exe := program(t)
	s, url, _ := tlsSite(t)
	token := s.server.Token(t, "canary")
	if code, _, errs := s.remote(token, "add", "prod"); code != 0 {
		t.Fatal(errs)
	}
	secrets := canaries(t, token, filepath.Join(s.state, "remotes", "prod", clientKey))

	log := &logBuffer{}
	cmd := exec.CommandContext(context.Background(), exe, "run", "--folder", s.folder, "--state-dir", s.state, "--control", s.socket, "--remote", "prod",
		"--pool", "default", "--settle-delay", "100ms", "--scan-interval", "1s", "--refresh-interval", "1s", "--log-level", "debug",
		"--status-files", "all")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	seen := &strings.Builder{}
	status := func() string {
		var all strings.Builder
		for _, args := range [][]string{{"status"}, {"status", "--json"}, {"list", "--remote", "prod"}, {"config"}, {"remote", "list"}, {"remote", "list", "--json"}} {
			switch args[0] {
			case "status":
				args = append(args, "--control", s.socket, "--folder", s.folder)
			case "config":
				args = append(args, "--json", "--folder", s.folder, "--remote", "prod")
			}
			_, out, errs := cli(t, append(args, "--state-dir", s.state)...)
			all.WriteString(out + errs)
		}
		seen.WriteString(all.String())
		return all.String()
	}
	s.put("bios.iso")
	s.put("html.iso")
	lxdtest.Eventually(t, "an import", func() bool { return strings.Contains(status(), "1 present") })
	s.server.Kill()
	lxdtest.Eventually(t, "a failure", func() bool { return strings.Contains(status(), "cannot be used") })
	s.server.Restart()
	lxdtest.Eventually(t, "a second connection", func() bool { return strings.Contains(status(), "online") })

	c := control.Dial(s.socket)
	defer c.Close()
	metrics, err := c.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	proc := fmt.Sprintf("/proc/%d/", cmd.Process.Pid)
	places := map[string]string{"log": log.String(), "output": seen.String(), "metrics": string(metrics), "journal": slurp(t, filepath.Join(s.state, "journal.db"))}
	for _, name := range []string{"cmdline", "environ", "comm"} {
		places[name] = slurp(t, proc+name)
	}
	err = filepath.WalkDir(s.folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			places[path] = slurp(t, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range places {
		for name, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s is in the %s", name, what)
			}
		}
	}
	// The test looks at what is there: the places are not empty, and the server is in them.
	if addr := strings.TrimPrefix(url, "https://"); !strings.Contains(places["output"], addr) || !strings.Contains(places["log"], "prod") && !strings.Contains(places["log"], addr) {
		t.Errorf("the places do not even name the server %s:\n%s", url, places["log"])
	}
	if !strings.Contains(places["metrics"], "isosyncd_imports_total 1") || len(places) < 9 {
		t.Errorf("only %d places, or no import in %s", len(places), metrics)
	}
}

// canaries are the texts by which a secret would show itself.
func canaries(t *testing.T, token, keyFile string) map[string]string {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	var content struct {
		Secret string `json:"secret"`
	}
	if err := json.Unmarshal(raw, &content); err != nil || content.Secret == "" {
		t.Fatalf("the token has no secret: %v", err)
	}
	secrets := map[string]string{"the token": token, "the token's secret": content.Secret, "a private key": "PRIVATE KEY"}
	for i, line := range strings.Split(strings.TrimSpace(slurp(t, keyFile)), "\n") {
		if !strings.HasPrefix(line, "-----") {
			secrets[fmt.Sprintf("line %d of the key", i)] = line
		}
	}
	if len(secrets) < 5 {
		t.Fatalf("only %d canaries", len(secrets))
	}
	return secrets
}

func slurp(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
