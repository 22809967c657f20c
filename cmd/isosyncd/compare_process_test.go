//go:build bench

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"isosyncd/control"
)

// peak is the most memory that the daemon ever had, in bytes.
func (w *watched) peak(t testing.TB) float64 {
	t.Helper()
	return kibibytes(t, w.proc("status"), "VmHWM")
}

func (w *watched) proc(file string) string {
	return "/proc/" + strconv.Itoa(w.cmd.Process.Pid) + "/" + file
}

// ticks is the processor time that the daemon has used, in clock ticks (USER_HZ, 100 a second on all platforms of Go).
func (w *watched) ticks(t testing.TB) int {
	t.Helper()
	text, err := os.ReadFile(w.proc("stat"))
	if err != nil {
		t.Fatal(err)
	}
	// proc_pid_stat(5): the name is in brackets and may have any bytes; utime and stime are fields 14 and 15.
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	utime, uerr := strconv.Atoi(fields[14-3])
	stime, serr := strconv.Atoi(fields[15-3])
	if uerr != nil || serr != nil {
		t.Fatalf("%s: %q", w.proc("stat"), text)
	}
	return utime + stime
}

// insides are what a leak adds to.
type insides struct{ goroutines, descriptors int }

// inside counts goroutines and descriptors; those of the question itself are the same each time.
func (c *topic) inside(w *watched) insides {
	c.t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", w.control)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://isosyncd/debug/pprof/goroutine?debug=1", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	var in insides
	if err == nil {
		_, err = fmt.Sscanf(string(text), "goroutine profile: total %d", &in.goroutines)
	}
	if err != nil {
		c.t.Fatalf("profile of goroutines: %v\n%s", err, text[:min(len(text), 200)])
	}
	open, err := os.ReadDir(w.proc("fd"))
	if err != nil {
		c.t.Fatal(err)
	}
	in.descriptors = len(open)
	return in
}

// idleness is what a daemon did that had nothing to do.
type idleness struct {
	cpu           float64 // of one core
	ticks         int
	long          time.Duration
	before, after insides
	grown         float64 // goroutines and descriptors that it has more than before
	peak          float64 // bytes
}

// idle watches the daemon do nothing for a minute. before is what it had when it was fresh.
func (c *topic) idle(w *watched, before insides) idleness {
	c.t.Helper()
	in := idleness{long: time.Minute, before: before}
	if c.quick {
		in.long = time.Second
	}
	was := w.ticks(c.t)
	time.Sleep(in.long)
	in.ticks = w.ticks(c.t) - was
	in.cpu = float64(in.ticks) / 100 / in.long.Seconds()
	in.after, in.peak = c.inside(w), w.peak(c.t)
	in.grown = float64(max(0, in.after.goroutines-before.goroutines) + max(0, in.after.descriptors-before.descriptors))
	return in
}

// idleFigures shows what a daemon did that had nothing to do.
func (c *topic) idleFigures(in idleness) {
	c.figure(fmt.Sprintf("processor time in %v of idleness", in.long), percent(in.cpu), fmt.Sprintf("%d ticks of 10 ms", in.ticks))
	c.figure("goroutines, before and after", fmt.Sprintf("%d, %d", in.before.goroutines, in.after.goroutines), "")
	c.figure("descriptors, before and after", fmt.Sprintf("%d, %d", in.before.descriptors, in.after.descriptors), "")
}

// metric is a number of isosyncd's own, by its name without isosyncd_ and with its labels. The metrics of a large folder
// are as small as those of an empty one, so that asking for them does not disturb what is measured. A daemon that does
// not answer yet has none.
func (c *topic) metric(w *watched, name string) float64 {
	c.t.Helper()
	client := control.Dial(w.control)
	defer client.Close()
	ctx, cancel := c.context()
	defer cancel()
	text, err := client.Metrics(ctx)
	if errors.Is(err, control.ErrNotRunning) {
		return 0
	}
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "isosyncd_"+name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				c.t.Fatalf("metric %q: %v", line, err)
			}
			return n
		}
	}
	c.t.Fatalf("there is no metric %s", name)
	return 0
}
