package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"isosyncd/control"
	isosync "isosyncd/sync"
)

// view says how a Status is to be shown.
type view struct {
	Width  int // cells of a line; 0 = no limit: nothing is wrapped or cut, as for a pipe
	Height int // lines; 0 = no limit
	Colour bool
	Now    time.Time // what "ago" counts from

	Sockets []string // where a daemon was looked for
	Away    string   // why none tells anything, where this is a picture of one that did; "" = see the Status
}

// renderStatus shows a Status as text that ends with a newline. It is pure. What needs a person comes first, then what
// is at work; so if not all lines fit into Height, those that are left out matter least, and a last line counts them.
func renderStatus(st *control.Status, v view) string {
	r := &renderer{view: v, st: st}
	head := r.head()
	rows := r.rows()
	if len(rows) == 0 {
		return strings.Join(head, "\n") + "\n"
	}
	blocks := r.table(rows)
	title, blocks := blocks[0], blocks[1:]
	out := append(head, "")
	out = append(out, title...)
	for i, b := range blocks {
		last := i == len(blocks)-1
		room := v.Height - len(out) - 1 // one line stays free: for the count, or for a terminal's cursor
		if v.Height > 0 && (len(b) > room || !last && len(b) > room-1) {
			out = append(out, r.line(fmt.Sprintf("... and %d more; without --watch, isosyncd status shows all", len(blocks)-i)))
			break
		}
		out = append(out, b...)
	}
	return strings.Join(out, "\n") + "\n"
}

type renderer struct {
	view
	st *control.Status
}

// row is a file, or a volume without one.
type row struct {
	urgency  int
	name     string // as a person knows it
	volume   string // "" = as the name says, or none
	state    string
	size     int64
	digest   string
	users    string
	progress *control.Progress
	problem  *control.Problem
	details  []string
}

// line cuts to the width.
func (r *renderer) line(s string) string {
	if r.Width > 0 {
		return cut(s, r.Width)
	}
	return s
}

// field is "key     value", wrapped, with the lines that follow indented.
func (r *renderer) field(key, value string) []string { return r.wrapped(pad(key, len(under)), value) }

// under is what stands before a line that belongs to the field above it.
const under = "        "

func (r *renderer) wrapped(lead, value string) []string {
	n := width(lead)
	limit := 0
	if r.Width > 0 {
		limit = max(10, r.Width-n)
	}
	lines := wrapText(value, limit)
	for i := range lines {
		if i > 0 {
			lead = strings.Repeat(" ", n)
		}
		lines[i] = r.line(lead + strings.ReplaceAll(lines[i], glue, " "))
	}
	return lines
}

// glue is a blank at which no line is broken.
const glue = "\ue000"

// head is about everything at once.
func (r *renderer) head() []string {
	st := r.st
	var out []string
	if !st.Running {
		text := "not running"
		if len(r.Sockets) > 0 {
			text += " (nobody answers on " + showText(strings.Join(r.Sockets, " or ")) + ")"
		}
		if r.Away == "" {
			text += "; this is what its journal remembers"
		} else {
			text += "; " + r.Away
		}
		out = append(out, r.paintAll(yellow, r.field("daemon", text))...)
		if st.Version == 0 {
			return out // nothing was ever told
		}
	}
	if st.Folder != "" {
		out = append(out, r.field("folder", showName(st.Folder))...)
	}
	out = append(out, r.problem(under, st.Problem)...)
	if st.Running {
		out = append(out, r.field("server", r.server())...)
		out = append(out, r.problem(under, st.Server.Problem)...)
		if st.Server.Pool != "" {
			out = append(out, r.field("pool", r.pool())...)
		}
	}
	out = append(out, r.field("files", r.counts())...)
	if n := st.NeedsPerson; n > 0 {
		what := "1 thing needs somebody"
		if n > 1 {
			what = fmt.Sprintf("%d things need somebody", n)
		}
		out = append(out, r.paintAll(red, r.field("", what))...)
	}
	return out
}

func (r *renderer) server() string {
	s := &r.st.Server
	name := map[string]string{"lxd": "LXD", "incus": "Incus"}[s.Vendor]
	out := strings.TrimSpace(name + " " + showText(s.Version))
	if s.Address != "" {
		out = strings.TrimSpace(out + " at " + showText(s.Address))
	}
	if s.Project != "" && s.Project != "default" {
		out += ", project " + showName(s.Project)
	}
	switch {
	case s.Online:
		out += ": online"
		if !s.ListedAt.IsZero() {
			out += ", looked at " + r.ago(s.ListedAt)
		}
		if !s.Events {
			out += ", no event stream"
		}
	case s.Problem == nil:
		out = strings.TrimSpace(out + " not asked yet")
	default:
		if out != "" {
			out += ": "
		}
		out += "cannot be used since " + r.forTime(s.Since)
	}
	return out
}

