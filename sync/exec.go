package sync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"isosyncd/iso"
	"isosyncd/lxd"
)

// errStale says that what the plan saw is not there any more: nothing was done, and the next plan knows better. It is
// no failure.
var errStale = errors.New("state changed since it was planned")

// job is one action at work, as the deciding goroutine sees it. Only the atomics are the worker's.
type job struct {
	action  Action
	file    File // zero where the action has none
	started time.Time
	attempt int
	cancel  context.CancelCauseFunc
	state   atomic.Value  // State
	ending  chan finished // 1-buffered, of an early upload; else nil
	done    atomic.Int64  // bytes
	total   atomic.Int64
	since   atomic.Int64 // of state, UnixNano
}

func (j *job) enter(s State, total int64, now time.Time) {
	j.done.Store(0)
	j.total.Store(total)
	j.since.Store(now.UnixNano())
	j.state.Store(s)
}

// at is the state that the job is in.
func (j *job) at() State {
	s, _ := j.state.Load().(State) // start enters one before anybody asks
	return s
}

// result is what a worker hands back. seen holds each volume that it looked at last, nil = it is not there.
type result struct {
	job  *job
	err  error
	seen map[string]*lxd.Volume
}

// worker carries out one action. Each step is journalled before the next, so that any of them may be the last.
type worker struct {
	remote   Remote
	inbox    *inbox
	spool    *spool
	journal  *journal
	owner    string
	now      func() time.Time
	step     func(name string)
	log      *slog.Logger
	totals   *counters
	human    func(iso.Info) string // what an image's description says before the mark
	job      *job                  // where it tells how far it is
	action   Action
	file     File            // zero where the action has none
	finished <-chan finished // of an early upload
	seen     map[string]*lxd.Volume
}

func (w *worker) run(ctx context.Context) error {
	a := w.action
	switch a.Kind {
	case ActHash:
		return w.hash(ctx)
	case ActAwait:
		return w.await(ctx)
	case ActMark:
		return w.mark(ctx, a.Volume)
	case ActDiscard:
		return w.discard(ctx)
	case ActImport:
		return w.importFile(ctx, a.Volume)
	case ActEarly:
		return w.early(ctx)
	case ActStage:
		return w.importFile(ctx, a.From)
	case ActCopy:
		return w.copyVolume(ctx, a.From, a.Volume)
	case ActSwap:
		return w.swap(ctx)
	case ActSpool:
		return w.toSpool(ctx)
	case ActInPlace:
		return w.inPlace(ctx)
	case ActRestore:
		return w.restore(ctx)
	case ActUnstage, ActPrune:
		return w.drop(ctx)
	case ActRemove:
		return w.remove(ctx)
	case ActConsume:
		return w.consume(ctx)
	case ActAdopt:
		return w.adopt(ctx)
	case ActNothing, ActHold:
	}
	return fmt.Errorf("no work is known for action %q", a.Kind)
}

// look asks the server for one volume and keeps the answer for the deciding goroutine.
func (w *worker) look(ctx context.Context, name string) (v lxd.Volume, there bool, err error) {
	v, err = w.remote.Volume(ctx, name)
	switch {
	case err == nil:
		w.seen[name] = &v
		return v, true, nil
	case errors.Is(err, lxd.ErrNotFound):
		w.seen[name] = nil
		return lxd.Volume{}, false, nil
	}
	return lxd.Volume{}, false, err
}

// still asks for a volume of ours and returns errStale unless it is the incarnation that the plan saw, marked.
func (w *worker) still(ctx context.Context, name, incarnation string) (lxd.Volume, error) {
	v, there, err := w.look(ctx, name)
	if err != nil {
		return v, err
	}
	if _, ours := OurMark(v, w.owner); !there || !ours || v.Incarnation() != incarnation {
		return v, errStale
	}
	return v, nil
}

// withSource runs f on the job's file, pinned: a writer that comes ends ctx, and f's error is then that the file
// changed.
func (w *worker) withSource(ctx context.Context, f func(ctx context.Context, p *pinned) error) error {
	p, err := w.inbox.pin(w.file.Name, w.file.ID)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }() // read only
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.broken():
			cancel(changed(w.file.Name))
		case <-ctx.Done():
		}
	}()
	return cause(ctx, f(ctx, p))
}

func changed(file string) *Problem {
	return &Problem{
		Code: CodeChanged, Waits: true,
		Text:   quoteName(file) + " changed while it was read",
		Remedy: "it is looked at again by itself when it is finished",
	}
}

// cause prefers the reason of a cancellation over the error that it led to.
func cause(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	return context.Cause(ctx)
}

// hash takes the digest of the job's file into the journal.
func (w *worker) hash(ctx context.Context) error {
	return w.withSource(ctx, func(ctx context.Context, p *pinned) error {
		w.job.enter(StateHashing, w.file.ID.Size, w.now())
		_, err := w.digest(ctx, p, w.job.done.Store)
		return err
	})
}

// digest reads the whole file and journals its digest. The bytes it stands for are those of the file's Identity: that
// is checked at the end.
func (w *worker) digest(ctx context.Context, p *pinned, progress func(done int64)) (Digest, error) {
	f := &w.file
	start := w.now()
	var algorithms []string
	for _, s := range f.Sums {
		algorithms = append(algorithms, s.Algorithm)
	}
	sums, err := hashFile(ctx, p.File, f.ID.Size, algorithms, f.Info.Sum, progress)
	var bad *iso.SumError
	if err != nil && !errors.As(err, &bad) {
		return Digest{}, err
	}
	d := Digest{SHA256: sums["sha256"], Others: sums}
	delete(d.Others, "sha256")
	if bad != nil {
		d.Bad = bad.Error()
	}
	return w.digested(p, d, start)
}

// digested remembers a digest, if the file is still the one that it was taken of.
func (w *worker) digested(p *pinned, d Digest, start time.Time) (Digest, error) {
	if err := p.check(); err != nil {
		return Digest{}, err
	}
	w.totals.hashed(w.file.ID.Size, w.now().Sub(start))
	w.journal.putDigest(w.file.ID, d)
	return d, nil
}
