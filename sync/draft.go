package sync

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	draftPrefix = ownPrefix + "draft-"
	gonePrefix  = ownPrefix + "gone-" // a file on its way out; its name follows the random part
	randomLen   = 16                  // hex digits in the names that we make
	// draftAge is how long an abandoned draft of a running process is kept.
	draftAge = 24 * time.Hour
)

func randomName(prefix string) string {
	var b [randomLen / 2]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return prefix + hex.EncodeToString(b[:])
}

// newDraft makes a hidden file in the folder, open for reading and writing by us alone. Its Name is its path. It carries
// a lock, which tells sweep of any process that somebody still writes it. The error is a *Problem.
func (in *inbox) newDraft() (*os.File, error) {
	d, err := openFolder(in.cfg.Path)
	if err != nil {
		return nil, err
	}
	defer d.close()
	name := randomName(draftPrefix)
	fd, err := retryEINTR(func() (int, error) {
		return unix.Openat(d.fd, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return nil, writeProblem("written", in.cfg.Path, err)
	}
	_ = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) // without locks (some network file systems) sweep goes by age
	return os.NewFile(uintptr(fd), filepath.Join(in.cfg.Path, name)), nil
}

// accept makes a draft the folder's file of that name. durable is to be called once: when it returned nil, bytes and name
// are on the disk. That may take as long as to import the image, so both can go on at once. A file that has the name is
// replaced, as by mv; by one that is on the disk already, so that a crash leaves one of them whole. The draft is closed,
// whatever happens; one that is not accepted stays for the caller to remove. The identity is that of the new file. Errors
// are *Problems.
func (in *inbox) accept(draft *os.File, name string) (id Identity, durable func() error, err error) {
	if !IsImage(name) {
		_ = draft.Close() // refused: its bytes do not matter
		return Identity{}, nil, &Problem{
			Code: CodeName, Text: quoteName(name) + " is no name of an image",
			Remedy: "use one that ends in .iso and does not begin with a dot",
		}
	}
	d, err := openFolder(in.cfg.Path)
	if err != nil {
		_ = draft.Close() // as above
		return Identity{}, nil, err
	}
	defer d.close()
	if _, serr := d.stat(name); serr == nil {
		err = draft.Sync()
	}
	if err == nil {
		err = draft.Chmod(0o644)
	}
	if cerr := draft.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return Identity{}, nil, writeProblem("written", name, err)
	}
	from := filepath.Base(draft.Name())
	f, st, err := d.open(from)
	if err != nil {
		return Identity{}, nil, &Problem{
			Code:   CodeFolder,
			Text:   "the folder was exchanged or the draft removed while " + quoteName(name) + " was written",
			Remedy: "write it again",
		}
	}
	if id, err = in.place(d, from, st, name); err != nil {
		_ = f.Close() // read only
		return Identity{}, nil, err
	}
	return id, func() error { return in.flush(f, name) }, nil
}

// place gives a draft its name, and vouches for it.
func (in *inbox) place(d *folder, from string, st entryStat, name string) (Identity, error) {
	if err := unix.Renameat(d.fd, from, d.fd, name); err != nil {
		if errors.Is(err, unix.EISDIR) {
			return Identity{}, oddProblem(name, unix.S_IFDIR)
		}
		return Identity{}, writeProblem("written", name, err)
	}
	now, err := d.stat(name)
	if err != nil || now.id.inode() != st.id.inode() {
		return Identity{}, changed(name) // somebody was quicker, and replaced it already
	}
	in.vouch(name, now.id)
	return now.id, nil
}

// flush returns when the bytes of f, and the names of the folder, are on the disk. It closes f.
func (in *inbox) flush(f *os.File, name string) error {
	err := f.Sync()
	_ = f.Close() // read only
	if err == nil {
		var d *folder
		if d, err = openFolder(in.cfg.Path); err != nil {
			return err
		}
		defer d.close()
		err = d.sync()
	}
	if err != nil {
		return writeProblem("written", name, err)
	}
	return nil
}

// rename renames a file of the folder; a *Problem (CodeClash) if the new name is taken.
func (in *inbox) rename(from, to string) error {
	d, err := openFolder(in.cfg.Path)
	if err != nil {
		return err
	}
	defer d.close()
	switch err := d.renameNoReplace(from, to); {
	case errors.Is(err, fs.ErrExist):
		return &Problem{
			Code: CodeClash, Text: "a file " + quoteName(to) + " is there already",
			Remedy: "remove it first, or choose another name",
		}
	case errors.Is(err, fs.ErrNotExist):
		return changed(from)
	case err != nil:
		return writeProblem("renamed", from, err)
	}
	if st, err := d.stat(to); err == nil && st.regular() {
		in.vouch(to, st.id)
	}
	if err := d.sync(); err != nil {
		return writeProblem("renamed", from, err)
	}
	return nil
}

// errReplaced says that a name means another file than it did.
var errReplaced = errors.New("replaced meanwhile")

