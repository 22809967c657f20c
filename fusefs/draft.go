package fusefs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"isosyncd/iso"
	isosync "isosyncd/sync"
)

const (
	// headSize is what is written before it is decided whether this can be an ISO image: the descriptors of ISO 9660
	// and UDF begin at byte 32768.
	headSize = 64 << 10
	// reserveEvery is how many bytes are written between two looks at the space of the folder.
	reserveEvery = 16 << 20
)

// draft is a file that is being written, or was and is not a volume yet. It is a hidden file of the folder.
type draft struct {
	tree *tree
	ino  uint64

	// Guarded by tree.mu.
	name    string      // in the directory
	to      target      // what name stands for
	opened  bool        // it was open once
	handles int         // open for reading or writing
	writers int         // of handles, those open for writing
	hidden  bool        // a writer is in a process that /proc does not show
	kept    bool        // a rename waits for sub, and says what becomes of the name
	ghost   error       // why that rename failed: the old name stays for a moment, as rename(2) promises
	gone    bool        // removed from the directory; its bytes go with the last handle
	used    time.Time   // last open, close or rename
	sub     *submission // what the heart says of it; nil = not given to the heart yet

	mu      sync.Mutex // after tree.mu
	file    *os.File   // guarded by mu; nil = the heart has it, or it was discarded
	reading *os.File   // guarded by mu: of the same file, for readers while the heart has it
	size    int64      // guarded by mu
	mtime   time.Time  // guarded by mu
	written bool       // guarded by mu: it has bytes, so it is no empty placeholder
	head    int64      // guarded by mu: bytes from the start that were written in one go, up to headSize
	checked int64      // guarded by mu: size at the last look at the folder's space
	refused error      // guarded by mu: why nothing more can be written
}

// submission is what became of a draft that was given to the heart.
type submission struct {
	done chan struct{}
	err  error     // after done
	at   time.Time // after done
}

func (s *submission) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// newDraft makes a draft. tree.mu must not be held.
func (t *tree) newDraft(name string, to target) (*draft, error) {
	final := to.file
	if to.temporary {
		final = ""
	}
	f, err := t.heart.NewDraft(final)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	d := &draft{tree: t, ino: t.lastIno.Add(1), name: name, to: to, used: now, file: f, mtime: now}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.writing(nil, name, to.volume) {
		t.heart.Discard(f)
		return nil, &isosync.Problem{
			Code: isosync.CodeWriting, Waits: true, Text: quote(name) + " is being written by somebody else",
			Remedy: "try again when that is done",
		}
	}
	// A placeholder of this name, or what was written before and never became a volume, makes way.
	for other := range t.drafts {
		if other.name == name && other.sub == nil {
			t.forget(other)
		}
	}
	t.drafts[d] = true
	return d, nil
}

// writing reports whether somebody writes a draft, other than d, under that name or for that volume. tree.mu is held.
func (t *tree) writing(d *draft, name, volume string) bool {
	for other := range t.drafts {
		if other != d && other.sub == nil && (other.name == name || volume != "" && other.to.volume == volume) &&
			(other.busy() || !other.opened) {
			return true
		}
	}
	return false
}

// busy reports whether somebody has the draft open for writing. The kernel's RELEASE comes a moment after the close(2)
// that a program has seen return, so where a handle is left, /proc says whether anybody still has it. tree.mu is held.
func (d *draft) busy() bool {
	return d.writers > 0 && (d.hidden || d.tree.anyHolder(d.ino) != heldByNobody)
}

// draft is the one that shows under name, the newest; nil = none. Those that have become something else are dropped.
func (t *tree) draft(v *view, name string) *draft {
	t.mu.Lock()
	defer t.mu.Unlock()
	var found *draft
	for d := range t.drafts {
		switch {
		case d.name != name || !d.opened:
		case d.sub != nil && d.expired(time.Now(), v):
			t.forget(d)
		case found == nil || d.ino > found.ino:
			found = d
		}
	}
	return found
}

// drop removes a draft from the directory.
func (t *tree) drop(d *draft) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(d)
}

