package sync

import (
	"context"
	"errors"
	"os"
	gosync "sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watched runs watchLeases until the test ends.
func (b *box) watched() {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	var wg gosync.WaitGroup
	wg.Go(func() { b.watchLeases(ctx) })
	b.t.Cleanup(func() { cancel(); wg.Wait() })
}

func wantCode(t *testing.T, what string, err error, want Code) {
	t.Helper()
	var p *Problem
	if !errors.As(err, &p) || p.Code != want || p.Text == "" || p.Remedy == "" {
		t.Errorf("%s: error %v, want code %s", what, err, want)
	}
}

// mustPin pins a file as the last scan saw it.
func (b *box) mustPin(name string) *pinned {
	b.t.Helper()
	p, err := b.pin(name, b.file(name).ID)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = p.Close() })
	return p
}

func TestPin(t *testing.T) {
	b := newBox(t, nil)
	b.put("a.iso", isoImage(40, "a"))
	p := b.mustPin("a.iso")
	if err := p.check(); err != nil {
		t.Error(err)
	}
	d, err := openFolder(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if p.leased != d.leases {
		t.Errorf("leased %v, leases %v", p.leased, d.leases)
	}
	before := openFDs(t)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if openFDs(t) != before-1 || len(b.pins.all) != 0 {
		t.Error("Close kept something")
	}
	_, err = b.pin("a.iso", Identity{})
	wantCode(t, "another identity", err, CodeChanged)
	_, err = b.pin("b.iso", Identity{})
	wantCode(t, "missing", err, CodeChanged)
	if openFDs(t) != before-1 {
		t.Error("a failed pin kept a descriptor")
	}
}

func TestPinIsRefusedWhileWritten(t *testing.T) {
	b := newBox(t, nil)
	needLeases(t, b)
	b.put("a.iso", isoImage(40, "a"))
	id := b.file("a.iso").ID
	w, err := os.OpenFile(b.path("a.iso"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	_, err = b.pin("a.iso", id)
	wantCode(t, "pin", err, CodeWriting)
}

// TestWriterBreaksPin is D1: a writer that comes while the file is read is heard of at once, and does not wait for us.
func TestWriterBreaksPin(t *testing.T) {
	b := newBox(t, nil)
	needLeases(t, b)
	img := isoImage(40, "a")
	b.put("a.iso", img)
	b.put("b.iso", img)
	b.watched()
	other := b.mustPin("b.iso")
	for range 5 {
		p := b.mustPin("a.iso")
		w, err := os.OpenFile(b.path("a.iso"), os.O_WRONLY, 0) // waits until the lease is given up
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-p.broken():
		case <-time.After(60 * time.Second):
			t.Fatal("the reader was not told")
		}
		wantCode(t, "check, with nothing written yet", p.check(), CodeChanged)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-other.broken():
		t.Error("the writer of another file broke this one")
	default:
	}
	if err := other.check(); err != nil {
		t.Error(err)
	}
}

// TestCheckSeesWriterItself: also without the watcher nothing is overlooked.
func TestCheckSeesWriterItself(t *testing.T) {
	b := newBox(t, nil)
	needLeases(t, b)
	b.put("a.iso", isoImage(40, "a"))
	p := b.mustPin("a.iso")
	opened := make(chan error, 1)
	go func() {
		w, err := os.OpenFile(b.path("a.iso"), os.O_WRONLY, 0)
		if err == nil {
			err = w.Close()
		}
		opened <- err
	}()
	deadline := time.Now().Add(60 * time.Second)
	for p.check() == nil {
		if time.Now().After(deadline) {
			t.Fatal("check saw no writer")
		}
		time.Sleep(time.Millisecond)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

// TestPinnedFileChanges is D1 and D2 without leases: check tells of whatever happened to the bytes or to the name.
func TestPinnedFileChanges(t *testing.T) {
	img := isoImage(40, "a")
	for name, change := range map[string]func(b *box) error{
		"overwritten": func(b *box) error {
			f, err := os.OpenFile(b.path("a.iso"), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("x"), 30*2048)
			return errors.Join(err, f.Close())
		},
		"renamed over": func(b *box) error {
			b.put("new", isoImage(40, "new"))
			return os.Rename(b.path("new"), b.path("a.iso"))
		},
		"truncated":    func(b *box) error { return os.Truncate(b.path("a.iso"), 2048) },
		"grown":        func(b *box) error { return os.Truncate(b.path("a.iso"), 41*2048) },
		"deleted":      func(b *box) error { return os.Remove(b.path("a.iso")) },
		"renamed away": func(b *box) error { return os.Rename(b.path("a.iso"), b.path("b.iso")) },
		"replaced by a link to itself": func(b *box) error {
			return errors.Join(os.Rename(b.path("a.iso"), b.path("b")), os.Symlink("b", b.path("a.iso")))
		},
		"folder exchanged": func(b *box) error {
			b.t.Cleanup(func() { _ = os.RemoveAll(b.dir + ".aside") })
			return errors.Join(os.Rename(b.dir, b.dir+".aside"), os.Mkdir(b.dir, 0o700))
		},
		"folder exchanged for one with another image": func(b *box) error {
			b.t.Cleanup(func() { _ = os.RemoveAll(b.dir + ".aside") })
			err := errors.Join(os.Rename(b.dir, b.dir+".aside"), os.Mkdir(b.dir, 0o700))
			b.put("a.iso", isoImage(40, "other"))
			return err
		},
		"folder gone": func(b *box) error {
			b.t.Cleanup(func() { _ = os.RemoveAll(b.dir + ".aside") })
			return os.Rename(b.dir, b.dir+".aside")
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, noLeases)
			b.put("a.iso", img)
			p := b.mustPin("a.iso")
			if p.leased {
				t.Fatal("a lease was taken, though leases are off")
			}
			if err := change(b); err != nil {
				t.Fatal(err)
			}
			want := CodeChanged
			if name == "folder gone" {
				want = CodeFolder
			}
			wantCode(t, "check", p.check(), want)
		})
	}
}

func TestKeepGivesTheLeaseUp(t *testing.T) {
	b := newBox(t, nil)
	b.put("a.iso", isoImage(40, "a"))
	f := b.mustPin("a.iso").keep()
	defer f.Close()
	// Nobody watches leases here: a lease that stood would stop this for 45 s.
	w, err := os.OpenFile(b.path("a.iso"), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if _, err := f.ReadAt(make([]byte, 2048), 0); err != nil {
		t.Error(err)
	}
}

func TestRemove(t *testing.T) {
	b := newBox(t, nil)
	img := isoImage(40, "a")
	b.put("a.iso", img)
	id := b.file("a.iso").ID
	if err := b.remove("a.iso", id); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(b.dir); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
	if err := b.remove("a.iso", id); err != nil {
		t.Errorf("gone already: %v", err)
	}
	b.put("a.iso", img)
	wantCode(t, "another file", b.remove("a.iso", id), CodeChanged)
	if _, err := os.Stat(b.path("a.iso")); err != nil {
		t.Error(err)
	}
}
