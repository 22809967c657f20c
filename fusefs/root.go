package fusefs

import (
	"context"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// rootNode is the directory of all ISO volumes, and of what is being written.
type rootNode struct {
	fs.Inode
	tree *tree
}

var (
	_ fs.NodeLookuper       = (*rootNode)(nil)
	_ fs.NodeOpendirHandler = (*rootNode)(nil)
	_ fs.NodeGetattrer      = (*rootNode)(nil)
	_ fs.NodeSetattrer      = (*rootNode)(nil)
	_ fs.NodeAccesser       = (*rootNode)(nil)
	_ fs.NodeStatfser       = (*rootNode)(nil)
	_ fs.NodeCreater        = (*rootNode)(nil)
	_ fs.NodeUnlinker       = (*rootNode)(nil)
	_ fs.NodeRenamer        = (*rootNode)(nil)
	_ fs.NodeMkdirer        = (*rootNode)(nil)
	_ fs.NodeRmdirer        = (*rootNode)(nil)
	_ fs.NodeMknoder        = (*rootNode)(nil)
	_ fs.NodeSymlinker      = (*rootNode)(nil)
	_ fs.NodeLinker         = (*rootNode)(nil)
	_ fs.NodeFsyncer        = (*rootNode)(nil)
	_ fs.NodeGetxattrer     = (*rootNode)(nil)
)

func (t *tree) dirAttr(out *fuse.Attr, ino uint64, mode uint32, changed time.Time) {
	out.Ino, out.Mode, out.Nlink = ino, syscall.S_IFDIR|mode, 2
	out.Uid, out.Gid = t.uid, t.gid
	if changed.IsZero() {
		changed = t.born
	}
	out.SetTimes(&changed, &changed, &changed)
}

// Getattr says 0755: who may write is the owner of the mount.
func (n *rootNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.tree.dirAttr(&out.Attr, rootIno, 0o755, n.tree.view().snap.Server.Listed)
	out.SetTimeout(attrTimeout)
	return 0
}

// Setattr takes times, mode and owner without effect: rsync -a and cp -a set them of the directory, too.
func (n *rootNode) Setattr(ctx context.Context, f fs.FileHandle, _ *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return n.Getattr(ctx, f, out)
}

// Access leaves the decision to the kernel.
func (n *rootNode) Access(context.Context, uint32) syscall.Errno { return 0 }

// Fsync of the directory: what is in it is on the server.
func (n *rootNode) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno { return 0 }

// Statfs is the space of the pool; that of the folder where the pool's driver does not tell.
func (n *rootNode) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	v := n.tree.view()
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, maxName
	out.Files, out.Ffree = uint64(len(v.list))+1<<20, 1<<20
	if s := v.snap.Server.Space; s.Total > 0 {
		out.Blocks = uint64(s.Total) / 4096
		out.Bfree = uint64(s.Free()) / 4096
		out.Bavail = out.Bfree
		return 0
	}
	var st syscall.Statfs_t
	if v.snap.Folder == "" || syscall.Statfs(v.snap.Folder, &st) != nil {
		return 0
	}
	out.FromStatfsT(&st)
	out.NameLen = maxName
	return 0
}

// Lookup finds, in this order: the status files, the file that this thread is about to write over a volume, the volume,
// a file that is being written.
func (n *rootNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	t := n.tree
	if name == controlName {
		return n.control(ctx, out), 0
	}
	v := t.view()
	e, own := v.find(name), name
	if e != nil {
		own = e.name
	}
	d, err := t.overwriting(ctx, own, e)
	if err != nil {
		return nil, t.refuse(own, err)
	}
	if d != nil {
		return n.draftInode(ctx, d, out), 0
	}
	if e != nil {
		return n.volumeInode(ctx, e, out), 0
	}
	if d := t.draft(v, name); d != nil {
		return n.draftInode(ctx, d, out), 0
	}
	return nil, syscall.ENOENT
}

// overwriting is the draft that the calling thread asked for when it opened a volume for writing; nil = it did not.
func (t *tree) overwriting(ctx context.Context, name string, e *entry) (*draft, error) {
	tid := threadOf(ctx)
	t.mu.Lock()
	p, ok := t.pending[tid]
	if ok && p.draft == nil {
		delete(t.pending, tid)
	}
	gone := ok && p.draft != nil && p.draft.gone
	t.mu.Unlock()
	switch {
	case !ok || gone:
		return nil, nil
	case p.draft == nil && e != nil:
		return t.replacement(ctx, name)
	case p.draft != nil && p.name == name:
		return p.draft, nil
	}
	return nil, nil
}

