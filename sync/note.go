package sync

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	notePrefix = ownPrefix + "note-" // of notes being written
	noteFolder = "isosyncd"          // stands for the image in the note about the whole folder
	noteTail   = "isosyncd: "        // begins the last line of a note, by which we know it for ours
	maxNote    = 64 << 10            // bytes; what is longer is not ours
)

// noteKinds are the endings of status files, the one that counts most last.
var noteKinds = []string{"waiting", "failed"}

// noteInfo is one of our status files.
type noteInfo struct {
	Kind string // "failed" or "waiting"
	Body uint64 // noteHash of what putNote was given
}

// noteEntry is what is remembered of a status file between scans.
type noteEntry struct {
	stat entryStat
	iso  string // that it is about; "" = the folder
	info noteInfo
	ours bool
	scan uint64
}

// errNotOurs says that a file has the name of a status file, and somebody else made it.
var errNotOurs = errors.New("a file of that name is there, and isosyncd did not write it")

// isNote reports whether a name could be that of a status file.
func isNote(name string) bool { _, ok := noteKind(name); return ok }

func noteKind(name string) (kind string, ok bool) {
	for _, k := range noteKinds {
		if stem, ok := strings.CutSuffix(name, "."+k); ok && (stem == noteFolder || IsImage(stem)) {
			return k, true
		}
	}
	return "", false
}

// noteName is the status file beside an image; one of the folder for "". Where it would be too long it is cut, and gets
// a hash to stay distinct.
func noteName(iso, kind string) string {
	if iso == "" {
		iso = noteFolder
	}
	name := iso + "." + kind
	if len(name) <= unix.NAME_MAX {
		return name
	}
	sum := sha256.Sum256([]byte(iso))
	tail := "~" + hex.EncodeToString(sum[:8]) + imageExt + "." + kind
	cut := iso[:unix.NAME_MAX-len(tail)]
	for len(cut) > 0 && utf8.ValidString(iso) && !utf8.ValidString(cut) {
		cut = cut[:len(cut)-1]
	}
	return cut + tail
}

// wholeLines is a body as it is written: it ends its last line.
func wholeLines(body string) string { return strings.TrimRight(body, "\n") + "\n" }

func noteHash(body string) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, wholeLines(body)) // a hash never fails
	return h.Sum64()
}

// noteText is the whole file: the body, then the line that makes it ours.
func (in *inbox) noteText(iso, body string) string {
	return wholeLines(body) + noteTail + ownerToken(in.cfg.Owner) + " " + strconv.QuoteToASCII(iso) + "\n"
}

// parseNote undoes noteText.
func (in *inbox) parseNote(text string) (iso, body string, ok bool) {
	text, ok = strings.CutSuffix(text, "\n")
	i := strings.LastIndexByte(text, '\n')
	if !ok || i < 0 {
		return "", "", false
	}
	body = text[:i+1]
	tail, ok := strings.CutPrefix(text[i+1:], noteTail+ownerToken(in.cfg.Owner)+" ")
	if !ok {
		return "", "", false
	}
	iso, err := strconv.Unquote(tail)
	return iso, body, err == nil && strconv.QuoteToASCII(iso) == tail
}

// scanNotes finds our status files. One that did not change since costs one fstatat.
func (in *inbox) scanNotes(d *folder, names []string) map[string]noteInfo {
	found := make(map[string]noteInfo, len(names))
	for _, name := range names {
		st, err := d.stat(name)
		if err != nil {
			continue
		}
		e := in.notes[name]
		if e == nil || e.stat != st {
			e = in.readNote(d, name)
			in.notes[name] = e
		}
		e.scan = in.scans
		if old, twice := found[e.iso]; e.ours && (!twice || old.Kind != noteKinds[len(noteKinds)-1]) {
			found[e.iso] = e.info
		}
	}
	for name, e := range in.notes {
		if e.scan != in.scans {
			delete(in.notes, name)
		}
	}
	return found
}

// readNote looks whether a file is a status file of ours. An empty one is: that is what a power cut makes of a note, and
// nobody loses by it.
func (in *inbox) readNote(d *folder, name string) *noteEntry {
	e := &noteEntry{}
	f, st, err := d.open(name)
	if err != nil {
		e.stat, _ = d.stat(name) // what cannot be read is not ours
		return e
	}
	defer func() { _ = f.Close() }() // read only
	e.stat = st
	if d.foreign(name, f, st) {
		return e // nor is what somebody linked there
	}
	data, err := io.ReadAll(io.LimitReader(f, maxNote+1))
	if err != nil || len(data) > maxNote {
		return e
	}
	kind, _ := noteKind(name)
	if len(bytes.Trim(data, "\x00")) == 0 {
		stem := strings.TrimSuffix(name, "."+kind)
		if stem == noteFolder {
			stem = ""
		}
		e.iso, e.ours, e.info = stem, true, noteInfo{Kind: kind}
		return e
	}
	iso, body, ok := in.parseNote(string(data))
	if ok && noteName(iso, kind) == name {
		e.iso, e.ours, e.info = iso, true, noteInfo{Kind: kind, Body: noteHash(body)}
	}
	return e
}

