package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"isosyncd/config"
)

// bearerToken is the file of a remote with the token of a bearer identity, in the place of a client key.
const bearerToken = "bearer.token"

// shownRemote is a remote as `remote list` shows it; there is nothing secret in it.
type shownRemote struct {
	Name        string `json:"name"`
	Addr        string `json:"address"`
	Project     string `json:"project,omitempty"`
	Login       string `json:"login"`                 // "certificate", "bearer token" or "socket"
	Fingerprint string `json:"fingerprint,omitempty"` // of the server's certificate
}

func newRemoteListCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "list",
		Aliases:           []string{"ls"},
		Short:             "List the servers that are known",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := a.settings(cmd)
			if err != nil {
				return err
			}
			list, err := listRemotes(l.StateDir)
			if err != nil {
				return err
			}
			var text string
			if asJSON {
				text, err = indented(list)
			} else {
				text = remoteTable(list)
			}
			if err != nil {
				return err
			}
			return a.print(text)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	addSettings(cmd, "state_dir")
	return cmd
}

func listRemotes(stateDir string) ([]shownRemote, error) {
	names, err := savedRemotes(stateDir)
	if err != nil {
		return nil, err
	}
	list := make([]shownRemote, 0, len(names))
	for _, name := range names {
		dir := remoteDir(stateDir, name)
		text, err := os.ReadFile(filepath.Join(dir, remoteFile))
		var saved savedRemote
		if err == nil {
			err = json.Unmarshal(text, &saved)
		}
		if err != nil {
			return nil, fmt.Errorf("remote %s: %w", showName(name), err)
		}
		s := shownRemote{Name: name, Addr: saved.Addr, Project: saved.Project, Fingerprint: saved.Fingerprint, Login: "certificate"}
		if _, err := os.Stat(filepath.Join(dir, bearerToken)); err == nil {
			s.Login = "bearer token"
		} else if !strings.HasPrefix(saved.Addr, "https:") {
			s.Login = "socket"
		}
		list = append(list, s)
	}
	return list, nil
}

func remoteTable(list []shownRemote) string {
	if len(list) == 0 {
		return "no remotes; isosyncd remote add makes one known\n"
	}
	rows := [][]string{{"NAME", "ADDRESS", "PROJECT", "LOGIN", "FINGERPRINT"}}
	for _, s := range list {
		project := s.Project
		if project == "" {
			project = "default"
		}
		rows = append(rows, []string{showName(s.Name), showText(s.Addr), showName(project), s.Login, shortHex(s.Fingerprint)})
		if s.Fingerprint == "" {
			rows[len(rows)-1][4] = "-"
		}
	}
	cells := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			cells[i] = max(cells[i], width(c))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		for i := range row {
			row[i] = pad(row[i], cells[i])
		}
		b.WriteString(strings.TrimRight(strings.Join(row, gap), " ") + "\n")
	}
	return b.String()
}

func newRemoteRemoveCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "remove NAME",
		Aliases: []string{"rm"},
		Short:   "Forget a server, and the key for it",
		Args:    cobra.ExactArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, given []string, start string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(given) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return offer(a.remoteNames(cmd), nil, start), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.settings(cmd)
			if err != nil {
				return err
			}
			text, err := removeRemote(l.StateDir, args[0])
			if err != nil {
				return err
			}
			return a.print(text)
		},
	}
	addSettings(cmd, "state_dir")
	return cmd
}

// removeRemote returns what a person has to know then.
func removeRemote(stateDir, name string) (string, error) {
	if !config.RemoteName(name) {
		return "", fmt.Errorf("%s is no name of a remote", showName(name))
	}
	dir := remoteDir(stateDir, name)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("remote %s is not known", name)
	}
	text := "remote " + name + " is forgotten\n"
	if print, err := certificatePrint(filepath.Join(dir, clientCert)); err == nil {
		text += "its server may still trust the key that is deleted now; there, run one of\n" +
			"  incus config trust remove " + print[:12] + "\n  lxc config trust remove " + print[:12] + "\n"
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("remote %s: %w", name, err)
	}
	return text, nil
}

// certificatePrint is the SHA-256 of a certificate in a PEM file, in hex.
func certificatePrint(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return "", errors.New("it is no PEM text")
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:]), nil
}

func (a *app) remoteNames(cmd *cobra.Command) []string {
	l, err := a.settings(cmd)
	if err != nil {
		return nil
	}
	names, err := savedRemotes(l.StateDir)
	if err != nil {
		return nil
	}
	return names
}

// completeRemotes makes every --remote flag below cmd complete.
func (a *app) completeRemotes(cmd *cobra.Command) {
	if cmd.Flags().Lookup("remote") != nil {
		// It fails only where the flag is missing or has a completion already.
		_ = cmd.RegisterFlagCompletionFunc("remote", func(cmd *cobra.Command, _ []string, start string) ([]cobra.Completion, cobra.ShellCompDirective) {
			for _, kind := range []string{"unix:", "store:", "/"} {
				if strings.HasPrefix(start, kind) {
					return nil, cobra.ShellCompDirectiveDefault // paths
				}
			}
			names := append(a.remoteNames(cmd), "https://", "incus:", "lxc:", "store:", "unix:")
			return offer(names, nil, start), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		})
	}
	for _, c := range cmd.Commands() {
		a.completeRemotes(c)
	}
}
