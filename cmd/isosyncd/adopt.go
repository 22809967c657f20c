package main

import (
	"time"

	"github.com/spf13/cobra"

	"isosyncd/control"
)

// completeTimeout is how long a person who pressed Tab waits.
const completeTimeout = 2 * time.Second

func newAdoptCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "adopt VOLUME...",
		Short: "Take over volumes that isosyncd did not make",
		Long: `Makes a foreign ISO volume isosyncd's own, so that it follows its file from then on. A file of the folder must map
to its name and have its size; where the server can give the volume's bytes back, they are compared as well. Nothing
is sent, and the volume itself does not change, but for the mark in its description.`,
		Example: `  isosyncd adopt debian-12`,
		Args:    cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeNames(func(st *control.Status) []string {
			files := map[string]bool{}
			for i := range st.Files {
				files[st.Files[i].Volume] = true
			}
			var names []string
			for i := range st.Volumes {
				if v := &st.Volumes[i]; !v.Ours && files[v.Name] {
					names = append(names, v.Name)
				}
			}
			return names
		}),
		RunE: func(cmd *cobra.Command, names []string) error {
			l, err := a.settings(cmd)
			if err != nil {
				return err
			}
			c, _, err := needDaemon(cmd.Context(), l)
			if err != nil {
				return err
			}
			defer c.Close()
			return a.each(names, "is isosyncd's now", func(name string) error { return c.Adopt(cmd.Context(), name) })
		},
	}
	addSettings(cmd, "control")
	return cmd
}