func (r *renderer) pool() string {
	s := &r.st.Server
	out := showName(s.Pool)
	if s.Driver != "" {
		out += " (" + showText(s.Driver) + ")"
	}
	switch {
	case s.Space == nil && s.Online:
		return out + ", the driver does not tell its space"
	case s.Space == nil:
		return out
	}
	part := float64(s.Space.Used) / float64(s.Space.Total)
	return fmt.Sprintf("%s, %s of %s free %s %.0f%% used", out, showBytes(s.Space.Free), showBytes(s.Space.Total),
		bar(part, 22), 100*part)
}

func (r *renderer) ago(t time.Time) string { return showDuration(r.Now.Sub(t)) + " ago" }

func (r *renderer) forTime(t time.Time) string { return showDuration(r.Now.Sub(t)) }

// counts says how many files are in which state, those that matter first.
func (r *renderer) counts() string {
	n := map[string]int{}
	for i := range r.st.Files {
		n[r.st.Files[i].State]++
	}
	if len(r.st.Files) == 0 {
		if r.st.Problem != nil {
			return "none"
		}
		return "none yet: copy an .iso file into the folder"
	}
	var parts []string
	for _, s := range stateOrder {
		if c := n[string(s)]; c > 0 {
			parts = append(parts, fmt.Sprintf("%d%s%s", c, glue, s))
			delete(n, string(s))
		}
	}
	for s, c := range n { // of a newer daemon; at most one or two
		parts = append(parts, fmt.Sprintf("%d%s%s", c, glue, showText(s)))
	}
	return strings.Join(parts, ", ")
}

// stateOrder is by what a person wants to see first.
var stateOrder = []isosync.State{
	isosync.StateFailed, isosync.StateWaiting, isosync.StateRetrying, isosync.StateStoring, isosync.StateUploading,
	isosync.StateHashing, isosync.StateQueued, isosync.StateSettling, isosync.StatePresent,
}

func (r *renderer) rows() []row {
	var rows []row
	shown := map[string]bool{}
	for i := range r.st.Files {
		f := &r.st.Files[i]
		shown[f.Volume] = true
		rows = append(rows, r.fileRow(f))
	}
	for i := range r.st.Volumes {
		if v := &r.st.Volumes[i]; !shown[v.Name] {
			rows = append(rows, volumeRow(v))
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.urgency, b.urgency) })
	return rows
}

func (r *renderer) fileRow(f *control.File) row {
	out := row{
		name: showName(f.RealName()), state: f.State, size: f.Size, digest: f.SHA256, users: showUsers(f.UsedBy),
		progress: f.Progress, problem: f.Problem,
	}
	if f.RealName() == "" { // the journal of an older life
		out.name = showName(f.Volume)
	} else if f.Volume != "" && !strings.EqualFold(f.Volume+".iso", f.RealName()) {
		out.volume = showName(f.Volume)
	}
	out.urgency = slices.Index(stateOrder, isosync.State(f.State))
	switch {
	case f.Problem != nil && f.Problem.NeedsPerson:
		out.urgency -= 100
	case out.urgency < 0:
		out.urgency = len(stateOrder)
	}
	if p, s := f.Problem, r.st.Server.Problem; p != nil && s != nil && p.Code == s.Code && p.Text == s.Text {
		out.problem = nil // it is said once, above
	}
	if !f.NextTry.IsZero() {
		next := "now"
		if d := f.NextTry.Sub(r.Now); d >= time.Second {
			next = "in " + showDuration(d)
		}
		out.details = append(out.details, fmt.Sprintf("next try %s, %d failed so far", next, f.Attempts))
	}
	return out
}

// The states of rows that are no file's.
const (
	rowStage   = "stage"
	rowPartial = "partial"
	rowOurs    = "no file"
	rowForeign = "foreign"
)

func volumeRow(v *control.Volume) row {
	out := row{
		name: showName(v.Name), state: rowForeign, size: v.Size, digest: v.SHA256, users: showUsers(v.UsedBy),
		problem: v.Problem, urgency: 200,
	}
	switch {
	case v.Stage:
		out.state = rowStage
	case v.Partial:
		out.state = rowPartial
	case v.Ours:
		out.state, out.urgency = rowOurs, 199
	}
	if v.Problem != nil {
		out.urgency = -1
		if v.Problem.NeedsPerson {
			out.urgency = -99
		}
	}
	return out
}
