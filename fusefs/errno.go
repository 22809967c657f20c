package fusefs

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"isosyncd/lxd"
	isosync "isosyncd/sync"
)

// This file is the only place where an error becomes a number. Programs print strerror of it and nothing else, so each
// is chosen for the sentence that a person then reads; .isosyncd/errors/NAME has the whole story.

// problemErrno is what close, open, rename and unlink answer for each kind of problem.
var problemErrno = map[isosync.Code]syscall.Errno{
	isosync.CodeWriting:    syscall.EBUSY,
	isosync.CodeIncomplete: syscall.EIO, // the image says that it is longer
	isosync.CodeNotISO:     syscall.EINVAL,
	isosync.CodeChecksum:   syscall.EBADMSG,
	isosync.CodeNoChecksum: syscall.ENODATA,
	isosync.CodeName:       syscall.EINVAL,
	isosync.CodeClash:      syscall.EEXIST,
	isosync.CodeNotRegular: syscall.EINVAL,
	isosync.CodeUnreadable: syscall.EIO,
	isosync.CodeForeign:    syscall.EEXIST, // EPERM where something is to be removed: see removalErrno
	isosync.CodeInUse:      syscall.EBUSY,
	isosync.CodeRemoved:    syscall.ECANCELED,
	isosync.CodeReplaceOff: syscall.EEXIST,
	isosync.CodeNoSpace:    syscall.ENOSPC,
	isosync.CodeLimit:      syscall.EDQUOT,
	isosync.CodeDenied:     syscall.EACCES,
	isosync.CodeAway:       syscall.EHOSTDOWN,
	isosync.CodeServer:     syscall.EREMOTEIO,
	isosync.CodeRefused:    syscall.EREMOTEIO,
	isosync.CodeFolder:     syscall.EIO,
	isosync.CodePrune:      syscall.EBUSY,
	isosync.CodeChanged:    syscall.EIO,
}

// errStopping ends the waits of a mount that goes away.
var errStopping = errors.New("isosyncd is stopping")

// toErrno is the number for an error of ours, of the heart, of a source or of the system.
func toErrno(err error) syscall.Errno {
	var problem *isosync.Problem
	var number syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &problem):
		if n, ok := problemErrno[problem.Code]; ok {
			return n
		}
		return syscall.EIO
	case errors.As(err, &number):
		return number
	case errors.Is(err, lxd.ErrNotRead), errors.Is(err, errors.ErrUnsupported):
		return syscall.EOPNOTSUPP
	case errors.Is(err, lxd.ErrAway):
		return syscall.EHOSTDOWN
	case errors.Is(err, lxd.ErrDenied), errors.Is(err, fs.ErrPermission):
		return syscall.EACCES
	case errors.Is(err, lxd.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return syscall.ENOENT
	case errors.Is(err, errStopping):
		return syscall.ESHUTDOWN
	case errors.Is(err, context.Canceled):
		return syscall.EINTR
	case errors.Is(err, context.DeadlineExceeded):
		return syscall.ETIMEDOUT
	}
	return syscall.EIO
}

// removalErrno is toErrno where a volume is to be removed or renamed: a foreign one is not "File exists".
func removalErrno(err error) syscall.Errno {
	var problem *isosync.Problem
	if errors.As(err, &problem) && problem.Code == isosync.CodeForeign {
		return syscall.EPERM
	}
	return toErrno(err)
}

// renameErrno is toErrno for rename(2), whose EINVAL programs take for a directory that is moved into itself.
func renameErrno(err error) syscall.Errno {
	if n := toErrno(err); n != syscall.EINVAL {
		return n
	}
	return syscall.EPERM
}
