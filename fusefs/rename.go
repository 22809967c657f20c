package fusefs

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"golang.org/x/sys/unix"

	"isosyncd/iso"
	isosync "isosyncd/sync"
)

// Unlink deletes a volume of ours that nobody uses, or gives up a file that is being written. The kernel holds the
// directory meanwhile, so the wait for the server is bounded.
func (n *rootNode) Unlink(ctx context.Context, name string) syscall.Errno {
	t := n.tree
	if name == controlName {
		return syscall.EISDIR
	}
	v := t.view()
	e := v.find(name)
	if e == nil {
		return t.unlinkDraft(ctx, v, name)
	}
	if err := replaceable(e.volume); err != nil {
		return t.refuseAs(name, err, removalErrno(err))
	}
	return t.remove(ctx, name, e.volume.Name)
}

func (t *tree) unlinkDraft(ctx context.Context, v *view, name string) syscall.Errno {
	d := t.draft(v, name)
	if d == nil {
		return syscall.ENOENT
	}
	t.mu.Lock()
	sub, volume := d.sub, d.to.volume
	if sub == nil {
		t.forget(d)
	}
	t.mu.Unlock()
	if sub == nil {
		t.forgive(name)
		return 0
	}
	errno := t.remove(ctx, name, volume) // it is on its way to the server
	if errno == 0 {
		t.drop(d)
	}
	return errno
}

func (t *tree) remove(ctx context.Context, name, volume string) syscall.Errno {
	ctx, cancel := t.bounded(ctx)
	defer cancel()
	if err := cause(ctx, t.heart.Remove(ctx, volume)); err != nil {
		return t.refuseAs(name, err, removalErrno(err))
	}
	t.mu.Lock()
	for d := range t.drafts {
		if d.to.volume == volume && d.sub != nil && d.sub.ended() {
			t.forget(d)
		}
	}
	t.mu.Unlock()
	t.forgive(name)
	return 0
}

// bounded is until, for a request that holds the kernel's lock of the directory.
func (t *tree) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, end := t.until(ctx)
	ctx, cancel := context.WithTimeout(ctx, t.locked)
	return ctx, func() { cancel(); end() }
}

// Rename is how most programs end a file: written under a temporary name, then renamed. Of volumes it is a copy on the
// server, followed by the removal of the old one.
func (n *rootNode) Rename(ctx context.Context, from string, parent fs.InodeEmbedder, to string, flags uint32) syscall.Errno {
	t := n.tree
	switch {
	case parent.EmbeddedInode() != n.EmbeddedInode(), from == controlName, to == controlName:
		return syscall.EPERM
	case flags&^unix.RENAME_NOREPLACE != 0:
		return syscall.EINVAL
	}
	v := t.view()
	if flags&unix.RENAME_NOREPLACE != 0 && (v.find(to) != nil || t.draft(v, to) != nil) {
		return syscall.EEXIST
	}
	if e := v.find(from); e != nil {
		return t.renameVolume(ctx, v, e, to)
	}
	d := t.draft(v, from)
	if d == nil {
		return syscall.ENOENT
	}
	return t.renameDraft(ctx, v, d, to)
}

