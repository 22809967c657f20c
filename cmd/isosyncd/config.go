package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"isosyncd/config"
)

func newConfigCommand(a *app) *cobra.Command {
	var example, asJSON bool
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show the settings in effect and where each came from, or a commented example",
		Long: `Show the settings in effect, and where each came from: default, file, environment or flag.

The configuration is checked as "isosyncd run" does it: exit code 78 and one sentence for each fault if it is wrong.`,
		Example: `  isosyncd config
  isosyncd config --config /etc/isosyncd/windows.yaml
  isosyncd config --example | sudo tee /etc/isosyncd/config.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if example {
				return a.print(config.Example())
			}
			l, err := a.settings(cmd)
			if err != nil {
				return err
			}
			for _, w := range l.Warnings {
				a.warn(w)
			}
			text := settingsTable(l)
			if asJSON {
				if text, err = settingsJSON(l); err != nil {
					return err
				}
			}
			if err := a.print(text); err != nil {
				return err
			}
			return l.CheckRun()
		},
	}
	cmd.Flags().BoolVar(&example, "example", false, "print the commented example file, with every setting and its default")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.MarkFlagsMutuallyExclusive("example", "json")
	addSettings(cmd)
	return cmd
}

// settingsTable shows each setting as a line of YAML with its source as comment, so that it can serve as a file.
func settingsTable(l *config.Loaded) string {
	var b strings.Builder
	if l.File != "" {
		fmt.Fprintf(&b, "# file: %s\n", l.File)
	} else {
		b.WriteString("# no file was read\n")
	}
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, k := range config.Keys() {
		source := string(l.Sources[k.Name])
		if l.Sources[k.Name] == config.FromEnv {
			source += " " + k.Env()
		}
		// Writes to a strings.Builder do not fail.
		_, _ = fmt.Fprintf(w, "%s: %s\t# %s\n", k.Name, config.Quote(l.Text(k.Name)), source)
	}
	_ = w.Flush()
	return b.String()
}

func settingsJSON(l *config.Loaded) (string, error) {
	type setting struct {
		Value  string        `json:"value"`
		Source config.Source `json:"source"`
	}
	out := struct {
		File     string             `json:"file"`
		Settings map[string]setting `json:"settings"`
	}{l.File, make(map[string]setting)}
	for _, k := range config.Keys() {
		out.Settings[k.Name] = setting{l.Text(k.Name), l.Sources[k.Name]}
	}
	return indented(out)
}

// indented is JSON for people and machines, with a newline at its end.
func indented(v any) (string, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	return string(b) + "\n", err
}

// warn prints a warning for a person.
func (a *app) warn(text string) {
	// A reader of stderr that went away must not change the exit code.
	_, _ = fmt.Fprintln(a.stderr, "isosyncd: warning: "+text)
}