// putNote writes the status file of an image, or of the whole folder for "", and removes one of the other kind. It does
// nothing if the last scan, or putNote, saw it as it shall be. A file that we did not write is never overwritten:
// errNotOurs.
func (in *inbox) putNote(iso, kind, body string) error {
	name := noteName(iso, kind)
	if _, ok := noteKind(name); !ok {
		return fmt.Errorf("status file %s: there is no such kind", quoteName(name))
	}
	want := noteInfo{Kind: kind, Body: noteHash(body)}
	if e := in.notes[name]; e == nil || !e.ours || e.info != want {
		d, err := openFolder(in.cfg.Path)
		if err != nil {
			return err
		}
		defer d.close()
		st, err := in.writeNote(d, name, in.noteText(iso, body))
		if err != nil {
			return fmt.Errorf("status file %s: %w", quoteName(name), err)
		}
		in.notes[name] = &noteEntry{stat: st, iso: iso, info: want, ours: true, scan: in.scans}
	}
	for _, k := range noteKinds {
		if k == kind {
			continue
		}
		if e := in.notes[noteName(iso, k)]; e != nil && e.ours {
			return in.dropNoteFile(noteName(iso, k))
		}
	}
	return nil
}

// writeNote puts a note under its name, and checks that what it replaced was one of ours, even if somebody is quick.
func (in *inbox) writeNote(d *folder, name, text string) (entryStat, error) {
	tmp := randomName(notePrefix)
	fd, err := retryEINTR(func() (int, error) {
		return unix.Openat(d.fd, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	})
	if err != nil {
		return entryStat{}, err
	}
	_, err = writeAll(fd, text)
	if err == nil {
		err = unix.Fchmod(fd, 0o644) // whatever the umask: it is for those who only did cp
	}
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	if err == nil {
		err = in.replaceNote(d, tmp, name)
	}
	if err != nil {
		_ = unix.Unlinkat(d.fd, tmp, 0) // hidden, and swept at the next start
		return entryStat{}, err
	}
	return d.stat(name)
}

func (in *inbox) replaceNote(d *folder, tmp, name string) error {
	err := d.renameNoReplace(tmp, name)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	old := in.readNote(d, name)
	if !old.ours {
		return errNotOurs
	}
	in.announce(name)
	err = unix.Renameat2(d.fd, tmp, d.fd, name, unix.RENAME_EXCHANGE)
	if err != nil {
		in.crossOff(name)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		return unix.Renameat(d.fd, tmp, d.fd, name)
	}
	if err != nil {
		return err
	}
	got, err := d.stat(tmp)
	got.id.CTime = old.stat.id.CTime // the rename changed it
	if err != nil || got.id != old.stat.id {
		return errors.Join(errNotOurs, unix.Renameat2(d.fd, tmp, d.fd, name, unix.RENAME_EXCHANGE))
	}
	return unix.Unlinkat(d.fd, tmp, 0)
}

func writeAll(fd int, text string) (n int, err error) {
	for n < len(text) {
		m, err := retryEINTR(func() (int, error) { return unix.Write(fd, []byte(text[n:])) })
		if err != nil {
			return n, err
		}
		n += m
	}
	return n, nil
}

// dropNote removes the status files of an image, or of the whole folder for "", as far as they are ours.
func (in *inbox) dropNote(iso string) error {
	var errs []error
	for _, k := range noteKinds {
		errs = append(errs, in.dropNoteFile(noteName(iso, k)))
	}
	return errors.Join(errs...)
}

func (in *inbox) dropNoteFile(name string) error {
	d, err := openFolder(in.cfg.Path)
	if err != nil {
		return err
	}
	defer d.close()
	e := in.readNote(d, name)
	if !e.ours {
		return nil
	}
	in.announce(name)
	err = d.takeAway(name, e.stat)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errReplaced) {
		return fmt.Errorf("status file %s: %w", quoteName(name), err)
	}
	delete(in.notes, name)
	return nil
}
