package fusefs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"isosyncd/iso"
	isosync "isosyncd/sync"
)

// finish ends a file that somebody wrote: an image goes to the heart, and its result is waited for; one under a
// temporary name is made safe on the disk, so that the rename that follows is quick.
func (t *tree) finish(ctx context.Context, d *draft) syscall.Errno {
	t.mu.Lock()
	temporary, sub := d.to.temporary, d.sub
	if !temporary && sub == nil && !d.gone {
		sub = t.submit(d)
	}
	t.mu.Unlock()
	if sub != nil {
		return t.await(ctx, d, sub)
	}
	return d.sync()
}

func (d *draft) sync() syscall.Errno {
	d.mu.Lock()
	f := d.file
	d.mu.Unlock()
	if f == nil {
		return 0
	}
	return toErrno(f.Sync())
}

// whole reports whether the file says itself that nothing is missing.
func (d *draft) whole() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil {
		return true
	}
	_, err := iso.ProbeFile(d.file)
	return err == nil
}

// submit gives a draft to the heart. It returns at once; tree.mu is held. The heart goes on if the one who waits does
// not.
func (t *tree) submit(d *draft) *submission { return t.submitAs(d, t.wait) }

func (t *tree) submitAs(d *draft, wait isosync.Wait) *submission {
	sub := &submission{done: make(chan struct{})}
	if t.stopped { // what is in the drafts is put away by keep
		sub.err, sub.at = errStopping, time.Now()
		close(sub.done)
		return sub
	}
	d.sub = sub
	name := d.name
	t.work.Go(func() {
		err := t.give(d, name, wait)
		t.ended(d, name, err)
		defer close(sub.done)
		t.mu.Lock()
		defer t.mu.Unlock()
		sub.err, sub.at = err, time.Now()
		// What became a volume shows as that, and what failed is no file, before anybody is told: unless it is still on its
		// way to the server.
		if err != nil && !d.kept || err == nil && t.wait == isosync.WaitImport && wait == isosync.WaitImport {
			t.forget(d)
		}
	})
	return sub
}

// give does the checks once more, since much may have happened while the bytes came, and hands the draft over.
func (t *tree) give(d *draft, name string, wait isosync.Wait) error {
	to, err := t.target(t.view(), name)
	f := d.take()
	if f == nil {
		return fmt.Errorf("hand over %s: %w", quote(name), os.ErrClosed)
	}
	if err != nil {
		t.heart.Discard(f)
		return err
	}
	t.mu.Lock()
	d.to = to
	t.mu.Unlock()
	ctx, cancel := t.until(context.Background())
	defer cancel()
	return cause(ctx, t.heart.Submit(ctx, f, to.file, wait))
}

// take gives the file away and keeps one that can only read: the heart waits until nobody can write any more.
func (d *draft) take() *os.File {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.file
	if f == nil {
		return nil
	}
	d.file = nil
	if r, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(f.Fd()))); err == nil {
		d.reading = r
	}
	return f
}

// ended tells what became of a draft.
func (t *tree) ended(d *draft, name string, err error) {
	if err == nil {
		t.forgive(name)
		return
	}
	t.mu.Lock()
	volume := d.to.volume
	t.mu.Unlock()
	if errors.Is(err, errStopping) {
		t.log.Info("the mount ends before an import does; the folder has the file", "file", name, "volume", volume)
		return
	}
	_ = t.refuse(name, err) // the one who closed it is gone
	t.log.Warn("a file written through the mount did not become a volume", "file", name, "volume", volume, "err", err)
}

// deafWait is how long a close(2) that was interrupted by a signal that means nothing for it still waits. The kernel lets
// no further signal interrupt it then, so we look for one ourselves, and end it before anybody counts it as hung.
const deafWait = 30 * time.Second

// await is the answer to close: what became of the draft, or EINTR if the caller was interrupted. The import goes on.
func (t *tree) await(ctx context.Context, d *draft, sub *submission) syscall.Errno {
	select {
	case <-sub.done:
		return toErrno(sub.err)
	case <-t.stop:
		return syscall.ESHUTDOWN
	case <-ctx.Done():
	}
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for since := time.Now(); time.Since(since) < deafWait && !t.interrupted(threadOf(ctx)); {
		select {
		case <-sub.done:
			return toErrno(sub.err)
		case <-t.stop:
			return syscall.ESHUTDOWN
		case <-look.C:
		}
		if !waiting(threadOf(ctx)) {
			break
		}
	}
	t.log.Info("whoever wrote a file was interrupted while it waited; the import goes on", "file", d.title())
	return syscall.EINTR
}

// outcome waits until a snapshot tells what became of a file of the folder: nil if it is a volume, or if ctx ends first.
func (t *tree) outcome(ctx context.Context, file string, since time.Time) error {
	tick := time.NewTimer(0)
	defer tick.Stop()
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		tick.Reset(pause) // a snapshot that nobody announces is found all the same
		snap := t.heart.Snapshot()
		for i := range snap.Files {
			f := &snap.Files[i]
			switch {
			case f.Name != file || snap.At.Before(since):
			case f.State == isosync.StatePresent:
				return nil
			case f.Problem != nil && f.State != isosync.StateSettling:
				return f.Problem
			}
		}
		select {
		case <-snap.Next():
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// halt ends all waits, and takes nothing more.
func (t *tree) halt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.stopped {
		t.stopped = true
		close(t.stop)
	}
}

// keepWait bounds how long the mount's end takes for putting one file away.
const keepWait = 5 * time.Second

// keep puts away what was being written when the mount ended: an image goes to the folder as it is, where its own
// descriptors tell whether it is whole (F6); what has no name yet cannot be anything and is given up.
func (t *tree) keep(ctx context.Context) {
	t.mu.Lock()
	var left []*draft
	for d := range t.drafts {
		left = append(left, d)
	}
	clear(t.drafts)
	t.mu.Unlock()
	for _, d := range left {
		if d.to.temporary || !d.keeps() || d.refused != nil {
			d.discard()
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, keepWait)
		err := t.heart.Submit(ctx, d.take(), d.to.file, isosync.WaitStaged)
		cancel()
		d.discard()
		t.log.Warn("the mount ended while a file was being written", "file", d.name, "volume", d.to.volume, "err", err)
	}
}
