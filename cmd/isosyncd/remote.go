package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"isosyncd/config"
	"isosyncd/lxd"
)

func newRemoteCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remote",
		Short: "Make servers known that are reached over HTTPS",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newRemoteAddCommand(a), newRemoteListCommand(a), newRemoteRemoveCommand(a))
	return cmd
}

// remoteAdd is `isosyncd remote add`.
type remoteAdd struct {
	*app
	in         io.Reader
	name       string
	accept     string // fingerprint that the server must have
	bearerFile string
	settings   *config.Loaded
}

func newRemoteAddCommand(a *app) *cobra.Command {
	r := &remoteAdd{app: a}
	cmd := &cobra.Command{
		Use:   "add NAME [URL | TOKEN]",
		Short: "Make a server known, by its address or a trust token",
		Long: `Makes a server known under a name, for --remote NAME and the setting remote.

TOKEN is what "incus config trust add CLIENT" or "lxc config trust add --name CLIENT" prints on the server. It names the
server, its certificate, and makes it trust this client. It works once. Leave it out, or give - for it, to have it read
from the terminal or standard input: other users of this machine can see the arguments of commands.

URL is https://HOST[:8443]. The server's certificate is shown by its fingerprint, to be compared with what the server's
administrator says, and is the only one that is accepted from then on. In scripts, --accept-fingerprint says it.

The client's key is made for this remote alone, and kept in state_dir (mode 0600).`,
		Example: `  isosyncd remote add prod
  isosyncd remote add prod https://10.0.0.7:8443
  isosyncd remote add prod https://10.0.0.7:8443 --accept-fingerprint "$(cat prod.fingerprint)"`,
		Args: cobra.RangeArgs(1, 2),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if r.settings, err = a.settings(cmd); err != nil {
				return err
			}
			r.name, r.in = args[0], cmd.InOrStdin()
			where := "-"
			if len(args) == 2 {
				where = args[1]
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return r.run(ctx, where)
		},
	}
	cmd.Flags().StringVar(&r.accept, "accept-fingerprint", "", "SHA-256 `FINGERPRINT` that the server's certificate must have, instead of a question")
	cmd.Flags().StringVar(&r.bearerFile, "bearer-file", "", "`FILE` with the token of a bearer identity of LXD, instead of a client key; - = standard input")
	addSettings(cmd, "state_dir", "project")
	return cmd
}

func (r *remoteAdd) run(ctx context.Context, where string) error {
	if !config.RemoteName(r.name) {
		return fmt.Errorf("%s is no name for a remote; use letters, digits, dots and dashes", showName(r.name))
	}
	dir := remoteDir(r.settings.StateDir, r.name)
	if _, err := os.Stat(filepath.Join(dir, remoteFile)); err == nil {
		return fmt.Errorf("remote %s is known already; to replace it, first run: isosyncd remote remove %s", r.name, r.name)
	}
	t := lxd.Target{Project: r.settings.Project}
	isURL := strings.Contains(where, "://") || strings.HasPrefix(where, "unix:") || strings.HasPrefix(where, "/")
	var err error
	if !isURL {
		if where, err = r.token(where); err != nil {
			return err
		}
	} else if t.Addr = where; strings.HasPrefix(where, "https://") {
		if t.Fingerprint, err = r.certificate(ctx, where); err != nil {
			return err
		}
	}
	t, made, err := r.identity(t, dir)
	if err == nil && !isURL {
		t, err = lxd.Join(ctx, t, where)
	}
	var server lxd.Server
	if err == nil {
		server, err = hello(ctx, t)
	}
	if errors.Is(err, lxd.ErrUntrusted) && t.CertFile != "" {
		// The key stays: whoever trusts it now must find it at the next try.
		return errors.Join(fmt.Errorf("remote %s: the server does not trust this client yet. On the server, run one of\n"+
			"  incus config trust add-certificate %s\n  lxc config trust add %s\nwith a copy of that file, and then this command again; or use a trust token",
			r.name, t.CertFile, t.CertFile), giveToOwner(r.settings.StateDir, filepath.Dir(dir)))
	}
	if err != nil {
		if made {
			_ = os.RemoveAll(dir) // nobody has seen the key
		}
		return fmt.Errorf("remote %s: %w", r.name, err)
	}
	if err := saveRemote(r.settings.StateDir, r.name, t); err != nil {
		return err
	}
	return r.print(fmt.Sprintf("remote %s is %s\nuse it with: isosyncd run --remote %s\n", r.name, serverName(server), r.name))
}

