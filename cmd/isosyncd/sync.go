package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"isosyncd/config"
	"isosyncd/control"
	isosync "isosyncd/sync"
)

func newSyncCommand(a *app) *cobra.Command {
	var once, dryRun, asJSON bool
	cmd := &cobra.Command{
		Use:   "sync {--once | --dry-run}",
		Short: "Bring folder and pool together once, or print what would be done",
		Long: `With --once, does what the daemon does, until nothing is left to do that can be done now, and ends: for cron, and for
scripts. With --dry-run, prints what it would do first, and changes nothing. It takes the place of the daemon, and so
does not work while that runs.

Exit status: 0 if all files of the folder are volumes now (with --dry-run: if none is held), 1 if not.`,
		Example: `  isosyncd sync --dry-run --folder /srv/iso-drop
  isosyncd sync --once --folder /srv/iso-drop`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if once == dryRun {
				return usage(cmd, "say either --once or --dry-run; to keep folder and pool together, isosyncd run")
			}
			l, err := a.settings(cmd)
			if err != nil {
				return err
			}
			if err := l.CheckRun(); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if dryRun {
				return a.dryRun(ctx, l, asJSON)
			}
			return a.syncOnce(ctx, l, asJSON)
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "do it, and end")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be done, and change nothing")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: the plan, or the state at the end")
	cmd.MarkFlagsMutuallyExclusive("once", "dry-run")
	addSettings(cmd)
	return cmd
}

// heartFor is the configuration of a heart that this command runs itself.
func (a *app) heartFor(l *config.Loaded, conn *connection) (isosync.Config, error) {
	log, err := newLogger(a.stderr, &l.Settings)
	if err != nil {
		return isosync.Config{}, &badConfig{err}
	}
	d := &instance{cfg: l, log: log}
	return d.heartConfig(conn), nil
}

// plannedLine is a line of --dry-run --json.
type plannedLine struct {
	Action string           `json:"action"`
	Volume string           `json:"volume,omitempty"`
	File   string           `json:"file,omitempty"`
	Size   int64            `json:"size,omitempty"`
	From   string           `json:"from,omitempty"`
	SHA256 string           `json:"sha256,omitempty"`
	Why    *isosync.Problem `json:"-"`
	Code   string           `json:"code,omitempty"`
	Text   string           `json:"text,omitempty"`
	Remedy string           `json:"remedy,omitempty"`
}

