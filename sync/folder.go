package sync

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// folderID tells whether a folder is still the one that was looked at, and not another that was mounted or moved there.
type folderID struct{ Dev, Ino uint64 }

// folder is the drop folder, opened. Everything in it is reached from its descriptor by a name without a slash, and
// links are never followed, so nothing outside can be meant. os.Root would not do: it follows links that stay inside,
// and offers neither fstatat without an allocation for each file nor RENAME_NOREPLACE.
type folder struct {
	f      *os.File
	fd     int
	id     folderID
	shared bool // everybody may write to it
	leases bool // its file system is one where a lease tells of all writers
}

// entryStat is what fstatat says of a name.
type entryStat struct {
	id    Identity
	mode  uint32
	nlink uint64
}

func (s *entryStat) regular() bool { return s.mode&unix.S_IFMT == unix.S_IFREG }

func statOf(st *unix.Stat_t) entryStat {
	return entryStat{
		id: Identity{
			Dev: uint64(st.Dev), Ino: st.Ino, Size: st.Size,
			MTime: unix.TimespecToNsec(st.Mtim), CTime: unix.TimespecToNsec(st.Ctim),
		},
		mode:  st.Mode,
		nlink: uint64(st.Nlink),
	}
}

// openFolder opens the folder by its path; each time anew, so that another one at that path is noticed. The error is a
// *Problem.
func openFolder(path string) (*folder, error) {
	fd, err := retryEINTR(func() (int, error) {
		return unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, folderProblem(path, err)
	}
	d := &folder{f: os.NewFile(uintptr(fd), path), fd: fd}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		d.close()
		return nil, folderProblem(path, err)
	}
	d.id = folderID{Dev: uint64(st.Dev), Ino: st.Ino}
	d.shared = st.Mode&unix.S_IWOTH != 0
	var sfs unix.Statfs_t
	d.leases = unix.Fstatfs(fd, &sfs) == nil && leasesTell(uint32(sfs.Type)) // the magic numbers are 32 bits wide
	return d, nil
}

// leasesTell reports whether on a file system of this type every writer is one of this kernel's. On others (NFS, SMB,
// FUSE, 9p, overlay...) a lease may be granted while somebody writes elsewhere, so stillness counts as well.
func leasesTell(magic uint32) bool {
	const zfs = 0x2fc12fc1
	switch magic {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC, unix.F2FS_SUPER_MAGIC,
		unix.BCACHEFS_SUPER_MAGIC, zfs:
		return true
	}
	return false
}

func (d *folder) close() { _ = d.f.Close() } // read only: nothing is lost

