package main

import (
	"context"
	"encoding/json"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"isosyncd/config"
	isosync "isosyncd/sync"
)

func newCheckCommand(a *app) *cobra.Command {
	var asJSON, verbose bool
	cmd := &cobra.Command{
		Use:   "check FILE...",
		Short: "Say whether images could be imported here, and change nothing",
		Long: `Looks at each file and at the server, and says whether the file would become a volume if it were put into the
folder: format, checksum lists beside it, volume name, clash with another volume or file, whether a volume that would
be replaced is in use, room in the pool, limits of the project. Nothing is changed anywhere.

Exit status: 0 if all would be imported, 1 if not.`,
		Example: `  isosyncd check *.iso
  isosyncd check --json win.iso | jq '.checks[] | select(.ok | not)'`,
		Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return []cobra.Completion{"iso", "ISO"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, paths []string) error {
			l, err := a.settings(cmd)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			p := a.lookFrom(ctx, l)
			all := true
			for _, path := range paths {
				r, err := checkFile(ctx, path, &p, newPhases(a.stderr, asJSON))
				if err != nil {
					return err
				}
				all = all && r.OK
				text := r.text(verbose)
				if asJSON {
					b, err := json.Marshal(r)
					if err != nil {
						return err
					}
					text = string(b) + "\n"
				}
				if err := a.print(text); err != nil {
					return err
				}
			}
			if !all {
				return &silentError{exitFailed}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line for each file")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "also say what is right")
	addServer(cmd)
	addSettings(cmd, "replace")
	return cmd
}

// lookFrom is lookAt for settings that may name no server.
func (a *app) lookFrom(ctx context.Context, l *config.Loaded) place {
	dial, closer, err := resolveRemote(ctx, l)
	if err != nil {
		return place{Err: err}
	}
	defer closer()
	remote, err := dial(ctx)
	if err != nil {
		return place{Err: err}
	}
	p := lookAt(ctx, remote)
	p.Owner, p.Replace, p.Taken = l.Owner, isosync.Replace(l.Settings.Replace), map[string]string{}
	return p
}

// checked is what check says of one file.
type checked struct {
	File    string    `json:"file"`
	Volume  string    `json:"volume"` // "" = no name can be made
	OK      bool      `json:"ok"`
	Present bool      `json:"present"` // the volume is there with these bytes
	Checks  []finding `json:"checks"`
}

// checkFile looks at one file; the files after it find its name and its room taken. An error is that of ctx: what is
// wrong with the file is a finding.
func checkFile(ctx context.Context, path string, p *place, ph *phases) (checked, error) {
	r := checked{File: path}
	src, err := openSource(path)
	if err != nil {
		r.Checks = []finding{bad("format", isosync.CodeUnreadable, showText(err.Error()), "see that it is there, finished, and readable")}
		return r, nil
	}
	defer src.close()
	defer ph.end()
	c, err := src.examine(ctx, "", ph, false)
	if err == nil {
		r.Volume, r.Checks = preflight(c, p)
		if nameTaken(p, r.Volume) && c.Digests == nil {
			// It may be there with these very bytes: only they can tell.
			if c, err = src.examine(ctx, "", ph, true); err == nil {
				r.Volume, r.Checks = preflight(c, p)
			}
		}
	}
	switch {
	case ctx.Err() != nil:
		return r, ctx.Err()
	case err != nil:
		r.Checks = append(r.Checks, bad("format", isosync.CodeUnreadable, showText(err.Error()), "see that it is finished, and that the disk is well"))
		return r, nil
	}
	r.OK, r.Present = passed(r.Checks), p.Err == nil && alreadyThere(c, p, r.Volume)
	if r.OK && p.Err == nil {
		p.Taken[r.Volume] = src.name
		need := needed(c, p, r.Volume)
		p.Space.Used += need
		p.Limits.Used += need
	}
	return r, nil
}

func (r *checked) text(verbose bool) string {
	var b strings.Builder
	b.WriteString(showName(filepath.Base(r.File)) + ": ")
	switch {
	case r.Present:
		b.WriteString("is there already, as volume " + r.Volume + "\n")
	case r.OK:
		b.WriteString("would become volume " + r.Volume + "\n")
	default:
		b.WriteString("would not be imported\n")
	}
	for i := range r.Checks {
		f := &r.Checks[i]
		switch {
		case !f.OK:
			b.WriteString("  " + pad(f.Check, 9) + "why: " + f.Text + "\n")
			b.WriteString("  " + pad("", 9) + "do:  " + f.Remedy + "\n")
		case verbose:
			b.WriteString("  " + pad(f.Check, 9) + "ok: " + f.Text + "\n")
		}
	}
	return b.String()
}
