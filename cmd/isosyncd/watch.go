package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"isosyncd/config"
	"isosyncd/control"
)

const (
	// The alternate screen keeps what was there before; the cursor would only flicker.
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	clearLine   = "\x1b[K"
	clearBelow  = "\x1b[J"

	redrawEvery = time.Second // ages and elapsed times move on without a change
	retryEvery  = time.Second // while no daemon answers
)

// watchStatus shows each change until somebody interrupts it. On a terminal it redraws in place, and waits for a daemon
// that is away; elsewhere it writes one text, or one line of JSON, for each change, and ends with the daemon.
func (a *app) watchStatus(ctx context.Context, l *config.Loaded, asJSON bool) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	if asJSON || !isTerminal(a.stdout) {
		return a.streamStatus(ctx, l, asJSON)
	}
	w := watcher{app: a, load: l, news: make(chan *control.Status), gone: make(chan error)}
	last, err := w.run(ctx)
	if last != "" {
		err = errors.Join(err, a.print(last)) // what was seen last stays readable
	}
	return err
}

// streamStatus is for pipes and files.
func (a *app) streamStatus(ctx context.Context, l *config.Loaded, asJSON bool) error {
	c, _, err := needDaemon(ctx, l)
	if err != nil {
		return err
	}
	defer c.Close()
	last := ""
	err = c.Watch(ctx, func(st *control.Status) error {
		if asJSON {
			line, err := json.Marshal(st)
			if err != nil {
				return err
			}
			return a.print(string(line) + "\n")
		}
		v := a.view()
		v.Now = st.At
		text := renderStatus(st, v)
		if quietly(text) == last {
			return nil // only clocks and bars moved
		}
		sep := ""
		if last != "" {
			sep = "\n"
		}
		last = quietly(text)
		return a.print(sep + text)
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// quietly leaves out of a text what changes all the time: the line of the server, which says when it was looked at,
// and whatever moves.
func quietly(text string) string {
	var keep []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "server  ") && !strings.Contains(line, "%") && !strings.Contains(line, "writes to the pool, ") &&
			!strings.HasPrefix(line, "  next try ") {
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, "")
}

// watcher redraws a terminal.
type watcher struct {
	app  *app
	load *config.Loaded
	news chan *control.Status
	gone chan error // why no daemon tells anything now
}

// run returns the last picture.
func (w *watcher) run(ctx context.Context) (last string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	defer func() { cancel(); <-ended }()
	go func() { defer close(ended); w.follow(ctx) }()

	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	tick := time.NewTicker(redrawEvery)
	defer tick.Stop()

	if err := w.app.print(enterScreen); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.app.print(leaveScreen)) }()
	st := &control.Status{}
	why := "waiting for it"
	for {
		last = w.picture(st, why)
		if err := w.app.print(frame(last)); err != nil {
			return "", err
		}
		select {
		case <-ctx.Done():
			return last, nil
		case st = <-w.news:
			why = ""
		case err := <-w.gone:
			if !errors.Is(err, control.ErrNotRunning) {
				return "", err
			}
			gone := *st
			gone.Running = false
			st, why = &gone, "this is what it told last"
		case <-resized:
		case <-tick.C:
		}
	}
}

func (w *watcher) picture(st *control.Status, why string) string {
	v := w.app.view()
	v.Sockets, v.Away = w.load.ControlSockets(), why
	return renderStatus(st, v)
}

// frame draws over the one before, without a flash in between.
func frame(text string) string {
	return home + strings.ReplaceAll(text, "\n", clearLine+"\r\n") + clearBelow
}

// follow asks until ctx ends, whether or not a daemon is there at the moment.
func (w *watcher) follow(ctx context.Context) {
	tell := func(err error) {
		select {
		case w.gone <- err:
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		c, _, err := reach(ctx, w.load)
		if err == nil {
			err = c.Watch(ctx, func(st *control.Status) error {
				select {
				case w.news <- st:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			c.Close()
		}
		if ctx.Err() != nil {
			return
		}
		tell(err)
		select {
		case <-ctx.Done():
		case <-time.After(retryEvery):
		}
	}
}
