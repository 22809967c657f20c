package fusefs

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// controlNode is .isosyncd, or errors in it: directories of texts that are made when they are read.
type controlNode struct {
	fs.Inode
	tree *tree
	ino  uint64
}

var (
	_ fs.NodeLookuper   = (*controlNode)(nil)
	_ fs.NodeReaddirer  = (*controlNode)(nil)
	_ fs.NodeGetattrer  = (*controlNode)(nil)
	_ fs.NodeAccesser   = (*controlNode)(nil)
	_ fs.NodeUnlinker   = (*controlNode)(nil)
	_ fs.NodeRmdirer    = (*controlNode)(nil)
	_ fs.NodeRenamer    = (*controlNode)(nil)
	_ fs.NodeCreater    = (*controlNode)(nil)
	_ fs.NodeGetxattrer = (*controlNode)(nil)
)

func (n *rootNode) control(ctx context.Context, out *fuse.EntryOut) *fs.Inode {
	return n.tree.controlDir(ctx, &n.Inode, controlIno, out)
}

func (t *tree) controlDir(ctx context.Context, parent *fs.Inode, ino uint64, out *fuse.EntryOut) *fs.Inode {
	t.dirAttr(&out.Attr, ino, 0o555, t.view().snap.At)
	return parent.NewInode(ctx, &controlNode{tree: t, ino: ino}, fs.StableAttr{Mode: syscall.S_IFDIR, Ino: ino})
}

// texts are what is in the directory, by name. Listing makes none of them.
func (n *controlNode) texts() map[string]func() []byte {
	if n.ino == errorsIno {
		return n.tree.errorTexts()
	}
	return map[string]func() []byte{"status": n.tree.statusText, "status.json": n.tree.statusJSON}
}

// Lookup finds a text.
func (n *controlNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if n.ino == controlIno && name == "errors" {
		return n.tree.controlDir(ctx, &n.Inode, errorsIno, out), 0
	}
	text, ok := n.texts()[name]
	if !ok {
		return nil, syscall.ENOENT
	}
	child := &textNode{tree: n.tree, text: text}
	child.attr(&out.Attr)
	// Each lookup is a new file, with a number of its own: what it says may be another thing each time.
	return n.NewInode(ctx, child, fs.StableAttr{Mode: syscall.S_IFREG}), 0
}

// Readdir lists the texts.
func (n *controlNode) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	var list []fuse.DirEntry
	if n.ino == controlIno {
		list = append(list, fuse.DirEntry{Name: "errors", Ino: errorsIno, Mode: fuse.S_IFDIR})
	}
	for name := range n.texts() {
		list = append(list, fuse.DirEntry{Name: name, Mode: fuse.S_IFREG})
	}
	return fs.NewListDirStream(list), 0
}

// Getattr says that nobody can write here.
func (n *controlNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.tree.dirAttr(&out.Attr, n.ino, 0o555, n.tree.view().snap.At)
	return 0
}

// Access leaves the decision to the kernel.
func (n *controlNode) Access(context.Context, uint32) syscall.Errno { return 0 }

// Unlink is refused; also to root, whom no mode stops.
func (n *controlNode) Unlink(context.Context, string) syscall.Errno { return syscall.EPERM }

// Rmdir is refused.
func (n *controlNode) Rmdir(context.Context, string) syscall.Errno { return syscall.EPERM }

// Rename is refused.
func (n *controlNode) Rename(context.Context, string, fs.InodeEmbedder, string, uint32) syscall.Errno {
	return syscall.EPERM
}

// Create is refused.
func (n *controlNode) Create(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.EPERM
}

// textNode is a text. Its size is that of the text as it would be read now.
type textNode struct {
	fs.Inode
	tree *tree
	text func() []byte
}

var (
	_ fs.NodeOpener     = (*textNode)(nil)
	_ fs.NodeGetattrer  = (*textNode)(nil)
	_ fs.NodeAccesser   = (*textNode)(nil)
	_ fs.NodeGetxattrer = (*textNode)(nil)
)

func (n *textNode) attr(out *fuse.Attr) {
	n.tree.fileAttr(out, 0, int64(len(n.text())), n.tree.view().snap.At)
}

// Getattr makes the text to count it.
func (n *textNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.attr(&out.Attr)
	return 0
}

// Access leaves the decision to the kernel.
func (n *textNode) Access(context.Context, uint32) syscall.Errno { return 0 }

// Open makes the text; the handle keeps it, so that it does not change while it is read.
func (n *textNode) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return nil, 0, syscall.EPERM
	}
	return textHandle(n.text()), fuse.FOPEN_DIRECT_IO, 0
}

type textHandle []byte

var _ fs.FileReader = textHandle(nil)

func (h textHandle) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if off >= int64(len(h)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(h[off:min(off+int64(len(dest)), int64(len(h)))]), 0
}
