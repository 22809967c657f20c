package sync

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"

	"isosyncd/lxd"
)

// This file replaces and deletes. An old volume is deleted only when its new bytes are on the server, whole and marked
// (swap), or in our spool, fsynced and hashed (inPlace); and only the very volume that the plan saw.

// swap deletes the old volume and copies the stage to its name.
func (w *worker) swap(ctx context.Context) error {
	a := w.action
	stage, there, err := w.look(ctx, a.From)
	if err != nil {
		return err
	}
	if m, ours := OurMark(stage, w.owner); !there || !ours || m.SHA256 != a.Digest {
		return errStale
	}
	if err := w.deleteOld(ctx, a.Volume, a.Old); err != nil {
		return err
	}
	w.totals.replaced.Add(1)
	return w.copyVolume(ctx, a.From, a.Volume)
}

// deleteOld deletes a volume of ours, if it is the one that the plan saw, and nobody uses it.
func (w *worker) deleteOld(ctx context.Context, name, incarnation string) error {
	v, err := w.still(ctx, name, incarnation)
	if err != nil {
		return err
	}
	if len(v.UsedBy) > 0 {
		return errStale
	}
	return w.deleteVolume(ctx, name)
}

// deleteVolume deletes; somebody may have begun to use the volume since we looked: then all stays as it was.
func (w *worker) deleteVolume(ctx context.Context, name string) error {
	w.step("delete")
	err := w.remote.Delete(ctx, name)
	_, _, lookErr := w.look(ctx, name)
	switch {
	case errors.Is(err, lxd.ErrInUse):
		return errStale
	case err != nil:
		return err
	}
	w.totals.deleted.Add(1)
	w.step("deleted")
	return lookErr
}

// toSpool puts the job's file into the spool, hashed and fsynced.
func (w *worker) toSpool(ctx context.Context) error {
	return w.withSource(ctx, func(ctx context.Context, p *pinned) error {
		w.job.enter(StateHashing, w.file.ID.Size, w.now())
		if err := w.spool.hold(ctx, p.File, w.file.ID.Size, w.action.Digest); err != nil {
			return err
		}
		w.step("held")
		return p.check()
	})
}

// inPlace deletes the old volume and imports the spooled bytes under its name.
func (w *worker) inPlace(ctx context.Context) error {
	a, f := w.action, w.file
	in := Intent{
		Kind: IntentReplace, File: f.Name, Human: w.human(f.Info), Source: f.ID, Size: f.ID.Size, Digest: a.Digest, At: w.now(),
	}
	if _, err := w.still(ctx, a.Volume, a.Old); err != nil {
		return err
	}
	if err := w.intend(a.Volume, in); err != nil {
		return err
	}
	if err := w.deleteOld(ctx, a.Volume, a.Old); err != nil {
		return errors.Join(err, w.forgetIntent(a.Volume))
	}
	w.totals.replaced.Add(1)
	return w.fromSpool(ctx, in)
}

// forgetIntent takes an intent back whose volume was left as it was.
func (w *worker) forgetIntent(name string) error {
	return w.journal.update(name, func(r *Record) { r.Intent = nil })
}

// restore makes a volume whose old one an earlier life of ours deleted, from the spool.
func (w *worker) restore(ctx context.Context) error {
	in := w.journal.record(w.action.Volume).Intent
	if in == nil || in.Kind != IntentReplace {
		return errStale
	}
	return w.fromSpool(ctx, *in)
}

func (w *worker) fromSpool(ctx context.Context, in Intent) error {
	name := w.action.Volume
	src, err := w.spool.open(in.Digest)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }() // read only
	op, digest, err := w.upload(ctx, name, in, transfer{
		send: func(ctx context.Context) (string, error) {
			return w.remote.Import(ctx, name, src, in.Size, w.job.done.Store)
		},
		hash: func(ctx context.Context) (string, error) {
			sums, err := hashFile(ctx, src, in.Size, nil, nil, nil)
			if err == nil && sums["sha256"] != in.Digest {
				err = &Problem{
					Code: CodeUnreadable, Text: "the spooled copy of " + quoteName(in.File) + " is damaged",
					Remedy: "put the image into the folder again",
				}
				err = errors.Join(err, w.spool.drop(in.Digest))
			}
			return sums["sha256"], err
		},
		unchanged: func() error { return nil }, // nobody else writes to the spool
	})
	if err != nil {
		return err
	}
	if err := w.commit(ctx, name, op, digest, in.Size); err != nil {
		return err
	}
	return w.spool.drop(in.Digest)
}

