package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"

	"isosyncd/control"
	isosync "isosyncd/sync"
)

// The cells of the columns that do not depend on what is in them.
const (
	stateCells  = 9
	sizeCells   = 8
	digestCells = 12
	gap         = "  "
	minName     = 16
	minUsers    = 12
	// wideEnough is where a column of its own for volume names does not crowd out the rest.
	wideEnough = 120
)

// layout is the width of each column; -1 = as wide as its content, 0 = not shown.
type layout struct {
	name, volume, users int
}

// columns shares out the width. All rows have the same layout, whatever is in view.
func (r *renderer) columns(rows []row) layout {
	var l layout
	for i := range rows {
		l.name = max(l.name, width(rows[i].name))
		l.volume = max(l.volume, width(rows[i].volume))
		l.users = max(l.users, width(rows[i].users))
	}
	l.name = max(l.name, len("NAME"))
	if l.volume > 0 {
		l.volume = max(l.volume, len("VOLUME"))
	}
	if r.Width <= 0 {
		l.users = -1
		return l
	}
	if r.Width < wideEnough {
		l.volume = 0 // a line of its own says it
	}
	room := r.Width - (stateCells + sizeCells + digestCells + 4*len(gap))
	if l.volume > 0 {
		l.volume = min(l.volume, 40)
		room -= l.volume + len(gap)
	}
	l.users = min(max(l.users, minUsers), max(minUsers, room/2))
	l.name = max(min(l.name, room-l.users), min(minName, room-minUsers))
	l.users = max(0, room-l.name)
	return l
}

// table gives the title and then each row, as blocks of lines.
func (r *renderer) table(rows []row) [][]string {
	l := r.columns(rows)
	title := []string{pad("STATE", stateCells), pad("NAME", l.name)}
	if l.volume > 0 {
		title = append(title, pad("VOLUME", l.volume))
	}
	title = append(title, left("SIZE", sizeCells), pad("SHA256", digestCells), "USED BY")
	blocks := [][]string{{r.paint(bold, r.line(strings.Join(title, gap)))}}
	for i := range rows {
		blocks = append(blocks, r.block(&rows[i], l))
	}
	return blocks
}

func left(s string, n int) string { return strings.Repeat(" ", max(0, n-width(s))) + s }

func (r *renderer) block(w *row, l layout) []string {
	cells := []string{pad(w.state, stateCells), pad(w.name, l.name)}
	if l.volume > 0 {
		cells = append(cells, pad(w.volume, l.volume))
	}
	cells = append(cells, left(showBytes(w.size), sizeCells))
	if w.progress != nil {
		before := width(strings.Join(cells, gap)) + len(gap)
		room := 0
		if r.Width > 0 {
			room = r.Width - before
		}
		cells = append(cells, showProgress(w.state, w.progress, room))
	} else {
		digest := w.digest
		if len(digest) > digestCells {
			digest = digest[:digestCells]
		}
		if digest == "" {
			digest = "-"
		}
		cells = append(cells, pad(digest, digestCells), pad(w.users, l.users))
	}
	line := r.line(strings.TrimRight(strings.Join(cells, gap), " "))
	// The state comes first, and is painted last: only then is the width of the line known to be right.
	state := cut(w.state, stateCells)
	lines := []string{r.paint(stateColour(w), state) + strings.TrimPrefix(line, state)}

	if l.volume == 0 && w.volume != "" {
		lines = append(lines, r.wrapped("  volume: ", w.volume)...)
	}
	lines = append(lines, r.problem("  ", w.problem)...)
	for _, d := range w.details {
		lines = append(lines, r.wrapped("  ", d)...)
	}
	return lines
}

// problem says why, and what to do.
func (r *renderer) problem(indent string, p *control.Problem) []string {
	if p == nil {
		return nil
	}
	c := yellow
	if p.NeedsPerson {
		c = red
	}
	lines := r.paintAll(c, r.wrapped(indent+"why: ", showText(p.Text)))
	return append(lines, r.wrapped(indent+"do:  ", showText(p.Remedy))...)
}

// showProgress draws a bar that fits into room cells, as much as there is to say; room 0 = no limit.
func showProgress(state string, p *control.Progress, room int) string {
	elapsed := showDuration(time.Duration(p.ElapsedSeconds * float64(time.Second)))
	if p.Total <= 0 {
		what := "the server writes to the pool"
		if state != string(isosync.StateStoring) {
			what = "at work"
		}
		return fit(room, what+", "+elapsed, "writing, "+elapsed, elapsed)
	}
	part := float64(p.Done) / float64(p.Total)
	percent := fmt.Sprintf("%3.0f%%", 100*min(1, part))
	var notes []string
	if p.BytesPerSecond > 0 {
		notes = append(notes, showBytes(int64(p.BytesPerSecond))+"/s")
	}
	if p.LeftSeconds > 0 {
		notes = append(notes, showDuration(time.Duration(p.LeftSeconds*float64(time.Second)))+" left")
	}
	of := fmt.Sprintf("%s of %s", showBytes(p.Done), showBytes(p.Total))
	for _, tail := range []string{
		strings.Join(append([]string{percent, of}, notes...), ", "),
		strings.Join(append([]string{percent}, notes...), ", "),
		percent,
	} {
		const least, most = 8, 40
		cells := most
		if room > 0 {
			cells = min(most, room-width(tail)-1)
		}
		if cells >= least {
			return bar(part, cells) + " " + tail
		}
	}
	return fit(room, percent)
}

// fit takes the first that fits.
func fit(room int, choices ...string) string {
	for _, c := range choices {
		if room <= 0 || width(c) <= room {
			return c
		}
	}
	return cut(choices[len(choices)-1], room)
}

// The colours. Each says again what a word beside it says already.
var (
	bold   = text.Bold
	red    = text.FgRed
	yellow = text.FgYellow
	green  = text.FgGreen
	cyan   = text.FgCyan
)

func stateColour(w *row) text.Color {
	switch {
	case w.problem != nil && w.problem.NeedsPerson, w.state == string(isosync.StateFailed):
		return red
	}
	switch isosync.State(w.state) {
	case isosync.StateWaiting, isosync.StateRetrying:
		return yellow
	case isosync.StatePresent:
		return green
	case isosync.StateHashing, isosync.StateUploading, isosync.StateStoring:
		return cyan
	}
	return text.Reset
}

// paint does not ask go-pretty whether colours are on, because that is about its process's standard output.
func (r *renderer) paint(c text.Color, s string) string {
	if !r.Colour || c == text.Reset || s == "" {
		return s
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", int(c), s)
}

func (r *renderer) paintAll(c text.Color, lines []string) []string {
	for i := range lines {
		lines[i] = r.paint(c, lines[i])
	}
	return lines
}
