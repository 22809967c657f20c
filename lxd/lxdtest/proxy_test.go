package lxdtest_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"isosyncd/lxd"
	"isosyncd/lxd/lxdtest"
)

const volumes = "/1.0/storage-pools/default/volumes/custom"

// through opens a pool behind a proxy.
func through(t *testing.T, s *lxdtest.Server) (*lxdtest.Proxy, *lxd.Pool) {
	t.Helper()
	proxy := lxdtest.FaultProxy(t, s.Addr())
	target := s.Target()
	target.Addr = proxy.Addr()
	c, err := lxd.Dial(lxdtest.Context(t), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	p, err := c.Pool(lxdtest.Context(t), "default")
	if err != nil {
		t.Fatal(err)
	}
	return proxy, p
}

// TestProxyTransparent runs some of the suite through a proxy without faults.
func TestProxyTransparent(t *testing.T) {
	t.Parallel()
	lxdtest.Each(t, func(t *testing.T, s *lxdtest.Server) {
		t.Parallel()
		proxy, p := through(t, s)
		seen := watch(t, p)
		const size = 3 << 20
		put(t, p, "a%2fb", size)
		if v := get(t, p, "a%2fb"); v.Size != size {
			t.Errorf("the volume is %+v", v)
		}
		lxdtest.Eventually(t, "the event", func() bool { return seen(lxd.Event{Type: "lifecycle", Action: "storage-volume-created"}) })
		if err := p.Describe(lxdtest.Context(t), "a%2fb", "x"); err != nil {
			t.Error(err)
		}
		if err := p.Delete(lxdtest.Context(t), "a%2fb"); err != nil {
			t.Error(err)
		}
		if sent, got := proxy.Bytes(); sent < size || got == 0 {
			t.Errorf("counted %d and %d bytes", sent, got)
		}
		if n := proxy.Count("POST " + volumes); n != 1 {
			t.Errorf("counted %d imports: %q", n, proxy.Requests())
		}
		if !slices.Contains(proxy.Requests(), "DELETE "+volumes+"/a%252fb?project=default") {
			t.Errorf("the requests are %q", proxy.Requests())
		}
	})
}

func TestProxyFaults(t *testing.T) {
	t.Parallel()
	const size = 24 << 20 // more than the kernel takes for a server that does not read
	for name, c := range map[string]struct {
		fault lxdtest.Fault
		check func(t *testing.T, err error, v bool) // v: the volume was made
	}{
		"cut body":   {lxdtest.CutBody(size / 2), lost(false)},
		"reset":      {lxdtest.Reset(), lost(false)},
		"lost reply": {lxdtest.LoseReply(), lost(true)},
		"cut reply":  {lxdtest.CutReply(40), lost(true)},
		"stall":      {lxdtest.Stall(1000), lost(false)},
		"503": {lxdtest.Answer(503, 7*time.Second), func(t *testing.T, err error, v bool) {
			var e *lxd.Error
			if v || !errors.As(err, &e) || e.Status != 503 || e.RetryAfter != 7*time.Second {
				t.Errorf("%v, %v", err, v)
			}
		}},
		"html": {lxdtest.AnswerHTML(404), func(t *testing.T, err error, v bool) {
			if v || err == nil || errors.Is(err, lxd.ErrNotFound) {
				t.Errorf("%v, %v", err, v)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := lxdtest.Store(t)
			proxy, _ := through(t, s)
			target := s.Target()
			target.Addr, target.Stall = proxy.Addr(), 500*time.Millisecond
			client, err := lxd.Dial(lxdtest.Context(t), target)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			p, err := client.Pool(lxdtest.Context(t), "default")
			if err != nil {
				t.Fatal(err)
			}
			// All of them: the client repeats an import that met a dead connection.
			proxy.Strike(lxdtest.Imports, -1, 0, c.fault)
			f := lxdtest.File(t, size)
			err = tryPut(t, p, "v", f, size)
			if proxy.Hits() == 0 {
				t.Error("it did not strike")
			}
			proxy.Disarm()
			if errors.Is(err, lxd.ErrAway) && (name == "lost reply" || name == "cut reply") {
				lxdtest.Eventually(t, "the volume to be made all the same", func() bool { return len(names(t, p)) == 1 })
			}
			made := len(names(t, p)) == 1
			c.check(t, err, made)
			if !made {
				if err := tryPut(t, p, "v", f, size); err != nil {
					t.Error(err)
				}
			}
			sameBytes(t, s, "v", f, size)
		})
	}
}

func lost(made bool) func(t *testing.T, err error, v bool) {
	return func(t *testing.T, err error, v bool) {
		t.Helper()
		if !errors.Is(err, lxd.ErrAway) || v != made {
			t.Errorf("%v, volume made: %v", err, v)
		}
	}
}

func TestProxyRefuse(t *testing.T) {
	t.Parallel()
	s := lxdtest.Store(t)
	proxy, p := through(t, s)
	ctx, cancel := context.WithCancel(lxdtest.Context(t))
	defer cancel()
	ended := make(chan error, 1)
	connected := make(chan struct{})
	var once sync.Once
	go func() { ended <- p.Events(ctx, func(lxd.Event) { once.Do(func() { close(connected) }) }) }()
	<-connected
	lxdtest.Eventually(t, "a stream", func() bool { return proxy.Streams() == 1 })
	proxy.Refuse()
	if err := <-ended; !errors.Is(err, lxd.ErrAway) {
		t.Errorf("the event stream ended with %v", err)
	}
	if _, err := p.Volumes(ctx); !errors.Is(err, lxd.ErrAway) {
		t.Errorf("a list from nobody: %v", err)
	}
	if err := proxy.Accept(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Volumes(ctx); err != nil {
		t.Error(err)
	}
}

func TestProxyEvents(t *testing.T) {
	t.Parallel()
	s := lxdtest.Store(t)
	proxy, p := through(t, s)
	proxy.OnEvent(func(m lxdtest.Message) int {
		switch m.Action {
		case "storage-volume-created":
			return 0
		case "storage-volume-deleted":
			return 3
		}
		return 1
	})
	var mu sync.Mutex
	count := map[string]int{}
	ctx, cancel := context.WithCancel(lxdtest.Context(t))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Events(ctx, func(e lxd.Event) {
			mu.Lock()
			defer mu.Unlock()
			count[e.Type+e.Action]++
		})
	}()
	have := func(what string) int {
		mu.Lock()
		defer mu.Unlock()
		return count[what]
	}
	lxdtest.Eventually(t, "the stream", func() bool { return have("connected") == 1 })
	put(t, p, "v", 1000)
	if err := p.Delete(ctx, "v"); err != nil {
		t.Fatal(err)
	}
	lxdtest.Eventually(t, "three of one event", func() bool { return have("lifecyclestorage-volume-deleted") == 3 })
	if n := have("lifecyclestorage-volume-created"); n != 0 {
		t.Errorf("a lost event came %d times", n)
	}
	proxy.CutEvents()
	<-done
	cancel()
}

func TestProxyHooks(t *testing.T) {
	t.Parallel()
	s := lxdtest.Store(t)
	proxy, p := through(t, s)
	put(t, p, "v", 1000)
	// Somebody takes the volume into use between our look and our DELETE.
	proxy.Strike(lxdtest.Method(http.MethodDelete), 1, 0, lxdtest.Before(func() { s.UseVolume("v") }))
	if err := p.Delete(lxdtest.Context(t), "v"); !errors.Is(err, lxd.ErrInUse) {
		t.Errorf("delete: %v", err)
	}
	s.Free("v")
	hold := make(chan struct{})
	proxy.Strike(lxdtest.Lists, 1, 1, lxdtest.After(func() { <-hold }))
	names(t, p) // passes
	listed := make(chan []string, 1)
	go func() {
		list, _ := p.Volumes(lxdtest.Context(t))
		var n []string
		for _, v := range list {
			n = append(n, v.Name)
		}
		listed <- n
	}()
	lxdtest.Eventually(t, "the second list", func() bool { return proxy.Count("GET "+volumes) == 2 })
	select {
	case <-listed:
		t.Error("the answer was not held")
	default:
	}
	close(hold)
	if n := strings.Join(<-listed, " "); n != "v" {
		t.Errorf("the list is %q", n)
	}
	proxy.Disarm()
	// A hang ends with the client's patience.
	proxy.Strike(lxdtest.Any, -1, 0, lxdtest.Hang())
	ctx, cancel := context.WithCancel(lxdtest.Context(t))
	go func() {
		lxdtest.Eventually(t, "the request", func() bool { return proxy.Hits() > 0 })
		cancel()
	}()
	if _, err := p.Volumes(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a list that hangs: %v", err)
	}
}
