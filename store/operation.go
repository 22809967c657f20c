package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	vendorLXD   = "lxd"
	vendorIncus = "incus"
)

// forgetAfter is how long an operation is known after its end (SERVER-API 6).
const forgetAfter = 5 * time.Second

// The states of an operation.
const (
	codeRunning = 103
	codeSuccess = 200
	codeFailure = 400
)

// operation is something that goes on after the request which began it was answered. It is shown as it is (SERVER-API
// 1.3).
type operation struct {
	ID          string              `json:"id"`
	Class       string              `json:"class"`
	Description string              `json:"description"`
	CreatedAt   time.Time           `json:"created_at"`
	UpdatedAt   time.Time           `json:"updated_at"`
	Status      string              `json:"status"`
	StatusCode  int                 `json:"status_code"`
	Resources   map[string][]string `json:"resources"`
	Metadata    map[string]any      `json:"metadata"`
	MayCancel   bool                `json:"may_cancel"`
	Err         string              `json:"err"`
	ErrCode     int                 `json:"err_code,omitempty"` // LXD only
	Location    string              `json:"location"`

	project string
	ending  *ending
}

// ending is shared by all states of an operation.
type ending struct {
	done chan struct{} // closed at the end
	last *operation    // set before done is closed
}

// url is the operation's address.
func (o *operation) url() string { return "/1.0/operations/" + o.ID }

// operations are those that run, or ended a moment ago.
type operations struct {
	vendor string
	hub    *hub
	forget time.Duration

	mu     sync.Mutex
	list   map[string]*operation  // guarded by mu; each is exchanged when it changes
	timers map[string]*time.Timer // guarded by mu; of those that ended
}

func newOperations(vendor string, h *hub, forget time.Duration) *operations {
	return &operations{vendor: vendor, hub: h, forget: forget, list: map[string]*operation{}, timers: map[string]*time.Timer{}}
}

// close forgets all.
func (ops *operations) close() {
	ops.mu.Lock()
	defer ops.mu.Unlock()
	for _, t := range ops.timers {
		t.Stop()
	}
	clear(ops.list)
}

// begin adds one that runs. more is what else it is about, by kind.
func (ops *operations) begin(project, description string, about key, more map[string][]string) *operation {
	now := time.Now().UTC()
	o := &operation{
		ID: newUUID(), Class: "task", Description: description, CreatedAt: now, UpdatedAt: now,
		Status: "Running", StatusCode: codeRunning, Location: "none",
		Resources: map[string][]string{}, project: project, ending: &ending{done: make(chan struct{})},
	}
	if ops.vendor == vendorLXD {
		// Since 6.8 (SERVER-API 1.3).
		o.Metadata = map[string]any{"entity_url": about.url()}
	} else {
		o.Resources["storage_volumes"] = []string{about.url()}
	}
	maps.Copy(o.Resources, more)
	ops.mu.Lock()
	ops.list[o.ID] = o
	ops.mu.Unlock()
	ops.hub.send("operation", o.project, o)
	return o
}

// end notes how it ended, and forgets it later.
func (ops *operations) end(o *operation, err error) {
	e := *o
	e.UpdatedAt = time.Now().UTC()
	e.Status, e.StatusCode = "Success", codeSuccess
	if err != nil {
		e.Status, e.StatusCode = "Failure", codeFailure
		e.Err = err.Error()
		if ops.vendor == vendorLXD {
			e.ErrCode = statusOf(err)
		}
	}
	ops.mu.Lock()
	ops.list[o.ID] = &e
	ops.timers[o.ID] = time.AfterFunc(ops.forget, func() {
		ops.mu.Lock()
		defer ops.mu.Unlock()
		delete(ops.list, o.ID)
		delete(ops.timers, o.ID)
	})
	ops.mu.Unlock()
	o.ending.last = &e
	close(o.ending.done)
	ops.hub.send("operation", o.project, &e)
}

// get returns an operation as it is now.
func (ops *operations) get(id string) (*operation, error) {
	ops.mu.Lock()
	defer ops.mu.Unlock()
	o := ops.list[id]
	if o == nil {
		return nil, refuse(http.StatusNotFound, "Operation not found")
	}
	return o, nil
}

// all groups the operations of a project by their state; "" = of all projects.
func (ops *operations) all(project string) map[string][]*operation {
	ops.mu.Lock()
	defer ops.mu.Unlock()
	groups := map[string][]*operation{}
	for _, o := range ops.list {
		if project == "" || o.project == project {
			status := strings.ToLower(o.Status)
			groups[status] = append(groups[status], o)
		}
	}
	return groups
}

// statusOf is the status that an error has of its own, or 500.
func statusOf(err error) int {
	var e *httpError
	if errors.As(err, &e) {
		return e.status
	}
	return http.StatusInternalServerError
}

// newUUID makes a random UUID (RFC 9562 5.4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0F | 0x40
	b[8] = b[8]&0x3F | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
