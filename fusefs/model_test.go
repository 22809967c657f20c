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
	m := &model{volumes: map[string]modelVolume{}, parts: map[string][]byte{}}
	rng := rand.New(rand.NewPCG(seed, 7))
	var images [][]byte
	for i := range 8 {
		images = append(images, image(20+5*i, uint64(i)))
	}
	garbage := bytes.Repeat([]byte("garbage\n"), 10_000)
	finals := []string{"a.iso", "b.iso", "c.iso", "d.iso"}
	temps := []string{"a.iso.part", ".b.iso.Xyz123", "c.crdownload"}
	pick := func(s []string) string { return s[rng.IntN(len(s))] }
	type reader struct {
		f    *os.File
		data []byte
	}
	var readers []reader
	defer func() {
		for _, r := range readers {
			_ = r.f.Close()
		}
	}()
	log := []string{}
	step := func(i int) (what string, got, want error) {
		name, img := pick(finals), images[rng.IntN(len(images))]
		volume := name[:len(name)-4]
		v, there := m.volumes[name]
		switch rng.IntN(17) {
		case 0, 1, 2:
			return "write " + name, write(x.path(name), os.O_TRUNC, img), m.put(name, img)
		case 3:
			want = syscall.EEXIST
			if _, part := m.parts[name]; !there && !part {
				want = m.put(name, img)
			} else if there && v.ours && v.used {
				want = syscall.EEXIST // the kernel looks before we do
			}
			return "write new " + name, write(x.path(name), os.O_EXCL, img), want
		case 4:
			want = syscall.EIO
			if there && !v.ours {
				want = syscall.EEXIST
			} else if there && v.used {
				want = syscall.EBUSY
			} else {
				delete(m.parts, name)
			}
			return "truncated " + name, write(x.path(name), os.O_TRUNC, img[:19*2048]), want
		case 5:
			want = syscall.EINVAL
			if there && !v.ours {
				want = syscall.EEXIST
			} else if there && v.used {
				want = syscall.EBUSY
			} else {
				delete(m.parts, name)
			}
			return "garbage " + name, write(x.path(name), os.O_TRUNC, garbage), want
		case 6, 7:
			return "rm " + name, os.Remove(x.path(name)), m.remove(name)
		case 8:
			to := pick(finals)
			return "mv " + name + " " + to, os.Rename(x.path(name), x.path(to)), posixRename(m.rename(name, to))
		case 9:
			part := pick(temps)
			m.parts[part] = img
			return "write " + part, write(x.path(part), os.O_TRUNC, img), nil
		case 10, 11:
			part := pick(temps)
			return "mv " + part + " " + name, os.Rename(x.path(part), x.path(name)), posixRename(m.rename(part, name))
		case 12:
			for _, err := range []error{os.Mkdir(x.path(name+"d"), 0o755), os.Symlink("x", x.path(name+"l")), os.Link(x.path(controlName+"/status"), x.path(name+"h"))} {
				if !errors.Is(err, syscall.EPERM) {
					return "mkdir, ln", err, syscall.EPERM
				}
			}
			return "mkdir, ln", nil, nil
		case 13:
			switch {
			case !there && m.parts[name] == nil:
				if _, part := m.parts[name]; part {
					return "nothing", nil, nil
				}
				h.change(func() { h.store(volume, img, false) })
				m.volumes[name] = modelVolume{data: img}
				return "server makes " + name, nil, nil
			case there && !v.ours:
				h.change(func() { delete(h.volumes, volume) })
				delete(m.volumes, name)
				return "server removes " + name, nil, nil
			case there:
				v.used = !v.used
				m.volumes[name] = v
				if v.used {
					h.use(volume, "/1.0/instances/vm")
				} else {
					h.use(volume)
				}
			}
			return "server uses or frees " + name, nil, nil
		case 14:
			if there && v.ours && len(readers) < 5 {
				f, err := os.Open(x.path(name))
				if err != nil {
					return "open " + name, err, nil
				}
				readers = append(readers, reader{f, v.data})
			}
			return "open " + name, nil, nil
		case 15:
			if there {
				return "nothing", nil, nil
			}
			m.parts[name] = nil
			return "touch " + name, write(x.path(name), os.O_TRUNC, nil), nil
		default:
			return "check", x.check(m), nil
		}
	}
	for i := range operations {
		what, got, want := step(i)
		log = append(log, fmt.Sprintf("%d: %s: %v", i, what, got))
		if len(log) > 25 {
			log = log[1:]
		}
		if want == nil && got != nil || want != nil && !errors.Is(got, want) {
			t.Fatalf("got %v, want %v:\n%s", got, want, joinLines(log))
		}
		if i%50 == 49 {
			for _, r := range readers {
				b, err := io.ReadAll(io.NewSectionReader(r.f, 0, 1<<20))
				if err != nil || !bytes.Equal(b, r.data) {
					t.Fatalf("an open file changed: %d bytes, %v:\n%s", len(b), err, joinLines(log))
				}
				_ = r.f.Close()
			}
			readers = nil
		}
	}
	if err := x.check(m); err != nil {
		t.Fatalf("%v:\n%s", err, joinLines(log))
	}
	for n := range m.parts {
		_ = os.Remove(x.path(n))
	}
	eventually(t, "all drafts are given back", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.drafts == 0 })
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
