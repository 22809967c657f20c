package lxdtest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"isosyncd/lxd"
	"isosyncd/lxd/lxdtest"
	"isosyncd/store"
)

func testProjects(t *testing.T, s *lxdtest.Server, _ traits) {
	other := s.In(t, "other-"+s.Project(), nil)
	a, b := s.Pool(t), other.Pool(t)
	if a.Project() != s.Project() || b.Project() != other.Project() {
		t.Errorf("projects %q and %q", a.Project(), b.Project())
	}
	f := put(t, a, "v", 1000)
	absent(t, b, "v")
	put(t, b, "v", 2000)
	if got := get(t, a, "v"); got.Size != 1000 {
		t.Errorf("a volume of another project changed ours: %+v", got)
	}
	if err := b.Delete(lxdtest.Context(t), "v"); err != nil {
		t.Fatal(err)
	}
	sameBytes(t, s, "v", f, 1000)
	if status, text := raw(t, s, http.MethodDelete, "/1.0/projects/"+s.Project(), nil); status < 400 {
		t.Errorf("a project with volumes was deleted: %d %s", status, text)
	}
	if status, text := raw(t, s, http.MethodDelete, "/1.0/projects/"+other.Project(), nil); status >= 300 {
		t.Errorf("an empty project was not deleted: %d %s", status, text)
	}
}