// takeAway unlinks a name, if it still means the file with that stat; errReplaced if not. unlink alone takes whatever
// has the name by then, perhaps an image that somebody moved there a moment ago. So the name is moved aside first, and
// looked at again where nobody else reaches for it; another file is put back.
func (d *folder) takeAway(name string, st entryStat) error {
	aside := randomName(gonePrefix) + "-" + name
	if len(aside) > unix.NAME_MAX {
		aside = randomName(gonePrefix) // a crash right now would leave it nameless: sweep does not touch it
	}
	if err := d.renameNoReplace(name, aside); err != nil {
		return err
	}
	now, err := d.stat(aside)
	now.id.CTime = st.id.CTime // the rename changed it
	if err != nil || now.id != st.id {
		return errors.Join(errReplaced, d.putBack(aside, name))
	}
	if err := unix.Unlinkat(d.fd, aside, 0); err != nil {
		return errors.Join(err, d.putBack(aside, name))
	}
	return d.sync()
}

// putBack gives a file that was moved aside its name again, or, where that is taken, one beside it.
func (d *folder) putBack(aside, name string) error {
	err := d.renameNoReplace(aside, name)
	if errors.Is(err, fs.ErrExist) {
		const mark = ".kept-"
		kept := name[:min(len(name), unix.NAME_MAX-len(mark)-randomLen)] + randomName(mark)
		err = d.renameNoReplace(aside, kept)
	}
	return err
}

// sweep removes what earlier lives left behind: drafts that nobody writes any more, and half-written notes; and gives
// files their names back that were on their way out. For the start only: later on those may be at work.
func (in *inbox) sweep() {
	d, err := openFolder(in.cfg.Path)
	if err != nil {
		return // scan reports it
	}
	defer d.close()
	in.sweepOwn(d, func(name string) error {
		switch {
		case strings.HasPrefix(name, draftPrefix):
			return in.sweepDraft(d, name)
		case strings.HasPrefix(name, notePrefix):
			return unix.Unlinkat(d.fd, name, 0)
		case strings.HasPrefix(name, gonePrefix):
			if n := len(gonePrefix) + randomLen; len(name) > n+1 && name[n] == '-' {
				return d.renameNoReplace(name, name[n+1:])
			}
		}
		return nil
	})
}

// sweepDrafts removes abandoned drafts only: those whose process is gone, and ours after draftAge.
func (in *inbox) sweepDrafts(d *folder) {
	there := map[string]bool{}
	in.sweepOwn(d, func(name string) error {
		if !strings.HasPrefix(name, draftPrefix) {
			return nil
		}
		there[name] = true
		return in.sweepDraft(d, name)
	})
	in.mu.Lock()
	defer in.mu.Unlock()
	for name := range in.drafts {
		if !there[name] {
			delete(in.drafts, name)
		}
	}
}

// sweepOwn calls f with each hidden file of ours. What fails is logged: it only takes room.
func (in *inbox) sweepOwn(d *folder, f func(name string) error) {
	var own []string
	err := d.each(func(name string) {
		if strings.HasPrefix(name, ownPrefix) {
			own = append(own, name)
		}
	})
	if err != nil {
		return // scan reports it
	}
	for _, name := range own {
		if err := f(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			in.cfg.Log.Warn("a leftover of an earlier run cannot be cleared away", "file", name, "err", err)
		}
	}
}

func (in *inbox) sweepDraft(d *folder, name string) error {
	f, st, err := d.open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case err == nil:
		return unix.Unlinkat(d.fd, name, 0)
	case errors.Is(err, unix.EWOULDBLOCK):
		if !in.abandoned(name, st.id) {
			return nil
		}
	default: // no locks here: the age is all there is, and a clock that jumps may only keep it too long
		if time.Since(time.Unix(0, st.id.MTime)) < draftAge || !in.abandoned(name, st.id) {
			return nil
		}
	}
	return unix.Unlinkat(d.fd, name, 0)
}

// abandoned reports whether a draft was the same at every sweep for draftAge, by our own clock.
func (in *inbox) abandoned(name string, id Identity) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	now := in.cfg.Now()
	old, known := in.drafts[name]
	if !known || old.id != id {
		in.drafts[name] = draftSeen{id: id, at: now}
		return false
	}
	if now.Sub(old.at) < draftAge {
		return false
	}
	delete(in.drafts, name)
	return true
}

type draftSeen struct {
	id Identity
	at time.Time
}

// writeProblem says why something could not be done to the folder.
func writeProblem(what, name string, err error) *Problem {
	q := quoteName(name)
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return &Problem{
			Code: CodeNoSpace, Waits: true,
			Text:   q + " cannot be " + what + ": the folder's file system is full",
			Remedy: "free some room there and try again",
		}
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return &Problem{
			Code:   CodeUnreadable,
			Text:   fmt.Sprintf("%s cannot be %s: %v", q, what, err),
			Remedy: "give the user that isosyncd runs as write permission on the folder",
		}
	}
	return &Problem{
		Code: CodeUnreadable, Waits: true,
		Text:   fmt.Sprintf("%s cannot be %s: %v", q, what, err),
		Remedy: "look at the disk and the system log, and try again",
	}
}
