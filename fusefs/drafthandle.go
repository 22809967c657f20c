package fusefs

import (
	"context"
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	isosync "isosyncd/sync"
)

// draftHandle is an open draft.
type draftHandle struct {
	d     *draft
	write bool
}

var (
	_ fs.FileReader    = (*draftHandle)(nil)
	_ fs.FileWriter    = (*draftHandle)(nil)
	_ fs.FileFlusher   = (*draftHandle)(nil)
	_ fs.FileReleaser  = (*draftHandle)(nil)
	_ fs.FileFsyncer   = (*draftHandle)(nil)
	_ fs.FileAllocater = (*draftHandle)(nil)
)

// handle opens a draft. tree.mu is held.
func (d *draft) handle(ctx context.Context, write bool) *draftHandle {
	d.opened, d.used = true, time.Now()
	d.handles++
	if write {
		d.writers++
		d.hidden = threadOf(ctx) == 0
	}
	return &draftHandle{d: d, write: write}
}

// threadOf is the calling thread; 0 = it is in another pid namespace, or the kernel itself.
func threadOf(ctx context.Context) uint32 {
	if caller, ok := fuse.FromContext(ctx); ok {
		return caller.Pid
	}
	return 0
}

func (h *draftHandle) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	f := h.d.source()
	if f == nil {
		return nil, syscall.EIO
	}
	n, err := f.ReadAt(dest, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, toErrno(err)
	}
	return fuse.ReadResultData(dest[:n]), 0
}

func (h *draftHandle) Write(_ context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	return h.d.write(data, off)
}

// Fsync makes the bytes safe; whether they become a volume is close's to say.
func (h *draftHandle) Fsync(context.Context, uint32) syscall.Errno {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.d.file == nil {
		return 0
	}
	return toErrno(h.d.file.Sync())
}

// Allocate reserves space, and what else fallocate(2) can do.
func (h *draftHandle) Allocate(_ context.Context, off, size uint64, mode uint32) syscall.Errno {
	if err := h.d.allocate(int64(off), int64(size), mode); err != nil {
		return h.d.tree.refuse(h.d.title(), err)
	}
	return 0
}

func (d *draft) allocate(off, size int64, mode uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil {
		return errEnded
	}
	if err := d.fits(off + size); err != nil {
		return err
	}
	if err := unix.Fallocate(int(d.file.Fd()), mode, off, size); err != nil {
		return err
	}
	st, err := d.file.Stat()
	if err != nil {
		return err
	}
	d.size, d.mtime = st.Size(), time.Now()
	d.written = d.written || d.size > 0
	return nil
}

// Flush is one close(2) of one descriptor, of which there may be more: of this process, or of one that inherited it.
// The last one that can write ends the file, and is told what became of it. Everybody else has not ended it.
//
// A process that is being killed also closes, and so does one that exits without closing. Nobody reads the answer then,
// and a process in its end cannot be interrupted, so it is not kept: Release does the same without it.
func (h *draftHandle) Flush(ctx context.Context) syscall.Errno {
	d, t := h.d, h.d.tree
	if !h.write {
		return 0
	}
	t.mu.Lock()
	sub, gone := d.sub, d.gone
	t.mu.Unlock()
	if sub != nil {
		return t.await(ctx, d, sub)
	}
	d.mu.Lock()
	written, refused := d.written, d.refused
	d.mu.Unlock()
	switch {
	case gone:
		return 0
	case refused != nil:
		t.drop(d)
		return toErrno(refused)
	case !written && d.to.replaces == nil:
		return 0 // a placeholder, as browsers make, or as the shell has it before the program writes
	}
	switch t.holders(d.ino, threadOf(ctx)) {
	case heldByExiting, heldByOthers:
		return 0
	case heldUnknown:
		if !d.whole() {
			return 0 // more may come from a process that we cannot see
		}
	}
	if !written {
		t.drop(d)
		return t.refuse(d.title(), errEmpty)
	}
	return t.finish(ctx, d)
}

// errEmpty refuses to replace a volume by nothing.
var errEmpty = &isosync.Problem{
	Code: isosync.CodeNotISO, Text: "an empty file is no ISO image, so the volume stays as it is", Remedy: "write an image over it, or remove it",
}

// Release follows the last close.
func (h *draftHandle) Release(context.Context) syscall.Errno {
	h.release()
	return 0
}

func (h *draftHandle) release() {
	d, t := h.d, h.d.tree
	d.mu.Lock()
	written, refused := d.written, d.refused
	d.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	d.handles--
	d.used = time.Now()
	if h.write {
		d.writers--
	}
	switch {
	case d.gone:
		if d.handles == 0 {
			d.discard()
		}
	case d.writers > 0 || !h.write:
	case refused != nil, !written && d.to.replaces != nil:
		t.forget(d)
	case written && d.sub == nil && !d.to.temporary:
		// Killed, or exited without close: what it left decides, and nobody is there to be told.
		t.submit(d)
	}
}
