package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// grouped is a part of --help.
type grouped struct {
	group    string
	commands []*cobra.Command
}

// allCommands lists all commands.
func allCommands(a *app) []grouped {
	return []grouped{
		{groupDaily, []*cobra.Command{
			newStatusCommand(a), newListCommand(a), newInspectCommand(a), newCheckCommand(a), newImportCommand(a),
			newRetryCommand(a), newAdoptCommand(a), newSyncCommand(a),
		}},
		{groupDaemon, []*cobra.Command{
			newRunCommand(a), newMountCommand(a), newStoreCommand(a), newRemoteCommand(a), newConfigCommand(a),
		}},
		{"", []*cobra.Command{newVersionCommand(a), newManCommand()}},
	}
}

const (
	groupDaemon = "daemon"
	groupDaily  = "daily"
)

func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "isosyncd",
		Short: "Turn the ISO images of a folder into ISO storage volumes of LXD or Incus",
		Long: `isosyncd keeps a folder and a storage pool of LXD or Incus together: each *.iso file that is put into the folder
becomes an ISO volume that virtual machines can boot from, and a newer file replaces its volume.`,
		Example: `  isosyncd run --folder /srv/iso-drop
  cp debian-13.iso /srv/iso-drop/
  isosyncd status`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.PersistentFlags().StringVar(&a.configFile, "config", "", "configuration `FILE` (default /etc/isosyncd/config.yaml)")
	root.AddGroup(&cobra.Group{ID: groupDaily, Title: "Every day:"}, &cobra.Group{ID: groupDaemon, Title: "The daemon:"})
	for _, g := range allCommands(a) {
		for _, c := range g.commands {
			c.GroupID = g.group
			root.AddCommand(c)
		}
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{err: err, command: cmd.CommandPath()}
	})
	mindArguments(root)
	a.completeRemotes(root)
	return root
}

// mindArguments makes usage errors of wrong numbers of arguments, unknown commands, and flags that exclude each other.
func mindArguments(cmd *cobra.Command) {
	check := cmd.Args
	if check == nil {
		check = cobra.ArbitraryArgs
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		err := check(cmd, args)
		if err != nil && !cmd.HasParent() && len(args) > 0 {
			err = unknownCommand(cmd, args[0])
		}
		if err == nil {
			err = cmd.ValidateFlagGroups() // cobra would do it later, and say nothing of usage
		}
		if err != nil {
			return &usageError{err: err, command: cmd.CommandPath()}
		}
		return nil
	}
	for _, c := range cmd.Commands() {
		mindArguments(c)
	}
}

func unknownCommand(root *cobra.Command, name string) error {
	root.SuggestionsMinimumDistance = 2
	text := fmt.Sprintf("there is no command %q", name)
	if near := root.SuggestionsFor(name); len(near) > 0 {
		text += fmt.Sprintf("; did you mean %s?", near[0])
	}
	return errors.New(text)
}

// usage makes a usageError.
func usage(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...), command: cmd.CommandPath()}
}

// print writes text for people or machines; the error is that of the writer, such as of a full disk.
func (a *app) print(text string) error {
	_, err := io.WriteString(a.stdout, text)
	return err
}
