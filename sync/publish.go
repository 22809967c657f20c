package sync

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// progressEvery is how often a snapshot is made while bytes move.
const progressEvery = 500 * time.Millisecond

// publish makes a new snapshot of everything, and the status files that follow from it.
func (d *decider) publish(now time.Time) {
	d.publishDue.due = time.Time{}
	start := time.Now()
	old := d.snapshot.Load()
	s := &Snapshot{
		At: now, Folder: d.cfg.Folder, Problem: d.scan.Problem, Owner: d.cfg.Owner, Server: d.server,
		Files: d.fileStatuses(now), Totals: d.totals.totals(), next: make(chan struct{}),
	}
	s.Server.Space = d.space
	s.Volumes = d.volumeStatuses(s.Files)
	d.snapshot.Store(s)
	close(old.next)
	if !d.told && d.looked() {
		d.told = true
		close(d.ready) // whoever waited sees this snapshot
	}
	d.wantNotes(s, now)
	d.publishDue.ran(time.Now(), time.Since(start))
	if len(d.jobs) > 0 {
		d.publishDue.at(now.Add(progressEvery))
	}
}

// quiet reports that the last snapshot shows all that is known: nothing waits to be planned or published.
func (d *decider) quiet(now time.Time) bool {
	soon := func(p pace) bool { return !p.due.IsZero() && p.due.Before(now.Add(time.Second)) }
	return d.told && !soon(d.planDue) && !soon(d.publishDue)
}

// confirm makes a snapshot that differs from the last one only in how new it is.
func (d *decider) confirm(now time.Time) {
	old := d.snapshot.Load()
	s := *old
	s.At, s.Server.Listed, s.Server.Space = now, d.server.Listed, d.space
	s.Totals, s.next = d.totals.totals(), make(chan struct{})
	d.snapshot.Store(&s)
	close(old.next)
}

func (d *decider) fileStatuses(now time.Time) []FileStatus {
	files := d.files
	if d.plan == nil {
		files = d.scan.Files
	}
	lines := make([]*Action, len(files))
	for i := range d.plan {
		if a := &d.plan[i]; a.File >= 0 && a.File < len(lines) {
			lines[a.File] = a
		}
	}
	out := make([]FileStatus, 0, len(files))
	since := make(map[string]sinceState, len(files))
	for i := range files {
		f := &files[i]
		if f.Draft != "" {
			continue
		}
		st := d.fileStatus(f, lines[i])
		was := d.since[f.Name]
		code := Code("")
		if st.Problem != nil {
			code = st.Problem.Code
		}
		if was.state != st.State || was.code != code {
			was = sinceState{state: st.State, code: code, at: now}
			d.transition(&st)
		}
		since[f.Name] = was
		st.Since = was.at
		out = append(out, st)
	}
	d.since = since
	return out
}

// transition logs a file's way, one line for each state that a person may want to know of.
func (d *decider) transition(st *FileStatus) {
	switch {
	case st.Problem == nil || st.Problem.Code == CodeAway:
		d.cfg.Log.Debug("file state", "file", st.Name, "volume", st.Volume, "state", string(st.State))
	case st.State == StateFailed:
		d.cfg.Log.Error("held until somebody acts", "file", st.Name, "volume", st.Volume, "err", st.Problem.Error())
	case st.State == StateWaiting:
		d.cfg.Log.Warn("waiting", "file", st.Name, "volume", st.Volume, "err", st.Problem.Error())
	}
}

func (d *decider) fileStatus(f *File, line *Action) FileStatus {
	st := FileStatus{Name: f.Name, Volume: f.Volume, ID: f.ID, Info: f.Info, State: StateQueued}
	if dg, ok := d.journal.digest(f.ID); ok {
		st.Digest = dg.SHA256
	}
	if fl := d.journal.record(f.Volume).Failure; fl != nil && fl.Source == f.ID && f.Volume != "" {
		st.Attempts = fl.Attempts
	}
	switch j := d.jobs[f.Volume]; {
	case j != nil && j.file.Name == f.Name && f.Volume != "":
		st.State = j.at()
		if j.action.Kind == ActEarly && f.Held != nil { // it is not finished, whatever is done with it already
			st.State, st.Problem = heldState(f.Held), f.Held
		}
		if total := j.total.Load(); total > 0 || st.State == StateStoring {
			st.Progress = &Progress{Done: j.done.Load(), Total: total, Started: time.Unix(0, j.since.Load())}
		}
	case line == nil && f.Held != nil:
		st.State, st.Problem = heldState(f.Held), f.Held
	case line == nil && d.server.Problem != nil:
		st.State, st.Problem = StateWaiting, d.server.Problem
	case line == nil:
	case line.Kind == ActEarly && f.Held != nil:
		st.State, st.Problem = heldState(f.Held), f.Held
	case line.Kind == ActHold:
		st.State, st.Problem = heldState(line.Problem), line.Problem
		if !line.NotBefore.IsZero() {
			st.State, st.NotBefore = StateRetrying, line.NotBefore
		}
	case line.Kind == ActNothing && line.Digest != "", line.Kind == ActConsume:
		st.State = StatePresent
	}
	return st
}

