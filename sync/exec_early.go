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
		<-ended
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
	var sent bool
	err = w.importBy(ctx, name, func(ctx context.Context, _ *pinned) (string, error) {
		sent = true
		g.release()
		select {
		case err := <-ended:
			if err == nil && size != w.file.ID.Size {
				err = changed(w.file.Name)
			}
			return operation, err
		case <-ctx.Done():
			return "", over(context.Cause(ctx))
		}
	}, func(digest string) bool { return g.sum() == digest })
	if !sent {
		return over(err)
	}
	return err
}
