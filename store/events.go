package store

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

const (
	// eventBacklog is how many events a slow listener may be behind before its stream is ended: it will list again
	// when it is back, which is better than to miss something.
	eventBacklog = 1024
	// pingEvery is how often a listener is asked whether it is still there, and pongWithin how long it may take.
	pingEvery  = 10 * time.Second
	pongWithin = 20 * time.Second
)

// event is a message of the stream (SERVER-API 5).
type event struct {
	Type      string          `json:"type"`
	Timestamp time.Time       `json:"timestamp"`
	Metadata  json.RawMessage `json:"metadata"`
	Location  string          `json:"location"`
	Project   string          `json:"project"`
}

// hub hands events to listeners.
type hub struct {
	mu        sync.Mutex
	listeners map[*listener]struct{} // guarded by mu
	closed    bool                   // guarded by mu
}

// listener is one stream.
type listener struct {
	types   []string // empty = all
	project string   // "" = all
	queue   chan []byte
}

func newHub() *hub { return &hub{listeners: map[*listener]struct{}{}} }

// send never blocks: a listener that is too slow is dropped.
func (h *hub) send(kind, project string, metadata any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.listeners) == 0 {
		return
	}
	// What is sent here consists of strings, numbers and maps of such: it has a JSON form.
	meta, _ := json.Marshal(metadata)
	text, _ := json.Marshal(event{Type: kind, Timestamp: time.Now().UTC(), Metadata: meta, Location: "none", Project: project})
	text = append(text, '\n')
	for l := range h.listeners {
		wanted := (len(l.types) == 0 || slices.Contains(l.types, kind)) && (l.project == "" || l.project == project)
		if !wanted {
			continue
		}
		select {
		case l.queue <- text:
		default:
			delete(h.listeners, l)
			close(l.queue)
		}
	}
}

// add begins a stream; false = there are none any more.
func (h *hub) add(l *listener) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.listeners[l] = struct{}{}
	return true
}

func (h *hub) remove(l *listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.listeners[l]; ok {
		delete(h.listeners, l)
		close(l.queue)
	}
}

// close ends all streams.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for l := range h.listeners {
		delete(h.listeners, l)
		close(l.queue)
	}
}

// lifecycle tells what happened to a volume.
func (s *Store) lifecycle(action string, k key, context map[string]any) {
	m := map[string]any{
		"action":    "storage-volume-" + action,
		"source":    s.eventSource(k),
		"requestor": map[string]string{"username": "", "protocol": "unix", "address": "@"},
	}
	if context != nil {
		m["context"] = context
	}
	s.hub.send("lifecycle", k.project, m)
}

// eventSource is the volume's address; LXD puts the name in it that the storage driver sees (SERVER-API 5).
func (s *Store) eventSource(k key) string {
	if s.vendor == vendorLXD {
		k.name = k.project + "_" + k.name
	}
	return k.url()
}

// events serves GET /1.0/events.
func (s *Store) events(w http.ResponseWriter, r *request) error {
	l := &listener{queue: make(chan []byte, eventBacklog)}
	for t := range strings.SplitSeq(r.query.Get("type"), ",") {
		switch t {
		case "":
		case "lifecycle", "operation", "logging", "network-acl", "ovn":
			l.types = append(l.types, t)
		default:
			return refuse(http.StatusBadRequest, "%q isn't a supported event type", t)
		}
	}
	if !r.all {
		l.project = r.project
	}
	// Before the handshake ends: from then on the other side counts on missing nothing, and the clients of LXD and Incus
	// wait for ever for an operation whose end they were not told of.
	if !s.hub.add(l) {
		return refuse(http.StatusServiceUnavailable, "the store is closing")
	}
	defer s.hub.remove(l)
	conn, err := websocket.Accept(w, r.Request, nil)
	if err != nil {
		return errAnswered // by the library
	}
	defer func() { _ = conn.CloseNow() }()
	// What the listener says is read, for the sake of its pongs, and ignored.
	ctx := conn.CloseRead(r.Context())
	s.relay(ctx, conn, l)
	return errAnswered
}

// relay writes events until either side has enough.
func (s *Store) relay(ctx context.Context, conn *websocket.Conn, l *listener) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	pongs := make(chan error, 1)
	asked := false
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-pongs:
			if asked = false; err != nil {
				return
			}
		case <-tick.C:
			if asked {
				continue
			}
			asked = true
			go func() {
				ping, cancel := context.WithTimeout(ctx, pongWithin)
				defer cancel()
				pongs <- conn.Ping(ping)
			}()
		case text, ok := <-l.queue:
			if !ok {
				_ = conn.Close(websocket.StatusGoingAway, "")
				return
			}
			if conn.Write(ctx, websocket.MessageText, text) != nil {
				return
			}
		}
	}
}
