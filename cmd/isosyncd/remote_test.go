package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"isosyncd/lxd"
	"isosyncd/lxd/lxdtest"
)

// tlsSite is a real server that listens on HTTPS, and a state directory that knows nothing of it.
func tlsSite(t *testing.T) (s *cliSite, url, fingerprint string) {
	t.Helper()
	server := lxdtest.Incus(t)
	target := server.HTTPS(t)
	block, _ := pem.Decode(target.ServerCertPEM)
	sum := sha256.Sum256(block.Bytes)
	return newCLISite(t, server), target.Addr, hex.EncodeToString(sum[:])
}

func (s *cliSite) remote(stdin string, args ...string) (code int, stdout, stderr string) {
	s.t.Helper()
	return cliWith(s.t, context.Background(), strings.NewReader(stdin), append(append([]string{"remote"}, args...), "--state-dir", s.state)...)
}

// privacy checks that nobody but the owner can use what lies in the state directory.
func (s *cliSite) privacy() {
	s.t.Helper()
	for path, want := range map[string]os.FileMode{
		filepath.Join(s.state, "remotes", "prod"):               0o700 | os.ModeDir,
		filepath.Join(s.state, "remotes", "prod", "client.key"): 0o600,
	} {
		st, err := os.Stat(path)
		if err != nil || st.Mode() != want {
			s.t.Errorf("%s: %v %v, want %v", path, st.Mode(), err, want)
		}
	}
}

func TestRemoteByToken(t *testing.T) {
	s, url, fingerprint := tlsSite(t)
	token := s.server.Token(t, "isosyncd")
	// By standard input: arguments are there for all to see.
	code, out, errs := s.remote(token+"\n", "add", "prod")
	if code != 0 || !strings.Contains(out, "remote prod is Incus") {
		t.Fatalf("%d %s %s", code, out, errs)
	}
	if strings.Contains(out+errs, token) {
		t.Error("the token is shown")
	}
	s.privacy()
	code, out, _ = s.remote("", "list")
	if code != 0 || !strings.Contains(out, "prod") || !strings.Contains(out, url) || !strings.Contains(out, fingerprint[:12]) {
		t.Errorf("%d %s", code, out)
	}

	// It is good for something.
	path := s.put("bios.iso")
	code, out, errs = cli(t, "import", path, "--remote", "prod", "--pool", "default", "--state-dir", s.state)
	if code != 0 || out != "bios\n" {
		t.Errorf("%d %s %s", code, out, errs)
	}

	// A token works once, and a name is given once.
	if code, _, errs := s.remote(token, "add", "again"); code != 1 || strings.Contains(errs, token) {
		t.Errorf("the same token: %d %s", code, errs)
	}
	if _, err := os.Lstat(filepath.Join(s.state, "remotes", "again")); err == nil {
		t.Error("what failed left something behind")
	}
	if code, _, errs := s.remote("", "add", "prod", url); code != 1 || !strings.Contains(errs, "known already") {
		t.Errorf("%d %s", code, errs)
	}

	code, out, _ = s.remote("", "remove", "prod")
	if code != 0 || !strings.Contains(out, "incus config trust remove ") {
		t.Errorf("%d %s", code, out)
	}
	if _, err := os.Lstat(filepath.Join(s.state, "remotes", "prod")); err == nil {
		t.Error("the key is still there")
	}
	if code, _, errs := s.remote("", "remove", "prod"); code != 1 || !strings.Contains(errs, "not known") {
		t.Errorf("%d %s", code, errs)
	}
}

