package sync

import (
	"context"
	"errors"
	"fmt"
)

// This file sends an image while it is still being written. Until the file is finished nothing is promised and nothing
// is journalled: the request has no end yet, so nothing comes of it if it is dropped, whoever drops it. When the plan
// says that the finished file is to be imported, the upload becomes that import, with what is left to send; from then on
// its steps are those of every import. The end is sent last, after the intent.

// inode is what stays of a file while it grows and gets its name.
type inode struct{ Dev, Ino uint64 }

func (id Identity) inode() inode { return inode{Dev: id.Dev, Ino: id.Ino} }

// errEarly says that an early upload came to nothing. It is no failure: the file is imported when it is finished.
var errEarly = errors.New("the early upload was given up")

// finished is what an early upload becomes.
type finished struct {
	action Action
	file   File
}

// early sends the job's file as far as it is there, until the deciding goroutine says that it is finished, or ends ctx.
func (w *worker) early(ctx context.Context) error {
	f, err := w.inbox.openGrowing(w.file)
	if err != nil {
		return fmt.Errorf("%w: %w", errEarly, err)
	}
	g := newGrowing(f)
	defer g.close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var operation string
	ended := make(chan error, 1)
	name, size := w.action.Volume, int64(0)
	w.job.enter(StateUploading, w.action.need, w.now())
	go func() {
		var err error
		operation, size, err = w.remote.ImportStream(ctx, name, g, w.job.done.Store)
		ended <- err
	}()
	over := func(err error) error {
		cancel(err)
		g.abandon()
		_ = <-ended // what ended it counts
		return err
	}
	w.step("open")
	select {
	case err := <-ended:
		return fmt.Errorf("%w: %w", errEarly, errors.Join(err, ctx.Err()))
	case <-ctx.Done():
		return over(context.Cause(ctx))
	case end := <-w.finished:
		w.action, w.file = end.action, end.file
	}
	select {
	case err := <-ended: // just before
		return fmt.Errorf("%w: %w", errEarly, errors.Join(err, ctx.Err()))
	default:
	}
	w.step("finished")
	g.finish(w.file.ID.Size)
	all := make(chan struct{}) // closed when all was sent
	var sent bool
	err = w.importBy(ctx, name, source{
		send: func(ctx context.Context, _ *pinned) (string, error) {
			sent = true
			g.release()
			select {
			case err := <-ended:
				if err == nil && size != w.file.ID.Size {
					err = changed(w.file.Name)
				}
				if err == nil {
					close(all)
				}
				return operation, err
			case <-ctx.Done():
				return "", over(context.Cause(ctx))
			}
		},
		digest: func(ctx context.Context, p *pinned) (Digest, error) {
			select {
			case <-all:
				return w.witnessed(ctx, g.given(), p)
			case <-ctx.Done():
				return Digest{}, ctx.Err()
			}
		},
	})
	if !sent {
		return over(err)
	}
	return err
}

// witnessed is the digest of what was sent, if the finished file is exactly that.
func (w *worker) witnessed(ctx context.Context, sent *witness, p *pinned) (Digest, error) {
	sent.end()
	if len(w.file.Sums) > 0 || w.file.Info.Sum != nil {
		// Lists and the image itself may speak of other digests, and of parts: they are asked as always.
		d, err := w.digest(ctx, p, nil)
		if err == nil && d.SHA256 != sent.sum() {
			err = changed(w.file.Name)
		}
		return d, err
	}
	start := w.now()
	same, err := sent.same(ctx, p.File)
	switch {
	case ctx.Err() != nil:
		return Digest{}, ctx.Err()
	case err != nil:
		return Digest{}, readProblem(w.file.Name, err)
	case !same || sent.size != w.file.ID.Size:
		return Digest{}, changed(w.file.Name)
	}
	return w.digested(p, Digest{SHA256: sent.sum()}, start)
}
