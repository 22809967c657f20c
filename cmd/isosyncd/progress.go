package main

import (
	"fmt"
	"io"
	"os"
	gosync "sync"
	"sync/atomic"
	"time"

	"golang.org/x/term"

	"isosyncd/control"
	isosync "isosyncd/sync"
)

// phases shows long work step by step: on a terminal one line that is drawn anew, elsewhere a line at the begin of each
// step, so that a log of it can be read.
type phases struct {
	out      io.Writer
	terminal bool
	quiet    bool

	step *step // the one at work; nil = none
}

// step is one phase.
type step struct {
	name    string
	state   isosync.State
	total   int64 // bytes; 0 = nobody can tell
	started time.Time
	done    atomic.Int64
	stop    chan struct{}
	wg      gosync.WaitGroup
}

func newPhases(out io.Writer, quiet bool) *phases {
	return &phases{out: out, terminal: isTerminal(out), quiet: quiet}
}

// begin ends the step before, and starts another. The function it returns takes the bytes done so far, from any
// goroutine.
func (p *phases) begin(name string, state isosync.State, total int64) (progress func(done int64)) {
	p.end()
	s := &step{name: name, state: state, total: total, started: time.Now(), stop: make(chan struct{})}
	p.step = s
	switch {
	case p.quiet:
	case p.terminal:
		s.wg.Go(func() { p.redraw(s) })
	default:
		text := name
		if total > 0 {
			text += " " + showBytes(total)
		}
		p.say(text + "\n")
	}
	return s.done.Store
}

// end finishes the step at work, if there is one.
func (p *phases) end() {
	s := p.step
	if s == nil {
		return
	}
	p.step = nil
	close(s.stop)
	s.wg.Wait()
	if p.terminal && !p.quiet {
		p.say("\r" + clearLine)
	}
}

// say writes to standard error; that nobody reads it is no reason to stop.
func (p *phases) say(text string) { _, _ = io.WriteString(p.out, text) }

func (p *phases) redraw(s *step) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		cells := 80
		if f, ok := p.out.(*os.File); ok {
			if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
				cells = w
			}
		}
		p.say("\r" + s.line(time.Now(), cells-1) + clearLine)
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
	}
}

// line is the step as one line of at most that many cells.
func (s *step) line(now time.Time, cells int) string {
	pr := control.Progress{Done: s.done.Load(), Total: s.total, ElapsedSeconds: max(0, now.Sub(s.started).Seconds())}
	if pr.ElapsedSeconds >= 1 && pr.Done > 0 {
		pr.BytesPerSecond = float64(pr.Done) / pr.ElapsedSeconds
		if pr.Total > pr.Done {
			pr.LeftSeconds = float64(pr.Total-pr.Done) / pr.BytesPerSecond
		}
	}
	name := s.name
	if s.total > 0 {
		name += " "
		return cut(name+showProgress(string(s.state), &pr, max(1, cells-width(name))), cells)
	}
	return cut(fmt.Sprintf("%s, %s", name, showDuration(now.Sub(s.started))), cells)
}