func TestRemoteByURL(t *testing.T) {
	s, url, fingerprint := tlsSite(t)
	// Nobody is there to compare: refused, with what is needed to do it right.
	code, _, errs := s.remote("", "add", "prod", url)
	if code != 1 || !strings.Contains(errs, "--accept-fingerprint "+fingerprint) {
		t.Fatalf("%d %s", code, errs)
	}
	// A wrong one: refused, with both.
	wrong := strings.Repeat("ab", 32)
	code, _, errs = s.remote("", "add", "prod", url, "--accept-fingerprint", wrong)
	if code != 1 || !strings.Contains(errs, wrong) || !strings.Contains(errs, fingerprint) {
		t.Errorf("%d %s", code, errs)
	}
	if _, err := os.Lstat(filepath.Join(s.state, "remotes", "prod")); err == nil {
		t.Error("what was refused left something behind")
	}
	// The right one, but the server does not know us: the key waits until it does.
	code, _, errs = s.remote("", "add", "prod", url, "--accept-fingerprint", strings.ToUpper(fingerprint))
	cert := filepath.Join(s.state, "remotes", "prod", "client.crt")
	if code != 1 || !strings.Contains(errs, "incus config trust add-certificate "+cert) {
		t.Fatalf("%d %s", code, errs)
	}
	s.privacy()
	s.server.Run("config", "trust", "add-certificate", cert)
	code, out, errs := s.remote("", "add", "prod", url, "--accept-fingerprint", fingerprint)
	if code != 0 {
		t.Fatalf("%d %s %s", code, out, errs)
	}
	if code, out, errs := cli(t, "list", "--remote", "prod", "--state-dir", s.state); code != 0 {
		t.Errorf("%d %s %s", code, out, errs)
	}
}

// A project that keeps its volumes in the default one, and one that a restricted certificate is held to.
func TestRemoteProjects(t *testing.T) {
	s, _, _ := tlsSite(t)
	s.server.Run("project", "create", "shared", "-c", "features.storage.volumes=false", "-c", "features.images=false", "-c", "features.profiles=false")
	s.server.Run("project", "create", "own", "-c", "features.images=false", "-c", "features.profiles=false")
	token := s.server.Token(t, "restricted", "--restricted", "--projects", "shared,own")
	code, out, errs := s.remote(token, "add", "prod", "--project", "own")
	if code != 0 {
		t.Fatalf("%d %s %s", code, out, errs)
	}
	path := s.put("bios.iso")
	flags := []string{"--remote", "prod", "--state-dir", s.state, "--pool", "default"}
	for _, project := range []string{"own", "shared"} {
		code, out, errs := cli(t, append([]string{"import", path, "in-" + project, "--project", project}, flags...)...)
		if code != 0 {
			t.Errorf("%s: %d %s %s", project, code, out, errs)
		}
	}
	if code, out, errs := cli(t, append([]string{"import", path, "no", "--project", "default"}, flags...)...); code != 1 {
		t.Errorf("into a project that is not for it: %d %s %s", code, out, errs)
	}
	c, err := lxd.Dial(t.Context(), lxd.Target{Addr: s.server.Addr(), Project: "own"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if own, err := c.Pool(t.Context(), "default"); err != nil {
		t.Error(err)
	} else if _, err := own.Volume(t.Context(), "in-own"); err != nil {
		t.Error(err)
	}
	if v := s.volumes(); len(v) != 1 || v["in-shared"] == "" {
		t.Errorf("the default project has %v", v)
	}
}

func TestRemoteRefusals(t *testing.T) {
	s := &cliSite{t: t, state: filepath.Join(t.TempDir(), "state")}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"add", "prod", "http://127.0.0.1:1"}, "plain http is refused"},
		{[]string{"add", "../x", "https://127.0.0.1:1"}, "is no name for a remote"},
		{[]string{"add", "prod", "10.0.0.7:8443"}, "an address needs https:// before it"},
		{[]string{"add", "prod", "bm90IGEgdG9rZW4="}, "not a token"},
		{[]string{"add", "prod"}, "nothing was given"},
		{[]string{"add", "prod", "https://127.0.0.1:1"}, "connection refused"},
		{[]string{"remove", "../../etc"}, "is no name of a remote"},
	} {
		code, out, errs := s.remote("", c.args...)
		if code == 0 || !strings.Contains(errs, c.want) {
			t.Errorf("%q: %d %s %s; want %q", c.args, code, out, errs, c.want)
		}
	}
	if _, err := os.Lstat(filepath.Join(s.state, "remotes", "prod")); err == nil {
		t.Error("what was refused left something behind")
	}
}

