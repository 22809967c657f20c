package sync

import (
	"context"
	"slices"
	"strings"
	gosync "sync"
	"testing"

	"isosyncd/lxd/lxdtest"
)

// stopFlow is what the daemon is at when it is told to stop.
type stopFlow struct {
	name   string
	kinds  []ActionKind
	policy Policy
	first  bool // a.iso is imported before
	drop   func(b *bench, old, data []byte)
	want   func(b *bench, old, data []byte)
	sends  int64 // uploads that it takes if nothing is broken off
}

func stopFlows() []stopFlow {
	drop := func(b *bench, _, data []byte) { b.drop("a.iso", data) }
	have := func(b *bench, _, data []byte) {
		b.untilHas("a.iso", data)
		b.right("a", data)
	}
	return []stopFlow{
		{name: "import", kinds: []ActionKind{ActImport}, policy: Policy{Replace: ReplaceStaged}, drop: drop, want: have, sends: 1},
		{
			name: "replace staged", kinds: []ActionKind{ActHash, ActStage, ActSwap, ActUnstage},
			policy: Policy{Replace: ReplaceStaged}, first: true, drop: drop, want: have, sends: 1,
		},
		{
			name: "replace in place", kinds: []ActionKind{ActSpool, ActInPlace}, policy: Policy{Replace: ReplaceInPlace},
			first: true, drop: drop, want: have, sends: 1,
		},
		{
			name: "copy", kinds: []ActionKind{ActCopy}, policy: Policy{Replace: ReplaceStaged}, first: true,
			drop: func(b *bench, old, _ []byte) { b.drop("b.iso", old) },
			want: func(b *bench, old, _ []byte) {
				b.untilHas("b.iso", old)
				b.right("b", old)
				b.right("a", old)
			},
		},
		{
			name: "consume", kinds: []ActionKind{ActConsume}, policy: Policy{Replace: ReplaceStaged, Consume: true}, drop: drop,
			want: func(b *bench, _, data []byte) {
				b.until("the file is gone", func(s *Snapshot) bool { return len(s.Files) == 0 && len(s.Volumes) == 1 })
				b.right("a", data)
			}, sends: 1,
		},
	}
}

// TestStopAtEachStep (I12): the daemon is told to stop at each step of each flow. It ends, and the next life finishes,
// with at most one more upload. What SIGKILL does there is the crash matrix of cmd/isosyncd.
func TestStopAtEachStep(t *testing.T) {
	inMemory(t)
	type row struct {
		stopFlow
		step string
	}
	var rows []row
	for _, flow := range stopFlows() {
		for _, step := range Steps() {
			kind, _, _ := strings.Cut(step, ".")
			if slices.Contains(flow.kinds, ActionKind(kind)) {
				rows = append(rows, row{flow, step})
			}
		}
	}
	together(t, 8, rows, func(r row) string { return r.name + " " + r.step }, func(t *testing.T, row row) {
		s := lxdtest.Store(t)
		b := newBench(t, s, 0, func(c *Config) { c.Policy = row.policy })
		seed := seedOf(t)
		old, data := image(600, seed), image(600, seed+1)
		if row.first {
			b.start()
			b.drop("a.iso", old)
			b.untilHas("a.iso", old)
			b.stop()
		}
		stopAudit := audit(t, s, b.pool)
		defer stopAudit()
		sent := b.uploads.Load()
		row.drop(b, old, data)
		stopAtStep(b, row.step)
		b.start()
		row.want(b, old, data)
		if n := b.uploads.Load() - sent; n < row.sends || n > row.sends+1 {
			t.Errorf("%d uploads, want %d or one more", n, row.sends)
		}
	})
}

// stopAtStep runs the Syncer until it comes to a step, and then cancels it.
func stopAtStep(b *bench, step string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), lxdtest.Limit)
	defer cancel()
	reached := false
	var once gosync.Once
	cfg := b.cfg
	cfg.Step = func(name string) {
		if name == step {
			once.Do(func() { reached = true; cancel() })
		}
	}
	s, err := New(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := s.Run(ctx); err != nil {
		b.t.Errorf("Run: %v", err)
	}
	if err := s.Close(); err != nil {
		b.t.Errorf("Close: %v", err)
	}
	if !reached {
		b.t.Fatalf("step %s was never reached", step)
	}
}
