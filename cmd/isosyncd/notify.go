package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/dustin/go-humanize"

	isosync "isosyncd/sync"
)

const (
	statusEvery = time.Second // at most so often is STATUS= sent
	// aliveFor is how old the deciding goroutine's last turn may be: it takes one every 5 s, and some take a while.
	aliveFor = 15 * time.Second
)

// notifier tells systemd how we are. Without systemd nothing happens.
type notifier struct {
	send func(state string) error
	log  *slog.Logger
}

// newNotifier sends to $NOTIFY_SOCKET, if there is one.
func newNotifier(log *slog.Logger) *notifier {
	return &notifier{log: log, send: func(state string) error {
		_, err := daemon.SdNotify(false, state)
		return err
	}}
}

// tell sends. A daemon does not stop because systemd could not be told; if it matters, systemd will act by itself.
func (n *notifier) tell(state string) {
	if err := n.send(state); err != nil {
		n.log.Warn("systemd could not be told", "err", err)
	}
}

// beater is what a watchdog looks at.
type beater interface{ Alive() time.Time }

// watchdog feeds systemd's watchdog while the deciding goroutine takes its turns. Every interval/2 is what systemd asks
// for (sd_watchdog_enabled(3)); 0 = there is no watchdog.
func (n *notifier) watchdog(ctx context.Context, interval time.Duration, b beater) {
	if interval <= 0 {
		return
	}
	tick := time.NewTicker(interval / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			// Old turns are not fed on: if no newer one comes, systemd ends us with a dump of all stacks.
			if time.Since(b.Alive()) <= max(aliveFor, interval/2) {
				n.tell(daemon.SdNotifyWatchdog)
			}
		}
	}
}

// status keeps STATUS= up to date with the snapshots.
func (n *notifier) status(ctx context.Context, latest func() *isosync.Snapshot) {
	last := ""
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		s := latest()
		if text := statusLine(s); text != last {
			last = text
			n.tell("STATUS=" + text)
		}
		pause.Reset(statusEvery)
		select {
		case <-ctx.Done():
			return
		case <-s.Next():
		}
	}
}

// statusLine is the state in one line: counts, and the file that is at work.
func statusLine(s *isosync.Snapshot) string {
	var present, working, waiting, failed int
	current := ""
	for i := range s.Files {
		f := &s.Files[i]
		switch f.State {
		case isosync.StatePresent:
			present++
		case isosync.StateWaiting, isosync.StateRetrying, isosync.StateSettling:
			waiting++
		case isosync.StateFailed:
			failed++
		default:
			working++
			if current == "" && f.Progress != nil {
				current = progressLine(f)
			}
		}
	}
	parts := []string{fmt.Sprintf("%d of %d images present", present, len(s.Files))}
	for _, p := range []struct {
		n    int
		text string
	}{{working, "at work"}, {waiting, "waiting"}, {failed, "need somebody"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.text))
		}
	}
	text := strings.Join(parts, ", ")
	if current != "" {
		text += "; " + current
	}
	switch {
	case s.Problem != nil:
		text += "; " + s.Problem.Text
	case s.Server.Problem != nil:
		text += "; " + s.Server.Problem.Text
	}
	return showText(text)
}

func progressLine(f *isosync.FileStatus) string {
	text := string(f.State) + " " + showName(f.Name)
	if p := f.Progress; p.Total > 0 {
		text += fmt.Sprintf(" (%d %% of %s)", 100*p.Done/p.Total, humanize.IBytes(uint64(p.Total)))
	}
	return text
}
