package sync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"isosyncd/iso"
)

// This file is what people and the mount ask of a Syncer. Each request is a change of the journal on the deciding
// goroutine; the plan does the rest, and whoever asked waits for a snapshot that answers.

// Retry forgets the failures of a file or volume, by name, and that its volume was deleted on the server; a prune that
// the guards hold is confirmed by it. The error is a *Problem (CodeName) where nothing has that name.
func (s *Syncer) Retry(ctx context.Context, name string) error {
	return s.do(ctx, func(d *decider) error {
		volume := ""
		for i := range d.scan.Files {
			if f := &d.scan.Files[i]; f.Name == name || f.Volume == name && name != "" {
				volume = f.Volume
			}
		}
		_, marked := d.volumes[name]
		switch {
		case volume != "":
		case marked:
			volume = name
		default:
			return &Problem{
				Code: CodeName, Text: "no file of the folder and no volume of the pool is called " + quoteName(name),
				Remedy: "isosyncd status lists them",
			}
		}
		forgive := d.forgiven(volume)
		held := d.heldBy(volume, CodePrune)
		err := d.journal.updateAll(map[string]func(*Record){volume: func(r *Record) {
			forgive(r)
			r.Confirmed = r.Confirmed || held
		}})
		delete(d.stale, volume)
		now := time.Now()
		d.scanDue.soon(now)
		d.listDue.at(now)
		d.replan(now)
		return err
	})
}

func (d *decider) heldBy(volume string, code Code) bool {
	for i := range d.plan {
		if a := &d.plan[i]; a.Volume == volume && a.Problem != nil && a.Problem.Code == code {
			return true
		}
	}
	return false
}

// Adopt makes a foreign ISO volume ours, if a whole file of the folder maps to its name and has its size, and, where the
// server gives them back, its bytes. It returns when that is done; the error is a *Problem or ctx's.
func (s *Syncer) Adopt(ctx context.Context, volume string) error {
	err := s.do(ctx, func(d *decider) error {
		v, there := d.volumes[volume]
		switch {
		case !d.server.Online:
			return d.server.Problem
		case !there:
			return noVolume(volume)
		case v.ContentType != "iso":
			return foreign(v, Record{})
		}
		if _, ours := OurMark(v, d.cfg.Owner); ours {
			return nil
		}
		if !d.hasFile(volume) {
			return &Problem{
				Code: CodeForeign, Text: "no file of the folder maps to volume " + quoteName(volume),
				Remedy: "put its image into the folder first: its digest is what the mark says",
			}
		}
		err := d.journal.update(volume, func(r *Record) { r.Adopt, r.Failure = true, nil })
		d.renew()
		return err
	})
	if err != nil {
		return err
	}
	return s.await(ctx, func(snap *Snapshot) (bool, error) {
		for i := range snap.Volumes {
			if v := &snap.Volumes[i]; v.Name == volume && v.Ours {
				return true, nil
			}
		}
		for i := range snap.Files {
			if f := &snap.Files[i]; f.Volume == volume && f.Problem != nil && f.Problem.Code != CodeClash &&
				f.State != StateSettling {
				return true, f.Problem
			}
		}
		return false, nil
	})
}

func noVolume(name string) *Problem {
	return &Problem{
		Code: CodeName, Text: "the pool has no ISO volume " + quoteName(name), Remedy: "isosyncd list shows what there is",
	}
}

func (d *decider) hasFile(volume string) bool {
	for i := range d.scan.Files {
		if d.scan.Files[i].Volume == volume {
			return true
		}
	}
	return false
}

// renew plans and publishes at once: whoever waits for a snapshot must not see one from before the request.
func (d *decider) renew() {
	now := time.Now()
	d.replan(now)
	d.publish(now)
}

