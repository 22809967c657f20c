package sync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"isosyncd/lxd"
)

// This file is how the deciding goroutine comes to know folder and pool.

// scanReport is one scan of the folder.
type scanReport struct {
	scanResult
	took     time.Duration
	gestures []string // files whose status file somebody deleted: try again
	noteErr  error    // status files cannot be written
}

// note is a status file as it shall be.
type note struct {
	kind string // "failed" or "waiting"
	body string
}

// scanner does all I/O on the folder but reading images, one request after the other: it writes the status files that
// the request wants, and scans. It ends when scanReqs is closed.
func (d *decider) scanner(ctx context.Context) {
	written := map[string]time.Time{}
	for wanted := range d.scanReqs {
		start := time.Now()
		r := scanReport{scanResult: d.inbox.scan(ctx)}
		r.took = time.Since(start) // status files are written once, and are no reason to look less often
		for iso, at := range written {
			if _, there := r.Notes[iso]; !there && r.Problem == nil && at.Before(start) {
				r.gestures = append(r.gestures, iso)
				delete(written, iso)
				delete(wanted, iso)
			}
		}
		if r.Problem == nil && wanted != nil {
			r.noteErr = d.writeNotes(wanted, r.Notes, written)
		}
		d.scans <- r
	}
}

// writeNotes makes the status files what they shall be. A note of ours that nobody wants goes.
func (d *decider) writeNotes(wanted map[string]note, there map[string]noteInfo, written map[string]time.Time) error {
	var errs []error
	for iso, n := range wanted {
		if err := d.inbox.putNote(iso, n.kind, n.body); err != nil {
			errs = append(errs, err)
			continue
		}
		written[iso] = time.Now()
	}
	for iso := range there {
		if _, want := wanted[iso]; !want {
			delete(written, iso)
			errs = append(errs, d.inbox.dropNote(iso))
		}
	}
	for iso := range written {
		if _, want := wanted[iso]; !want {
			delete(written, iso)
			errs = append(errs, d.inbox.dropNote(iso))
		}
	}
	return errors.Join(errs...)
}

func (d *decider) startScan() {
	d.scanning = true
	d.scanDue.due = time.Time{}
	var wanted map[string]note
	if d.cfg.StatusFiles != StatusOff && d.scanned {
		wanted = d.notes
		d.notes = map[string]note{}
		for iso, n := range wanted {
			d.notes[iso] = n
		}
	}
	d.scanReqs <- wanted // never blocks: one request at a time, and room for it
}

func (d *decider) takeScan(r scanReport) {
	now := time.Now()
	d.scanning = false
	d.totals.scans.Add(1)
	d.scanDue.ran(now, r.took)
	d.scanDue.at(now.Add(d.cfg.ScanInterval))
	if !r.Next.IsZero() {
		d.scanDue.at(later(r.Next, now.Add(d.scanDue.rest)))
	}
	if p := r.Problem; p != nil && (d.scan.Problem == nil || d.scan.Problem.Text != p.Text) {
		d.cfg.Log.Error("the folder cannot be read", "file", d.cfg.Folder, "err", p)
	}
	if r.noteErr != nil && d.scan.noteErr == nil {
		d.cfg.Log.Warn("status files cannot be written into the folder", "err", r.noteErr)
	}
	if r.Problem != nil {
		r.Files = d.scan.Files // the last that were seen; nothing is concluded from them
	}
	same := d.quiet(now) && r.unchanged(&d.scan.scanResult) && len(r.gestures) == 0
	d.scan = r
	if same {
		d.confirm(now)
		return
	}
	d.scanned = true
	d.forgetTired()
	if r.Problem == nil {
		d.knowFolder()
		there := make(map[Identity]bool, len(r.Files))
		for i := range r.Files {
			there[r.Files[i].ID] = true
		}
		if err := d.journal.keepDigests(there); err != nil {
			d.cfg.Log.Error("the journal cannot be written", "err", err)
		}
	}
	for _, iso := range r.gestures {
		d.forgive(iso)
	}
	d.changed()
}

// unchanged reports that a scan saw what another one did. The inbox makes new files only of what changed.
func (r *scanResult) unchanged(old *scanResult) bool {
	return r.Problem == nil && old.Problem == nil && r.Folder == old.Folder && len(r.Drafts)+len(old.Drafts) == 0 &&
		len(r.Files) == len(old.Files) && (len(r.Files) == 0 || &r.Files[0] == &old.Files[0])
}

// knowFolder compares the folder with the one that the journal knows. The first one is known from then on; a folder that
// was exchanged since is only used for imports, and prune waits until somebody confirms it.
func (d *decider) knowFolder() {
	known, err := d.journal.folder()
	if err == nil && known == (folderID{}) {
		known, err = d.scan.Folder, d.journal.setFolder(d.scan.Folder)
	}
	if err != nil {
		d.cfg.Log.Error("the journal cannot be used", "err", err)
	}
	d.same = err == nil && known == d.scan.Folder
}

