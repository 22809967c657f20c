package sync

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"time"

	"isosyncd/lxd"
)

// This file starts workers and takes their results.

// hashers and others bound the work beside uploads; all of it is one or two requests to the server, or local reading.
const (
	hashers = 2
	others  = 4
)

type slot int

const (
	slotNone slot = iota
	slotUpload
	slotEarly // as many as uploads: they wait for writers most of the time
	slotHash
	slotOther
)

func slotOf(k ActionKind) slot {
	switch k {
	case ActImport, ActStage, ActInPlace, ActRestore:
		return slotUpload
	case ActEarly:
		return slotEarly
	case ActHash, ActSpool:
		return slotHash
	case ActAwait, ActMark, ActDiscard, ActCopy, ActSwap, ActUnstage, ActPrune, ActRemove, ActConsume, ActAdopt:
		return slotOther
	case ActNothing, ActHold:
	}
	return slotNone
}

// startJobs starts what the plan says, as far as there are free slots, and nothing else is at those volumes. Started
// lines leave the plan; a plan that became old is made anew by then, and every worker looks again before it changes
// anything.
func (d *decider) startJobs(ctx context.Context) {
	if !d.server.Online || len(d.plan) == 0 {
		return
	}
	free := map[slot]int{slotUpload: d.cfg.MaxUploads, slotEarly: d.cfg.MaxUploads, slotHash: hashers, slotOther: others}
	for _, j := range d.jobs {
		free[slotOf(j.action.Kind)]--
	}
	for i := range d.plan {
		a := &d.plan[i]
		s := slotOf(a.Kind)
		if s == slotNone || free[s] <= 0 || d.busy[a.Volume] > 0 || a.From != "" && d.busy[a.From] > 0 {
			continue
		}
		free[s]--
		d.start(ctx, *a)
		a.Kind, a.Digest = ActNothing, "" // its line stays: the file's status comes from the job now
	}
}

func (d *decider) start(ctx context.Context, a Action) {
	now := time.Now()
	j := &job{action: a, started: now}
	if a.File >= 0 {
		j.file = d.files[a.File]
	}
	j.attempt = 1
	if f := d.journal.record(a.Volume).Failure; f != nil && f.Source == j.file.ID {
		j.attempt = f.Attempts + 1
	}
	j.enter(StateQueued, 0, now)
	if a.Kind == ActEarly {
		j.ending = make(chan finished, 1)
	}
	ctx, j.cancel = context.WithCancelCause(ctx)
	d.jobs[a.Volume] = j
	d.occupy(a, 1)
	w := &worker{
		remote: d.remote, inbox: d.inbox, spool: d.spool, journal: d.journal, owner: d.cfg.Owner, now: time.Now,
		step: func(name string) { d.cfg.Step(string(a.Kind) + "." + name) },
		log:  d.cfg.Log, totals: &d.totals, human: d.cfg.Human,
		job: j, action: a, file: j.file, finished: j.ending, seen: map[string]*lxd.Volume{},
	}
	d.cfg.Log.Debug("started", logAttrs(j)...)
	d.spawn(func() {
		w.step("begin")
		err := w.run(ctx)
		j.cancel(nil)
		d.results <- result{job: j, err: err, seen: w.seen}
	})
	d.publishDue.soon(now)
}

// tendEarly brings the early uploads on as the new plan says: they go on, or become the import of the finished file, or
// end. What else the plan has for their volumes is started when they are over.
func (d *decider) tendEarly() {
	lines := map[string]*Action{}
	for i := range d.plan {
		if a := &d.plan[i]; a.File >= 0 && a.Kind != ActHold {
			lines[a.Volume] = a
		}
	}
	for _, j := range d.jobs {
		if j.action.Kind != ActEarly {
			continue
		}
		a := lines[j.action.Volume]
		if a == nil || d.files[a.File].ID.inode() != j.file.ID.inode() {
			j.cancel(errStale)
			continue
		}
		switch a.Kind {
		case ActEarly:
			a.Kind = ActNothing
		case ActImport:
			j.action, j.file = *a, d.files[a.File]
			j.ending <- finished{action: j.action, file: j.file} // the one there is
			a.Kind, a.Digest = ActNothing, ""
		default:
			j.cancel(errStale)
		}
	}
}

