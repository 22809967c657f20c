package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	gosync "sync"
	"testing"
	"time"

	"isosyncd/control"
	isosync "isosyncd/sync"
)

// cli runs a command in this process, with nothing of the machine's configuration.
func cli(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return cliWith(t, context.Background(), nil, args...)
}

func cliWith(t testing.TB, ctx context.Context, stdin io.Reader, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	a := &app{stdout: &out, stderr: &errs}
	root := newRootCommand(a)
	if stdin == nil {
		stdin = &bytes.Buffer{}
	}
	root.SetIn(stdin)
	empty := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	root.SetArgs(append(args, "--config", empty))
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0, out.String(), errs.String()
	}
	if text := err.Error(); text != "" {
		a.complain(err)
	}
	return exitCode(err), out.String(), errs.String()
}

// toldHeart is a heart that a test speaks for.
type toldHeart struct {
	mu    gosync.Mutex
	snap  *isosync.Snapshot // guarded by mu
	next  chan struct{}     // guarded by mu
	asked []string          // guarded by mu
	err   error             // guarded by mu; of Retry and Adopt
}

var _ control.Heart = (*toldHeart)(nil)

func (h *toldHeart) tell(s isosync.Snapshot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next != nil {
		close(h.next)
	}
	h.next = make(chan struct{})
	h.snap = s.WithNext(h.next)
}

func (h *toldHeart) Snapshot() *isosync.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.snap
}

func (h *toldHeart) note(what string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = append(h.asked, what)
	return h.err
}

func (h *toldHeart) requests() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.asked...)
}

func (h *toldHeart) Alive() time.Time                             { return time.Now() }
func (h *toldHeart) Rescan()                                      { _ = h.note("rescan") }
func (h *toldHeart) Refresh()                                     {}
func (h *toldHeart) Retry(_ context.Context, name string) error   { return h.note("retry " + name) }
func (h *toldHeart) Adopt(_ context.Context, volume string) error { return h.note("adopt " + volume) }

// toldDaemon answers on a control socket as a daemon does; stop returns when it does so no more.
func toldDaemon(t testing.TB, s isosync.Snapshot) (h *toldHeart, socket string, stop func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "is") // short: a socket's path has room for 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	h = &toldHeart{}
	h.tell(s)
	socket = filepath.Join(dir, "c")
	start := func() func() {
		ln, err := control.Listen(context.Background(), socket)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			done <- (&control.Socket{Heart: h, Log: slog.New(slog.DiscardHandler)}).Serve(ctx, ln)
		}()
		return gosync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	stop = start()
	t.Cleanup(func() {
		stop()
		_ = os.RemoveAll(dir)
	})
	return h, socket, stop
}

// told makes a snapshot of what scenes have: the other way round of control.FromSnapshot, as far as it is shown.
func told(st *control.Status) isosync.Snapshot {
	problem := func(p *control.Problem) *isosync.Problem {
		if p == nil {
			return nil
		}
		return &isosync.Problem{Code: isosync.Code(p.Code), Text: p.Text, Remedy: p.Remedy, Waits: p.Waits}
	}
	s := isosync.Snapshot{At: time.Now(), Folder: st.Folder, Problem: problem(st.Problem)}
	sv := &st.Server
	s.Server = isosync.ServerStatus{
		Online: sv.Online, Problem: problem(sv.Problem), Since: time.Now(), Listed: time.Now(), Pool: sv.Pool, Driver: sv.Driver,
		Project: sv.Project, Events: sv.Events,
	}
	s.Server.Server.Vendor, s.Server.Server.Version, s.Server.Server.Addr = sv.Vendor, sv.Version, sv.Address
	if sv.Space != nil {
		s.Server.Space.Used, s.Server.Space.Total = sv.Space.Used, sv.Space.Total
	}
	for i := range st.Files {
		f := &st.Files[i]
		fs := isosync.FileStatus{
			Name: f.RealName(), Volume: f.Volume, State: isosync.State(f.State), Problem: problem(f.Problem), Digest: f.SHA256,
			ID: isosync.Identity{Size: f.Size}, Attempts: f.Attempts,
		}
		if p := f.Progress; p != nil {
			fs.Progress = &isosync.Progress{Done: p.Done, Total: p.Total, Started: time.Now().Add(-time.Duration(p.ElapsedSeconds * float64(time.Second)))}
		}
		s.Files = append(s.Files, fs)
	}
	for i := range st.Volumes {
		v := &st.Volumes[i]
		vs := isosync.VolumeStatus{Ours: v.Ours, Stage: v.Stage, Digest: v.SHA256, File: v.File}
		vs.Name, vs.Size, vs.UsedBy, vs.ContentType = v.Name, v.Size, v.UsedBy, "iso"
		s.Volumes = append(s.Volumes, vs)
	}
	return s
}
