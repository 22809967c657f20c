package fusefs

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"

	"isosyncd/lxd"
)

// content is where the bytes of an open volume come from. It is shared by all handles of an inode.
type content struct {
	file  *os.File
	fetch *fetch // nil = file has all bytes from the start
	size  int64  // of the volume
	stat  os.FileInfo
}

// content finds the bytes of a volume: the folder's file with the same digest, the embedded store, what is in the
// cache, the server. The error is lxd.ErrNotRead where there is no such place.
func (t *tree) content(ctx context.Context, e *entry) (*content, error) {
	for _, o := range t.openers {
		f, err := o.Open(e.volume.Name)
		if errors.Is(err, iofs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open the local file of volume %s: %w", quote(e.volume.Name), err)
		}
		st, err := f.Stat()
		if err == nil && st.Mode().IsRegular() {
			return &content{file: f, size: e.volume.Size, stat: st}, nil
		}
		_ = f.Close() // nothing was written
		if err != nil {
			return nil, fmt.Errorf("open the local file of volume %s: %w", quote(e.volume.Name), err)
		}
	}
	if t.cache == nil {
		return nil, fmt.Errorf("no local file has the bytes of volume %s, and %w", quote(e.volume.Name), lxd.ErrNotRead)
	}
	ctx, cancel := t.until(ctx)
	defer cancel()
	f, err := t.cache.get(ctx, e.volume)
	if err != nil {
		return nil, cause(ctx, err)
	}
	return &content{file: f.file, fetch: f, size: e.volume.Size}, nil
}

func (c *content) close() {
	if c.fetch != nil {
		c.fetch.release()
		return
	}
	_ = c.file.Close() // nothing was written
}

// passthrough is the file that the kernel may read by itself.
func (c *content) passthrough() (int, bool) {
	if !c.fetch.complete() || c.stat != nil && c.stat.Size() != c.size {
		return -1, false
	}
	return int(c.file.Fd()), true
}

// read gives up to len(dest) bytes. A local file that is shorter than the volume is followed by the zeros that the
// server's driver added; one that changed since it was opened has other bytes than the volume, so it is an error.
func (c *content) read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, error) {
	n := min(int64(len(dest)), c.size-off)
	if n <= 0 {
		return fuse.ReadResultData(nil), nil
	}
	if c.fetch != nil {
		if err := c.fetch.wait(ctx, off+n); err != nil {
			return nil, err
		}
		return fuse.ReadResultFd(c.file.Fd(), off, int(n)), nil
	}
	st, err := c.file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the local file: %w", err)
	}
	if st.Size() != c.stat.Size() || !st.ModTime().Equal(c.stat.ModTime()) {
		return nil, fmt.Errorf("the folder's file %s was changed while somebody read it through the mount; open it again", quote(st.Name()))
	}
	if off+n <= st.Size() {
		return fuse.ReadResultFd(c.file.Fd(), off, int(n)), nil
	}
	clear(dest[:n])
	if off < st.Size() {
		if _, err := c.file.ReadAt(dest[:min(n, st.Size()-off)], off); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read the local file: %w", err)
		}
	}
	return fuse.ReadResultData(dest[:n]), nil
}