// hello asks the server whether all is well.
func hello(ctx context.Context, t lxd.Target) (lxd.Server, error) {
	c, err := lxd.Dial(ctx, t)
	if err != nil {
		return lxd.Server{}, err
	}
	defer c.Close()
	return c.Server(), nil
}

// token takes the one that was given, or asks for it.
func (r *remoteAdd) token(given string) (string, error) {
	var err error
	if given == "-" {
		if given, err = r.secret("Trust token: "); err != nil {
			return "", err
		}
	}
	if _, err := lxd.ParseToken(given); err != nil {
		if strings.ContainsAny(given, ":.") && len(given) < 256 {
			return "", fmt.Errorf("%s is no token; an address needs https:// before it", showName(given))
		}
		return "", err
	}
	return given, nil
}

// secret reads something that nobody is to see: from the terminal without an echo, or a line of standard input.
func (r *remoteAdd) secret(prompt string) (string, error) {
	if f, ok := r.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		r.say(prompt)
		b, err := term.ReadPassword(int(f.Fd()))
		r.say("\n")
		return strings.TrimSpace(string(b)), err
	}
	const most = 64 << 10 // bytes; tokens have some hundreds
	b, err := io.ReadAll(io.LimitReader(r.in, most))
	if err == nil && len(b) == 0 {
		err = errors.New("nothing was given on standard input")
	}
	return strings.TrimSpace(string(b)), err
}

func (r *remoteAdd) say(text string) { _, _ = io.WriteString(r.stderr, text) } // a question that nobody reads gets no answer

// certificate decides which one the server must have.
func (r *remoteAdd) certificate(ctx context.Context, addr string) (fingerprint string, err error) {
	if r.accept != "" {
		return r.accept, nil // compared, and if need be refused, by the first connection
	}
	got, err := lxd.FetchFingerprint(ctx, addr)
	if err != nil {
		return "", err
	}
	r.say(fmt.Sprintf("%s has a certificate with the SHA-256 fingerprint\n  %s\n"+
		"Compare it with that of the server: there, \"incus info\" or \"lxc info\" shows it as certificate_fingerprint.\n", showText(addr), got))
	f, ok := r.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return "", fmt.Errorf("remote %s: nobody is there to compare it; if it is right, add --accept-fingerprint %s", r.name, got)
	}
	r.say("Is it the same? [y/N] ")
	answer, err := bufio.NewReader(r.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return got, nil
	}
	return "", fmt.Errorf("remote %s: the certificate was not accepted, nothing was saved", r.name)
}

// identity says as whom to talk to the server: with a bearer token, or a key of this remote's own. made reports that
// something new lies in dir.
func (r *remoteAdd) identity(t lxd.Target, dir string) (_ lxd.Target, made bool, err error) {
	if !strings.HasPrefix(t.Addr, "https://") && t.Addr != "" {
		return t, false, nil // a unix socket asks for nothing
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		made = true
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return t, false, err
	}
	if r.bearerFile != "" {
		if t.Bearer, err = r.bearer(dir); err != nil {
			return t, made, err
		}
		return t, made, nil
	}
	cert, key := filepath.Join(dir, clientCert), filepath.Join(dir, clientKey)
	if _, err := os.Stat(key); errors.Is(err, fs.ErrNotExist) {
		if err := lxd.NewClientKey(cert, key); err != nil {
			return t, made, err
		}
	}
	t.CertFile, t.KeyFile = cert, key
	return t, made, nil
}

// bearer keeps the token beside the remote, for its owner alone.
func (r *remoteAdd) bearer(dir string) (string, error) {
	var token string
	var err error
	if r.bearerFile == "-" {
		token, err = r.secret("Bearer token: ")
	} else {
		var b []byte
		b, err = os.ReadFile(r.bearerFile)
		token = strings.TrimSpace(string(b))
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("bearer token: %w", err)
	case token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }):
		return "", errors.New("bearer token: it must be one word; copy it whole, as the server printed it")
	}
	return token, os.WriteFile(filepath.Join(dir, bearerToken), []byte(token+"\n"), 0o600)
}
