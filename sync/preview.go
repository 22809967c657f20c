package sync

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"isosyncd/lxd"
)

// Planned is a line of a Preview.
type Planned struct {
	Action
	Name string // of the file; "" = none
	Size int64  // of the file, bytes
}

// Preview says what a Syncer with this Config would do first. It changes nothing, neither in the folder nor in StateDir nor
// on the server, but for leases that it takes and gives back. The error is a *Problem where the folder cannot be
// read, ErrLocked while a Syncer runs on that StateDir, or one of package lxd.
func Preview(ctx context.Context, cfg Config) ([]Planned, error) {
	v := View{Owner: cfg.Owner, Records: map[string]Record{}, Digests: map[Identity]Digest{}, Spooled: map[string]bool{}, CanCopy: true}
	known, err := v.recall(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	r, err := settledScan(ctx, cfg)
	if err != nil {
		return nil, err
	}
	v.Files, v.Folder = r.Files, FolderState{Same: known == r.Folder}

	remote, err := cfg.Dial(ctx)
	if err != nil {
		return nil, err
	}
	list, err := remote.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	v.Volumes = make(map[string]lxd.Volume, len(list))
	for _, vol := range list {
		v.Volumes[vol.Name] = vol
	}
	if v.Space, err = remote.Space(ctx); err != nil {
		return nil, err
	}
	if l, ok := remote.(limiter); ok {
		if v.Limits, err = l.Limits(ctx); errors.Is(err, lxd.ErrAway) {
			return nil, err
		}
	}
	v.Driver = remote.Driver()

	var out []Planned
	for _, a := range Plan(v, cfg.Policy, time.Now()) {
		p := Planned{Action: a}
		if a.File >= 0 {
			p.Name, p.Size = v.Files[a.File].Name, v.Files[a.File].ID.Size
		}
		out = append(out, p)
	}
	return out, nil
}

// recall takes what an earlier life remembers; that there was none is no error.
func (v *View) recall(stateDir string) (folder folderID, err error) {
	j, err := loadJournal(filepath.Join(stateDir, "journal.db"), true)
	if errors.Is(err, fs.ErrNotExist) {
		return folderID{}, nil
	}
	if err != nil {
		return folderID{}, err
	}
	defer func() { _ = j.close() }() // read only: nothing is lost
	j.read(func(records map[string]Record, digests map[Identity]Digest) {
		maps.Copy(v.Records, records)
		maps.Copy(v.Digests, digests)
	})
	until, err := j.noCopyUntil()
	if err != nil {
		return folderID{}, err
	}
	v.CanCopy = !time.Now().Before(until)
	if entries, err := os.ReadDir(filepath.Join(stateDir, "spool")); err == nil {
		for _, e := range entries {
			if isDigest(e.Name()) {
				v.Spooled[e.Name()] = true
			}
		}
	}
	return j.folder()
}

// settledScan scans until what can settle soon has settled: a file that was just copied is no file that is being
// written.
func settledScan(ctx context.Context, cfg Config) (scanResult, error) {
	in := newInbox(inboxConfig{
		Path: cfg.Folder, SettleDelay: cfg.SettleDelay, Owner: cfg.Owner, Now: time.Now, Log: cfg.Log, Leases: !cfg.NoLeases,
	})
	in.swept = time.Now() // no sweep: drafts are not ours to remove now
	end := time.Now().Add(2 * cfg.SettleDelay)
	for {
		r := in.scan(ctx)
		if r.Problem != nil {
			return r, r.Problem
		}
		writing := false
		for i := range r.Files {
			writing = writing || r.Files[i].Held != nil && r.Files[i].Held.Code == CodeWriting
		}
		if !writing || r.Next.IsZero() || !r.Next.Before(end) {
			return r, nil
		}
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-time.After(time.Until(r.Next)):
		}
	}
}

// limiter is a Remote that knows what its project may store in its pool; *lxd.Pool does.
type limiter interface {
	Limits(ctx context.Context) (lxd.Space, error)
}
