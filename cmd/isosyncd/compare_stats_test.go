package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"testing"
)

// sample is what was measured of one thing, in the order of the rounds.
type sample []float64

// spread is a sample in three numbers.
type spread struct {
	min, median, max float64
}

// spread of an empty sample is all NaN, which no goal is met by.
func (s sample) spread() spread {
	if len(s) == 0 {
		return spread{math.NaN(), math.NaN(), math.NaN()}
	}
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	return spread{sorted[0], (sorted[(n-1)/2] + sorted[n/2]) / 2, sorted[n-1]}
}

// ratio compares two samples of the same rounds: its median is that of the medians, its ends are those of the ratios of
// each round by itself, in which both sides ran one shortly after the other.
func ratio(a, b sample) spread {
	each := make(sample, min(len(a), len(b)))
	for i := range each {
		each[i] = a[i] / b[i]
	}
	r := each.spread()
	r.median = a.spread().median / b.spread().median
	return r
}

// rates is how much of n that makes a second, of a sample in seconds.
func (s sample) rates(n float64) sample {
	out := make(sample, len(s))
	for i, v := range s {
		out[i] = n / v
	}
	return out
}

// unit says how the numbers of a sample are written.
type unit func(float64) string

// seconds are written with three digits that count.
func seconds(v float64) string {
	switch {
	case v < 1e-3:
		return digits(v*1e6) + " µs"
	case v < 1:
		return digits(v*1e3) + " ms"
	}
	return digits(v) + " s"
}

func mebibytes(v float64) string { return digits(v/(1<<20)) + " MiB" }

func times(v float64) string { return digits(v) + "x" }

func count(v float64) string { return fmt.Sprintf("%.0f", v) }

func percent(v float64) string { return digits(v*100) + " %" }

func perSecond(v float64) string { return digits(v) + "/s" }

// digits writes three digits that count, and all of those before the point.
func digits(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || a == 0 || a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// text is the median, and in brackets the ends.
func (s spread) text(u unit) string {
	if s.min == s.max {
		return u(s.median)
	}
	return fmt.Sprintf("%s (%s to %s)", u(s.median), u(s.min), u(s.max))
}

// limit is what a goal asks of a number.
type limit struct {
	bound float64
	least bool // bound is the least that will do; else the most
}

func atMost(v float64) limit { return limit{bound: v} }

func atLeast(v float64) limit { return limit{bound: v, least: true} }

func (l limit) met(v float64) bool {
	if l.least {
		return v >= l.bound
	}
	return v <= l.bound
}

func (l limit) text(u unit) string {
	if l.least {
		return "at least " + u(l.bound)
	}
	return "at most " + u(l.bound)
}

// rotated is the order of n sides in a round: each begins as often as the others, so that none always runs after the
// same one.
func rotated(n, round int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = (i + round) % n
	}
	return order
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		sample sample
		want   spread
	}{
		{sample{3}, spread{3, 3, 3}},
		{sample{3, 1}, spread{1, 2, 3}},
		{sample{9, 1, 2}, spread{1, 2, 9}},
		{sample{4, 1, 100, 2}, spread{1, 3, 100}},
	} {
		before := slices.Clone(c.sample)
		if got := c.sample.spread(); got != c.want {
			t.Errorf("%v: %v, want %v", c.sample, got, c.want)
		}
		if !slices.Equal(before, c.sample) {
			t.Errorf("%v was put into another order: rounds are lost", before)
		}
	}
	if got := (sample{}).spread(); atMost(1).met(got.median) || atLeast(0).met(got.median) {
		t.Error("nothing at all meets a goal")
	}
}

// The ratio of medians need not be the ratio of any round.
func TestRatio(t *testing.T) {
	got := ratio(sample{1, 2, 9}, sample{2, 4, 3})
	if want := (spread{0.5, 2.0 / 3, 3}); got != want {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestLimit(t *testing.T) {
	for _, c := range []struct {
		limit  limit
		number float64
		met    bool
	}{
		{atMost(0.75), 0.75, true},
		{atMost(0.75), 0.751, false},
		{atLeast(3), 3, true},
		{atLeast(3), 2.99, false},
		{atMost(0), 0, true},
		{atMost(1), math.NaN(), false},
		{atLeast(0), math.Inf(1), true},
	} {
		if got := c.limit.met(c.number); got != c.met {
			t.Errorf("%v %s: %v", c.number, c.limit.text(times), got)
		}
	}
}

func TestUnits(t *testing.T) {
	for want, got := range map[string]string{
		"1.50 s": seconds(1.5), "12.3 s": seconds(12.345), "1234 s": seconds(1234.4), "12.0 ms": seconds(0.012), "512 µs": seconds(512e-6),
		"0 µs":  seconds(0),
		"0.75x": times(0.75), "0.00123x": times(0.001234), "64.0 MiB": mebibytes(64 << 20), "0": count(0), "0.05 %": percent(0.0005),
		"3.20/s":                    perSecond(3.2),
		"2.00 s (1.00 s to 3.00 s)": sample{3, 1, 2}.spread().text(seconds),
		"7":                         sample{7, 7}.spread().text(count), "at least 3.00x": atLeast(3).text(times), "at most 300 ms": atMost(0.3).text(seconds),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Over as many rounds as there are sides, each side stands at each place once.
func TestRotated(t *testing.T) {
	const n = 4
	var seen [n][n]int
	for round := range n {
		for place, side := range rotated(n, round) {
			seen[side][place]++
		}
	}
	for side := range n {
		if slices.MaxFunc(seen[side][:], cmp.Compare) != 1 || slices.Min(seen[side][:]) != 1 {
			t.Errorf("side %d stands at its places %v times", side, seen[side])
		}
	}
}
