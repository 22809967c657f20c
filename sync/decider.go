package sync

import (
	"cmp"
	"context"
	"slices"
	"time"

	"isosyncd/lxd"
)

// decider is the state of the one goroutine that decides. Nothing here is touched by another.
type decider struct {
	*Syncer
	spawn func(func()) // starts a goroutine that Run waits for
	told  bool         // ready is closed

	// The folder.
	scan     scanReport
	scanned  bool
	scanning bool
	scanReqs chan map[string]note
	scans    chan scanReport
	same     bool // the folder is the one that the journal knows
	notes    map[string]note

	// The pool.
	remote  Remote
	space   lxd.Space
	limits  lxd.Space
	volumes map[string]lxd.Volume
	touched map[string]int // seq at which a worker last told of a volume: a list that began before is older
	seq     int
	listing bool
	listed  time.Time // zero = never
	lists   chan listReport
	server  ServerStatus
	tries   int // dials or lists that failed in a row
	streams chan bool
	noCopy  time.Time

	// The work.
	plan    []Action
	files   []File // that the plan was made from: its lines point into them
	spooled map[string]bool
	jobs    map[string]*job // by the action's volume
	busy    map[string]int  // volumes that jobs are at or read from
	results chan result
	stale   map[string]int // errStale in a row, by volume
	tired   map[inode]bool // files whose early upload came to nothing: they wait until they are finished
	since   map[string]sinceState

	scanDue, listDue, planDue, publishDue, flushDue pace
}

// sinceState remembers when a file entered its state.
type sinceState struct {
	state State
	code  Code
	at    time.Time
}

// pace says when something is due, and keeps it from taking more than a tenth of the time.
type pace struct {
	due  time.Time // zero = not
	last time.Time // end of the last run
	took time.Duration
	rest time.Duration // at least, between two runs
}

// soon makes it due at the next decent moment.
func (p *pace) soon(now time.Time) { p.at(later(now, p.last.Add(max(p.rest, 10*p.took)))) }

// at makes it due at t, unless it is due before.
func (p *pace) at(t time.Time) {
	if p.due.IsZero() || t.Before(p.due) {
		p.due = t
	}
}

func (p *pace) isDue(now time.Time) bool { return !p.due.IsZero() && !now.Before(p.due) }

func (p *pace) ran(now time.Time, took time.Duration) { p.last, p.took = now, took }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func newDecider(s *Syncer, spawn func(func())) *decider {
	return &decider{
		Syncer: s, spawn: spawn,
		scanReqs: make(chan map[string]note, 1), scans: make(chan scanReport),
		volumes: map[string]lxd.Volume{}, touched: map[string]int{}, lists: make(chan listReport),
		streams: make(chan bool),
		spooled: map[string]bool{}, jobs: map[string]*job{}, busy: map[string]int{}, results: make(chan result),
		stale: map[string]int{}, tired: map[inode]bool{}, since: map[string]sinceState{}, notes: map[string]note{},
		scanDue:    pace{rest: 20 * time.Millisecond},
		listDue:    pace{rest: 250 * time.Millisecond},
		planDue:    pace{rest: 20 * time.Millisecond},
		publishDue: pace{rest: 100 * time.Millisecond},
		flushDue:   pace{rest: 500 * time.Millisecond},
	}
}

// turn is the longest that the deciding goroutine sleeps: a watchdog sees that it lives.
const turn = 5 * time.Second

func (d *decider) loop(ctx context.Context) error {
	if err := d.open(); err != nil {
		return err
	}
	now := time.Now()
	d.scanDue.at(now)
	d.listDue.at(now)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now = time.Now()
		d.alive.Store(now.UnixNano())
		d.act(ctx, now)
		timer.Reset(max(0, d.next(now).Sub(now)))
		select {
		case <-ctx.Done():
			d.drain()
			return nil
		case <-timer.C:
		case <-d.wakeScan:
			d.scanDue.soon(time.Now())
		case <-d.wakeList:
			d.listDue.soon(time.Now())
		case <-d.hints:
			d.hint(time.Now())
		case r := <-d.scans:
			d.takeScan(r)
		case r := <-d.lists:
			d.takeList(ctx, r)
		case up := <-d.streams:
			d.takeStream(up)
		case r := <-d.results:
			d.takeResult(r)
		case f := <-d.requests:
			f(d)
		}
	}
}