// discard deletes what may be a torn volume of ours, once nothing is at work on it any more.
func (w *worker) discard(ctx context.Context) error {
	a := w.action
	op, err := w.remote.Running(ctx, a.Volume)
	if err != nil {
		return err
	}
	if op != "" {
		if err := w.remote.Wait(ctx, op); errors.Is(err, lxd.ErrAway) {
			return err
		}
	}
	v, there, err := w.look(ctx, a.Volume)
	if err != nil {
		return err
	}
	in := w.journal.record(a.Volume).Intent
	if !there || in == nil || v.Incarnation() != a.Old || !in.Made(v) {
		return errStale
	}
	w.log.Warn("a volume may be torn, since its making was cut off: it is made again", "volume", a.Volume)
	if err := w.deleteVolume(ctx, a.Volume); err != nil {
		return err
	}
	return w.journal.update(a.Volume, func(r *Record) {
		if r.Intent != nil && r.Intent.Kind != IntentReplace {
			r.Intent = nil
		}
	})
}

// drop deletes a stage, or a volume whose file is gone.
func (w *worker) drop(ctx context.Context) error {
	a := w.action
	if err := w.deleteOld(ctx, a.Volume, a.Old); err != nil {
		return err
	}
	return w.journal.update(a.Volume, func(r *Record) { *r = Record{Volume: a.Volume} })
}

// remove deletes a volume and its file, because somebody said so. The volume goes first: cut off after that, the file
// holds as deleted on the server, and nothing comes back by itself.
func (w *worker) remove(ctx context.Context) error {
	a := w.action
	if a.Old != "" {
		if err := w.deleteOld(ctx, a.Volume, a.Old); err != nil {
			return err
		}
	} else if _, there, err := w.look(ctx, a.Volume); err != nil || there {
		return errors.Join(err, errStale)
	}
	if w.file.Name != "" {
		if err := w.inbox.remove(w.file.Name, w.file.ID); err != nil {
			return err
		}
		w.step("unlinked")
	}
	return w.journal.update(a.Volume, func(r *Record) { *r = Record{Volume: a.Volume} })
}

// consume removes the job's file, whose volume the plan found good, after one more look at that.
func (w *worker) consume(ctx context.Context) error {
	a := w.action
	v, there, err := w.look(ctx, a.Volume)
	if err != nil {
		return err
	}
	if m, ours := OurMark(v, w.owner); !there || !ours || m.SHA256 != a.Digest {
		return errStale
	}
	if err := w.journal.update(a.Volume, func(r *Record) { r.Consumed = true }); err != nil {
		return err
	}
	w.step("noted")
	err = w.inbox.remove(w.file.Name, w.file.ID)
	w.step("unlinked")
	return err
}

// exporter is what a server offers that gives the bytes of an ISO volume back; lxd.ErrNotRead where it does not.
type exporter interface {
	Export(ctx context.Context, name string) (io.ReadCloser, int64, error)
}

// adopt marks a foreign volume that somebody wants to be ours. Where its bytes can be read they must be the file's.
func (w *worker) adopt(ctx context.Context) error {
	a := w.action
	v, there, err := w.look(ctx, a.Volume)
	if err != nil {
		return err
	}
	if !there || v.Incarnation() != a.Old {
		return errStale
	}
	if ex, ok := w.remote.(exporter); ok {
		digest, err := exported(ctx, ex, a.Volume, w.file.ID.Size)
		switch {
		case errors.Is(err, lxd.ErrNotRead):
		case err != nil:
			return err
		case digest != a.Digest:
			p := foreign(v, Record{})
			p.Text = "volume " + a.Volume + " cannot be adopted: its bytes are not those of " + quoteName(w.file.Name)
			return p
		}
	}
	human, _, _ := ParseMark(v.Description)
	m := Mark{Owner: w.owner, SHA256: a.Digest, File: w.file.Name}
	if err := w.describe(ctx, a.Volume, a.Old, m.Describe(human)); err != nil {
		return err
	}
	w.step("marked")
	w.present(a.Volume, Presence{Digest: a.Digest, Incarnation: a.Old, Source: w.file.ID, At: w.now()}, w.file.Name)
	return nil
}

// exported returns the digest of the first size bytes that the server gives back.
func exported(ctx context.Context, ex exporter, volume string, size int64) (string, error) {
	body, _, err := ex.Export(ctx, volume)
	if err != nil {
		return "", err
	}
	defer func() { _ = body.Close() }()
	h := sha256.New()
	if _, err := io.CopyN(h, body, size); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
