package main

import (
	"fmt"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"isosyncd/config"
	"isosyncd/lxd"
	isosync "isosyncd/sync"
)

// listed is a volume as list shows it.
type listed struct {
	Name        string    `json:"name"`
	Size        int64     `json:"size"`  // bytes; -1 = the server does not say
	Ours        bool      `json:"ours"`  // marked by the owner of these settings
	Owner       string    `json:"owner"` // in the mark; "" = there is none
	SHA256      string    `json:"sha256"`
	File        string    `json:"file"` // that the volume was made from, as the mark says
	Description string    `json:"description"`
	UsedBy      []string  `json:"used_by"`
	CreatedAt   time.Time `json:"created_at,omitzero"`
}

// listing is what list --json prints.
type listing struct {
	Server  string   `json:"server"`
	Pool    string   `json:"pool"`
	Driver  string   `json:"driver"`
	Project string   `json:"project"`
	Volumes []listed `json:"volumes"`
}

func newListCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the ISO volumes of the pool",
		Long: `List the ISO volumes of the pool: their size, whether isosyncd made them and from which file, their digest, and who
uses them. It asks the server itself, whether the daemon runs or not.`,
		Example: `  isosyncd list
  isosyncd list --json | jq -r '.volumes[] | select(.ours) | .name'
  isosyncd list --remote store:/srv/isos`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			dial, closer, err := resolveRemote(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			defer closer()
			pool, err := dial(cmd.Context())
			if err != nil {
				return err
			}
			volumes, err := pool.Volumes(cmd.Context())
			if err != nil {
				return err
			}
			l := makeListing(pool, volumes, cfg)
			if asJSON {
				out, err := indented(l)
				if err != nil {
					return err
				}
				return a.print(out)
			}
			return a.print(l.text(a.colour(a.stdout)))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	addServer(cmd)
	return cmd
}

func makeListing(pool isosync.Remote, volumes []lxd.Volume, cfg *config.Loaded) listing {
	l := listing{
		Server: pool.Server().Addr, Pool: pool.Name(), Driver: pool.Driver(), Project: pool.Project(),
		Volumes: []listed{},
	}
	for _, v := range volumes {
		if v.ContentType != "iso" {
			continue
		}
		human, mark, _ := isosync.ParseMark(v.Description)
		_, ours := isosync.OurMark(v, cfg.Owner)
		users := v.UsedBy
		if users == nil {
			users = []string{}
		}
		l.Volumes = append(l.Volumes, listed{
			Name: v.Name, Size: v.Size, Ours: ours, Owner: mark.Owner, SHA256: mark.SHA256, File: mark.File,
			Description: human, UsedBy: users, CreatedAt: v.CreatedAt,
		})
	}
	return l
}

// text is the listing as a table.
func (l listing) text(colour bool) string {
	if len(l.Volumes) == 0 {
		return fmt.Sprintf("There is no ISO volume in pool %s of %s, project %s.\n", showName(l.Pool), showName(l.Server), showName(l.Project))
	}
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Format.Header = text.FormatUpper
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	if colour {
		style.Color.Header = text.Colors{text.Bold}
	}
	t.SetStyle(style)
	t.SetColumnConfigs([]table.ColumnConfig{{Number: 2, Align: text.AlignRight, AlignHeader: text.AlignRight}})
	t.SuppressTrailingSpaces()
	t.AppendHeader(table.Row{"volume", "size", "owner", "sha256", "file", "used by", "description"})
	for _, v := range l.Volumes {
		owner := "-"
		switch {
		case v.Ours:
			owner = "this one"
		case v.Owner != "":
			owner = showName(v.Owner)
		}
		t.AppendRow(table.Row{
			showName(v.Name), showBytes(v.Size), owner, orDash(v.SHA256[:min(12, len(v.SHA256))]), orDash(v.File),
			orDashText(showUsers(v.UsedBy)), orDashText(showText(v.Description)),
		})
	}
	return t.Render() + "\n"
}

// orDash shows a name, or that there is none.
func orDash(name string) string {
	if name == "" {
		return "-"
	}
	return showName(name)
}

func orDashText(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
