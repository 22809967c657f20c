package sync

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	gosync "sync"
	"sync/atomic"
	"time"

	"isosyncd/lxd"
)

// fakeRemote is a pool in memory that really reads what it is sent, with faults by script. It is for the tests of the
// deciding loop; what servers really do is tested against servers, in cmd/isosyncd.
type fakeRemote struct {
	mu      gosync.Mutex
	volumes map[string]lxd.Volume
	content map[string]string // digests of what volumes hold
	ops     map[string]error  // how an operation ended; ErrUnknown once it was asked for too late
	clock   time.Time
	counts  map[string]int
	events  chan lxd.Event
	away    bool
	noCopy  bool
	space   lxd.Space

	streamed atomic.Int64 // bytes of the stream that is or was on its way

	// before is asked before a call has an effect, after when it had one: an error is what the caller gets.
	before, after func(call, name string) error
}

func newFakeRemote() *fakeRemote {
	return &fakeRemote{
		volumes: map[string]lxd.Volume{}, content: map[string]string{}, ops: map[string]error{}, counts: map[string]int{},
		clock: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), events: make(chan lxd.Event, 64),
		space: lxd.Space{Total: 1 << 40},
	}
}

func (r *fakeRemote) enter(call, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[call]++
	if r.away {
		return lxd.ErrAway
	}
	if r.before != nil {
		return r.before(call, name)
	}
	return nil
}

func (r *fakeRemote) leave(call, name string) error {
	if r.after != nil {
		return r.after(call, name)
	}
	return nil
}

func (r *fakeRemote) count(call string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[call]
}

// with runs f on the pool as somebody else would change it, and tells it as an event.
func (r *fakeRemote) with(f func()) {
	r.mu.Lock()
	f()
	r.mu.Unlock()
	select {
	case r.events <- lxd.Event{Type: "lifecycle", Action: "storage-volume-updated"}:
	default:
	}
}

// put makes a volume as somebody else would; the caller holds mu, by with.
func (r *fakeRemote) put(name, description, content string, size int64) {
	r.clock = r.clock.Add(time.Second)
	r.volumes[name] = lxd.Volume{
		Name: name, ContentType: "iso", Size: size, Description: description, CreatedAt: r.clock,
	}
	r.content[name] = content
}

func (r *fakeRemote) get(name string) (lxd.Volume, string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.volumes[name]
	return v, r.content[name], ok
}

func (r *fakeRemote) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for n := range r.volumes {
		names = append(names, n)
	}
	return names
}

func (r *fakeRemote) Server() lxd.Server { return lxd.Server{Vendor: "fake", Addr: "fake:"} }
func (r *fakeRemote) Name() string       { return "default" }
func (r *fakeRemote) Driver() string     { return "dir" }
func (r *fakeRemote) Project() string    { return "default" }

func (r *fakeRemote) Space(context.Context) (lxd.Space, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.space, nil
}

func (r *fakeRemote) Volumes(context.Context) ([]lxd.Volume, error) {
	if err := r.enter("list", ""); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []lxd.Volume
	for _, v := range r.volumes {
		out = append(out, v)
	}
	return out, nil
}

func (r *fakeRemote) Volume(_ context.Context, name string) (lxd.Volume, error) {
	if err := r.enter("get", name); err != nil {
		return lxd.Volume{}, err
	}
	v, _, ok := r.get(name)
	if !ok {
		return v, lxd.ErrNotFound
	}
	return v, nil
}

func (r *fakeRemote) Import(ctx context.Context, name string, f *os.File, size int64, progress func(int64)) (string, error) {
	if err := r.enter("import", name); err != nil {
		return "", err
	}
	h := sha256.New()
	buf := make([]byte, 64<<10)
	for off := int64(0); off < size; {
		if ctx.Err() != nil {
			return "", fmt.Errorf("import %s: %w", name, ctx.Err())
		}
		n, err := f.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		h.Write(buf[:n])
		off += int64(n)
		if progress != nil {
			progress(off)
		}
		if err == io.EOF && off < size {
			return "", lxd.ErrSource
		}
	}
	return r.make("import", name, "", hex.EncodeToString(h.Sum(nil)), size)
}

// ImportStream makes a volume of what src gives, if it comes to an end.
func (r *fakeRemote) ImportStream(ctx context.Context, name string, src io.Reader, progress func(int64)) (string, int64, error) {
	if err := r.enter("stream", name); err != nil {
		return "", 0, err
	}
	h := sha256.New()
	buf := make([]byte, 64<<10)
	var sent int64
	for {
		n, err := src.Read(buf)
		h.Write(buf[:n])
		sent += int64(n)
		progress(sent)
		r.streamed.Store(sent)
		switch {
		case ctx.Err() != nil:
			return "", sent, fmt.Errorf("import %s: %w", name, ctx.Err())
		case err == io.EOF:
			op, err := r.make("stream", name, "", hex.EncodeToString(h.Sum(nil)), sent)
			return op, sent, err
		case err != nil:
			return "", sent, fmt.Errorf("import %s: %w", name, err)
		}
		if err := r.enter("streaming", name); err != nil {
			return "", sent, err
		}
	}
}

// make adds the volume at once: the operation only tells of it.
func (r *fakeRemote) make(call, name, description, content string, size int64) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	op := fmt.Sprintf("op-%d", len(r.ops))
	r.ops[op] = nil
	if _, there := r.volumes[name]; there {
		r.ops[op] = &lxd.Error{Op: call + " " + name, Status: 500, Message: "already exists", InOp: true}
	} else {
		r.put(name, description, content, size)
	}
	return op, r.leave(call, name)
}

func (r *fakeRemote) Wait(_ context.Context, op string) error {
	if err := r.enter("wait", op); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	err, ok := r.ops[op]
	if !ok {
		return lxd.ErrUnknown
	}
	return err
}

func (r *fakeRemote) Running(context.Context, string) (string, error) {
	return "", r.enter("running", "")
}

func (r *fakeRemote) Describe(_ context.Context, name, description string) error {
	if err := r.enter("describe", name); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.volumes[name]
	if !ok {
		return lxd.ErrNotFound
	}
	v.Description = description
	r.volumes[name] = v
	return r.leave("describe", name)
}

func (r *fakeRemote) Copy(_ context.Context, from, to, description string) (string, error) {
	if err := r.enter("copy", to); err != nil {
		return "", err
	}
	v, content, ok := r.get(from)
	if !ok {
		return "", lxd.ErrNotFound
	}
	if r.noCopy {
		r.mu.Lock()
		defer r.mu.Unlock()
		op := fmt.Sprintf("op-%d", len(r.ops))
		r.ops[op] = &lxd.Error{Op: "copy " + to, Status: 500, Message: "disk quota exceeded", InOp: true}
		return op, nil
	}
	return r.make("copy", to, description, content, v.Size)
}

func (r *fakeRemote) Delete(_ context.Context, name string) error {
	if err := r.enter("delete", name); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.volumes[name].UsedBy) > 0 {
		return lxd.ErrInUse
	}
	delete(r.volumes, name)
	delete(r.content, name)
	return r.leave("delete", name)
}

func (r *fakeRemote) Events(ctx context.Context, f func(lxd.Event)) error {
	if err := r.enter("events", ""); err != nil {
		return err
	}
	f(lxd.Event{Type: "connected"})
	for {
		select {
		case e := <-r.events:
			f(e)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var _ Remote = (*fakeRemote)(nil)