func heldState(p *Problem) State {
	switch {
	case p.Code == CodeWriting || p.Code == CodeChanged:
		return StateSettling
	case p.Waits:
		return StateWaiting
	}
	return StateFailed
}

func (d *decider) volumeStatuses(files []FileStatus) []VolumeStatus {
	byVolume := make(map[string]*FileStatus, len(files))
	for i := range files {
		if f := &files[i]; f.State == StatePresent {
			byVolume[f.Volume] = f
		}
	}
	problems := map[string]*Problem{}
	for i := range d.plan {
		if a := &d.plan[i]; a.Kind == ActHold && a.File < 0 {
			problems[a.Volume] = a.Problem
		}
	}
	out := make([]VolumeStatus, 0, len(d.volumes))
	for name, v := range d.volumes {
		if v.ContentType != "iso" {
			continue
		}
		st := VolumeStatus{Volume: v, Problem: problems[name]}
		st.Human, _, _ = ParseMark(v.Description)
		if m, ours := OurMark(v, d.cfg.Owner); ours {
			st.Ours, st.Stage, st.Digest = true, IsStage(name), m.SHA256
		} else if in := d.journal.record(name).Intent; in != nil && in.Made(v) {
			st.Partial = true
		}
		if f := byVolume[name]; f != nil && f.Digest == st.Digest {
			st.File = f.Name
		}
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b VolumeStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// wantNotes derives the status files. Problems that wait get one only after a moment: most of them pass.
func (d *decider) wantNotes(s *Snapshot, now time.Time) {
	if d.cfg.StatusFiles == StatusOff {
		return
	}
	wanted := map[string]note{}
	for i := range s.Files {
		f := &s.Files[i]
		young := now.Sub(f.Since) < d.cfg.SettleDelay
		switch {
		case f.Problem != nil && (f.Problem == d.server.Problem || f.Problem.Code == CodeAway && f.State == StateWaiting): // said once, for all of them
		case f.State == StateFailed:
			wanted[f.Name] = note{kind: "failed", body: statusBody(f)}
		case f.State == StateWaiting || f.State == StateRetrying:
			if !young {
				wanted[f.Name] = note{kind: "waiting", body: statusBody(f)}
			} else {
				d.publishDue.at(f.Since.Add(d.cfg.SettleDelay))
			}
		case d.cfg.StatusFiles == StatusAll && f.State != StatePresent:
			wanted[f.Name] = note{kind: "waiting", body: statusBody(f)}
		}
	}
	if p := d.server.Problem; p != nil {
		if now.Sub(d.server.Since) >= d.cfg.SettleDelay {
			wanted[folderNote] = note{kind: "waiting", body: sentence(p) + "\n"}
		} else {
			d.publishDue.at(d.server.Since.Add(d.cfg.SettleDelay))
		}
	}
	if !maps.Equal(wanted, d.notes) {
		d.notes = wanted
		d.scanDue.soon(now)
	}
}

// folderNote stands for the folder as a whole among the names of images.
const folderNote = ""

func sentence(p *Problem) string { return p.Text + "; " + p.Remedy + "." }

func statusBody(f *FileStatus) string {
	var b strings.Builder
	if f.Problem != nil {
		b.WriteString(sentence(f.Problem))
	} else {
		fmt.Fprintf(&b, "%s is on its way: %s.", quoteName(f.Name), f.State)
	}
	b.WriteString("\n\n")
	line := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s: %s\n", key, value)
		}
	}
	line("file", quoteName(f.Name))
	line("volume", f.Volume)
	line("state", string(f.State))
	if f.Problem != nil {
		line("code", string(f.Problem.Code))
	}
	line("since", f.Since.Format(time.RFC3339))
	if f.Attempts > 0 {
		line("attempts", fmt.Sprint(f.Attempts))
	}
	if !f.NotBefore.IsZero() {
		line("next try", f.NotBefore.Format(time.RFC3339))
	}
	line("sha256", f.Digest)
	return b.String()
}

func sortFiles(files []FileStatus) {
	slices.SortFunc(files, func(a, b FileStatus) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Volume, b.Volume)) })
}
