package fusefs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
)

// model is what the mount promises, in its simplest form: names, and what is behind each.
type model struct {
	volumes map[string]modelVolume // by entry name
	parts   map[string][]byte      // files under a temporary name, and empty ones
}

type modelVolume struct {
	data       []byte
	ours, used bool
}

// put is the answer to an image that is written to name, and what it does.
func (m *model) put(name string, data []byte) error {
	v, there := m.volumes[name]
	switch {
	case there && !v.ours:
		return syscall.EEXIST
	case there && v.used:
		return syscall.EBUSY
	}
	m.volumes[name] = modelVolume{data: data, ours: true}
	delete(m.parts, name)
	return nil
}

// refuse is the answer to a file that is no whole image, whose own fault is fault: a placeholder of its name goes.
func (m *model) refuse(name string, fault error) error {
	if v, there := m.volumes[name]; there && !v.ours {
		return syscall.EEXIST
	} else if there && v.used {
		return syscall.EBUSY
	}
	delete(m.parts, name)
	return fault
}

func (m *model) remove(name string) error {
	v, there := m.volumes[name]
	_, part := m.parts[name]
	switch {
	case !there && !part:
		return syscall.ENOENT
	case there && !v.ours:
		return syscall.EPERM
	case there && v.used:
		return syscall.EBUSY
	}
	delete(m.volumes, name)
	delete(m.parts, name)
	return nil
}

func (m *model) rename(from, to string) error {
	if data, ok := m.parts[from]; ok {
		if len(data) == 0 {
			return m.renameEmpty(from, to)
		}
		if err := m.put(to, data); err != nil {
			return err
		}
		delete(m.parts, from)
		return nil
	}
	v, there := m.volumes[from]
	w, taken := m.volumes[to]
	_, part := m.parts[to]
	switch {
	case !there:
		return syscall.ENOENT
	case from == to:
		return nil // the kernel's answer
	case !v.ours:
		return syscall.EPERM
	case v.used:
		return syscall.EBUSY
	case taken && !w.ours:
		return syscall.EEXIST
	case taken && w.used:
		return syscall.EBUSY
	case taken, part:
		return syscall.EEXIST
	}
	delete(m.volumes, from)
	m.volumes[to] = v
	return nil
}

func (m *model) renameEmpty(from, to string) error {
	if from == to {
		return nil
	}
	if v, there := m.volumes[to]; there && !v.ours {
		return syscall.EEXIST
	} else if there && v.used {
		return syscall.EBUSY
	} else if there {
		return syscall.EINVAL // EPERM, as rename says it
	}
	delete(m.parts, from)
	m.parts[to] = nil
	return nil
}

func (m *model) names() []string {
	return slices.Sorted(maps.Keys(func() map[string]bool {
		all := map[string]bool{}
		for n := range m.volumes {
			all[n] = true
		}
		for n := range m.parts {
			all[n] = true
		}
		return all
	}()))
}

// write writes a file as programs do, and gives the first error.
func write(path string, flags int, data []byte) error {
	f, err := os.OpenFile(path, flags|os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(data, 50_000) {
		if _, err := f.Write(chunk); err != nil {
			_ = f.Close()
			return err
		}
	}
	return f.Close()
}

// TestModel does random operations and compares each answer, and all that can be seen, with the model.
func TestModel(t *testing.T) {
	runModel(t, 10_000, 1)
}

// TestModelOneProcessor is TestModel with GOMAXPROCS=1.
func TestModelOneProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	runModel(t, 10_000, 2)
}

// walk is a random walk through the mount and the model.
type walk struct {
	t       *testing.T
	x       *mounted
	m       *model
	rng     *rand.Rand
	images  [][]byte
	readers []reader
	log     []string // of the last operations
}

// reader is a volume that is open, and what it had then.
type reader struct {
	f    *os.File
	data []byte
}

var (
	finals  = []string{"a.iso", "b.iso", "c.iso", "d.iso"}
	temps   = []string{"a.iso.part", ".b.iso.Xyz123", "c.crdownload"}
	garbage = bytes.Repeat([]byte("garbage\n"), 10_000)
)

func runModel(t *testing.T, operations int, seed uint64) {
	if testing.Short() {
		operations /= 10
	}
	h := newFake(t)
	// All programs are this one: to look through all others at each close would only take time.
	here := func(ino uint64) holding { return holds(strconv.Itoa(os.Getpid()), ino) }
	x := mountFake(t, h, func(c *Config) {
		c.tune = func(tr *tree) {
			tr.anyHolder, tr.holders = here, func(ino uint64, _ uint32) holding { return here(ino) }
		}
	})
	w := &walk{
		t: t, x: x, m: &model{volumes: map[string]modelVolume{}, parts: map[string][]byte{}},
		rng: rand.New(rand.NewPCG(seed, 7)),
	}
	for i := range 8 {
		w.images = append(w.images, image(20+5*i, uint64(i)))
	}
	for i := range operations {
		what, got, want := w.step()
		w.log = append(w.log[max(0, len(w.log)-25):], fmt.Sprintf("%d: %s: %v", i, what, got))
		if want == nil && got != nil || want != nil && !errors.Is(got, want) {
			t.Fatalf("got %v, want %v:\n%s", got, want, joinLines(w.log))
		}
		if i%50 == 49 {
			w.checkReaders()
		}
	}
	w.checkReaders()
	if err := x.check(w.m); err != nil {
		t.Fatalf("%v:\n%s", err, joinLines(w.log))
	}
	for n := range w.m.parts {
		_ = os.Remove(x.path(n))
	}
	eventually(t, "all drafts are given back", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.drafts == 0 })
}