// ownEcho is how long the list waits for what workers change: they tell themselves what they did.
const ownEcho = 2 * time.Second

// hint takes an event that may concern us: a list of very many volumes takes the server seconds, and while images go
// there nearly all events tell of them.
func (d *decider) hint(now time.Time) {
	if len(d.jobs) > 0 {
		now = now.Add(ownEcho)
	}
	d.listDue.soon(now)
}

// open takes up what an earlier life left.
func (d *decider) open() error {
	var err error
	if d.noCopy, err = d.journal.noCopyUntil(); err != nil {
		return err
	}
	held, err := d.spool.list()
	if err != nil {
		return err
	}
	for _, digest := range held {
		d.spooled[digest] = true
	}
	return nil
}

// act does whatever is due.
func (d *decider) act(ctx context.Context, now time.Time) {
	if d.scanDue.isDue(now) && !d.scanning {
		d.startScan()
	}
	if d.listDue.isDue(now) && !d.listing {
		d.startList(ctx)
	}
	if d.planDue.isDue(now) {
		d.replan(now)
	}
	d.startJobs(ctx)
	if d.publishDue.isDue(now) {
		d.publish(now)
	}
	if d.flushDue.isDue(now) {
		d.flush()
	}
}

// next is when something is due again, if nothing happens before.
func (d *decider) next(now time.Time) time.Time {
	next := now.Add(turn)
	sooner := func(p pace, blocked bool) {
		if !p.due.IsZero() && !blocked && p.due.Before(next) {
			next = p.due
		}
	}
	sooner(d.scanDue, d.scanning)
	sooner(d.listDue, d.listing)
	sooner(d.planDue, false)
	sooner(d.publishDue, false)
	sooner(d.flushDue, false)
	return next
}

// flush puts on the disk what the journal knows and may still forget.
func (d *decider) flush() {
	d.flushDue.due = time.Time{}
	start := time.Now()
	err := d.journal.flush()
	if err != nil {
		d.cfg.Log.Error("the journal cannot be written; what is known now is found out again after a restart", "err", err)
	}
	now := time.Now()
	d.flushDue.ran(now, now.Sub(start))
	if err != nil {
		d.flushDue.at(now.Add(turn))
	}
}

// drain lets the goroutines that have something to tell end: nobody listens any more.
func (d *decider) drain() {
	close(d.scanReqs)
	for _, j := range d.jobs {
		j.cancel(errStopped)
	}
	go func() {
		for {
			select {
			case <-d.scans:
			case <-d.lists:
			case <-d.streams:
			case <-d.results:
			case <-d.stopped:
				return
			}
		}
	}()
}

// changed plans and publishes again soon.
func (d *decider) changed() {
	now := time.Now()
	d.planDue.soon(now)
	d.publishDue.soon(now)
}

// replan makes the plan anew from all that is known. Before the first scan, or while the server is away, there is none:
// what is not known must not look like nothing.
func (d *decider) replan(now time.Time) {
	d.planDue.due = time.Time{}
	if !d.scanned || d.listed.IsZero() || !d.server.Online {
		d.plan, d.files = nil, d.scan.Files
		return
	}
	d.files = slices.Concat(d.scan.Files, d.scan.Drafts)
	d.tidy(now)
	d.journal.read(func(records map[string]Record, digests map[Identity]Digest) {
		d.plan = Plan(d.view(records, digests, now), d.cfg.Policy, now)
	})
	d.tendEarly()
	d.notePresent(now)
	d.dropSpool()
	for i := range d.plan {
		if t := d.plan[i].NotBefore; t.After(now) {
			d.planDue.at(t)
		}
	}
	if d.cfg.Policy.Prune {
		d.planDue.at(now.Add(max(time.Second, d.cfg.Policy.PruneDelay/4)))
	}
	d.planDue.ran(time.Now(), time.Since(now))
	slices.SortStableFunc(d.plan, func(a, b Action) int { return cmp.Compare(urgency(a.Kind), urgency(b.Kind)) })
	d.publishDue.soon(now)
}

// urgency orders the start of actions: what finishes something comes first, what takes long comes last.
func urgency(k ActionKind) int {
	switch k {
	case ActRestore, ActSwap, ActCopy, ActInPlace:
		return 0
	case ActMark, ActAwait, ActDiscard, ActUnstage, ActConsume, ActRemove, ActAdopt, ActPrune:
		return 1
	case ActSpool, ActStage, ActHash:
		return 2
	case ActImport, ActEarly, ActNothing, ActHold:
	}
	return 3
}

