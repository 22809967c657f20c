package fusefs

import (
	"context"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	isosync "isosyncd/sync"
)

// volumeNode is one incarnation of a volume: its content never changes.
type volumeNode struct {
	fs.Inode
	tree *tree
	e    *entry // as it was when the kernel first asked

	mu      sync.Mutex
	content *content // guarded by mu: of all handles; nil = not open
	handles int      // guarded by mu
}

var (
	_ fs.NodeOpener      = (*volumeNode)(nil)
	_ fs.NodeGetattrer   = (*volumeNode)(nil)
	_ fs.NodeSetattrer   = (*volumeNode)(nil)
	_ fs.NodeAccesser    = (*volumeNode)(nil)
	_ fs.NodeGetxattrer  = (*volumeNode)(nil)
	_ fs.NodeListxattrer = (*volumeNode)(nil)
	_ fs.NodeSetxattrer  = (*volumeNode)(nil)
)

// fileAttr is what all files here have in common.
func (t *tree) fileAttr(out *fuse.Attr, ino uint64, size int64, mtime time.Time) {
	out.Ino, out.Mode, out.Nlink = ino, syscall.S_IFREG|0o444, 1
	out.Uid, out.Gid = t.uid, t.gid
	out.Size, out.Blksize = uint64(max(0, size)), 1<<20
	out.Blocks = (out.Size + 511) / 512
	if mtime.Before(time.Unix(0, 0)) {
		mtime = t.born // the server does not say when it was made
	}
	out.SetTimes(&mtime, &mtime, &mtime)
}

func (t *tree) volumeAttr(out *fuse.Attr, e *entry) {
	t.fileAttr(out, e.ino, e.volume.Size, e.volume.CreatedAt)
}

// now is the entry as the newest list has it, or as it was last if the volume is gone.
func (n *volumeNode) now() *entry {
	if e := n.tree.view().byIno[n.e.ino]; e != nil {
		return e
	}
	return n.e
}

// Getattr answers from the last list, whether the server is there or not.
func (n *volumeNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.tree.volumeAttr(&out.Attr, n.now())
	out.SetTimeout(attrTimeout)
	return 0
}

// Setattr takes times, modes and owners of our volumes without effect, since install(1) and rsync set them by name after
// the import. A size is refused: nothing changes a volume in place.
func (n *volumeNode) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	e := n.now()
	if _, ok := in.GetSize(); ok || !e.volume.Ours {
		return syscall.EPERM
	}
	n.tree.volumeAttr(&out.Attr, e)
	out.SetTimeout(attrTimeout)
	return 0
}

// Access leaves the decision to the kernel.
func (n *volumeNode) Access(context.Context, uint32) syscall.Errno { return 0 }

// Open gives the bytes, from wherever they are, or says at once that there is no such place.
func (n *volumeNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if n.tree.view().byIno[n.e.ino] == nil {
		return nil, 0, n.tree.stale(ctx, flags)
	}
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return nil, 0, n.tree.overwrite(ctx, n.now().name, flags)
	}
	c, err := n.acquire(ctx)
	if err != nil {
		return nil, 0, n.tree.refuse(n.e.name, err)
	}
	h := &volumeHandle{node: n, content: c}
	if c.fetch.complete() {
		return h, fuse.FOPEN_KEEP_CACHE, 0
	}
	// While bytes are still coming, a read is a request that a signal ends. A page of the cache that waits for them
	// would put the reader into a state that nothing ends.
	return h, fuse.FOPEN_DIRECT_IO, 0
}

// acquire finds the content, the same for all handles that are open at a time: the kernel reads past us from one
// backing file for each inode.
func (n *volumeNode) acquire(ctx context.Context) (*content, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.content == nil {
		c, err := n.tree.content(ctx, n.now())
		if err != nil {
			return nil, err
		}
		n.content = c
	}
	n.handles++
	return n.content, nil
}

func (n *volumeNode) release() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.handles--; n.handles == 0 {
		n.content.close()
		n.content = nil
	}
}

// overwrite begins the replacement of a volume, or of a file that is on its way to be one. The inode that was opened keeps the old bytes, for whoever reads them;
// the kernel is told that it is stale, so it looks the name up again (it does that once by itself, with LOOKUP_REVAL),
// and this time, for this thread, the name is a new file.
func (t *tree) overwrite(ctx context.Context, name string, flags uint32) syscall.Errno {
	if flags&syscall.O_TRUNC == 0 {
		return t.refuse(name, &inPlaceError{name: name})
	}
	if _, err := t.replacement(ctx, name); err != nil {
		return t.refuse(name, err)
	}
	return syscall.ESTALE
}

// replacement makes the new file, and remembers which thread comes back for it.
func (t *tree) replacement(ctx context.Context, name string) (*draft, error) {
	to, err := t.target(t.view(), name)
	if err != nil {
		return nil, err
	}
	d, err := t.newDraft(name, to)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pending[threadOf(ctx)] = pending{name: name, draft: d, since: time.Now()}
	return d, nil
}

// stale answers OPEN of a volume that is gone: the kernel, which may keep a name for a moment after a listing, looks it
// up again. It does that once, so an overwrite of what it then finds begins with that lookup.
func (t *tree) stale(ctx context.Context, flags uint32) syscall.Errno {
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY && flags&syscall.O_TRUNC != 0 {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.pending[threadOf(ctx)] = pending{since: time.Now()}
	}
	return syscall.ESTALE
}

// inPlaceError refuses what only a file of an ordinary file system can do.
type inPlaceError struct{ name string }

func (e *inPlaceError) Error() string {
	return quote(e.name) + " is a volume, which cannot be changed in place; write a whole new image over it"
}

// Is makes it EPERM.
func (e *inPlaceError) Unwrap() error { return syscall.EPERM }

// volumeHandle is an open volume.
type volumeHandle struct {
	node    *volumeNode
	content *content
}

var (
	_ fs.FileReader          = (*volumeHandle)(nil)
	_ fs.FileReleaser        = (*volumeHandle)(nil)
	_ fs.FilePassthroughFder = (*volumeHandle)(nil)
)

// PassthroughFd lets the kernel read the local file without us, if it has exactly the volume's bytes and no more.
func (h *volumeHandle) PassthroughFd() (int, bool) { return h.content.passthrough() }

func (h *volumeHandle) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	ctx, cancel := h.node.tree.reading(ctx, h.content)
	defer cancel()
	res, err := h.content.read(ctx, dest, off)
	if err != nil {
		return nil, h.node.tree.refuse(h.node.e.name, cause(ctx, err))
	}
	return res, 0
}

// reading is until, where the read may have to wait.
func (t *tree) reading(ctx context.Context, c *content) (context.Context, context.CancelFunc) {
	if c.fetch.complete() {
		return ctx, func() {}
	}
	return t.until(ctx)
}

func (h *volumeHandle) Release(context.Context) syscall.Errno {
	h.node.release()
	return 0
}

// stateOf is the state of a volume in a word, for people and scripts.
func stateOf(e *entry) string {
	switch {
	case !e.volume.Ours:
		return "foreign"
	case e.volume.Problem != nil && e.volume.Problem.Waits:
		return string(isosync.StateWaiting)
	case e.volume.Problem != nil:
		return string(isosync.StateFailed)
	case e.file != nil && e.file.State != "":
		return string(e.file.State)
	}
	return string(isosync.StatePresent)
}