// forgive forgets the failure of a file, and that its volume was deleted on the server.
func (d *decider) forgive(file string) {
	for i := range d.scan.Files {
		f := &d.scan.Files[i]
		if f.Name != file || f.Volume == "" {
			continue
		}
		d.note(map[string]func(*Record){f.Volume: d.forgiven(f.Volume)})
	}
}

func (d *decider) forgiven(volume string) func(*Record) {
	_, there := d.volumes[volume]
	return func(r *Record) {
		r.Failure = nil
		if !there && d.server.Online {
			r.Present = nil
		}
	}
}

// looked reports that folder and server were both looked at, with whatever result.
func (d *decider) looked() bool {
	return d.scanned && (!d.listed.IsZero() || d.server.Problem != nil)
}

// listReport is one look at the server: a connection if there was none, its volumes and its room.
type listReport struct {
	remote  Remote
	volumes []lxd.Volume
	space   lxd.Space
	limits  lxd.Space
	seq     int
	took    time.Duration
	err     error
}

func (d *decider) startList(ctx context.Context) {
	d.listing = true
	d.listDue.due = time.Time{}
	r := listReport{remote: d.remote, seq: d.seq}
	d.spawn(func() {
		start := time.Now()
		if r.remote == nil {
			r.remote, r.err = d.cfg.Dial(ctx)
		}
		if r.err == nil {
			r.volumes, r.err = r.remote.Volumes(ctx)
		}
		if r.err == nil {
			r.space, r.err = r.remote.Space(ctx)
		}
		if l, ok := r.remote.(limiter); ok && r.err == nil {
			// A client that may not ask is held to its limits by the server alone.
			if r.limits, r.err = l.Limits(ctx); !errors.Is(r.err, lxd.ErrAway) {
				r.err = nil
			}
		}
		r.took = time.Since(start)
		d.lists <- r
	})
}

func (d *decider) takeList(ctx context.Context, r listReport) {
	now := time.Now()
	d.listing = false
	d.totals.lists.Add(1)
	d.listDue.ran(now, r.took)
	if r.remote != nil && d.remote == nil {
		d.remote = r.remote
		d.server.Server, d.server.Pool = r.remote.Server(), r.remote.Name()
		d.server.Driver, d.server.Project = r.remote.Driver(), r.remote.Project()
		d.spawn(func() { d.follow(ctx, r.remote) })
	}
	if r.err != nil {
		d.away(r.err)
		d.changed()
		return
	}
	d.listDue.at(now.Add(d.cfg.RefreshInterval))
	if !d.server.Online {
		d.cfg.Log.Info("connected", "pool", d.server.Pool, "project", d.server.Project)
		d.server.Online, d.server.Problem, d.server.Since = true, nil, now
	}
	d.tries = 0
	same := d.quiet(now) && !d.listed.IsZero() && d.server.Space == r.space && d.space == r.space && d.limits == r.limits
	d.listed, d.server.Listed = now, now
	d.space, d.server.Space, d.limits = r.space, r.space, r.limits
	if d.merge(r) || !same {
		d.changed()
	} else {
		d.confirm(now)
	}
}

// merge takes a list in, but for volumes that a worker told of, or is at, since the list began: those are known better.
// It reports whether anything changed by it.
func (d *decider) merge(r listReport) (changed bool) {
	volumes := make(map[string]lxd.Volume, len(r.volumes))
	for _, v := range r.volumes {
		volumes[v.Name] = v
	}
	keep := func(name string) {
		if v, there := d.volumes[name]; there {
			volumes[name] = v
		} else {
			delete(volumes, name)
		}
	}
	for name := range d.busy {
		if j := d.jobs[name]; j != nil && j.action.Kind == ActEarly {
			continue // nothing is made yet: if a volume has that name, it is somebody's
		}
		keep(name)
	}
	for name, seq := range d.touched {
		if seq > r.seq {
			keep(name)
		} else {
			delete(d.touched, name)
		}
	}
	changed = !maps.EqualFunc(volumes, d.volumes, func(a, b lxd.Volume) bool {
		return a.Name == b.Name && a.ContentType == b.ContentType && a.Size == b.Size && a.Description == b.Description &&
			a.Location == b.Location && a.UUID == b.UUID && a.CreatedAt.Equal(b.CreatedAt) && slices.Equal(a.UsedBy, b.UsedBy)
	})
	d.volumes = volumes
	return changed
}

// away notes that the server does not answer as it should. It is one condition, not one failure for each file: the
// next look is planned, and all files wait for it.
func (d *decider) away(err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	now := time.Now()
	d.tries++
	p := serverProblem(err)
	if d.server.Online || d.server.Problem == nil {
		d.server.Since = now
		d.cfg.Log.Warn("the server does not answer; everything waits for it", "pool", d.server.Pool, "err", err)
	}
	d.server.Online, d.server.Problem = false, p
	d.listDue.due = now.Add(min(30*time.Second, backoff(d.tries)))
	d.publishDue.soon(now)
}

