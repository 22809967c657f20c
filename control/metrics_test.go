package control

import (
	"bytes"
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"isosyncd/lxd"
	isosync "isosyncd/sync"
)

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// series parses a scrape; each is "name{label=value,...}" -> value.
func series(t *testing.T, text []byte) map[string]float64 {
	t.Helper()
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("the scrape is not valid: %v", err)
	}
	out := map[string]float64{}
	for name, f := range families {
		if !strings.HasPrefix(name, "isosyncd_") {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			out[name+"{"+strings.Join(labels, ",")+"}"] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}

func scrape(t *testing.T, h Heart) map[string]float64 {
	t.Helper()
	c := serveHeart(t, h, nil).dial(t)
	b, err := c.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return series(t, b)
}

func TestMetricsValues(t *testing.T) {
	got := scrape(t, newFakeHeart(sample()))
	for name, want := range map[string]float64{
		"isosyncd_files{state=present}":              1,
		"isosyncd_files{state=uploading}":            1,
		"isosyncd_files{state=waiting}":              1,
		"isosyncd_files{state=failed}":               0,
		"isosyncd_problems{code=in-use}":             1,
		"isosyncd_problems{code=other}":              0,
		"isosyncd_needs_person{}":                    1,
		"isosyncd_failed_attempts{}":                 2,
		"isosyncd_imports_total{}":                   7,
		"isosyncd_retries_total{}":                   4,
		"isosyncd_bytes_total{phase=upload}":         1 << 34,
		"isosyncd_bytes_total{phase=hash}":           1 << 35,
		"isosyncd_phase_seconds_total{phase=hash}":   12.5,
		"isosyncd_phase_seconds_total{phase=upload}": 30.25,
		"isosyncd_phase_seconds_total{phase=store}":  60,
		"isosyncd_event_reconnects_total{}":          2,
		"isosyncd_server_online{}":                   1,
		"isosyncd_pool_used_bytes{}":                 12 << 30,
		"isosyncd_pool_total_bytes{}":                50 << 30,
		"isosyncd_volumes{owner=ours}":               2,
		"isosyncd_volumes{owner=foreign}":            1,
		"isosyncd_last_list_timestamp_seconds{}":     float64(epoch.Unix() - 3),
		"isosyncd_snapshot_timestamp_seconds{}":      float64(epoch.Unix()),
		"isosyncd_folder_scans_total{}":              100,
		"isosyncd_pool_lists_total{}":                50,
		"isosyncd_events_connected{}":                1,
	} {
		if v, there := got[name]; !there || v != want {
			t.Errorf("%s is %v (%t), want %v", name, v, there, want)
		}
	}
}

// What comes from a folder or a server never makes a series.
func TestMetricsAreBounded(t *testing.T) {
	few := scrape(t, newFakeHeart(sample()))
	many := sample()
	for i := range 1000 {
		hostile := fmt.Sprintf("\x1b[31m\"}{\n%d", i)
		many.Files = append(many.Files, isosync.FileStatus{
			Name: hostile, Volume: hostile, State: isosync.State(hostile), Problem: &isosync.Problem{Code: isosync.Code(hostile), Text: hostile},
		})
		many.Volumes = append(many.Volumes, isosync.VolumeStatus{Volume: lxd.Volume{Name: hostile}})
	}
	many.Server.Pool, many.Server.Project, many.Server.Server.Name = "\"\n", "\"\n", "\"\n"
	lots := scrape(t, newFakeHeart(many))
	if a, b := slices.Sorted(keys(few)), slices.Sorted(keys(lots)); !slices.Equal(a, b) {
		t.Errorf("series differ:\n%s\n%s", a, b)
	}
	if lots["isosyncd_problems{code=other}"] != 1000 {
		t.Errorf("unknown codes count as %v", lots["isosyncd_problems{code=other}"])
	}
	if len(few) > 80 {
		t.Errorf("%d series", len(few))
	}
}

func keys(m map[string]float64) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// The names follow Prometheus' rules.
func TestMetricsLint(t *testing.T) {
	text, err := serveHeart(t, newFakeHeart(sample()), nil).dial(t).Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "isosyncd_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// Every state and code that package sync knows is a label value.
func TestMetricsKnowAll(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "../sync/api.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		typ, isIdent := v.Type.(*ast.Ident)
		lit, isLit := v.Values[0].(*ast.BasicLit)
		if isIdent && isLit {
			s, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			found[typ.Name] = append(found[typ.Name], s)
		}
		return true
	})
	if len(found["State"]) < 9 || len(found["Code"]) < 20 {
		t.Fatalf("found only %v", found)
	}
	for _, s := range found["State"] {
		if !slices.Contains(states, isosync.State(s)) {
			t.Errorf("state %q has no series", s)
		}
	}
	for _, c := range found["Code"] {
		if !slices.Contains(codes, isosync.Code(c)) {
			t.Errorf("code %q has no series", c)
		}
	}
}

func TestLastSuccessfulSync(t *testing.T) {
	const name = "isosyncd_last_successful_sync_timestamp_seconds{}"
	h := newFakeHeart(sample())
	c := serveHeart(t, h, nil).dial(t)
	read := func() (float64, bool) {
		b, err := c.Metrics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		v, ok := series(t, b)[name]
		return v, ok
	}
	if v, there := read(); there {
		t.Errorf("with work left to do there is %v", v)
	}
	good := sample()
	good.Files = good.Files[:1]
	h.publish(good)
	// Nobody scrapes while all is well: it is known nevertheless.
	later := sample()
	later.At = epoch.Add(time.Hour)
	eventually(t, "the good moment is noticed", func() bool {
		v, _ := read()
		return v == float64(epoch.Unix())
	})
	h.publish(later)
	if v, _ := read(); v != float64(epoch.Unix()) {
		t.Errorf("later it is %v", v)
	}
}

func TestServeMetricsOnTCP(t *testing.T) {
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- ServeMetrics(ctx, ln, NewMetrics(newFakeHeart(sample())), slog.New(slog.DiscardHandler))
	}()
	url := "http://" + ln.Addr().String()
	status, body := get(t, url+"/metrics")
	if got := series(t, []byte(body)); status != 200 || got["isosyncd_imports_total{}"] != 7 {
		t.Errorf("%d %v", status, got)
	}
	if status, body := get(t, url+"/healthz"); status != 200 || body != "ok\n" {
		t.Errorf("%d %s", status, body)
	}
	// Nothing there names a file or changes anything.
	for _, path := range []string{"/1/status", "/1/changes", "/debug/pprof/"} {
		if status, body := get(t, url+path); status != 404 {
			t.Errorf("%s: %d %.100s", path, status, body)
		}
	}
	for _, secret := range []string{"debian", "iso-drop", "theirs"} {
		if strings.Contains(body, secret) {
			t.Errorf("the metrics name %q", secret)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