// forgetTired drops files that are gone.
func (d *decider) forgetTired() {
	if len(d.tired) == 0 || d.scan.Problem != nil {
		return
	}
	there := map[inode]bool{}
	for _, files := range [][]File{d.scan.Files, d.scan.Drafts} {
		for i := range files {
			there[files[i].ID.inode()] = true
		}
	}
	maps.DeleteFunc(d.tired, func(id inode, _ bool) bool { return !there[id] })
}

func (d *decider) occupy(a Action, n int) {
	for _, name := range []string{a.Volume, a.From} {
		if name == "" {
			continue
		}
		if d.busy[name] += n; d.busy[name] <= 0 {
			delete(d.busy, name)
		}
	}
}

func logAttrs(j *job) []any {
	attrs := []any{slog.String("operation", string(j.action.Kind)), slog.String("volume", j.action.Volume)}
	if j.file.Name != "" {
		attrs = append(attrs, slog.String("file", j.file.Name), slog.Int64("size", j.file.ID.Size))
	}
	return attrs
}

func (d *decider) takeResult(r result) {
	now := time.Now()
	j := r.job
	delete(d.jobs, j.action.Volume)
	d.occupy(j.action, -1)
	d.flushDue.soon(now)
	d.seq++
	for name, v := range r.seen {
		d.touched[name] = d.seq
		if v == nil {
			delete(d.volumes, name)
		} else {
			d.volumes[name] = *v
		}
	}
	d.space.Used += j.action.need // until the next list says what it really took
	switch j.action.Kind {
	case ActSpool:
		d.spooled[j.action.Digest] = r.err == nil
	case ActInPlace, ActRestore:
		if r.err == nil {
			delete(d.spooled, j.action.Digest)
		}
	case ActSwap, ActCopy:
		if until, err := d.journal.noCopyUntil(); err == nil {
			d.noCopy = until
		}
	}
	defer d.changed()
	attrs := append(logAttrs(j), slog.Duration("elapsed", now.Sub(j.started)))
	if r.err == nil {
		delete(d.stale, j.action.Volume)
		d.cfg.Log.Info("done", attrs...)
		// To have cleared a torn volume away is no success yet: the upload that tore it may kill the server again.
		if j.action.Kind != ActDiscard && d.journal.record(j.action.Volume).Failure != nil {
			d.note(map[string]func(*Record){j.action.Volume: func(rec *Record) { rec.Failure = nil }})
		}
		if j.action.Kind == ActConsume || j.action.Kind == ActRemove {
			d.scanDue.soon(now)
		}
		return
	}
	d.fail(r, attrs, now)
}

// fail journals a failure, or looks again where there is none: the state was another than the plan saw.
func (d *decider) fail(r result, attrs []any, now time.Time) {
	j := r.job
	if errors.Is(r.err, context.Canceled) || errors.Is(r.err, errStopped) {
		return
	}
	if j.action.Kind == ActEarly || errors.Is(r.err, errEarly) {
		d.tired[j.file.ID.inode()] = true
		d.cfg.Log.Debug("no early upload; the file is imported when it is finished", append(attrs, slog.Any("err", r.err))...)
		d.listDue.soon(now)
		return
	}
	if errors.Is(r.err, lxd.ErrAway) {
		d.away(r.err)
	}
	err := r.err
	var f *Failure
	if !errors.Is(err, errStale) {
		f = judge(err, j.action, j.file.ID, j.attempt, now)
	}
	if f == nil {
		// What was planned is not there any more. Should that go on and on, it waits like a failure.
		d.stale[j.action.Volume]++
		d.scanDue.soon(now)
		d.listDue.soon(now)
		d.cfg.Log.Debug("planned for another state; looking again", append(attrs, slog.Any("err", err))...)
		n := d.stale[j.action.Volume]
		if n < 3 {
			return
		}
		f = &Failure{
			Code: CodeChanged, Text: "the file or its volume keeps changing", Source: j.file.ID, Attempts: n, At: now,
			Remedy: "it is tried again by itself", NotBefore: now.Add(min(10*time.Second, backoff(n-2))),
		}
	} else {
		d.totals.failures.Add(1)
		attrs = append(attrs, slog.Int("attempt", f.Attempts), slog.Any("err", err))
		if f.Permanent {
			d.cfg.Log.Error("given up until the file or the settings change", attrs...)
		} else {
			d.cfg.Log.Warn("failed, and tried again", attrs...)
		}
	}
	d.note(map[string]func(*Record){j.action.Volume: func(rec *Record) { rec.Failure = f }})
}
