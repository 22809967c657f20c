package main

import (
	"context"
	gosync "sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	isosync "isosyncd/sync"
)

type lastBeat struct {
	mu gosync.Mutex
	at time.Time
}

func (b *lastBeat) Alive() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at
}

func (b *lastBeat) beat() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = time.Now()
}

// TestWatchdog: it is fed at least every half interval while the heart beats, and not any more when it stops.
func TestWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval = time.Minute
		var fed []time.Duration
		begin := time.Now()
		n := &notifier{send: func(state string) error {
			if state != "WATCHDOG=1" {
				t.Errorf("it says %q", state)
			}
			fed = append(fed, time.Since(begin))
			return nil
		}}
		b := &lastBeat{at: begin}
		ctx, cancel := context.WithCancel(t.Context())
		var wg gosync.WaitGroup
		wg.Go(func() { n.watchdog(ctx, interval, b) })
		for range 60 { // five minutes of turns
			time.Sleep(5 * time.Second)
			b.beat()
		}
		stopped := time.Since(begin)
		time.Sleep(10 * time.Minute)
		cancel()
		wg.Wait()
		last := time.Duration(0)
		for _, at := range fed {
			if at-last > interval/2 && at <= stopped {
				t.Errorf("not fed from %v to %v", last, at)
			}
			last = at
		}
		if last < stopped-interval/2 {
			t.Errorf("last fed at %v, although it beat until %v", last, stopped)
		}
		if last > stopped+interval {
			t.Errorf("fed at %v, although the heart stopped at %v", last, stopped)
		}
	})
}

func TestNoWatchdog(t *testing.T) {
	n := &notifier{send: func(string) error { t.Error("fed"); return nil }}
	n.watchdog(t.Context(), 0, &lastBeat{})
}

func TestStatusLine(t *testing.T) {
	file := func(name string, s isosync.State, p *isosync.Progress) isosync.FileStatus {
		return isosync.FileStatus{Name: name, State: s, Progress: p}
	}
	problem := &isosync.Problem{Text: "the server\x1b does not answer"}
	for _, tt := range []struct {
		name string
		s    isosync.Snapshot
		want string
	}{
		{"nothing", isosync.Snapshot{}, "0 of 0 images present"},
		{
			"everything",
			isosync.Snapshot{Files: []isosync.FileStatus{
				file("a.iso", isosync.StatePresent, nil),
				file("b\x1b.iso", isosync.StateUploading, &isosync.Progress{Done: 1 << 30, Total: 4 << 30}),
				file("c.iso", isosync.StateQueued, nil),
				file("d.iso", isosync.StateWaiting, nil), file("e.iso", isosync.StateRetrying, nil),
				file("f.iso", isosync.StateFailed, nil),
			}},
			`1 of 6 images present, 2 at work, 2 waiting, 1 need somebody; uploading "b\x1b.iso" (25 % of 4.0 GiB)`,
		},
		{"no total", isosync.Snapshot{Files: []isosync.FileStatus{file("a.iso", isosync.StateStoring, &isosync.Progress{})}}, "0 of 1 images present, 1 at work; storing a.iso"},
		{"server away", isosync.Snapshot{Server: isosync.ServerStatus{Problem: problem}}, "0 of 0 images present; the server� does not answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, statusLine(&tt.s)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