// A bearer token is kept for its owner alone, sent over TLS to the pinned server only, and shown nowhere.
func TestRemoteByBearerToken(t *testing.T) {
	const token = "eyJcanary.eyJbearer.signature"
	var seen []string
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization"))
		_ = json.NewEncoder(w).Encode(map[string]any{"type": "sync", "status_code": 200, "metadata": map[string]any{
			"auth": "trusted", "api_extensions": []string{"custom_volume_iso", "auth_bearer"},
			"environment": map[string]any{"server": "lxd", "server_version": "6.7"},
		}})
	}))
	server.StartTLS()
	defer server.Close()
	sum := sha256.Sum256(server.Certificate().Raw)
	s := &cliSite{t: t, state: filepath.Join(t.TempDir(), "state")}
	args := []string{"add", "prod", server.URL, "--bearer-file", "-", "--accept-fingerprint"}
	if code, _, errs := s.remote(token, append(args, strings.Repeat("00", 32))...); code != 1 || len(seen) > 0 || strings.Contains(errs, token) {
		t.Fatalf("to a wrong server: %d %s, it saw %q", code, errs, seen)
	}
	code, out, errs := s.remote(token+"\n", append(args, hex.EncodeToString(sum[:]))...)
	if code != 0 || strings.Contains(out+errs, token) {
		t.Fatalf("%d %s %s", code, out, errs)
	}
	for _, h := range seen {
		if h != "Bearer "+token {
			t.Errorf("the server saw %q", h)
		}
	}
	st, err := os.Stat(filepath.Join(s.state, "remotes", "prod", bearerToken))
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(s.state, "remotes", "prod", clientKey)); err == nil {
		t.Error("a key was made that nobody needs")
	}
	if _, out, _ := s.remote("", "list"); !strings.Contains(out, "bearer token") || strings.Contains(out, token) {
		t.Error(out)
	}
	before := len(seen)
	target, err := loadRemote(s.state, "prod")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hello(t.Context(), target); err != nil || len(seen) == before {
		t.Errorf("as the daemon does it: %v", err)
	}
}

// In a terminal the fingerprint is shown and asked for.
func TestRemoteAsks(t *testing.T) {
	lxdtest.Need(t, "tmux")
	exe := program(t)
	s, url, fingerprint := tlsSite(t)
	sc := newScreen(t, 100, 30, "sh", "-c", exe+" remote add prod "+url+" --state-dir "+s.state+"; echo ended with $?; cat")
	picture := sc.until("[y/N]")
	if !strings.Contains(picture, fingerprint) {
		t.Errorf("the screen has\n%s", picture)
	}
	sc.tmux("send-keys", "n", "Enter")
	if picture := sc.until("ended with 1"); !strings.Contains(picture, "nothing was saved") {
		t.Errorf("the screen has\n%s", picture)
	}
	// A token that is typed is not seen.
	token := s.server.Token(t, "typed")
	sc = newScreen(t, 100, 30, "sh", "-c", exe+" remote add prod --state-dir "+s.state+"; echo ended with $?; cat")
	sc.until("Trust token:")
	sc.tmux("send-keys", "-l", token)
	sc.tmux("send-keys", "Enter")
	if picture := sc.until("ended with 0"); strings.Contains(picture, token[:40]) {
		t.Errorf("the token is on the screen\n%s", picture)
	}
}

// A server that speaks no TLS 1.2 or later, or none at all, gets nothing.
func TestRemoteNoTLS(t *testing.T) {
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Listener.Close()
	srv.Listener = ln
	srv.Start()
	defer srv.Close()
	s := &cliSite{t: t, state: filepath.Join(t.TempDir(), "state")}
	code, _, errs := s.remote("", "add", "prod", "https://"+ln.Addr().String(), "--accept-fingerprint", strings.Repeat("00", 32))
	if code != 1 {
		t.Errorf("%d %s", code, errs)
	}
}
