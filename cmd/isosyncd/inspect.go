package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"isosyncd/iso"
)

func newInspectCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect FILE...",
		Short: "Say what a file is, and whether it would be taken",
		Long: `Say what a file is: which formats, what it calls itself, how it boots, whether it is whole. It needs no server and
changes nothing.

The exit code is 0 if all files would be taken, 1 if not.`,
		Example: `  isosyncd inspect debian-13.iso
  isosyncd inspect --json *.iso | jq -r 'select(.verdict != "accept") | .file + ": " + .reason'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			all := true
			for _, path := range args {
				info, err := inspect(path)
				r := iso.Verdict(path, info, err)
				all = all && r.Verdict == "accept"
				out := reportText(r, info, a.colour(a.stdout))
				if asJSON {
					b, err := json.Marshal(r)
					if err != nil {
						return err
					}
					out = string(b) + "\n"
				}
				if err := a.print(out); err != nil {
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
	return cmd
}

// inspect probes a file. A FIFO or device does not keep it waiting.
func inspect(path string) (iso.Info, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		var p *fs.PathError
		if errors.As(err, &p) {
			err = p.Err // the path is said already
		}
		return iso.Info{}, err
	}
	defer func() { _ = f.Close() }() // read only: nothing is lost
	st, err := f.Stat()
	if err != nil {
		return iso.Info{}, err
	}
	if !st.Mode().IsRegular() {
		return iso.Info{}, errors.New("it is no regular file")
	}
	return iso.ProbeFile(f)
}

// reportText is a report for people.
func reportText(r iso.Report, info iso.Info, colour bool) string {
	var b strings.Builder
	colours := map[string]string{"accept": "32", "incomplete": "33", "reject": "31"}
	verdict := r.Verdict
	if colour {
		verdict = "\x1b[" + colours[r.Verdict] + "m" + verdict + "\x1b[0m"
	}
	fmt.Fprintf(&b, "%s: %s\n", showName(r.File), verdict)
	line := func(key, format string, args ...any) {
		fmt.Fprintf(&b, "  %-9s %s\n", key+":", showText(fmt.Sprintf(format, args...)))
	}
	if r.Reason != "" {
		line("why", "%s", r.Reason)
	}
	if len(r.Formats) > 0 {
		line("what", "%s", iso.Describe(info))
		formats := strings.Join(r.Formats, ", ")
		for _, extra := range []struct {
			has  bool
			name string
		}{{r.Joliet, "Joliet"}, {r.RockRidge, "Rock Ridge"}} {
			if extra.has {
				formats += ", " + extra.name
			}
		}
		if r.UDFRevision != "" {
			formats = strings.Replace(formats, "udf", "udf "+r.UDFRevision, 1)
		}
		line("format", "%s", formats)
	}
	if r.Label != "" {
		line("label", "%s", r.Label)
	}
	if r.Size > 0 {
		line("size", "%s (%s bytes)", showBytes(r.Size), humanize.Comma(r.Size))
	}
	if r.DeclaredSize > 0 && r.DeclaredSize != r.Size {
		line("declares", "%s (%s bytes)", showBytes(r.DeclaredSize), humanize.Comma(r.DeclaredSize))
	}
	if boot := bootText(r); boot != "" {
		line("boots", "%s", boot)
	}
	if info.Sum != nil {
		line("sum", "it carries the MD5 sum %s of its first %s bytes", info.Sum.MD5, humanize.Comma(info.Sum.End))
	}
	return b.String()
}

// bootText says how the image boots; "" = it is no image, or does not.
func bootText(r iso.Report) string {
	var how []string
	for _, h := range []struct {
		has  bool
		name string
	}{
		{r.BootBIOS, "BIOS"}, {r.BootUEFI, "UEFI"}, {r.HybridMBR, "hybrid MBR"}, {r.HybridGPT, "hybrid GPT"}, {r.APM, "Apple partition map"},
	} {
		if h.has {
			how = append(how, h.name)
		}
	}
	return strings.Join(how, ", ")
}
