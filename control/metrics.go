package control

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	isosync "isosyncd/sync"
)

// states are all values of the label "state".
var states = []isosync.State{
	isosync.StateSettling, isosync.StateQueued, isosync.StateHashing, isosync.StateUploading, isosync.StateStoring,
	isosync.StatePresent, isosync.StateWaiting, isosync.StateRetrying, isosync.StateFailed,
}

// codes are all values of the label "code", but for "other".
var codes = []isosync.Code{
	isosync.CodeWriting, isosync.CodeIncomplete, isosync.CodeNotISO, isosync.CodeChecksum, isosync.CodeNoChecksum,
	isosync.CodeName, isosync.CodeClash, isosync.CodeNotRegular, isosync.CodeUnreadable, isosync.CodeForeign,
	isosync.CodeInUse, isosync.CodeRemoved, isosync.CodeReplaceOff, isosync.CodeNoSpace, isosync.CodeLimit,
	isosync.CodeDenied, isosync.CodeAway, isosync.CodeServer, isosync.CodeRefused, isosync.CodeFolder, isosync.CodePrune,
	isosync.CodeChanged,
}

// otherCode is the label of a code that is not in codes.
const otherCode = "other"

// Metrics makes Prometheus metrics of snapshots. No label has a value that comes from a file, a volume, or the server:
// the number of series is fixed.
type Metrics struct {
	heart    Heart
	registry *prometheus.Registry
	synced   atomic.Int64 // UnixNano of the last snapshot in which nothing was left to do; 0 = none yet

	files, problems, attempts, needsPerson                *prometheus.Desc
	imports, copies, replaced, deleted, failures, bytes   *prometheus.Desc
	seconds, scans, lists, online, events, reconnects     *prometheus.Desc
	used, total, volumes, listedAt, syncedAt, snapshotted *prometheus.Desc
}

var _ prometheus.Collector = (*Metrics)(nil)

// NewMetrics makes the metrics of a heart, and those of the process and the Go runtime.
func NewMetrics(h Heart) *Metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("isosyncd_"+name, help, labels, nil)
	}
	m := &Metrics{
		heart: h, registry: prometheus.NewRegistry(),
		files:       desc("files", "Images in the folder, by state.", "state"),
		problems:    desc("problems", "Problems of files, volumes, the folder and the server, by code.", "code"),
		attempts:    desc("failed_attempts", "Attempts that failed in a row and will be retried, over all files."),
		needsPerson: desc("needs_person", "Problems that nobody but a person ends."),
		imports:     desc("imports_total", "Volumes made by sending an image."),
		copies:      desc("copies_total", "Volumes made by a copy on the server."),
		replaced:    desc("replaced_total", "Volumes that got new bytes."),
		deleted:     desc("deleted_total", "Volumes deleted by a policy or on request."),
		failures:    desc("retries_total", "Attempts that failed. Each is retried, unless only a person can end its cause."),
		bytes:       desc("bytes_total", "Bytes worked through, by phase.", "phase"),
		seconds:     desc("phase_seconds_total", "Seconds spent, by phase.", "phase"),
		scans:       desc("folder_scans_total", "Full scans of the folder."),
		lists:       desc("pool_lists_total", "Full lists of the pool."),
		online:      desc("server_online", "1 while the server answers."),
		events:      desc("events_connected", "1 while the event stream is up."),
		reconnects:  desc("event_reconnects_total", "Event streams opened after the first one."),
		used:        desc("pool_used_bytes", "Used space of the pool. Absent where the driver does not tell."),
		total:       desc("pool_total_bytes", "Size of the pool. Absent where the driver does not tell."),
		volumes:     desc("volumes", "ISO volumes of the pool, by owner: ours or foreign.", "owner"),
		listedAt:    desc("last_list_timestamp_seconds", "When the pool was last listed. Absent = never."),
		syncedAt: desc("last_successful_sync_timestamp_seconds",
			"When folder and pool were last seen to agree, with nothing left to do. Absent = not yet."),
		snapshotted: desc("snapshot_timestamp_seconds", "When the state that these metrics show was made."),
	}
	m.registry.MustRegister(m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 8, Timeout: 30 * time.Second})
}