// Nodes are made anew at each lookup; the library keeps the one that the kernel knows by its inode number.

func (n *rootNode) volumeInode(ctx context.Context, e *entry, out *fuse.EntryOut) *fs.Inode {
	n.tree.volumeAttr(&out.Attr, e)
	out.SetAttrTimeout(attrTimeout)
	return n.NewInode(ctx, &volumeNode{tree: n.tree, e: e}, fs.StableAttr{Mode: syscall.S_IFREG, Ino: e.ino})
}

func (n *rootNode) draftInode(ctx context.Context, d *draft, out *fuse.EntryOut) *fs.Inode {
	d.attr(&out.Attr)
	return n.NewInode(ctx, &draftNode{d: d}, fs.StableAttr{Mode: syscall.S_IFREG, Ino: d.ino})
}

// OpendirHandle lists what there is at this moment; a listing that takes long does not see later changes.
func (n *rootNode) OpendirHandle(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	t := n.tree
	v := t.view()
	h := &rootHandle{root: n, view: v, entries: v.dirents}
	extra := []fuse.DirEntry{{Name: controlName, Ino: controlIno, Mode: fuse.S_IFDIR}}
	t.mu.Lock()
	seen := map[string]bool{}
	for d := range t.drafts {
		if d.opened && !seen[d.name] && v.find(d.name) == nil && !(d.sub != nil && d.expired(time.Now(), v)) {
			seen[d.name] = true
			extra = append(extra, fuse.DirEntry{Name: d.name, Ino: d.ino, Mode: fuse.S_IFREG})
		}
	}
	t.mu.Unlock()
	h.extra = extra
	return h, 0, 0
}

// rootHandle is an open listing: extra, then entries.
type rootHandle struct {
	root    *rootNode
	view    *view
	extra   []fuse.DirEntry
	entries []fuse.DirEntry
	next    int
}

var (
	_ fs.FileReaddirenter = (*rootHandle)(nil)
	_ fs.FileSeekdirer    = (*rootHandle)(nil)
	_ fs.FileLookuper     = (*rootHandle)(nil)
)

func (h *rootHandle) Readdirent(context.Context) (*fuse.DirEntry, syscall.Errno) {
	i := h.next
	var e fuse.DirEntry
	switch {
	case i < len(h.extra):
		e = h.extra[i]
	case i < len(h.extra)+len(h.entries):
		e = h.entries[i-len(h.extra)]
	default:
		return nil, 0
	}
	h.next++
	e.Off = uint64(h.next)
	return &e, 0
}

func (h *rootHandle) Seekdir(_ context.Context, off uint64) syscall.Errno {
	if off > uint64(len(h.extra)+len(h.entries)) {
		return syscall.EINVAL
	}
	h.next = int(off)
	return 0
}

// Lookup gives the attributes with the listing, and lets the kernel use names and attributes for a moment: ls -l and
// find ask nothing more.
func (h *rootHandle) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if e := h.view.byName[name]; e != nil {
		out.SetEntryTimeout(attrTimeout)
		return h.root.volumeInode(ctx, e, out), 0
	}
	return h.root.Lookup(ctx, name, out)
}

// Create begins a new file.
func (n *rootNode) Create(ctx context.Context, name string, flags, _ uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	t := n.tree
	v := t.view()
	to, err := t.target(v, name)
	if err == nil && flags&syscall.O_EXCL != 0 && (v.find(name) != nil || t.draft(v, name) != nil) {
		return nil, nil, 0, syscall.EEXIST
	}
	if err == nil {
		err = room(v.snap.Server.Space, headSize)
	}
	var d *draft
	if err == nil {
		d, err = t.newDraft(name, to)
	}
	if err != nil {
		return nil, nil, 0, t.refuse(name, err)
	}
	t.mu.Lock()
	h := d.handle(ctx, true)
	t.mu.Unlock()
	return n.draftInode(ctx, d, out), h, fuse.FOPEN_DIRECT_IO, 0
}

// What a pool has not got is refused with EPERM, as link(2), mkdir(2), symlink(2) and mknod(2) say it of file systems
// that cannot.

// Mkdir is refused.
func (n *rootNode) Mkdir(context.Context, string, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Rmdir is refused: the one directory there is holds the status files.
func (n *rootNode) Rmdir(_ context.Context, name string) syscall.Errno {
	if name == controlName {
		return syscall.EPERM
	}
	return syscall.ENOTDIR
}

// Mknod is refused.
func (n *rootNode) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Symlink is refused.
func (n *rootNode) Symlink(context.Context, string, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Link is refused: a copy on the server is what mv does.
func (n *rootNode) Link(context.Context, fs.InodeEmbedder, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}
