package fusefs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"isosyncd/iso"
	"isosyncd/lxd"
	isosync "isosyncd/sync"
)

// image makes an ISO 9660 image of the given number of 2048-byte sectors, 20 at least; the rest of it is noise that
// depends on seed.
func image(sectors int, seed uint64) []byte {
	b := make([]byte, sectors*2048)
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), 1})
	_, _ = src.Read(b[19*2048:])
	both := func(off int, n uint32) {
		binary.LittleEndian.PutUint32(b[off:], n)
		binary.BigEndian.PutUint32(b[off+4:], n)
	}
	p := 16 * 2048
	copy(b[p:], "\x01CD001\x01")
	copy(b[p+8:], fmt.Sprintf("%-32s", "LINUX"))
	copy(b[p+40:], fmt.Sprintf("%-32s", fmt.Sprintf("SEED_%d", seed)))
	both(p+80, uint32(sectors))
	copy(b[p+120:], "\x01\x00\x00\x01\x01\x00\x00\x01\x00\x08\x08\x00")
	dir := func(off int, name byte) int {
		b[off], b[off+25], b[off+32], b[off+33] = 34, 2, 1, name
		both(off+2, 18)
		both(off+10, 2048)
		binary.LittleEndian.PutUint16(b[off+28:], 1)
		binary.BigEndian.PutUint16(b[off+30:], 1)
		return off + 34
	}
	dir(p+156, 0)
	b[p+881] = 1
	copy(b[17*2048:], "\xffCD001\x01")
	dir(dir(18*2048, 0), 1)
	return b
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// fakeHeart is a heart whose pool is in memory and whose folder is real. Like the real one it takes drafts over, holds
// what is not whole, and replaces.
type fakeHeart struct {
	folder string
	work   sync.WaitGroup

	mu      sync.Mutex
	server  isosync.ServerStatus
	volumes map[string]isosync.VolumeStatus
	files   map[string]isosync.FileStatus
	bytes   map[string][]byte // what the pool has, by volume
	snap    *isosync.Snapshot
	clock   time.Time
	gate    chan struct{} // imports wait for it, if not nil
	fail    error         // of imports
	hang    chan struct{} // Remove waits for it, if not nil; set before the mount
	drafts  int           // made and neither submitted nor discarded
}

var _ Heart = (*fakeHeart)(nil)

func newFake(tb testing.TB) *fakeHeart {
	h := &fakeHeart{folder: tb.TempDir()}
	h.reset()
	tb.Cleanup(func() { h.release(); h.work.Wait() })
	return h
}

func (h *fakeHeart) reset() {
	h.volumes, h.files = map[string]isosync.VolumeStatus{}, map[string]isosync.FileStatus{}
	h.bytes, h.clock = map[string][]byte{}, time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	h.server.Online = true
	h.server.Pool, h.server.Driver = "default", "dir"
	h.server.Space = lxd.Space{Used: 1 << 30, Total: 100 << 30}
	h.publish()
}

// publish makes a new snapshot; mu is held, or nobody else is there.
func (h *fakeHeart) publish() {
	s := &isosync.Snapshot{At: time.Now(), Folder: h.folder, Owner: "me", Server: h.server}
	for _, n := range slices.Sorted(maps.Keys(h.files)) {
		s.Files = append(s.Files, h.files[n])
	}
	for _, n := range slices.Sorted(maps.Keys(h.volumes)) {
		v := h.volumes[n]
		v.File = ""
		for _, f := range h.files {
			if f.Volume == v.Name && f.Digest == v.Digest && v.Ours {
				v.File = f.Name
			}
		}
		s.Volumes = append(s.Volumes, v)
	}
	h.snap = s
}

func (h *fakeHeart) change(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	h.publish()
}

// put makes a volume; ours has a file in the folder, too.
func (h *fakeHeart) put(tb testing.TB, name string, data []byte, ours bool) {
	tb.Helper()
	if ours {
		if err := os.WriteFile(filepath.Join(h.folder, name+".iso"), data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	h.change(func() {
		if ours {
			h.files[name+".iso"] = isosync.FileStatus{Name: name + ".iso", Volume: name, State: isosync.StatePresent, Digest: digestOf(data)}
		}
		h.store(name, data, ours)
	})
}

func (h *fakeHeart) store(name string, data []byte, ours bool) {
	h.clock = h.clock.Add(time.Hour)
	v := isosync.VolumeStatus{Ours: ours, Volume: lxd.Volume{
		Name: name, ContentType: "iso", Size: int64(len(data)), CreatedAt: h.clock,
	}}
	if ours {
		v.Digest = digestOf(data)
		v.Description = isosync.Mark{Owner: "me", SHA256: v.Digest, File: name + ".iso"}.Describe("")
	}
	h.volumes[name], h.bytes[name] = v, slices.Clone(data)
}

func (h *fakeHeart) use(name string, by ...string) {
	h.change(func() {
		v := h.volumes[name]
		v.UsedBy = by
		h.volumes[name] = v
	})
}

// pool is what the volume has; nil = there is none.
func (h *fakeHeart) pool(name string) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.volumes[name]; !ok {
		return nil
	}
	return h.bytes[name]
}

// hold makes imports wait until release.
func (h *fakeHeart) hold() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gate = make(chan struct{})
}

func (h *fakeHeart) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gate != nil {
		close(h.gate)
		h.gate = nil
	}
}

