package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"isosyncd/config"
	"isosyncd/control"
	isosync "isosyncd/sync"
)

func newStatusCommand(a *app) *cobra.Command {
	var watch, asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the server, the pool, and each file and volume, with what is wrong and what to do",
		Long: `Shows the connection, the pool and its room, and one line for each file and volume; where something is wrong,
why, and what to do. What needs a person comes first.

Without a running daemon it says so, and shows what the journal remembers.

Exit status: 0 if all is well or will be by itself, 1 if anything needs a person or no daemon runs.`,
		Example: `  isosyncd status
  isosyncd status --watch
  isosyncd status --json | jq -r '.files[] | select(.state != "present") | .name'`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := a.settings(cmd)
			if err != nil {
				return err
			}
			if watch {
				return a.watchStatus(cmd.Context(), l, asJSON)
			}
			return a.showStatus(cmd.Context(), l, asJSON)
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "keep showing it, with progress bars; ends with Ctrl-C")
	cmd.Flags().BoolVar(&asJSON, "json", false, "for scripts: one JSON document, or with --watch one for each change")
	addSettings(cmd, "control", "state_dir", "folder")
	return cmd
}

func (a *app) showStatus(ctx context.Context, l *config.Loaded, asJSON bool) error {
	c, st, err := reach(ctx, l)
	switch {
	case errors.Is(err, control.ErrNotRunning):
		if st, err = remembered(l); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		c.Close()
	}
	if asJSON {
		var text string
		if text, err = indented(st); err == nil {
			err = a.print(text)
		}
	} else {
		v := a.view()
		v.Height, v.Sockets = 0, l.ControlSockets()
		err = a.print(renderStatus(st, v))
	}
	if err == nil && (st.NeedsPerson > 0 || !st.Running) {
		return &silentError{exitFailed}
	}
	return err
}

// remembered is the state as the journal has it, when no daemon runs.
func remembered(l *config.Loaded) (*control.Status, error) {
	none := "no isosyncd is running (nobody answers on " + strings.Join(l.ControlSockets(), " or ") + ")"
	snap, err := isosync.ReadJournal(l.StateDir)
	switch {
	case errors.Is(err, isosync.ErrLocked):
		return nil, fmt.Errorf("an isosyncd runs with state directory %s, but does not answer on %s; name its socket with --control",
			l.StateDir, strings.Join(l.ControlSockets(), " or "))
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s, and there is no journal in %s: it has not run yet with these settings", none, l.StateDir)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s, and this user may not read the journal in %s; try it as root", none, l.StateDir)
	case err != nil:
		return nil, fmt.Errorf("%s, and its journal cannot be read: %w", none, err)
	}
	st := control.FromSnapshot(snap)
	st.Running = false
	if st.Folder == "" {
		st.Folder = l.Folder
	}
	return st, nil
}

// view is what standard output can show: the terminal's size and colours, or neither.
func (a *app) view() view {
	v := view{Now: time.Now(), Colour: a.colour(a.stdout)}
	if f, ok := a.stdout.(*os.File); ok && isTerminal(f) {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			v.Width, v.Height = w, h
		}
	}
	return v
}