func (d *decider) view(records map[string]Record, digests map[Identity]Digest, now time.Time) View {
	busy := make(map[string]bool, len(d.busy))
	var reserved int64
	for name := range d.busy {
		busy[name] = true
	}
	early := map[string]inode{}
	for name, j := range d.jobs {
		if j.action.Kind == ActEarly { // the plan decides about it again and again
			early[name] = j.file.ID.inode()
			delete(busy, name)
			continue
		}
		reserved += j.action.need
	}
	return View{
		Owner: d.cfg.Owner, Files: d.files, Digests: digests, Volumes: d.volumes, Records: records,
		Folder: FolderState{Problem: d.scan.Problem, Same: d.same},
		Space:  d.space, Limits: d.limits, Reserved: reserved, Driver: d.remote.Driver(),
		CanCopy: !now.Before(d.noCopy), Spooled: d.spooled, Busy: busy, Early: early, Tired: d.tired,
	}
}

// tidy keeps the journal true to what was seen: who is missing since when, and which records say nothing any more.
func (d *decider) tidy(now time.Time) {
	if d.scan.Problem != nil {
		return
	}
	changes := map[string]func(*Record){}
	d.journal.read(func(records map[string]Record, digests map[Identity]Digest) {
		s := d.view(records, digests, now)
		for _, name := range forgotten(s, now) {
			changes[name] = func(r *Record) { *r = Record{Volume: name} }
		}
		for name, since := range missing(s, now) {
			changes[name] = func(r *Record) {
				r.MissingSince = since
				r.Confirmed = r.Confirmed && !since.IsZero()
			}
		}
	})
	d.note(changes)
}

// notePresent journals the good volumes of the plan that the journal does not know as they are: after a loss of the
// state directory, or for a file that was touched or copied over with the same bytes.
func (d *decider) notePresent(now time.Time) {
	changes := map[string]func(*Record){}
	d.journal.read(func(records map[string]Record, _ map[Identity]Digest) {
		for i := range d.plan {
			a := &d.plan[i]
			if a.Digest == "" || a.Kind != ActNothing && a.Kind != ActConsume {
				continue
			}
			f, v, r := &d.files[a.File], d.volumes[a.Volume], records[a.Volume]
			if p := r.Present; p != nil && p.Source == f.ID && p.Incarnation == v.Incarnation() && r.Intent == nil && r.Failure == nil {
				continue
			}
			changes[a.Volume] = func(r *Record) {
				*r = Record{Volume: a.Volume, File: f.Name, Consumed: r.Consumed, Present: &Presence{
					Digest: a.Digest, Incarnation: v.Incarnation(), Source: f.ID, At: now,
				}}
			}
		}
	})
	d.note(changes)
}

func (d *decider) note(changes map[string]func(*Record)) {
	if err := d.journal.updateAll(changes); err != nil {
		d.cfg.Log.Error("the journal cannot be written; what is known now is found out again after a restart", "err", err)
	}
}

// dropSpool removes spooled bytes that neither an intent nor the plan needs.
func (d *decider) dropSpool() {
	if len(d.spooled) == 0 {
		return
	}
	needed := map[string]bool{}
	for i := range d.plan {
		needed[d.plan[i].Digest] = true
	}
	for _, j := range d.jobs {
		needed[j.action.Digest] = true
	}
	d.journal.read(func(records map[string]Record, _ map[Identity]Digest) {
		for _, r := range records {
			if r.Intent != nil {
				needed[r.Intent.Digest] = true
			}
		}
	})
	for digest := range d.spooled {
		if needed[digest] {
			continue
		}
		if err := d.spool.drop(digest); err != nil {
			d.cfg.Log.Warn("a spooled image cannot be removed", "err", err)
			continue
		}
		delete(d.spooled, digest)
	}
}

// takeStream notes that the event stream came up or went down. Whatever happened meanwhile is only found by listing.
func (d *decider) takeStream(up bool) {
	d.server.Events = up
	if up {
		d.server.Reconnect++
		d.listDue.soon(time.Now())
	}
	d.publishDue.soon(time.Now())
}