func (h *fakeHeart) away() {
	h.change(func() {
		h.server.Online = false
		h.server.Problem = &isosync.Problem{Code: isosync.CodeAway, Text: "the server is away", Remedy: "wait", Waits: true}
	})
}

func (h *fakeHeart) Snapshot() *isosync.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.snap
}

func (h *fakeHeart) NewDraft(string) (*os.File, error) {
	f, err := os.CreateTemp(h.folder, ".isosyncd-draft-*")
	if err == nil {
		h.mu.Lock()
		h.drafts++
		h.mu.Unlock()
	}
	return f, err
}

func (h *fakeHeart) done(f *os.File) {
	_ = f.Close()
	h.mu.Lock()
	h.drafts--
	h.mu.Unlock()
}

func (h *fakeHeart) Discard(f *os.File) {
	_ = os.Remove(f.Name())
	h.done(f)
}

func problem(code isosync.Code, format string, args ...any) *isosync.Problem {
	return &isosync.Problem{Code: code, Text: fmt.Sprintf(format, args...), Remedy: "do something"}
}

func (h *fakeHeart) Submit(ctx context.Context, f *os.File, name string, wait isosync.Wait) error {
	volume, err := isosync.VolumeName(name)
	if err != nil {
		h.Discard(f)
		return err
	}
	snap := h.Snapshot()
	if !snap.Server.Online && wait == isosync.WaitImport {
		h.Discard(f)
		return snap.Server.Problem
	}
	for _, v := range snap.Volumes {
		if v.Name == volume && !v.Ours {
			h.Discard(f)
			return problem(isosync.CodeForeign, "volume %s is not ours", volume)
		}
		if v.Name == volume && len(v.UsedBy) > 0 {
			h.Discard(f)
			return problem(isosync.CodeInUse, "volume %s is used", volume)
		}
	}
	info, probe := iso.ProbeFile(f)
	path := filepath.Join(h.folder, name)
	_, err = os.Stat(path)
	if probe != nil && (!errors.Is(probe, iso.ErrTruncated) || err == nil) {
		h.Discard(f)
		if errors.Is(probe, iso.ErrTruncated) {
			return problem(isosync.CodeIncomplete, "%s is %v", name, probe)
		}
		return problem(isosync.CodeNotISO, "%s is %v", name, probe)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		h.Discard(f)
		return err
	}
	h.done(f)
	status := isosync.FileStatus{Name: name, Volume: volume, State: isosync.StateQueued, Info: info, Since: time.Now()}
	if probe != nil {
		status.State, status.Problem = isosync.StateFailed, problem(isosync.CodeIncomplete, "%s is %v", name, probe)
		h.change(func() { h.files[name] = status })
		return status.Problem
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	h.change(func() { h.files[name] = status })
	result := make(chan error, 1)
	h.work.Go(func() { result <- h.imported(name, volume, data) })
	if wait == isosync.WaitStaged {
		return nil
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *fakeHeart) imported(name, volume string, data []byte) error {
	h.mu.Lock()
	gate := h.gate
	h.mu.Unlock()
	if gate != nil {
		<-gate
	}
	var err error
	h.change(func() {
		f, ok := h.files[name]
		if err = h.fail; err != nil {
			var p *isosync.Problem
			if !errors.As(err, &p) {
				p = problem(isosync.CodeServer, "%v", err)
				err = p
			}
			f.State, f.Problem = isosync.StateFailed, p
			h.files[name] = f
			return
		}
		if !ok {
			err = problem(isosync.CodeChanged, "%s was removed", name)
			return
		}
		h.store(volume, data, true)
		f.State, f.Digest, f.Problem = isosync.StatePresent, digestOf(data), nil
		h.files[name] = f
	})
	return err
}

func (h *fakeHeart) Remove(ctx context.Context, volume string) error {
	if h.hang != nil {
		select {
		case <-h.hang:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var err error
	h.change(func() {
		v, ok := h.volumes[volume]
		switch {
		case !h.server.Online:
			err = h.server.Problem
		case ok && !v.Ours:
			err = problem(isosync.CodeForeign, "not ours")
		case len(v.UsedBy) > 0:
			err = problem(isosync.CodeInUse, "in use")
		default:
			delete(h.volumes, volume)
			for n, f := range h.files {
				if f.Volume == volume {
					delete(h.files, n)
					err = errors.Join(err, os.Remove(filepath.Join(h.folder, n)))
				}
			}
		}
	})
	return err
}

func (h *fakeHeart) Rename(_ context.Context, from, to string) error {
	h.mu.Lock()
	gate := h.gate
	h.mu.Unlock()
	if gate != nil {
		<-gate
	}
	var err error
	h.change(func() {
		data := h.bytes[from]
		for n, f := range h.files {
			if f.Volume == from {
				err = os.Rename(filepath.Join(h.folder, n), filepath.Join(h.folder, to+".iso"))
				delete(h.files, n)
				f.Name, f.Volume = to+".iso", to
				h.files[to+".iso"] = f
			}
		}
		delete(h.volumes, from)
		h.store(to, data, true)
	})
	return err
}

func (h *fakeHeart) Open(volume string) (*os.File, error) {
	for _, v := range h.Snapshot().Volumes {
		if v.Name == volume && v.File != "" {
			return os.Open(filepath.Join(h.folder, v.File))
		}
	}
	return nil, fmt.Errorf("no file: %w", fs.ErrNotExist)
}

// testLog gives log lines to the test.
func testLog(tb testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}