func (t *tree) renameVolume(ctx context.Context, v *view, e *entry, name string) syscall.Errno {
	if err := replaceable(e.volume); err != nil {
		return t.refuseAs(e.name, err, removalErrno(err))
	}
	to, err := t.target(v, name)
	switch {
	case err == nil && to.temporary:
		err = &isosync.Problem{
			Code: isosync.CodeName, Text: quote(name) + " does not end in .iso", Remedy: "only ISO images can be here",
		}
		fallthrough
	case err != nil:
		return t.refuseAs(name, err, renameErrno(err))
	case to.replaces == e:
		return 0 // two names of one volume
	case to.replaces != nil, t.draft(v, name) != nil:
		return t.refuse(name, &isosync.Problem{
			Code: isosync.CodeClash, Text: quote(name) + " is there already", Remedy: "remove it first",
		})
	}
	// A copy cut off in its middle would leave two volumes, so it goes on if it takes longer than the wait.
	done := make(chan error, 1)
	t.work.Go(func() {
		ctx, cancel := t.until(context.Background())
		defer cancel()
		done <- cause(ctx, t.heart.Rename(ctx, e.volume.Name, to.volume))
	})
	ctx, cancel := t.bounded(ctx)
	defer cancel()
	select {
	case err := <-done:
		if err != nil {
			return t.refuseAs(name, err, removalErrno(err))
		}
		t.forgive(e.name, name)
		return 0
	case <-ctx.Done():
	}
	t.log.Info("renaming a volume goes on in the background", "volume", e.volume.Name, "file", name)
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return syscall.EINPROGRESS
	}
	return toErrno(cause(ctx, ctx.Err()))
}

// renameDraft gives a written file its final name, which gives it to the heart, if nobody has it open for writing: else
// close does that. The heart takes the bytes at once; the import is waited for a moment only, since the kernel holds
// the directory. What can be told from the bytes is told before: then the file keeps its name, and can be mended.
func (t *tree) renameDraft(ctx context.Context, v *view, d *draft, name string) syscall.Errno {
	to, err := t.target(v, name)
	if err == nil {
		err = d.refusal()
	}
	if err != nil {
		return t.refuseAs(name, err, renameErrno(err))
	}
	t.mu.Lock()
	switch {
	case d.ghost != nil:
		t.mu.Unlock()
		return renameErrno(d.ghost)
	case d.sub != nil || t.writing(d, name, to.volume):
		t.mu.Unlock()
		return syscall.EBUSY
	}
	given := !to.temporary && d.keeps() && !d.busy()
	switch {
	case given:
		err = d.verdict(name)
	case to.replaces != nil && !d.busy():
		err = errEmpty
	}
	if err != nil {
		t.mu.Unlock()
		return t.refuseAs(name, err, renameErrno(err))
	}
	for other := range t.drafts {
		if other != d && other.name == name && other.sub == nil {
			t.forget(other)
		}
	}
	was := d.name
	d.name, d.to, d.used = name, to, time.Now()
	var sub *submission
	if given {
		d.kept = true
		sub = t.submitAs(d, isosync.WaitStaged)
	}
	t.mu.Unlock()
	t.forgive(was)
	if sub == nil {
		return 0
	}
	err = t.renamed(ctx, sub, to.file)
	t.mu.Lock()
	defer t.mu.Unlock()
	d.kept = false
	switch {
	case err == nil:
	case sub.ended() && t.drafts[d]:
		d.name, d.ghost = was, err
	}
	return renameErrno(err)
}

// refusal is why nothing more can be written to the draft.
func (d *draft) refusal() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.refused
}

// verdict says what the file itself has against being an image.
func (d *draft) verdict(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil {
		return nil
	}
	_, err := iso.ProbeFile(d.file)
	var short *iso.TruncatedError
	switch {
	case errors.Is(err, iso.ErrNotISO):
		return notISO(err)
	case errors.As(err, &short) && !short.Soft:
		return &isosync.Problem{
			Code: isosync.CodeIncomplete, Text: quote(name) + " is " + short.Error(), Remedy: "write the rest of it, or all of it again",
		}
	}
	return nil
}

// renamed waits for what becomes of a draft that a rename gave to the heart.
func (t *tree) renamed(ctx context.Context, sub *submission, file string) error {
	since := time.Now()
	ctx, cancel := t.bounded(ctx)
	defer cancel()
	select {
	case <-sub.done:
	case <-ctx.Done():
		return cause(ctx, ctx.Err())
	}
	if sub.err != nil || t.wait == isosync.WaitStaged {
		return sub.err
	}
	settle, end := context.WithTimeout(ctx, t.settle)
	defer end()
	return t.outcome(settle, file, since)
}