func serverProblem(err error) *Problem {
	p := &Problem{Code: CodeAway, Waits: true, Remedy: "everything goes on by itself when it answers"}
	var no *lxd.Error
	switch {
	case errors.Is(err, lxd.ErrIdentity):
		p.Code, p.Waits = CodeDenied, false
		p.Remedy = "if the server was set up anew, remove the remote and add it again; else somebody is in between"
	case errors.Is(err, lxd.ErrUntrusted), errors.Is(err, lxd.ErrDenied):
		p.Code, p.Waits = CodeDenied, false
		p.Remedy = "let the server trust this client for the project, or use another --remote; it is tried again by itself"
	case errors.Is(err, lxd.ErrNoISO), errors.Is(err, lxd.ErrNotFound):
		p.Code, p.Waits = CodeRefused, false
		p.Remedy = "correct the settings or the server; it is tried again by itself"
	case errors.As(err, &no):
		p.Code = CodeServer
		p.Remedy = "look at its words, and at its log; it is tried again by itself"
	}
	p.Text = "the server cannot be used: " + plainText(err.Error())
	if p.Code == CodeAway {
		p.Text = "the server is away: " + plainText(err.Error())
	}
	return p
}

// plainText makes one line of a text that came from elsewhere, safe to print.
func plainText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x200b && r <= 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.Join(strings.Fields(s), " ")
}

// follow reads the event stream, and opens it again when it ends. Events are hints: each that may concern us wakes the
// lister, which does not run more often than it can.
func (d *decider) follow(ctx context.Context, remote Remote) {
	tell := func(up bool) {
		select {
		case d.streams <- up:
		case <-ctx.Done():
		}
	}
	for try := 1; ctx.Err() == nil; try++ {
		start := time.Now()
		err := remote.Events(ctx, func(e lxd.Event) {
			switch {
			case e.Type == "connected":
				tell(true)
			case concerns(e):
				wake(d.hints)
			}
		})
		if ctx.Err() != nil {
			return
		}
		tell(false)
		d.cfg.Log.Debug("the event stream ended; it is opened again", "attempt", try, "err", err)
		if time.Since(start) > time.Minute {
			try = 1
		}
		select {
		case <-time.After(min(30*time.Second, backoff(try))):
		case <-ctx.Done():
		}
	}
}

// concerns reports whether an event may change volumes or who uses them.
func concerns(e lxd.Event) bool {
	if e.Type != "lifecycle" {
		return false
	}
	for _, prefix := range []string{"storage-volume-", "storage-pool-", "profile-", "project-"} {
		if strings.HasPrefix(e.Action, prefix) {
			return true
		}
	}
	switch e.Action {
	case "instance-created", "instance-updated", "instance-deleted", "instance-renamed", "instance-restored":
		return true
	}
	return false
}

// judge makes of a worker's error what the journal keeps. nil = no failure: the next plan sees another state.
func judge(err error, a Action, source Identity, attempts int, now time.Time) *Failure {
	f := &Failure{Source: source, Attempts: attempts, At: now, NotBefore: now.Add(backoff(attempts))}
	var p *Problem
	var no *lxd.Error
	errors.As(err, &no)
	switch {
	case errors.As(err, &p):
		if p.Code == CodeChanged || p.Code == CodeWriting {
			return nil
		}
		f.Code, f.Text, f.Remedy, f.Permanent = p.Code, p.Text, p.Remedy, !p.Waits && p.Code != CodeUnreadable
	case errors.Is(err, lxd.ErrAway), errors.Is(err, lxd.ErrUnknown):
		f.Code = CodeAway
		f.Text = "the connection broke: " + plainText(err.Error())
		if !errors.Is(err, lxd.ErrAway) {
			f.Text = "the server was restarted meanwhile: " + plainText(err.Error())
		}
		f.Remedy = "it is tried again by itself"
		if upload(a.Kind) && attempts >= 3 {
			// A server that dies under an upload leaves the bytes on its disk each time (RELIABILITY S1).
			f.NotBefore = now.Add(10 * time.Minute)
		}
	case errors.Is(err, lxd.ErrSource):
		f.Code = CodeUnreadable
		f.Text = plainText(err.Error())
		f.Remedy = "look at the disk and the system log; it is tried again by itself"
	case errors.Is(err, lxd.ErrDenied):
		f.Code = CodeDenied
		f.Text = "the server refuses: " + plainText(err.Error())
		f.Remedy = "give this client the right to make and delete volumes of the project; it is tried again every minute"
		f.NotBefore = now.Add(time.Minute)
	case no != nil && !no.InOp && lxd.IsPermanent(err):
		f.Code, f.Permanent = CodeRefused, true
		f.Text = "the server refuses: " + plainText(no.Message)
		f.Remedy = "correct what it says, then run isosyncd retry or touch the file"
	default:
		f.Code = CodeServer
		f.Text = "the server failed: " + plainText(err.Error())
		if no != nil {
			f.Text = "the server failed: " + plainText(no.Message)
		}
		f.Remedy = fmt.Sprintf("it is tried again by itself (%d so far)", attempts)
	}
	if no != nil && no.RetryAfter > 0 && !f.Permanent {
		f.NotBefore = later(f.NotBefore, now.Add(min(no.RetryAfter, time.Hour)))
	}
	return f
}

func upload(k ActionKind) bool {
	switch k {
	case ActImport, ActStage, ActInPlace, ActRestore:
		return true
	default:
		return false
	}
}
