package sync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"isosyncd/lxd"
)

// This file makes volumes. The order of its steps is the heart's promise: intent, bytes, operation, its end seen, mark.
// A volume without a mark is never taken for good, and nothing is marked whose operation we did not see succeed.

// source is how the bytes of the job's file are had: sent, and digested beside that.
type source struct {
	send   func(ctx context.Context, p *pinned) (operation string, err error)
	digest func(ctx context.Context, p *pinned) (Digest, error)
}

// importFile sends the job's file as volume name, which is the volume itself or its stage.
func (w *worker) importFile(ctx context.Context, name string) error {
	return w.importBy(ctx, name, source{
		send: func(ctx context.Context, p *pinned) (string, error) {
			return w.remote.Import(ctx, name, p.File, w.file.ID.Size, w.job.done.Store)
		},
		digest: func(ctx context.Context, p *pinned) (Digest, error) { return w.digest(ctx, p, nil) },
	})
}

func (w *worker) importBy(ctx context.Context, name string, by source) error {
	f := w.file
	in := Intent{Kind: IntentImport, File: f.Name, Human: w.human(f.Info), Source: f.ID, Size: f.ID.Size, At: w.now()}
	var operation, digest string
	err := w.withSource(ctx, func(ctx context.Context, p *pinned) error {
		var err error
		operation, digest, err = w.upload(ctx, name, in, transfer{
			send: func(ctx context.Context) (string, error) { return by.send(ctx, p) },
			hash: func(ctx context.Context) (string, error) {
				d, err := by.digest(ctx, p)
				switch {
				case err != nil:
					return "", err
				case w.action.Digest != "" && d.SHA256 != w.action.Digest:
					return "", changed(f.Name)
				case disagree(&f, d) != nil:
					return "", errStale // the plan holds it, now that the journal has the digest
				}
				return d.SHA256, nil
			},
			unchanged: p.check,
		})
		if errors.Is(err, lxd.ErrSource) { // no fault of the server's: it shrank, or the disk is bad
			err = errors.Join(p.check(), err)
		}
		return err
	})
	if err != nil {
		return err
	}
	return w.commit(ctx, name, operation, digest, in.Size)
}

// transfer is how the bytes of an image get to the server.
type transfer struct {
	send      func(ctx context.Context) (operation string, err error)
	hash      func(ctx context.Context) (digest string, err error) // reads the same bytes beside it, and vouches for them
	unchanged func() error                                         // asked when both are done: did they read the same?
}

