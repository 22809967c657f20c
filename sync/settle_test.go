package sync

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"isosyncd/iso"
)

// testImage reads an image that the iso room tests with.
func testImage(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "testdata", "iso", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// needLeases skips where the file system of the test has no leases to tell.
func needLeases(t testing.TB, b *box) {
	t.Helper()
	d, err := openFolder(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if !d.leases {
		t.Skip("the file system of the tests has no leases that tell")
	}
}

// asNobody runs f as uid 65534, on a thread that ends with it.
func asNobody(t testing.TB, b *box, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	for _, dir := range []string{filepath.Dir(b.dir), b.dir} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread must not be used again
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			done <- errno
			return
		}
		f()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestWriterHolds is D1, D6 and K1: while somebody has the file open for writing it is not whole, however long it is
// still, and even if what is there is a whole image.
func TestWriterHolds(t *testing.T) {
	b := newBox(t, nil)
	needLeases(t, b)
	img := isoImage(40, "a")
	f, err := os.Create(b.path("a.iso"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int{0, 2048 * 10, 2048 * 20, 2048 * 40} {
		if _, err := f.WriteAt(img[:n], 0); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			r := b.look()
			if p := r.Files[0].Held; p == nil || p.Code != CodeWriting || !p.Waits {
				t.Fatalf("after %d bytes: %v", n, p)
			}
			if !r.Next.After(b.at) {
				t.Fatalf("after %d bytes nobody looks again", n)
			}
			b.pass(time.Hour)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b.expect("a.iso", "")
}

// TestSlowWriterWithoutLeases is D6 on a file system without leases: a writer that pauses for longer than the settle
// delay is seen through by what the image says of itself.
func TestSlowWriterWithoutLeases(t *testing.T) {
	b := newBox(t, noLeases)
	img := isoImage(100, "a")
	for n := range 100 {
		b.put("a.iso", img[:n*2048])
		b.look()
		b.pass(2 * settleDelay)
		if p := b.file("a.iso").Held; p == nil {
			t.Fatalf("taken with %d of 100 sectors", n)
		}
	}
	b.put("a.iso", img)
	b.expect("a.iso", CodeWriting)
	b.pass(settleDelay - 1)
	b.expect("a.iso", CodeWriting)
	b.pass(1)
	b.expect("a.iso", "")
}

// TestStillnessIsCountedAnew: each change starts the delay again, also one that leaves size and mtime alone, and one that
// sets the clock of the file back.
func TestStillnessIsCountedAnew(t *testing.T) {
	b := newBox(t, noLeases)
	img := isoImage(40, "a")
	b.put("a.iso", img)
	st, err := os.Stat(b.path("a.iso"))
	if err != nil {
		t.Fatal(err)
	}
	b.expect("a.iso", CodeWriting)
	for _, mtime := range []time.Time{st.ModTime(), time.Unix(0, 0), time.Now().AddDate(10, 0, 0), time.Now().AddDate(-10, 0, 0)} {
		b.pass(settleDelay - time.Second)
		b.expect("a.iso", CodeWriting)
		if err := os.Chtimes(b.path("a.iso"), mtime, mtime); err != nil { // D8
			t.Fatal(err)
		}
		b.expect("a.iso", CodeWriting)
	}
	r := b.look()
	if want := b.at.Add(settleDelay); !r.Next.Equal(want) {
		t.Errorf("next look at %v, want %v", r.Next, want)
	}
	b.pass(settleDelay)
	b.expect("a.iso", "")
}

// TestClockJumps is D8: times of files mean nothing, in any direction.
func TestClockJumps(t *testing.T) {
	b := newBox(t, nil)
	for i, at := range []time.Time{time.Unix(0, 0), time.Unix(1, 0), time.Now().AddDate(10, 0, 0), time.Now().AddDate(-10, 0, 0)} {
		name := fmt.Sprintf("%d.iso", i)
		b.put(name, isoImage(40, name))
		if err := os.Chtimes(b.path(name), at, at); err != nil {
			t.Fatal(err)
		}
		b.expect(name, "")
	}
}

func TestLeaseNotForUs(t *testing.T) {
	b := newBox(t, nil)
	needLeases(t, b)
	b.put("a.iso", isoImage(40, "a"))
	asNobody(t, b, func() {
		// Not the owner, and without CAP_LEASE: stillness counts.
		if c := b.code("a.iso"); c != CodeWriting {
			t.Errorf("at once: %q", c)
		}
		b.pass(settleDelay)
		if c := b.code("a.iso"); c != "" {
			t.Errorf("still for the delay: %q", c)
		}
	})
}

func TestUnreadable(t *testing.T) {
	b := newBox(t, nil)
	b.put("a.iso", isoImage(40, "a"))
	b.put("b.iso", isoImage(40, "b"))
	if err := os.Chmod(b.path("a.iso"), 0); err != nil {
		t.Fatal(err)
	}
	asNobody(t, b, func() {
		b.pass(settleDelay)
		b.code("b.iso")
		b.pass(settleDelay)
		if c := b.code("b.iso"); c != "" {
			t.Errorf("its neighbour: %q", c)
		}
		p := b.file("a.iso").Held
		if p == nil || p.Code != CodeUnreadable || p.Waits || !strings.Contains(p.Remedy, "chmod") {
			t.Errorf("held: %+v", p)
		}
	})
	if err := os.Chmod(b.path("a.iso"), 0o644); err != nil {
		t.Fatal(err)
	}
	asNobody(t, b, func() {
		b.code("a.iso")
		b.pass(settleDelay)
		if c := b.code("a.iso"); c != "" {
			t.Errorf("made readable: %q", c)
		}
	})
}

// TestReadError is D12: EIO is shown, and tried again at each scan.
func TestReadError(t *testing.T) {
	b := newBox(t, nil)
	b.put("a.iso", isoImage(40, "a"))
	broken := true
	b.probe = func(f *os.File) (iso.Info, error) {
		if broken {
			return iso.Info{}, &os.PathError{Op: "read", Path: f.Name(), Err: unix.EIO}
		}
		return iso.ProbeFile(f)
	}
	if p := b.expect("a.iso", CodeUnreadable); !p.Waits {
		t.Errorf("%+v", p)
	}
	broken = false
	b.expect("a.iso", "")
}

// TestChangedUnderProbe: a verdict on bytes that changed meanwhile is none.
func TestChangedUnderProbe(t *testing.T) {
	b := newBox(t, noLeases)
	b.put("a.iso", isoImage(40, "a"))
	b.look()
	b.pass(settleDelay)
	b.probe = func(f *os.File) (iso.Info, error) {
		info, err := iso.ProbeFile(f)
		b.put("a.iso", []byte("torn"))
		return info, err
	}
	b.expect("a.iso", CodeWriting)
	b.probe = iso.ProbeFile
	b.expect("a.iso", CodeWriting)
	b.pass(settleDelay)
	b.expect("a.iso", CodeNotISO)
}

func TestIncomplete(t *testing.T) {
	b := newBox(t, nil)
	img := isoImage(40, "a")
	b.put("a.iso", img[:30*2048])
	p := b.expect("a.iso", CodeIncomplete)
	if !p.Waits || !strings.Contains(p.Text, "60 KiB of 80 KiB") || !strings.Contains(p.Text, "61440 of 81920") {
		t.Errorf("%+v", p)
	}
	b.pass(1000 * settleDelay)
	if p := b.expect("a.iso", CodeIncomplete); !p.Waits {
		t.Errorf("a firm end is waited for, for ever: %+v", p)
	}
	b.put("a.iso", img)
	b.expect("a.iso", "")
}

// TestPreallocated is D7: full size from the start, and nothing in it.
func TestPreallocated(t *testing.T) {
	img := isoImage(2000, "a")
	for _, how := range []string{"sparse", "fallocate"} {
		t.Run(how, func(t *testing.T) {
			b := newBox(t, nil)
			f, err := os.Create(b.path("a.iso"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if how == "sparse" {
				err = f.Truncate(int64(len(img)))
			} else {
				err = unix.Fallocate(int(f.Fd()), 0, 0, int64(len(img)))
			}
			if errors.Is(err, unix.EOPNOTSUPP) {
				t.Skip("the file system of the tests cannot reserve space")
			}
			if err == nil {
				_, err = f.WriteAt(img[:1000*2048], 0)
			}
			if err == nil {
				err = f.Sync()
			}
			if err == nil {
				err = f.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			b.pass(100 * settleDelay)
			b.look()
			b.pass(100 * settleDelay)
			if p := b.expect("a.iso", CodeIncomplete); !p.Waits {
				t.Errorf("%+v", p)
			}
			b.put("a.iso", img)
			b.expect("a.iso", "")
		})
	}
}

// TestSoftEnd: where only the partition table says that the image is longer, patience ends; and a checksum list knows
// better.
func TestSoftEnd(t *testing.T) {
	b := newBox(t, nil)
	img := testImage(t, "cut-esp-hybrid.iso")
	b.put("a.iso", img)
	var cut *iso.TruncatedError
	f, err := os.Open(b.path("a.iso"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = iso.ProbeFile(f)
	_ = f.Close()
	if !errors.As(err, &cut) || !cut.Soft {
		t.Fatalf("the image is no example: %v", err)
	}
	r := b.look()
	if p := r.Files[0].Held; p == nil || p.Code != CodeIncomplete || !p.Waits || !r.Next.Equal(b.at.Add(softFactor*settleDelay)) {
		t.Fatalf("at once: %+v, next %v", p, r.Next)
	}
	b.pass(softFactor*settleDelay - 1)
	if p := b.expect("a.iso", CodeIncomplete); !p.Waits {
		t.Errorf("just before: %+v", p)
	}
	b.pass(1)
	r = b.look()
	if p := r.Files[0].Held; p == nil || p.Code != CodeIncomplete || p.Waits || !strings.Contains(p.Remedy, "sha256sum") || !r.Next.IsZero() {
		t.Errorf("in the end: %+v, next %v", p, r.Next)
	}
	b.put("SHA256SUMS", []byte(hexOf(img)+"  a.iso\n"))
	b.expect("a.iso", "")
	if s := b.file("a.iso").Sums; len(s) != 1 || s[0].Hex != hexOf(img) {
		t.Errorf("sums %v", s)
	}
	if err := os.Remove(b.path("SHA256SUMS")); err != nil {
		t.Fatal(err)
	}
	b.expect("a.iso", CodeIncomplete)
}

func TestNotISO(t *testing.T) {
	b := newBox(t, nil)
	b.put("a.iso", testImage(t, "qcow2.iso"))
	r := b.look()
	if p := r.Files[0].Held; p == nil || p.Code != CodeWriting || !r.Next.Equal(b.at.Add(settleDelay)) {
		t.Fatalf("the beginning of an image is none yet, but: %+v, next %v", p, r.Next)
	}
	b.pass(settleDelay)
	p := b.expect("a.iso", CodeNotISO)
	if p.Waits || !strings.Contains(strings.ToLower(p.Text), "qcow2") {
		t.Errorf("%+v", p)
	}
	b.put("a.iso", isoImage(40, "a"))
	b.expect("a.iso", "")
}

// TestHoleInside (D7): a hole within an image is a download that goes on, or zeros that a copy did not write. It is waited
// for a while, and less where a list or the mount vouches for the bytes.
func TestHoleInside(t *testing.T) {
	b := newBox(t, nil)
	img := isoImage(200, "holes")
	const off, length = 100 * 2048, 128 << 10
	clear(img[off : off+length])
	sparse := func(name string) {
		t.Helper()
		f, err := os.Create(b.path(name))
		if err == nil {
			_, err = f.Write(img[:off])
		}
		if err == nil {
			_, err = f.WriteAt(img[off+length:], off+length)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	sparse("a.iso")
	r := b.look()
	p := r.Files[0].Held
	if p == nil || p.Code != CodeIncomplete || !p.Waits || !r.Next.Equal(b.at.Add(softFactor*settleDelay)) {
		t.Fatalf("at once: %+v, next %v", p, r.Next)
	}
	b.pass(softFactor*settleDelay - 1)
	b.expect("a.iso", CodeIncomplete)
	b.pass(1)
	b.expect("a.iso", "")
	sparse("b.iso")
	b.expect("b.iso", CodeIncomplete)
	b.put("b.iso.sha256", []byte(hexOf(img)+"\n"))
	b.expect("b.iso", "")
}