// await returns when done says so of a snapshot; ctx's error if that ends before.
func (s *Syncer) await(ctx context.Context, done func(*Snapshot) (bool, error)) error {
	for {
		snap := s.Snapshot()
		if ok, err := done(snap); ok {
			return err
		}
		select {
		case <-snap.Next():
		case <-s.stopped:
			return errStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Remove deletes a volume of ours and the folder's file for it. It returns when both are gone. The error is a *Problem:
// CodeForeign, CodeInUse, CodeAway or CodeName.
func (s *Syncer) Remove(ctx context.Context, volume string) error {
	err := s.do(ctx, func(d *decider) error {
		v, there := d.volumes[volume]
		_, ours := OurMark(v, d.cfg.Owner)
		switch {
		case !d.server.Online:
			return d.server.Problem
		case !there && !d.hasFile(volume):
			return noVolume(volume)
		case there && !ours:
			return foreign(v, d.journal.record(volume))
		case len(v.UsedBy) > 0:
			return inUse(v)
		}
		err := d.journal.update(volume, func(r *Record) { r.Removing, r.Failure = true, nil })
		d.renew()
		return err
	})
	if err != nil {
		return err
	}
	err = s.await(ctx, func(snap *Snapshot) (bool, error) {
		gone := true
		for i := range snap.Volumes {
			if v := &snap.Volumes[i]; v.Name == volume {
				gone = false
				if v.Problem != nil {
					return true, v.Problem
				}
			}
		}
		for i := range snap.Files {
			if f := &snap.Files[i]; f.Volume == volume {
				gone = false
				if f.Problem != nil && f.Problem.Code != CodeClash && f.State != StateSettling {
					return true, f.Problem
				}
			}
		}
		return gone || !s.journal.record(volume).Removing, nil
	})
	if err != nil {
		// It did not go now, so it must not go at some moment when nobody expects it.
		err = errors.Join(err, s.journal.update(volume, func(r *Record) { r.Removing = false }))
	}
	return err
}

// Rename makes volume to from volume from, and renames the folder's file with it. Both are of ours, or it is refused.
func (s *Syncer) Rename(ctx context.Context, from, to string) error {
	var file string
	err := s.do(ctx, func(d *decider) error {
		v, there := d.volumes[from]
		_, ours := OurMark(v, d.cfg.Owner)
		_, taken := d.volumes[to]
		mapped, err := VolumeName(to + ".iso")
		switch {
		case !d.server.Online:
			return d.server.Problem
		case !there:
			return noVolume(from)
		case !ours:
			return foreign(v, d.journal.record(from))
		case err != nil:
			return err
		case mapped != to:
			return &Problem{
				Code: CodeName, Text: quoteName(to) + " is no volume name, it would become " + mapped, Remedy: "use that",
			}
		case taken || d.hasFile(to):
			return &Problem{Code: CodeClash, Text: "a volume " + to + " is there already", Remedy: "remove it first"}
		case len(v.UsedBy) > 0:
			return inUse(v)
		}
		for i := range d.scan.Files {
			if f := &d.scan.Files[i]; f.Volume == from {
				file = f.Name
			}
		}
		if file == "" {
			return &Problem{
				Code: CodeName, Text: "volume " + from + " has no file in the folder, so it cannot be renamed",
				Remedy: "copy it on the server, or put its image into the folder",
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.inbox.rename(file, to+".iso"); err != nil {
		return err
	}
	s.Rescan()
	if err := s.settled(ctx, to+".iso", Identity{}); err != nil {
		return err
	}
	return s.Remove(ctx, from)
}

// settled waits until the folder's file of that name, and of that identity unless it is zero, is present or held.
func (s *Syncer) settled(ctx context.Context, name string, id Identity) error {
	start := s.totals.scans.Load() // a snapshot may be older
	return s.await(ctx, func(snap *Snapshot) (bool, error) {
		for i := range snap.Files {
			f := &snap.Files[i]
			switch {
			case f.Name != name || id != (Identity{}) && f.ID != id:
			case f.State == StatePresent:
				return true, nil
			case f.Problem != nil && f.State != StateSettling:
				return true, f.Problem
			default:
				return false, nil
			}
		}
		if snap.Totals.Scans > start+2 {
			return true, &Problem{
				Code: CodeChanged, Text: quoteName(name) + " was replaced or removed before it was imported",
				Remedy: "look what is in the folder now",
			}
		}
		return false, nil
	})
}

// NewDraft makes a hidden file in the folder, open for reading and writing. name is what it will be called, if that is
// known, else "": an image may be sent to the server while it is still being written.
func (s *Syncer) NewDraft(name string) (*os.File, error) {
	f, err := s.inbox.newDraft()
	if err == nil && name != "" && s.inbox.cfg.Early {
		s.inbox.expectDraft(f, name)
		s.Rescan()
	}
	return f, err
}

// Discard removes a draft.
func (s *Syncer) Discard(draft *os.File) {
	if err := os.Remove(draft.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.cfg.Log.Warn("a draft cannot be removed", "file", draft.Name(), "err", err)
	}
	_ = draft.Close() // nobody wants its bytes any more
}

// Submit puts a draft into the folder as name and waits as told. What can be known before is asked before: a draft that
// is no ISO image, or whose volume is not ours or is in use, is discarded. A truncated one is only discarded where it
// would replace a file; else it stays in the folder, held, so that a person sees what became of it.
func (s *Syncer) Submit(ctx context.Context, draft *os.File, name string, wait Wait) error {
	volume, err := VolumeName(name)
	if err != nil {
		s.Discard(draft)
		return err
	}
	if err := s.precheck(name, volume, wait); err != nil {
		s.Discard(draft)
		return err
	}
	_, probeErr := iso.ProbeFile(draft)
	var short *iso.TruncatedError
	if probeErr != nil && !(errors.As(probeErr, &short) && (short.Soft || !s.inFolder(name))) {
		s.Discard(draft)
		return draftProblem(name, probeErr)
	}
	id, durable, err := s.inbox.accept(draft, name)
	if err != nil {
		s.Discard(draft)
		return err
	}
	s.Rescan()
	safe := make(chan error, 1)
	go func() { safe <- durable() }()
	switch {
	case short != nil && !short.Soft:
		err = draftProblem(name, probeErr)
	case wait == WaitImport:
		err = s.settled(ctx, name, id)
	}
	return errors.Join(err, <-safe)
}

func (s *Syncer) inFolder(name string) bool {
	_, err := os.Lstat(filepath.Join(s.cfg.Folder, name))
	return err == nil
}

func draftProblem(name string, err error) *Problem {
	p := &Problem{Code: CodeUnreadable, Text: quoteName(name) + " cannot be read back", Remedy: "write it again"}
	var not *iso.NotISOError
	var short *iso.TruncatedError
	switch {
	case errors.As(err, &not):
		p.Code, p.Text, p.Remedy = CodeNotISO, fmt.Sprintf("%s is not an ISO image: it looks like %s", quoteName(name), not.LooksLike), not.Remedy
	case errors.As(err, &short):
		p.Code, p.Text = CodeIncomplete, quoteName(name)+" is "+short.Error()
	}
	return p
}

// precheck refuses a draft that could not become a volume as things stand.
func (s *Syncer) precheck(name, volume string, wait Wait) error {
	snap := s.Snapshot()
	if p := snap.Server.Problem; p != nil && !snap.Server.Online && (wait != WaitStaged || p.Code != CodeAway) {
		return p // a server that is only away gets what is staged later
	}
	for i := range snap.Files {
		if f := &snap.Files[i]; f.Volume == volume && f.Name != name {
			return clash(&File{Name: name, Volume: volume}, &File{Name: f.Name})
		}
	}
	for i := range snap.Volumes {
		v := &snap.Volumes[i]
		switch {
		case v.Name != volume:
		case !v.Ours && !v.Partial:
			return foreign(v.Volume, Record{})
		case len(v.UsedBy) > 0:
			return inUse(v.Volume)
		}
	}
	return nil
}

// Open gives the folder's file that holds exactly the bytes of the volume. The error is fs.ErrNotExist where none does.
func (s *Syncer) Open(volume string) (*os.File, error) {
	snap := s.Snapshot()
	for i := range snap.Volumes {
		v := &snap.Volumes[i]
		if v.Name != volume || v.File == "" {
			continue
		}
		for j := range snap.Files {
			f := &snap.Files[j]
			if f.Name != v.File {
				continue
			}
			p, err := s.inbox.pin(f.Name, f.ID)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
			}
			return p.keep(), nil
		}
	}
	return nil, fmt.Errorf("no file of the folder has the bytes of volume %s: %w", quoteName(volume), fs.ErrNotExist)
}

// ReadJournal makes a snapshot of what the journal of a daemon that does not run knows. ErrLocked if one does.
func ReadJournal(stateDir string) (*Snapshot, error) {
	j, err := loadJournal(filepath.Join(stateDir, "journal.db"), true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = j.close() }() // read only
	s := &Snapshot{At: time.Now(), next: make(chan struct{})}
	for name, r := range j.records {
		f := FileStatus{Name: r.File, Volume: name, State: StateQueued}
		switch {
		case r.Failure != nil:
			f.Problem = &Problem{
				Code: r.Failure.Code, Text: r.Failure.Text, Remedy: r.Failure.Remedy, Waits: !r.Failure.Permanent,
			}
			f.State, f.Since, f.ID = heldState(f.Problem), r.Failure.At, r.Failure.Source
			f.Attempts, f.NotBefore = r.Failure.Attempts, r.Failure.NotBefore
		case r.Present != nil:
			f.State, f.Since, f.ID, f.Digest = StatePresent, r.Present.At, r.Present.Source, r.Present.Digest
		}
		s.Files = append(s.Files, f)
	}
	sortFiles(s.Files)
	return s, nil
}