// upload sends in.Size bytes as volume name. Sending and hashing go on side by side; whichever fails ends the other. It
// returns the operation that makes the volume, journalled.
func (w *worker) upload(ctx context.Context, name string, in Intent, t transfer) (operation, digest string, err error) {
	if err := w.free(ctx, name); err != nil {
		return "", "", err
	}
	if err := w.intend(name, in); err != nil {
		return "", "", err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	hashed := make(chan error, 1)
	go func() {
		var err error
		if digest, err = t.hash(ctx); err != nil {
			cancel(err)
		}
		hashed <- err
	}()
	if w.job.at() != StateUploading { // else it began when the file was not finished yet
		w.job.enter(StateUploading, in.Size, w.now())
	}
	operation, err = t.send(ctx)
	if err != nil {
		cancel(err)
		_ = <-hashed // the upload's error is the one that counts
		return "", "", errors.Join(cause(ctx, err), w.refused(name, err))
	}
	w.totals.sent(in.Size, w.now().Sub(time.Unix(0, w.job.since.Load())))
	w.job.enter(StateStoring, 0, w.now())
	told := len(hashed) == 0
	if told { // the server is at work already, so a life that does not see the digest must know of the operation
		if err := w.journal.update(name, setOperation(operation, "")); err != nil {
			return "", "", err
		}
		w.step("sent")
	}
	if err = <-hashed; err == nil {
		// The hash was perhaps done long before the last byte was sent: what was written in between is in the volume, not
		// in the digest.
		err = t.unchanged()
	}
	if err != nil {
		digest = "" // the operation is awaited then, and its volume discarded
	}
	err = errors.Join(err, w.journal.update(name, setOperation(operation, digest)))
	if !told {
		w.step("sent")
	}
	return operation, digest, err
}

func setOperation(operation, digest string) func(*Record) {
	return func(r *Record) {
		if r.Intent == nil {
			return
		}
		in := *r.Intent
		in.Operation = operation
		if in.Kind != IntentReplace { // its digest is what the spool is asked for
			in.Digest = digest
		}
		r.Intent = &in
	}
}

// refused forgets an intent that the server answered with a no: nothing was made. Any other error leaves it open whether
// the last byte arrived, so the intent stays, and the next plan looks.
func (w *worker) refused(name string, err error) error {
	var no *lxd.Error
	if !errors.As(err, &no) {
		return nil
	}
	return w.journal.update(name, func(r *Record) {
		if r.Intent != nil && r.Intent.Kind != IntentReplace {
			r.Intent = nil
		}
	})
}

// free makes sure that a name is free before we begin to make a volume of it: no volume, and no operation of an earlier
// life that will make one.
func (w *worker) free(ctx context.Context, name string) error {
	if w.journal.record(name).Intent != nil {
		op, err := w.remote.Running(ctx, name)
		if err != nil {
			return err
		}
		if op != "" {
			if err := w.remote.Wait(ctx, op); errors.Is(err, lxd.ErrAway) {
				return err
			}
		}
	}
	_, there, err := w.look(ctx, name)
	if err == nil && there {
		return errStale
	}
	return err
}

// intend journals what we are about to make: from here on a volume of that name without our mark may be a torn one of
// ours.
func (w *worker) intend(name string, in Intent) error {
	err := w.journal.update(name, func(r *Record) { r.File, r.Intent = in.File, &in })
	w.step("intent")
	return err
}

// quickSize is how large an image may be, in bytes, that is marked without another look at its volume: to ask for a
// volume takes a server as long as to store one of a megabyte.
const quickSize = 1 << 20

// commit waits for the operation and marks the volume.
func (w *worker) commit(ctx context.Context, name, operation, digest string, size int64) error {
	start := w.now()
	err := w.remote.Wait(ctx, operation)
	if in := w.journal.record(name).Intent; err == nil && digest != "" && size <= quickSize && in != nil && in.Kind == IntentImport {
		w.totals.stored(w.now().Sub(start))
		return w.markNow(ctx, name, in)
	}
	return w.conclude(ctx, name, digest, size, start, err)
}

// conclude marks a volume whose operation was waited for since start, and ended with err.
func (w *worker) conclude(ctx context.Context, name, digest string, size int64, start time.Time, err error) error {
	if err := w.finish(ctx, name, digest, size, start, err); err != nil {
		return err
	}
	return w.mark(ctx, name)
}

// markNow marks a volume whose operation was seen to succeed a moment ago. The next list tells its incarnation; if this
// life ends before the mark is there, the operation in the journal leads to it, or else the image is sent again.
func (w *worker) markNow(ctx context.Context, name string, in *Intent) error {
	v := lxd.Volume{Name: name, ContentType: "iso", Size: in.Size, CreatedAt: w.now()}
	m := Mark{Owner: w.owner, SHA256: in.Digest, File: in.File}
	v.Description = m.Describe(in.Human)
	err := w.remote.Describe(ctx, name, v.Description)
	if errors.Is(err, lxd.ErrNotFound) {
		return errStale
	}
	if err != nil {
		return err
	}
	w.seen[name] = &v
	w.marked(name, in, v.Incarnation())
	return nil
}

// await learns how an operation of ours ended that an earlier attempt, or an earlier life, did not see the end of.
func (w *worker) await(ctx context.Context) error {
	name := w.action.Volume
	in := w.journal.record(name).Intent
	if in == nil || in.Operation == "" {
		return errStale
	}
	w.job.enter(StateStoring, 0, w.now())
	start := w.now()
	return w.conclude(ctx, name, in.Digest, in.Size, start, w.remote.Wait(ctx, in.Operation))
}

// finish journals what is known when the operation that makes a volume, waited for since start, ended with err: seen,
// void, or nothing. digest may be empty: then nobody vouches for the bytes, and the next plan discards the volume.
func (w *worker) finish(ctx context.Context, name, digest string, size int64, start time.Time, err error) error {
	var no *lxd.Error
	failed := errors.As(err, &no) && no.InOp
	if err != nil && !failed && !errors.Is(err, lxd.ErrUnknown) || ctx.Err() != nil {
		return err // we were not told how it ended: the operation goes on without us, and is awaited again
	}
	v, there, lookErr := w.look(ctx, name)
	if lookErr != nil {
		return lookErr
	}
	whole := err == nil && there && v.ContentType == "iso" && v.Size >= size && v.Size <= roundedUp(size) && digest != ""
	jerr := w.journal.update(name, func(r *Record) {
		if r.Intent == nil {
			return
		}
		in := *r.Intent
		in.Operation = ""
		switch {
		case whole:
			in.Seen, in.Digest, in.Incarnation = true, digest, v.Incarnation()
		case in.Kind != IntentReplace && (!there || failed):
			// Nothing was made; a volume that is there nevertheless is somebody's who was quicker. Never touched.
			r.Intent = nil
			return
		}
		r.Intent = &in
	})
	if jerr != nil {
		return jerr
	}
	w.totals.stored(w.now().Sub(start))
	w.step("seen")
	if err == nil && !whole {
		return errStale
	}
	return err
}

// mark is the commit: from here on the volume counts as good.
func (w *worker) mark(ctx context.Context, name string) error {
	in := w.journal.record(name).Intent
	if in == nil || !in.Seen || in.Digest == "" {
		return errStale
	}
	m := Mark{Owner: w.owner, SHA256: in.Digest, File: in.File}
	if err := w.describe(ctx, name, in.Incarnation, m.Describe(in.Human)); err != nil {
		return err
	}
	w.marked(name, in, in.Incarnation)
	return nil
}

// marked ends what an intent began.
func (w *worker) marked(name string, in *Intent, incarnation string) {
	w.step("marked")
	if in.Kind == IntentCopy {
		w.totals.copies.Add(1)
	} else {
		w.totals.imports.Add(1)
	}
	w.present(name, Presence{Digest: in.Digest, Incarnation: incarnation, Source: in.Source, At: w.now()}, in.File)
	w.step("present")
}

// describe sets a description, and looks that it stands on the very volume that it was meant for.
func (w *worker) describe(ctx context.Context, name, incarnation, description string) error {
	for _, set := range []bool{true, false} {
		v, there, err := w.look(ctx, name)
		if err != nil {
			return err
		}
		if !there || v.Incarnation() != incarnation {
			return errStale
		}
		if set {
			if err := w.remote.Describe(ctx, name, description); err != nil {
				return err
			}
		}
	}
	return nil
}

// present journals a good volume. Whatever was to be done about the name is done. A life that does not know it yet is
// told by the mark.
func (w *worker) present(name string, p Presence, file string) {
	w.journal.later(name, func(r *Record) { *r = Record{Volume: name, File: file, Present: &p} })
}

// noCopyFor is how long a pool is not asked to copy again after it failed to: Debian's Incus 6.0.4 cannot on btrfs.
const noCopyFor = time.Hour

// copyVolume makes volume to from one of ours on the server, and marks it as what it is a copy of.
func (w *worker) copyVolume(ctx context.Context, from, to string) error {
	src, there, err := w.look(ctx, from)
	if err != nil {
		return err
	}
	m, ours := OurMark(src, w.owner)
	if !there || !ours || m.SHA256 != w.action.Digest {
		return errStale
	}
	if err := w.free(ctx, to); err != nil {
		return err
	}
	human, _, _ := ParseMark(src.Description)
	in := Intent{Kind: IntentCopy, File: m.File, Human: human, Size: src.Size, From: from, At: w.now()}
	if f := w.file; f.Name != "" {
		in.File = f.Name
		if d, ok := w.journal.digest(f.ID); ok && d.SHA256 == m.SHA256 {
			in.Source = f.ID
		}
	}
	if err := w.intend(to, in); err != nil {
		return err
	}
	w.job.enter(StateStoring, 0, w.now())
	op, err := w.remote.Copy(ctx, from, to, pendingHuman)
	if err != nil {
		return errors.Join(w.copyFailed(err), w.refused(to, err))
	}
	if err := w.journal.update(to, setOperation(op, m.SHA256)); err != nil {
		return err
	}
	w.step("sent")
	return w.copyFailed(w.commit(ctx, to, op, m.SHA256, src.Size))
}

// copyFailed remembers that this pool does not copy, if it was the server that said so.
func (w *worker) copyFailed(err error) error {
	var no *lxd.Error
	if !errors.As(err, &no) || errors.Is(err, lxd.ErrNotFound) || errors.Is(err, lxd.ErrDenied) {
		return err
	}
	w.log.Warn("the server does not copy volumes of this pool; images are sent again instead",
		"volume", w.action.Volume, "err", err)
	if jerr := w.journal.setNoCopyUntil(w.now().Add(noCopyFor)); jerr != nil {
		return fmt.Errorf("%w (%w)", err, jerr)
	}
	return errStale
}