// forget is drop with tree.mu held.
func (t *tree) forget(d *draft) {
	d.gone = true
	delete(t.drafts, d)
	if d.handles == 0 {
		d.discard()
	}
}

// discard gives up the bytes.
func (d *draft) discard() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file != nil {
		d.tree.heart.Discard(d.file)
		d.file = nil
	}
	if d.reading != nil {
		_ = d.reading.Close()
		d.reading = nil
	}
}

// title is the name, for whoever does not hold tree.mu.
func (d *draft) title() string {
	d.tree.mu.Lock()
	defer d.tree.mu.Unlock()
	return d.name
}

// keeps reports whether there are bytes that are nowhere else.
func (d *draft) keeps() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.written && d.file != nil
}

// expired reports whether a draft has no more use. tree.mu is held.
func (d *draft) expired(now time.Time, v *view) bool {
	switch {
	case d.handles > 0:
		return false
	case !d.opened:
		return now.Sub(d.used) > pendingLife
	case d.sub == nil:
		return now.Sub(d.used) > draftLife
	case !d.sub.ended():
		return false
	case d.kept:
		return false
	case d.ghost != nil:
		return now.Sub(d.sub.at) > ghostLife
	case d.sub.err != nil, d.tree.wait == isosync.WaitImport, v.byVolume[d.to.volume] != nil && v.byVolume[d.to.volume].volume.File != "":
		return true
	}
	f := v.files[d.to.volume]
	return (f == nil || f.Problem != nil && !f.Problem.Waits) && now.Sub(d.sub.at) > time.Minute
}

func (d *draft) attr(out *fuse.Attr) {
	d.tree.mu.Lock()
	taken, gone := d.sub != nil, d.gone
	d.tree.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tree.fileAttr(out, d.ino, d.size, d.mtime)
	if !taken {
		out.Mode |= 0o200
	}
	if gone {
		out.Nlink = 0
	}
}

// write is one WRITE. It may be refused for good: a file that cannot become a volume is not taken to its end.
func (d *draft) write(data []byte, off int64) (uint32, syscall.Errno) {
	n, err := d.writeAt(data, off)
	if err != nil {
		return 0, d.tree.refuse(d.title(), err)
	}
	return n, 0
}

func (d *draft) writeAt(data []byte, off int64) (uint32, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refused != nil {
		return 0, d.refused
	}
	if d.file == nil {
		return 0, errEnded
	}
	end := off + int64(len(data))
	if d.refused = d.fits(end); d.refused != nil {
		return 0, d.refused
	}
	n, err := d.file.WriteAt(data, off)
	d.written = d.written || n > 0
	d.size, d.mtime = max(d.size, off+int64(n)), time.Now()
	if err != nil {
		d.refused = fmt.Errorf("write to the folder: %w", err) // a part of it is of no use there
		return 0, d.refused
	}
	if before := d.head; off <= before && before < headSize {
		d.head = max(before, min(end, headSize))
		if d.head == headSize {
			d.refused = d.look()
		}
	}
	return uint32(n), d.refused
}

// errEnded refuses writes to a file that was given to the heart: somebody wrote on behind the last close that could be
// seen.
var errEnded = errors.New("the file was closed, and is being imported")