func testSharedProject(t *testing.T, s *lxdtest.Server, _ traits) {
	shared := s.In(t, "shared-"+s.Project(), map[string]string{"features.storage.volumes": "false"})
	p := shared.Pool(t)
	if p.Project() != "default" {
		t.Errorf("its volumes are in %q", p.Project())
	}
	put(t, p, "of-default", 1000)
	target := s.Target()
	target.Project = "default"
	c, err := lxd.Dial(lxdtest.Context(t), target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d, err := c.Pool(lxdtest.Context(t), "default")
	if err != nil {
		t.Fatal(err)
	}
	if v := get(t, d, "of-default"); v.Size != 1000 {
		t.Errorf("in the project default: %+v", v)
	}
	absent(t, s.Pool(t), "of-default")
	if err := p.Delete(lxdtest.Context(t), "of-default"); err != nil {
		t.Error(err)
	}
}

func testPools(t *testing.T, s *lxdtest.Server, _ traits) {
	name := "pool-" + s.Project()
	create := map[string]any{"name": name, "driver": "dir"}
	if status, text := raw(t, s, http.MethodPost, "/1.0/storage-pools", create); status != http.StatusCreated {
		t.Fatalf("create: %d %s", status, text)
	}
	if status, text := raw(t, s, http.MethodPost, "/1.0/storage-pools", create); status != http.StatusConflict {
		t.Errorf("create again: %d %s", status, text)
	}
	p, q := s.PoolNamed(t, name), s.Pool(t)
	if p.Driver() != "dir" {
		t.Errorf("driver %q", p.Driver())
	}
	f := put(t, p, "v", 1000)
	absent(t, q, "v")
	// A copy from pool to pool.
	body := map[string]any{"name": "v", "content_type": "iso", "source": map[string]string{"type": "copy", "name": "v", "pool": name}}
	if status, text := raw(t, s, http.MethodPost, volumeURL(s, ""), body); status >= 300 {
		t.Errorf("copy: %d %s", status, text)
	}
	sameBytes(t, s, "v", f, 1000)
	if status, text := raw(t, s, http.MethodDelete, "/1.0/storage-pools/"+name, nil); status < 400 {
		t.Errorf("a pool with volumes was deleted: %d %s", status, text)
	}
	if err := p.Delete(lxdtest.Context(t), "v"); err != nil {
		t.Fatal(err)
	}
	if status, text := raw(t, s, http.MethodDelete, "/1.0/storage-pools/"+name, nil); status >= 300 {
		t.Errorf("an empty pool was not deleted: %d %s", status, text)
	}
}

func testSpace(t *testing.T, s *lxdtest.Server, _ traits) {
	space, err := s.Pool(t).Space(lxdtest.Context(t))
	if err != nil || space.Total <= 0 || space.Used <= 0 || space.Used > space.Total || space.Free() != space.Total-space.Used {
		t.Errorf("space %+v, %v", space, err)
	}
}

func testReadBack(t *testing.T, s *lxdtest.Server, tr traits) {
	p := s.Pool(t)
	const size = 2_000_003
	f := put(t, p, "v", size)
	body, n, err := p.Export(lxdtest.Context(t), "v")
	if !tr.reads {
		if !errors.Is(err, lxd.ErrNotRead) {
			t.Errorf("export: %v", err)
		}
		if status, text := raw(t, s, http.MethodPost, volumeURL(s, "/v/backups"), map[string]string{"name": "b"}); status < 400 {
			t.Errorf("a backup was made: %d %s", status, text)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if n != size || lxdtest.Sum(t, body, size) != lxdtest.SumFile(t, f.Name(), size) {
		t.Error("other bytes came back")
	}
	if m, err := body.Read(make([]byte, 1)); m != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %d %v", m, err)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
	// By the older way, which makes a backup first.
	if status, text := raw(t, s, http.MethodPost, volumeURL(s, "/v/backups"), map[string]string{"name": "b"}); status >= 300 {
		t.Fatalf("backup: %d %s", status, text)
	}
	status, bytes, err := s.Do(http.MethodGet, volumeURL(s, "/v/backups/b/export"), nil)
	if err != nil || status != http.StatusOK || lxdtest.Sum(t, strings.NewReader(string(bytes)), size) != lxdtest.SumFile(t, f.Name(), size) {
		t.Errorf("export of the backup: %d %v", status, err)
	}
	if status, text := raw(t, s, http.MethodDelete, volumeURL(s, "/v/backups/b"), nil); status >= 300 {
		t.Errorf("delete the backup: %d %s", status, text)
	}
	if status, _, err := s.Do(http.MethodGet, volumeURL(s, "/v/backups/b/export"), nil); err != nil || status != http.StatusNotFound {
		t.Errorf("export of a backup that is gone: %d %v", status, err)
	}
}

func testNoSnapshots(t *testing.T, s *lxdtest.Server, _ traits) {
	put(t, s.Pool(t), "v", 1000)
	status, text := raw(t, s, http.MethodPost, volumeURL(s, "/v/snapshots"), map[string]string{"name": "s"})
	if status < 400 || !strings.Contains(text, "does not support snapshots") {
		t.Errorf("snapshot: %d %s", status, text)
	}
}

// watch collects the events of a pool until the test ends.
func watch(t *testing.T, p *lxd.Pool) (seen func(lxd.Event) bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(lxdtest.Context(t))
	var mu sync.Mutex
	var events []lxd.Event
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Events(ctx, func(e lxd.Event) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, e)
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	seen = func(e lxd.Event) bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Contains(events, e)
	}
	lxdtest.Eventually(t, "the event stream", func() bool { return seen(lxd.Event{Type: "connected"}) })
	return seen
}

func testEvents(t *testing.T, s *lxdtest.Server, _ traits) {
	p := s.Pool(t)
	seen := watch(t, p)
	other := watch(t, s.In(t, "quiet-"+s.Project(), nil).Pool(t))
	expect := func(action string) {
		t.Helper()
		lxdtest.Eventually(t, action, func() bool { return seen(lxd.Event{Type: "lifecycle", Action: action}) })
	}
	put(t, p, "v", 1000)
	expect("storage-volume-created")
	if !seen(lxd.Event{Type: "operation"}) {
		lxdtest.Eventually(t, "an operation's event", func() bool { return seen(lxd.Event{Type: "operation"}) })
	}
	if err := p.Describe(lxdtest.Context(t), "v", "x"); err != nil {
		t.Fatal(err)
	}
	expect("storage-volume-updated")
	if err := p.Delete(lxdtest.Context(t), "v"); err != nil {
		t.Fatal(err)
	}
	expect("storage-volume-deleted")
	if other(lxd.Event{Type: "lifecycle", Action: "storage-volume-created"}) {
		t.Error("an event of another project came")
	}
	if status, text := raw(t, s, http.MethodGet, "/1.0/events?type=bogus", nil); status != http.StatusBadRequest {
		t.Errorf("a type of events that is none: %d %s", status, text)
	}
}

func testWait(t *testing.T, s *lxdtest.Server, tr traits) {
	p := s.Pool(t)
	ctx := lxdtest.Context(t)
	f := lxdtest.File(t, 1000)
	operation, err := p.Import(ctx, "v", f, 1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	// Any number of times, also after the end.
	for range 2 {
		if err := p.Wait(ctx, operation); err != nil {
			t.Fatal(err)
		}
	}
	for _, query := range []string{"", "?timeout=-1", "?timeout=30"} {
		status, text, err := s.Do(http.MethodGet, operation+"/wait"+query, nil)
		var o struct {
			Code int `json:"status_code"`
		}
		if err != nil || status != http.StatusOK || json.Unmarshal(envelope(t, text).Metadata, &o) != nil || o.Code != 200 {
			t.Errorf("wait%s: %d %s %v", query, status, text, err)
		}
	}
	// A failure, in the words of the dialect.
	copied, err := p.Copy(ctx, "absent", "w", "")
	if err != nil {
		t.Fatal(err)
	}
	var failed *lxd.Error
	if err := p.Wait(ctx, copied); !errors.As(err, &failed) || !failed.InOp {
		t.Errorf("wait for a failure: %v", err)
	}
	status, text, err := s.Do(http.MethodGet, copied+"/wait?timeout=10", nil)
	if e := envelope(t, text); err != nil || status != http.StatusOK || (e.Type == "sync") != tr.waitSync {
		t.Errorf("wait for a failure: %d %s %v", status, text, err)
	}
	if s.Real() {
		return
	}
	// And a wait that ends before the operation does.
	reached, release := s.Hold(store.PointBegin, "held")
	operation, err = p.Import(ctx, "held", f, 1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-reached
	status, text, err = s.Do(http.MethodGet, operation+"/wait?timeout=0", nil)
	if e := envelope(t, text); err != nil || status != http.StatusOK || (e.Type == "sync") != tr.waitSync {
		t.Errorf("a short wait: %d %s %v", status, text, err)
	}
	absent(t, p, "held")
	release()
	if err := p.Wait(ctx, operation); err != nil {
		t.Error(err)
	}
}

func testVanishes(t *testing.T, s *lxdtest.Server, _ traits) {
	p := s.Pool(t)
	operation, err := p.Import(lxdtest.Context(t), "v", lxdtest.File(t, 1000), 1000, nil)
	if err == nil {
		err = p.Wait(lxdtest.Context(t), operation)
	}
	if err != nil {
		t.Fatal(err)
	}
	lxdtest.Eventually(t, "the server to forget the operation", func() bool {
		status, _, err := s.Do(http.MethodGet, operation, nil)
		return err == nil && status == http.StatusNotFound
	})
	if err := p.Wait(lxdtest.Context(t), operation); !errors.Is(err, lxd.ErrUnknown) || lxd.IsPermanent(err) {
		t.Errorf("wait for an operation that is forgotten: %v", err)
	}
	get(t, p, "v")
}

func testRunning(t *testing.T, s *lxdtest.Server, _ traits) {
	p := s.Pool(t)
	ctx := lxdtest.Context(t)
	if o, err := p.Running(ctx, "v"); o != "" || err != nil {
		t.Fatalf("nothing was begun, but %q is running, %v", o, err)
	}
	if !s.Real() {
		f := lxdtest.File(t, 1000)
		reached, release := s.Hold(store.PointBegin, "v")
		operation, err := p.Import(ctx, "v", f, 1000, nil)
		if err != nil {
			t.Fatal(err)
		}
		<-reached
		if o, err := p.Running(ctx, "v"); o != operation || err != nil {
			t.Errorf("%q is running, %v; want %q", o, err, operation)
		}
		if o, err := p.Running(ctx, "w"); o != "" || err != nil {
			t.Errorf("%q is running on another volume, %v", o, err)
		}
		release()
		if err := p.Wait(ctx, operation); err != nil {
			t.Error(err)
		}
	} else {
		// Large enough to be seen at work. Should the machine be too quick, a larger one is tried.
		found := false
		for size := int64(64 << 20); !found && size <= 1<<30; size *= 2 {
			name := fmt.Sprintf("v%d", size)
			operation, err := p.Import(ctx, name, lxdtest.File(t, size), size, nil)
			if err != nil {
				t.Fatal(err)
			}
			o, err := p.Running(ctx, name)
			if found = o == operation; err != nil || o != "" && !found {
				t.Errorf("%q is running, %v; want %q", o, err, operation)
			}
			if err := p.Wait(ctx, operation); err != nil {
				t.Error(err)
			}
			if err := p.Delete(ctx, name); err != nil {
				t.Error(err)
			}
		}
		if !found {
			t.Error("an import was never seen at work")
		}
	}
	if o, err := p.Running(ctx, "v"); o != "" || err != nil {
		t.Errorf("all is done, but %q is running, %v", o, err)
	}
}