// Follow looks at each snapshot until ctx ends, so that the last successful sync is known whoever scrapes, and when.
func (m *Metrics) Follow(ctx context.Context) {
	for {
		s := m.heart.Snapshot()
		m.look(s)
		select {
		case <-s.Next():
		case <-ctx.Done():
			return
		}
	}
}

func (m *Metrics) look(s *isosync.Snapshot) {
	if !s.Server.Online || s.Server.Listed.IsZero() || s.Problem != nil {
		return
	}
	for i := range s.Files {
		if s.Files[i].State != isosync.StatePresent {
			return
		}
	}
	m.synced.Store(s.At.UnixNano())
}

// Describe sends what Collect may send.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		m.files, m.problems, m.attempts, m.needsPerson, m.imports, m.copies, m.replaced, m.deleted, m.failures, m.bytes,
		m.seconds, m.scans, m.lists, m.online, m.events, m.reconnects, m.used, m.total, m.volumes, m.listedAt, m.syncedAt,
		m.snapshotted,
	} {
		ch <- d
	}
}

// Collect makes the metrics of the newest snapshot.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	s := m.heart.Snapshot()
	m.look(s)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	m.collectFiles(s, gauge)

	t := &s.Totals
	count(m.imports, float64(t.Imports))
	count(m.copies, float64(t.Copies))
	count(m.replaced, float64(t.Replaced))
	count(m.deleted, float64(t.Deleted))
	count(m.failures, float64(t.Failures))
	count(m.bytes, float64(t.BytesHashed), "hash")
	count(m.bytes, float64(t.BytesSent), "upload")
	count(m.seconds, t.HashSeconds, "hash")
	count(m.seconds, t.UploadSeconds, "upload")
	count(m.seconds, t.StoreSeconds, "store")
	count(m.scans, float64(t.Scans))
	count(m.lists, float64(t.Lists))

	sv := &s.Server
	gauge(m.online, truth(sv.Online))
	gauge(m.events, truth(sv.Events))
	count(m.reconnects, float64(max(0, sv.Reconnect-1)))
	if sv.Space.Total > 0 {
		gauge(m.used, float64(sv.Space.Used))
		gauge(m.total, float64(sv.Space.Total))
	}
	if !sv.Listed.IsZero() {
		gauge(m.listedAt, seconds(sv.Listed))
	}
	if at := m.synced.Load(); at != 0 {
		gauge(m.syncedAt, seconds(time.Unix(0, at)))
	}
	gauge(m.snapshotted, seconds(s.At))
}

func (m *Metrics) collectFiles(s *isosync.Snapshot, gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	byState := map[isosync.State]int{}
	byCode := map[isosync.Code]int{}
	note := func(p *isosync.Problem) {
		if p != nil {
			byCode[p.Code]++
		}
	}
	note(s.Problem)
	note(s.Server.Problem)
	attempts := 0
	for i := range s.Files {
		f := &s.Files[i]
		byState[f.State]++
		attempts += f.Attempts
		note(f.Problem)
	}
	ours := 0
	for i := range s.Volumes {
		if s.Volumes[i].Ours {
			ours++
		}
		note(s.Volumes[i].Problem)
	}
	for _, st := range states {
		gauge(m.files, float64(byState[st]), string(st))
	}
	other := 0
	for _, n := range byCode {
		other += n
	}
	for _, c := range codes {
		gauge(m.problems, float64(byCode[c]), string(c))
		other -= byCode[c]
	}
	gauge(m.problems, float64(other), otherCode)
	gauge(m.attempts, float64(attempts))
	gauge(m.needsPerson, float64(FromSnapshot(s).NeedsPerson))
	gauge(m.volumes, float64(ours), "ours")
	gauge(m.volumes, float64(len(s.Volumes)-ours), "foreign")
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

// ServeMetrics answers /metrics and /healthz on ln, which may be a TCP socket: nothing there names a file or can change
// anything. It returns when ctx ends, nil then, and closes ln.
func ServeMetrics(ctx context.Context, ln net.Listener, m *Metrics, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	mux.HandleFunc("GET /healthz", health(m.heart))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "isosyncd: /metrics, /healthz\n") // whoever asked sees whether it came
	})
	return serve(ctx, ln, &http.Server{Handler: mux, WriteTimeout: time.Minute}, log)
}
