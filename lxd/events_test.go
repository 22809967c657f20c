package lxd

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// talk upgrades and hands the connection to a test.
func talk(say func(ctx context.Context, c *websocket.Conn)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = c.CloseNow() }()
		say(r.Context(), c)
	}
}

const lifecycle = `{"type":"lifecycle","timestamp":"2026-11-25T15:25:29Z","metadata":{"action":"storage-volume-created",` +
	`"source":"/1.0/storage-pools/default/volumes/custom/default_w","context":{"location":"none","type":"custom"}},"location":"none","project":"default"}` + "\n"

func TestEvents(t *testing.T) {
	for _, kind := range []string{"unix", "tls"} {
		t.Run(kind, func(t *testing.T) {
			f := newFake(t, "incus")
			if kind == "tls" {
				f = newTLSFake(t, "incus")
			}
			f.on("GET /1.0/events", talk(func(ctx context.Context, c *websocket.Conn) {
				for _, m := range []string{
					lifecycle, "trash", `{"metadata":{}}`, `{"type":"operation","metadata":{"id":"x","status_code":103}}`,
					`{"type":"lifecycle","metadata":7}`, lifecycle,
				} {
					if c.Write(ctx, websocket.MessageText, []byte(m)) != nil {
						return
					}
				}
				_ = c.Close(websocket.StatusNormalClosure, "")
			}))
			var got []Event
			err := f.pool().Events(testContext(t), func(e Event) { got = append(got, e) })
			if !errors.Is(err, ErrAway) {
				t.Errorf("got %v", err)
			}
			want := []Event{{"connected", ""}, {"lifecycle", "storage-volume-created"}, {"operation", ""}, {"lifecycle", ""}, {"lifecycle", "storage-volume-created"}}
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			asked := f.requests()[len(f.requests())-1]
			if asked != "GET /1.0/events?project=default&type=lifecycle%2Coperation" {
				t.Errorf("asked %s", asked)
			}
		})
	}
}

func TestEventsAnswerPings(t *testing.T) {
	f := newFake(t, "incus")
	pong := make(chan error, 1)
	f.on("GET /1.0/events", talk(func(ctx context.Context, c *websocket.Conn) {
		pong <- c.Ping(c.CloseRead(ctx))
	}))
	_ = f.pool().Events(testContext(t), func(Event) {})
	if err := <-pong; err != nil {
		t.Error(err)
	}
}

func TestEventsEndWithTheContext(t *testing.T) {
	f := newFake(t, "incus")
	f.on("GET /1.0/events", talk(func(ctx context.Context, c *websocket.Conn) { <-c.CloseRead(ctx).Done() }))
	ctx, cancel := context.WithCancelCause(testContext(t))
	why := errors.New("stop")
	err := f.pool().Events(ctx, func(Event) { cancel(why) })
	if !errors.Is(err, why) || errors.Is(err, ErrAway) {
		t.Errorf("got %v", err)
	}
}

func TestEventsRefused(t *testing.T) {
	var f fake
	f.t = t
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		is     error
	}{
		"denied":     {f.fail(403, "no"), ErrDenied},
		"hung up":    {hangUp, ErrAway},
		"no upgrade": {f.sync(map[string]any{}), nil},
		"a proxy":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }, nil},
		"redirect":   {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", http.StatusFound) }, nil},
		"too long": {talk(func(ctx context.Context, c *websocket.Conn) {
			_ = c.Write(ctx, websocket.MessageText, []byte(strings.Repeat("x", maxEvent+1)))
			<-c.CloseRead(ctx).Done()
		}), ErrAway},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, "lxd")
			f.on("GET /1.0/events", c.answer)
			var got []Event
			err := f.pool().Events(testContext(t), func(e Event) { got = append(got, e) })
			if err == nil || (c.is != nil && !errors.Is(err, c.is)) || (c.is == nil && IsPermanent(err)) {
				t.Errorf("got %v", err)
			}
			if name != "too long" && len(got) > 0 {
				t.Errorf("got %v", got)
			}
		})
	}
}

// Lifecycle events go to the project that the volumes are in; a client that may not listen there listens to its own.
func TestEventsOfWhichProject(t *testing.T) {
	f := newFake(t, "lxd")
	f.on("GET /1.0/projects/p", f.sync(map[string]any{"config": map[string]string{"features.storage.volumes": "false"}}))
	f.on("GET /1.0/events", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("project") == "default" {
			f.fail(403, "Certificate is restricted")(w, r)
			return
		}
		talk(func(ctx context.Context, c *websocket.Conn) { _ = c.Close(websocket.StatusGoingAway, "") })(w, r)
	})
	var got []Event
	err := f.pool(func(t *Target) { t.Project = "p" }).Events(testContext(t), func(e Event) { got = append(got, e) })
	if !errors.Is(err, ErrAway) || len(got) != 1 || got[0].Type != "connected" {
		t.Errorf("got %v, %v", got, err)
	}
	asked := f.requests()
	if !strings.Contains(asked[len(asked)-2], "project=default") || !strings.Contains(asked[len(asked)-1], "project=p") {
		t.Errorf("asked %q", asked)
	}
}

// A stream whose server says nothing at all, not even a pong, is ended.
func TestEventsSilence(t *testing.T) {
	f := newFake(t, "incus")
	release := make(chan struct{})
	defer close(release)
	f.on("GET /1.0/events", talk(func(context.Context, *websocket.Conn) { <-release }))
	p := f.pool()
	p.client.ping, p.client.silence = 20*time.Millisecond, 200*time.Millisecond
	err := p.Events(testContext(t), func(Event) {})
	if !errors.Is(err, ErrAway) {
		t.Errorf("got %v", err)
	}
}

// A server that only answers pings is there.
func TestEventsPings(t *testing.T) {
	f := newFake(t, "incus")
	enough := make(chan struct{})
	f.on("GET /1.0/events", func(w http.ResponseWriter, r *http.Request) {
		var pings int
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{OnPingReceived: func(context.Context, []byte) bool {
			if pings++; pings == 5 {
				close(enough)
			}
			return true
		}})
		if err != nil {
			return
		}
		<-c.CloseRead(r.Context()).Done()
		_ = c.CloseNow()
	})
	p := f.pool()
	p.client.ping = 10 * time.Millisecond
	ctx, cancel := context.WithCancel(testContext(t))
	go func() { <-enough; cancel() }()
	if err := p.Events(ctx, func(Event) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