// each calls f with all names in the folder. It reads in batches: memory does not grow with the folder.
func (d *folder) each(f func(name string)) error {
	const batch = 1024
	for {
		names, err := d.f.Readdirnames(batch)
		for _, n := range names {
			f(n)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// stat looks at a name; links are not followed.
func (d *folder) stat(name string) (entryStat, error) {
	var st unix.Stat_t
	_, err := retryEINTR(func() (int, error) {
		return 0, unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		return entryStat{}, err
	}
	return statOf(&st), nil
}

// errNotRegular says that a name is no regular file.
var errNotRegular = errors.New("not a regular file")

// open opens a regular file for reading. It never waits: not for the other end of a FIFO, and not for somebody's write
// lease (EAGAIN). The stat is that of what was opened.
func (d *folder) open(name string) (*os.File, entryStat, error) {
	fd, err := retryEINTR(func() (int, error) {
		return unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	})
	if err != nil {
		return nil, entryStat{}, err
	}
	st, err := fstat(fd)
	if err == nil && !st.regular() {
		err = errNotRegular
	}
	if err == nil {
		// Reads of regular files never returned EAGAIN, but os.NewFile would try to poll the descriptor.
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		_ = unix.Close(fd) // read only: nothing is lost
		return nil, st, err
	}
	return os.NewFile(uintptr(fd), name), st, nil
}

// foreign reports whether the bytes of an opened file may be those of a file elsewhere: in a folder that everybody may
// write to anybody can link such a file, and unlink it again at any moment. So a second link is not all to look for: the
// name must still lead to the file, and between two looks that see one link nothing was linked or unlinked only if the
// ctime stayed.
func (d *folder) foreign(name string, f *os.File, st entryStat) bool {
	if !d.shared {
		return false
	}
	byName, err := d.stat(name)
	if err != nil || byName != st || st.nlink > 1 {
		return true
	}
	again, err := fstat(int(f.Fd()))
	return err != nil || again != st
}

func fstat(fd int) (entryStat, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return entryStat{}, err
	}
	return statOf(&st), nil
}

// renameNoReplace renames within the folder; fs.ErrExist if the new name is taken.
func (d *folder) renameNoReplace(from, to string) error {
	err := unix.Renameat2(d.fd, from, d.fd, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		return d.renameByLink(from, to)
	}
	return err
}

// renameByLink is renameNoReplace where the file system (NFS) cannot do it at once: a link takes the name if it is free.
// Where there are no links either (SMB, FAT), a look before must do.
func (d *folder) renameByLink(from, to string) error {
	err := unix.Linkat(d.fd, from, d.fd, to, 0)
	switch {
	case err == nil:
		return unix.Unlinkat(d.fd, from, 0)
	case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrNotExist):
		return err
	}
	return d.renameByLook(from, to)
}

func (d *folder) renameByLook(from, to string) error {
	if _, err := d.stat(to); err == nil {
		return unix.EEXIST
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return unix.Renameat(d.fd, from, d.fd, to)
}

// sync makes names durable. Some network file systems cannot, and need not.
func (d *folder) sync() error {
	err := unix.Fsync(d.fd)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EROFS) {
		return nil
	}
	return err
}

func retryEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// exhausted reports errors that are about this process or machine, and not about the file.
func exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

func folderProblem(path string, err error) *Problem {
	p := &Problem{Code: CodeFolder, Remedy: "nothing is deleted meanwhile; it goes on by itself when the folder is back"}
	name := quoteName(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.Text = "the folder " + name + " is missing"
	case errors.Is(err, unix.ENOTDIR):
		p.Text = name + " is not a folder"
	case errors.Is(err, fs.ErrPermission):
		p.Text = "the folder " + name + " may not be read by this service"
		p.Remedy = "give the user that isosyncd runs as read and search permission (r-x) on it; it goes on by itself then"
	case exhausted(err):
		p.Waits = true
		p.Text = fmt.Sprintf("the folder %s cannot be opened now: %v", name, err)
		p.Remedy = "it is tried again by itself; if it stays, raise LimitNOFILE"
	default:
		p.Text = fmt.Sprintf("the folder %s cannot be read: %v", name, err)
	}
	return p
}

// openProblem says why a file of the folder could not be opened or read.
func openProblem(name string, err error) *Problem {
	q := quoteName(name)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return writingProblem(name)
	case errors.Is(err, errNotRegular), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return &Problem{
			Code: CodeNotRegular, Text: q + " is not a regular file",
			Remedy: "put the image itself there; links and special files are not followed",
		}
	case errors.Is(err, fs.ErrPermission):
		return &Problem{
			Code:   CodeUnreadable,
			Text:   q + " may not be read by this service",
			Remedy: "make it readable, such as with chmod a+r; it is imported by itself then",
		}
	case exhausted(err):
		return &Problem{
			Code: CodeUnreadable, Waits: true,
			Text:   fmt.Sprintf("%s cannot be opened now: %v", q, err),
			Remedy: "it is tried again by itself; if it stays, raise LimitNOFILE",
		}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESTALE):
		return &Problem{
			Code: CodeChanged, Waits: true,
			Text:   q + " is gone",
			Remedy: "nothing needs to be done if somebody removed it",
		}
	}
	return &Problem{
		Code: CodeUnreadable, Waits: true,
		Text:   fmt.Sprintf("%s cannot be read: %v", q, err),
		Remedy: "look at the disk and the system log; it is tried again by itself",
	}
}