func (w *walk) pick(s []string) string { return s[w.rng.IntN(len(s))] }

// checkReaders: whatever happened to the names, what is open has the bytes it had.
func (w *walk) checkReaders() {
	w.t.Helper()
	for _, r := range w.readers {
		b, err := io.ReadAll(io.NewSectionReader(r.f, 0, 1<<20))
		if err != nil || !bytes.Equal(b, r.data) {
			w.t.Errorf("an open file changed: %d bytes, %v:\n%s", len(b), err, joinLines(w.log))
		}
		_ = r.f.Close()
	}
	w.readers = nil
}

// step does one operation: what it is, what the mount answers, and what the model does.
func (w *walk) step() (what string, got, want error) {
	name, img := w.pick(finals), w.images[w.rng.IntN(len(w.images))]
	path := w.x.path(name)
	_, there := w.m.volumes[name]
	_, part := w.m.parts[name]
	switch w.rng.IntN(17) {
	case 0, 1, 2:
		return "write " + name, write(path, os.O_TRUNC, img), w.m.put(name, img)
	case 3:
		got, want = write(path, os.O_EXCL, img), syscall.EEXIST
		if !there && !part {
			want = w.m.put(name, img)
		}
		return "write new " + name, got, want
	case 4:
		return "truncated " + name, write(path, os.O_TRUNC, img[:19*2048]), w.m.refuse(name, syscall.EIO)
	case 5:
		return "garbage " + name, write(path, os.O_TRUNC, garbage), w.m.refuse(name, syscall.EINVAL)
	case 6, 7:
		return "rm " + name, os.Remove(path), w.m.remove(name)
	case 8:
		to := w.pick(finals)
		return "mv " + name + " " + to, os.Rename(path, w.x.path(to)), posixRename(w.m.rename(name, to))
	case 9:
		temp := w.pick(temps)
		w.m.parts[temp] = img
		return "write " + temp, write(w.x.path(temp), os.O_TRUNC, img), nil
	case 10, 11:
		temp := w.pick(temps)
		return "mv " + temp + " " + name, os.Rename(w.x.path(temp), path), posixRename(w.m.rename(temp, name))
	case 12:
		for _, err := range []error{os.Mkdir(path+"d", 0o755), os.Symlink("x", path+"l"), os.Link(w.x.path(controlName+"/status"), path+"h")} {
			if !errors.Is(err, syscall.EPERM) {
				return "mkdir, ln", err, syscall.EPERM
			}
		}
		return "mkdir, ln", nil, nil
	case 13:
		return w.server(name, img), nil, nil
	case 14:
		return "open " + name, w.open(name), nil
	case 15:
		if there {
			return "nothing", nil, nil
		}
		w.m.parts[name] = nil
		return "touch " + name, write(path, os.O_TRUNC, nil), nil
	}
	return "check", w.x.check(w.m), nil
}

// open keeps a volume of ours open.
func (w *walk) open(name string) error {
	v, there := w.m.volumes[name]
	if !there || !v.ours || len(w.readers) >= 5 {
		return nil
	}
	f, err := os.Open(w.x.path(name))
	if err == nil {
		w.readers = append(w.readers, reader{f, v.data})
	}
	return err
}

// server changes something without the mount: a foreign volume comes or goes, one of ours is attached or detached.
func (w *walk) server(name string, img []byte) string {
	h, volume := w.x.heart, name[:len(name)-len(imageExt)]
	v, there := w.m.volumes[name]
	_, part := w.m.parts[name]
	switch {
	case part:
		return "nothing"
	case !there:
		h.change(func() { h.store(volume, img, false) })
		w.m.volumes[name] = modelVolume{data: img}
		return "server makes " + name
	case !v.ours:
		h.change(func() { delete(h.volumes, volume) })
		delete(w.m.volumes, name)
		return "server removes " + name
	}
	v.used = !v.used
	w.m.volumes[name] = v
	if v.used {
		h.use(volume, "/1.0/instances/vm")
	} else {
		h.use(volume)
	}
	return "server uses or frees " + name
}

func joinLines(s []string) string {
	var b bytes.Buffer
	for _, l := range s {
		b.WriteString(l + "\n")
	}
	return b.String()
}

// posixRename is what rename(2) says for what write says: see renameErrno.
func posixRename(err error) error {
	if errors.Is(err, syscall.EINVAL) {
		return syscall.EPERM
	}
	return err
}

// check compares all that can be seen with the model.
func (x *mounted) check(m *model) error {
	if got, want := x.names(), m.names(); !slices.Equal(got, want) {
		return fmt.Errorf("listed are %q, want %q", got, want)
	}
	for n, v := range m.volumes {
		b, err := os.ReadFile(x.path(n))
		if v.ours && (err != nil || !bytes.Equal(b, v.data)) {
			return fmt.Errorf("%s has %d bytes, or other ones (%w)", n, len(b), errors.Join(err))
		}
		if !v.ours && !errors.Is(err, syscall.EOPNOTSUPP) {
			return fmt.Errorf("%s of somebody else: %w", n, errors.Join(err))
		}
		if !bytes.Equal(x.heart.pool(n[:len(n)-4]), v.data) {
			return fmt.Errorf("the pool has other bytes for %s", n)
		}
	}
	for n, data := range m.parts {
		if b, err := os.ReadFile(filepath.Join(x.dir, n)); err != nil || !bytes.Equal(b, data) {
			return fmt.Errorf("%s has %d bytes, want %d (%w)", n, len(b), len(data), errors.Join(err))
		}
	}
	return nil
}