func (a *app) dryRun(ctx context.Context, l *config.Loaded, asJSON bool) error {
	conn, err := openRemote(ctx, l, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer conn.close()
	cfg, err := a.heartFor(l, conn)
	if err != nil {
		return err
	}
	plan, err := isosync.Preview(ctx, cfg)
	if errors.Is(err, isosync.ErrLocked) {
		return fmt.Errorf("%w: the daemon runs and does all this already; see isosyncd status", err)
	}
	if err != nil {
		return err
	}
	held := false
	lines := make([]plannedLine, 0, len(plan))
	for i := range plan {
		p := &plan[i]
		line := plannedLine{
			Action: string(p.Kind), Volume: p.Volume, File: p.Name, Size: p.Size, From: p.From, SHA256: p.Digest, Why: p.Problem,
		}
		if w := p.Problem; w != nil {
			held = true
			line.Code, line.Text, line.Remedy = string(w.Code), w.Text, w.Remedy
		}
		lines = append(lines, line)
	}
	text := planText(lines)
	if asJSON {
		if text, err = indented(lines); err != nil {
			return err
		}
	}
	if err := a.print(text); err != nil {
		return err
	}
	if held {
		return &silentError{exitFailed}
	}
	return nil
}

// planVerbs says what each kind of action does, for people.
var planVerbs = map[isosync.ActionKind]string{
	isosync.ActNothing: "nothing to do", isosync.ActHold: "hold", isosync.ActHash: "read, then decide", isosync.ActAwait: "await the server",
	isosync.ActMark: "mark", isosync.ActDiscard: "discard what may be torn", isosync.ActImport: "import", isosync.ActCopy: "copy on the server",
	isosync.ActStage: "replace: send beside the old one", isosync.ActSwap: "replace: exchange", isosync.ActSpool: "replace: keep a copy here",
	isosync.ActInPlace: "replace: in place", isosync.ActRestore: "import again from the copy here", isosync.ActUnstage: "remove the stage",
	isosync.ActPrune: "prune: delete", isosync.ActRemove: "remove", isosync.ActConsume: "remove the file, its volume is verified",
	isosync.ActAdopt: "adopt",
}

func planText(lines []plannedLine) string {
	if len(lines) == 0 {
		return "nothing to do: the folder has no images\n"
	}
	var b strings.Builder
	for i := range lines {
		p := &lines[i]
		verb := planVerbs[isosync.ActionKind(p.Action)]
		if verb == "" {
			verb = p.Action
		}
		b.WriteString(verb + ":")
		if p.File != "" {
			b.WriteString(" " + showName(p.File) + " (" + showBytes(p.Size) + ")")
		}
		if p.From != "" {
			b.WriteString(" from " + showName(p.From))
		}
		if p.Volume != "" {
			b.WriteString(" -> volume " + showName(p.Volume))
		}
		b.WriteString("\n")
		if p.Why != nil {
			b.WriteString("  why: " + showText(p.Text) + "\n  do:  " + showText(p.Remedy) + "\n")
		}
	}
	return b.String()
}

// syncOnce runs a heart until it has nothing left to do.
func (a *app) syncOnce(ctx context.Context, l *config.Loaded, asJSON bool) error {
	conn, err := openRemote(ctx, l, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer conn.close()
	cfg, err := a.heartFor(l, conn)
	if err != nil {
		return err
	}
	heart, err := isosync.New(cfg)
	if errors.Is(err, isosync.ErrLocked) {
		return fmt.Errorf("%w: the daemon runs and does all this already; isosyncd retry makes it look now", err)
	}
	if err != nil {
		return err
	}
	g, beating := errgroup.WithContext(ctx)
	beating, stop := context.WithCancel(beating)
	g.Go(func() error { return heart.Run(beating) })
	var last *isosync.Snapshot
	g.Go(func() error {
		defer stop()
		last = untilIdle(beating, heart, 2*l.SettleDelay)
		return nil
	})
	err = errors.Join(g.Wait(), heart.Close())
	if err != nil {
		return err
	}
	st := control.FromSnapshot(last)
	text := renderStatus(st, a.unlimitedView())
	if asJSON {
		if text, err = indented(st); err != nil {
			return err
		}
	}
	if err := a.print(text); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("interrupted; what was begun is finished by the next isosyncd")
	}
	for i := range st.Files {
		if st.Files[i].State != string(isosync.StatePresent) {
			return &silentError{exitFailed}
		}
	}
	if !st.Server.Online || st.Problem != nil {
		return &silentError{exitFailed}
	}
	return nil
}

func (a *app) unlimitedView() view {
	v := a.view()
	v.Height = 0
	return v
}

// untilIdle returns the first snapshot in which nothing is at work and nothing begins soon: each file is present or
// held. A file that somebody writes is waited for as long as it takes to settle, and no longer.
func untilIdle(ctx context.Context, heart *isosync.Syncer, patience time.Duration) *isosync.Snapshot {
	select {
	case <-heart.Ready():
	case <-ctx.Done():
		return heart.Snapshot()
	}
	var settling time.Time // since when nothing but settling files keeps us
	for {
		s := heart.Snapshot()
		next := time.Time{}
		switch busy(s) {
		case idle:
			return s
		case settles:
			if settling.IsZero() {
				settling = time.Now()
			}
			if next = settling.Add(patience); !time.Now().Before(next) {
				return s
			}
		case works:
			settling = time.Time{}
		}
		var timer <-chan time.Time
		if !next.IsZero() {
			timer = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return heart.Snapshot()
		case <-s.Next():
		case <-timer:
		}
	}
}

// activity is what keeps a snapshot from being the last one.
type activity int

const (
	idle    activity = iota
	settles          // a file may settle
	works            // something is done, or begins at once
)

func busy(s *isosync.Snapshot) activity {
	if s.Problem != nil || s.Server.Problem != nil {
		return idle // only a person, or time, changes that
	}
	out := idle
	for i := range s.Files {
		switch s.Files[i].State {
		case isosync.StatePresent, isosync.StateFailed, isosync.StateWaiting, isosync.StateRetrying:
		case isosync.StateSettling:
			out = max(out, settles)
		default:
			out = works
		}
	}
	for i := range s.Volumes {
		if v := &s.Volumes[i]; (v.Stage || v.Partial) && v.Problem == nil {
			out = works
		}
	}
	return out
}
