package sync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// errNoWatch says that the folder cannot be watched on this machine, for lack of watches or of inotify.
var errNoWatch = errors.New("no watch")

// watch calls wake whenever the folder may have to be scanned: after events about images, checksum lists, and status
// files that somebody removed; after lost events; and when the folder was exchanged and is watched anew. It never calls
// it for files that we make ourselves. It returns nil when ctx ends, errNoWatch if only polling is left.
//
// Events are hints. Nothing that they say is used, but the name, to pass over what does not matter.
func (in *inbox) watch(ctx context.Context, wake func()) error {
	for ctx.Err() == nil {
		if err := in.watchFolder(ctx, wake); err != nil {
			return err
		}
	}
	return nil
}

// watchFolder watches the folder that is at the path now, until there is another or ctx ends.
func (in *inbox) watchFolder(ctx context.Context, wake func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("%w: %w", errNoWatch, err)
	}
	defer func() { _ = w.Close() }() // nothing is lost
	before, _ := pathID(in.cfg.Path)
	err = w.Add(in.cfg.Path)
	switch {
	case err == nil:
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%w: %w", errNoWatch, err)
	default: // missing, no folder, not permitted: scan reports it
		wake()
		in.awaitFolder(ctx)
		return nil
	}
	if id, err := pathID(in.cfg.Path); err != nil || id != before {
		return nil // exchanged just now
	}
	wake() // for what happened before the watch stood
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-in.moved:
			if id, err := pathID(in.cfg.Path); err != nil || id != before {
				return nil
			}
		case ev, ok := <-w.Events:
			if !ok {
				return nil
			}
			if filepath.Clean(ev.Name) == filepath.Clean(in.cfg.Path) && ev.Has(fsnotify.Remove|fsnotify.Rename) {
				wake()
				return nil
			}
			if in.matters(filepath.Base(ev.Name), ev.Op) {
				wake()
			}
		case _, ok := <-w.Errors: // such as ErrEventOverflow: some events are lost
			if !ok {
				return nil
			}
			wake()
		}
	}
}

// awaitFolder waits until it is worth trying again.
func (in *inbox) awaitFolder(ctx context.Context) {
	t := time.NewTimer(folderPoll)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-in.moved:
	case <-t.C:
	}
}

// matters reports whether an event may be about something that scan looks at, and is not our own doing.
func (in *inbox) matters(name string, op fsnotify.Op) bool {
	if strings.HasPrefix(name, ownPrefix) {
		return false
	}
	if IsImage(name) {
		return true
	}
	if !isNote(name) {
		_, ok := isList(name)
		return ok
	}
	if !op.Has(fsnotify.Remove) && !op.Has(fsnotify.Rename) {
		return false
	}
	return !in.crossOff(name)
}

// announce says that the next removal of a note is ours; the watch hears of it later.
func (in *inbox) announce(name string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.dropped[name] = in.scans
}

// crossOff reports whether the removal of a note was announced.
func (in *inbox) crossOff(name string) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	_, own := in.dropped[name]
	delete(in.dropped, name)
	return own
}

func pathID(path string) (folderID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return folderID{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return folderID{Dev: uint64(st.Dev), Ino: st.Ino}, nil
}