// fits says why a file of size bytes has no room, in the pool or in the folder. d.mu is held.
func (d *draft) fits(size int64) error {
	if err := room(d.tree.heart.Snapshot().Server.Space, size); err != nil {
		return err
	}
	if size-d.checked < reserveEvery && d.checked > 0 || d.tree.reserve <= 0 {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.file.Fd()), &st); err != nil {
		return fmt.Errorf("space of the folder: %w", err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < d.tree.reserve {
		return &isosync.Problem{
			Code: isosync.CodeNoSpace, Waits: true,
			Text:   fmt.Sprintf("the file system of the folder has only %d bytes left", free),
			Remedy: "make room there and write it again",
		}
	}
	d.checked = size
	return nil
}

// look decides from the start of the file what it cannot become. d.mu is held.
func (d *draft) look() error {
	info, err := iso.ProbeFile(d.file)
	if errors.Is(err, iso.ErrNotISO) && !d.blank() {
		return notISO(err)
	}
	return room(d.tree.heart.Snapshot().Server.Space, info.DeclaredSize)
}

func notISO(err error) error {
	p := &isosync.Problem{Code: isosync.CodeNotISO, Text: "not an ISO image", Remedy: "only ISO images can be written here"}
	if not := (*iso.NotISOError)(nil); errors.As(err, &not) {
		p.Text, p.Remedy = p.Text+": it looks like "+not.LooksLike, not.Remedy
	}
	return p
}

// blank reports a start of zeros only, as programs write that fill in the descriptors last. d.mu is held.
func (d *draft) blank() bool {
	var head [headSize]byte
	n, err := d.file.ReadAt(head[:], 0)
	return err == nil && n == headSize && head == [headSize]byte{}
}

// truncate is ftruncate, and open with O_TRUNC.
func (d *draft) truncate(size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil {
		return errEnded
	}
	if err := d.fits(size); err != nil {
		return err
	}
	if err := d.file.Truncate(size); err != nil {
		return err
	}
	d.size, d.mtime, d.written = size, time.Now(), size > 0
	d.head = min(d.head, size)
	if size == 0 {
		d.refused = nil
	}
	return nil
}

// source is the file to read from; nil where there is none any more.
func (d *draft) source() *os.File {
	if d.file != nil {
		return d.file
	}
	return d.reading
}

// draftNode is a draft as a file of the directory.
type draftNode struct {
	fs.Inode
	d *draft
}

var (
	_ fs.NodeOpener      = (*draftNode)(nil)
	_ fs.NodeGetattrer   = (*draftNode)(nil)
	_ fs.NodeSetattrer   = (*draftNode)(nil)
	_ fs.NodeAccesser    = (*draftNode)(nil)
	_ fs.NodeGetxattrer  = (*draftNode)(nil)
	_ fs.NodeListxattrer = (*draftNode)(nil)
	_ fs.NodeSetxattrer  = (*draftNode)(nil)
)

// Open gives one writer at a time, and any readers.
func (n *draftNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	d, t := n.d, n.d.tree
	write := flags&syscall.O_ACCMODE != syscall.O_RDONLY
	t.mu.Lock()
	switch {
	case d.gone:
		t.mu.Unlock()
		return nil, 0, syscall.ESTALE // the kernel looks the name up again
	case write && d.sub != nil:
		name := d.name
		t.mu.Unlock()
		return nil, 0, t.overwrite(ctx, name, flags)
	case write && d.busy():
		t.mu.Unlock()
		return nil, 0, syscall.EBUSY
	}
	h := d.handle(ctx, write)
	for tid, p := range t.pending {
		if p.draft == d {
			delete(t.pending, tid)
		}
	}
	t.mu.Unlock()
	if write && flags&syscall.O_TRUNC != 0 {
		if err := d.truncate(0); err != nil {
			h.release()
			return nil, 0, t.refuse(d.title(), err)
		}
	}
	// Direct I/O: each WRITE says what it says when it says it, and there is no mmap(2) that writes after close(2).
	return h, fuse.FOPEN_DIRECT_IO, 0
}

// Getattr shows the file as far as it is written.
func (n *draftNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.d.attr(&out.Attr)
	return 0
}

// Setattr changes the size. Times are kept until the import; modes and owners are taken without effect, since cp -p,
// install and rsync set them.
func (n *draftNode) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		if err := n.d.truncate(int64(size)); err != nil {
			return n.d.tree.refuse(n.d.title(), err)
		}
	}
	if mtime, ok := in.GetMTime(); ok {
		n.d.mu.Lock()
		n.d.mtime = mtime
		n.d.mu.Unlock()
	}
	n.d.attr(&out.Attr)
	return 0
}

// Access leaves the decision to the kernel.
func (n *draftNode) Access(context.Context, uint32) syscall.Errno { return 0 }
