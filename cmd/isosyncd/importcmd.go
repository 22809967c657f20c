package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	isosync "isosyncd/sync"
)

func newImportCommand(a *app) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:   "import FILE [NAME]",
		Short: "Import one image now, without folder or daemon",
		Long: `Makes an ISO volume of one file. Everything that can be known is checked before the first byte is sent: format,
checksum lists beside the file, name, clash, room in the pool, limits of the project. Then it is sent, hashed meanwhile,
and, when the server has it in its pool, marked with its digest.

A volume that is there already is never replaced; if it has the same bytes, that is a success. The volume is marked as
this command's own: no daemon replaces or prunes it.`,
		Example: `  isosyncd import debian-13.iso
  isosyncd import --pool fast "Win 11.iso" win11`,
		Args: cobra.RangeArgs(1, 2),
		ValidArgsFunction: func(_ *cobra.Command, given []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(given) == 0 {
				return []cobra.Completion{"iso", "ISO"}, cobra.ShellCompDirectiveFilterFileExt
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.settings(cmd)
			if err != nil {
				return err
			}
			name := ""
			if len(args) == 2 {
				name = args[1]
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			dial, closer, err := resolveRemote(ctx, l)
			if err != nil {
				return err
			}
			defer closer()
			remote, err := dial(ctx)
			if err != nil {
				return err
			}
			im := importer{remote: remote, phases: newPhases(a.stderr, quiet), owner: importOwner()}
			volume, err := im.run(ctx, args[0], name)
			im.phases.end()
			if err != nil {
				return err
			}
			return a.print(volume + "\n")
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress")
	addServer(cmd)
	return cmd
}

// importPrefix begins the owner in the marks of what this command makes.
const importPrefix = "import@"

// importOwner is no daemon's owner: a daemon with prune on would delete what has no file in its folder.
func importOwner() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	return importPrefix + host
}

// importer makes one volume of one file.
type importer struct {
	remote isosync.Remote
	phases *phases
	owner  string
}

// run returns the volume's name.
func (im *importer) run(ctx context.Context, path, name string) (string, error) {
	src, err := openSource(path)
	if err != nil {
		return "", err
	}
	defer src.close()
	c, err := src.examine(ctx, name, im.phases, false)
	if err != nil {
		return "", err
	}
	p := lookAt(ctx, im.remote)
	volume, list := preflight(c, &p)
	if !passed(list) && nameTaken(&p, volume) && c.Digests == nil {
		// It may be there with these very bytes already: only they can tell.
		if c, err = src.examine(ctx, name, im.phases, true); err != nil {
			return "", err
		}
		volume, list = preflight(c, &p)
	}
	if !passed(list) {
		return "", &refusedImport{path: path, list: list}
	}
	if alreadyThere(c, &p, volume) {
		return volume, nil
	}
	digest, incarnation, err := im.send(ctx, src, c, volume)
	if err != nil {
		return "", err
	}
	return volume, im.mark(ctx, src, c, volume, digest, incarnation)
}

func nameTaken(p *place, volume string) bool {
	for i := range p.Volumes {
		if p.Volumes[i].Name == volume && volume != "" {
			return true
		}
	}
	return false
}

// refusedImport says all that speaks against an import.
type refusedImport struct {
	path string
	list []finding
}

func (e *refusedImport) Error() string {
	text := showName(filepath.Base(e.path)) + " was not imported; nothing was sent"
	for i := range e.list {
		if f := &e.list[i]; !f.OK {
			text += "\n  " + f.Check + ": " + f.Text + "; " + f.Remedy
		}
	}
	return text
}

// send uploads the file, hashes the same bytes meanwhile, and waits until the server has them in its pool.
func (im *importer) send(ctx context.Context, src *source, c *candidate, volume string) (digest, incarnation string, err error) {
	if _, err := im.remote.Volume(ctx, volume); err == nil {
		return "", "", fmt.Errorf("somebody made a volume %s in the meantime; nothing was sent", volume)
	}
	ours, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	hashed := make(chan error, 1)
	go func() {
		sums, err := isosync.HashFile(ours, src.f, c.Size, nil, c.Info, nil)
		digest = sums["sha256"]
		if want := c.Digests["sha256"]; digest != "" && want != "" && want != digest {
			err = errChanged
		}
		if err != nil && len(c.Sums) == 0 || digest == "" {
			cancel(err)
		} else if !errors.Is(err, errChanged) {
			err = nil // a list vouches for what the image's own sum calls damaged
		}
		hashed <- err
	}()
	operation, err := im.remote.Import(ours, volume, src.f, c.Size, im.phases.begin("uploading", isosync.StateUploading, c.Size))
	if err != nil {
		cancel(err)
		_ = <-hashed // the upload's error is the one that counts
		if ctx.Err() != nil {
			return "", "", fmt.Errorf("interrupted: %s was not imported, and there is no volume of it", showName(src.name))
		}
		if cause := context.Cause(ours); cause != nil {
			err = cause
		}
		return "", "", fmt.Errorf("import %s: %w; there is no volume of it", volume, err)
	}
	hashErr := <-hashed
	im.phases.begin("the server writes to the pool", isosync.StateStoring, 0)
	if err := im.remote.Wait(ctx, operation); err != nil {
		return "", "", im.lost(ctx, volume, err)
	}
	v, err := im.remote.Volume(ctx, volume)
	if err != nil {
		return "", "", fmt.Errorf("import %s: the server says that it is done, but: %w", volume, err)
	}
	incarnation = v.Incarnation()
	switch {
	case hashErr != nil:
	case v.Size < c.Size:
		hashErr = fmt.Errorf("the volume has %d bytes instead of %d", v.Size, c.Size)
	default:
		hashErr = src.unchanged()
	}
	if hashErr != nil {
		return "", "", fmt.Errorf("import %s: %w; %s", volume, hashErr, im.undo(ctx, volume, incarnation))
	}
	return digest, incarnation, nil
}

// lost says what is known when the end of an operation was not seen.
func (im *importer) lost(ctx context.Context, volume string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted: the server goes on to make volume %s, which nothing vouches for then; delete it there", volume)
	}
	looked, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if _, lookErr := im.remote.Volume(looked, volume); lookErr == nil {
		return fmt.Errorf("import %s: %w; a volume of that name is there, and may be torn: look at it, and delete it", volume, err)
	}
	return fmt.Errorf("import %s: %w", volume, err)
}

// undo deletes the volume that this import made, whose bytes are not what they should be.
func (im *importer) undo(ctx context.Context, volume, incarnation string) string {
	v, err := im.remote.Volume(ctx, volume)
	if err == nil && v.Incarnation() == incarnation {
		err = im.remote.Delete(ctx, volume)
	}
	if err != nil {
		return fmt.Sprintf("the volume could not be deleted again (%v): delete it", err)
	}
	return "the volume was deleted again"
}

// mark is what says that the bytes are whole.
func (im *importer) mark(ctx context.Context, src *source, c *candidate, volume, digest, incarnation string) error {
	m := isosync.Mark{Owner: im.owner, SHA256: digest, File: src.name}
	if err := im.remote.Describe(ctx, volume, m.Describe(describeImage(c.Info))); err != nil {
		return fmt.Errorf("import %s: the volume is whole, but its mark could not be set: %w", volume, err)
	}
	v, err := im.remote.Volume(ctx, volume)
	if err != nil || v.Incarnation() != incarnation {
		return fmt.Errorf("import %s: somebody exchanged the volume while it was marked; look at it", volume)
	}
	return nil
}
