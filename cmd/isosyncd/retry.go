package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"isosyncd/control"
)

func newRetryCommand(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "retry [FILE-OR-VOLUME...]",
		Short: "Forget failures, and try again now",
		Long: `Forgets that a file failed, or that its volume was deleted on the server, and tries again now. It also confirms a
prune that is held back because too much would go. Without a name, folder and pool are looked at again.`,
		Example: `  isosyncd retry win.iso
  isosyncd retry --all`,
		ValidArgsFunction: a.completeNames(func(st *control.Status) []string {
			var names []string
			for i := range st.Files {
				if st.Files[i].Problem != nil {
					names = append(names, st.Files[i].RealName())
				}
			}
			for i := range st.Volumes {
				if st.Volumes[i].Problem != nil {
					names = append(names, st.Volumes[i].Name)
				}
			}
			return names
		}),
		RunE: func(cmd *cobra.Command, names []string) error {
			if all && len(names) > 0 {
				return usage(cmd, "--all and names exclude each other")
			}
			l, err := a.settings(cmd)
			if err != nil {
				return err
			}
			c, st, err := needDaemon(cmd.Context(), l)
			if err != nil {
				return err
			}
			defer c.Close()
			if all {
				if names = failures(st); len(names) == 0 {
					return a.print("nothing failed\n")
				}
			}
			if len(names) == 0 {
				return c.Rescan(cmd.Context())
			}
			return a.each(names, "will be tried again", func(name string) error { return c.Retry(cmd.Context(), name) })
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "everything that failed or waits for its next try")
	addSettings(cmd, "control")
	return cmd
}

// failures are the files that a retry may help. Volumes are left out: a prune is confirmed one by one.
func failures(st *control.Status) []string {
	var names []string
	for i := range st.Files {
		if f := &st.Files[i]; f.State == "failed" || f.State == "retrying" {
			names = append(names, f.RealName())
		}
	}
	return names
}

// each does something with each name, says how it went, and goes on after a failure.
func (a *app) each(names []string, done string, f func(name string) error) error {
	var failed []error
	for _, name := range names {
		err := f(name)
		if err == nil {
			err = a.print(showName(name) + " " + done + "\n")
		} else {
			err = fmt.Errorf("%s: %w", showName(name), plainError(err))
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// plainError makes the daemon's words fit for a terminal.
func plainError(err error) error {
	var p *control.Problem
	if errors.As(err, &p) {
		return errors.New(showText(p.Text) + "; " + showText(p.Remedy))
	}
	return err
}

// completeNames completes names that a running daemon knows. Names that a shell could not take as they stand are left
// out: completion must not make a command of a file name.
func (a *app) completeNames(names func(*control.Status) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, given []string, start string) ([]cobra.Completion, cobra.ShellCompDirective) {
		l, err := a.settings(cmd)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
		defer cancel()
		c, st, err := reach(ctx, l)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.Close()
		return offer(names(st), given, start), cobra.ShellCompDirectiveNoFileComp
	}
}

// offer gives the names that begin like start, are not given yet, and that every shell takes as they are.
func offer(names, given []string, start string) []cobra.Completion {
	var out []cobra.Completion
	taken := map[string]bool{}
	for _, g := range given {
		taken[g] = true
	}
	for _, n := range names {
		harmless := !strings.ContainsFunc(n, func(r rune) bool { return hidden(r) || strings.ContainsRune("\t\n\"'`$&|;<>*?[]{}()!#~\\", r) })
		if harmless && !taken[n] && strings.HasPrefix(n, start) && !strings.HasPrefix(n, "-") {
			taken[n] = true
			out = append(out, n)
		}
	}
	return out
}
