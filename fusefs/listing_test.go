package fusefs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"isosyncd/lxd"
	isosync "isosyncd/sync"
)

// requests counts what the kernel asks, by operation.
type requests struct {
	mu sync.Mutex
	n  map[string]int
}

func (r *requests) Write(p []byte) (int, error) {
	if f := strings.Fields(string(p)); len(f) > 2 && f[0] == "rx" {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.n[f[2]]++
	}
	return len(p), nil
}

func (r *requests) take() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.n
	r.n = map[string]int{}
	return n
}

func traced(c *Config) *requests {
	r := &requests{n: map[string]int{}}
	c.trace = log.New(r, "", 0)
	return r
}

// TestListing: all ISO volumes, ours or not, as files that can be read, with size and time of the volume; nothing else.
func TestListing(t *testing.T) {
	h := newFake(t)
	data := image(300, 1)
	h.put(t, "ours", data, true)
	h.change(func() {
		h.store("theirs", data, false)
		h.store("disk", data, false)
		v := h.volumes["disk"]
		v.ContentType = "block"
		h.volumes["disk"] = v
		h.store(isosync.StageName(digestOf(data)), data, true)
		v = h.volumes[isosync.StageName(digestOf(data))]
		v.Stage = true
		h.volumes[v.Name] = v
		h.store("torn", data, false)
		v = h.volumes["torn"]
		v.Partial = true
		h.volumes["torn"] = v
	})
	x := mountFake(t, h, nil)
	if names := x.names(); !slices.Equal(names, []string{"ours.iso", "theirs.iso"}) {
		t.Errorf("there are %q", names)
	}
	for name, v := range map[string]string{"ours.iso": "ours", "theirs.iso": "theirs"} {
		st, err := os.Stat(x.path(name))
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode() != 0o444 || st.Size() != int64(len(data)) || !st.ModTime().Equal(h.volumes[v].CreatedAt) {
			t.Errorf("%s: %v, %d bytes, %v", name, st.Mode(), st.Size(), st.ModTime())
		}
	}
	st, err := os.Stat(x.dir)
	if err != nil || st.Mode() != os.ModeDir|0o755 {
		t.Errorf("the directory is %v (%v)", st.Mode(), err)
	}
}

// TestLive: a change on the server shows without a remount, and a new incarnation is a new inode, an old one is not.
func TestLive(t *testing.T) {
	h := newFake(t)
	h.put(t, "a", image(300, 1), true)
	x := mountFake(t, h, nil)
	first := inode(t, x.path("a.iso"))
	h.change(func() { h.store("b", image(300, 2), false) })
	eventually(t, "the new one", func() bool { return slices.Equal(x.names(), []string{"a.iso", "b.iso"}) })
	if inode(t, x.path("a.iso")) != first {
		t.Error("the inode of a volume that nobody touched changed")
	}
	h.put(t, "a", image(310, 3), true)
	eventually(t, "the new incarnation", func() bool { return inode(t, x.path("a.iso")) != first })
	if !bytes.Equal(x.read("a.iso"), image(310, 3)) {
		t.Error("the new incarnation has other bytes")
	}
	h.change(func() { delete(h.volumes, "b") })
	eventually(t, "it goes", func() bool { return slices.Equal(x.names(), []string{"a.iso"}) })
}

// TestHostileNames (F10): names that are no file names are shown escaped, each as a file of its own.
func TestHostileNames(t *testing.T) {
	h := newFake(t)
	names := []string{"..", ".", "", "a/b", "a%2Fb", "../../etc/passwd", "nul\x00", "line\nend", "\x1b[31m", "\xff\xfe", strings.Repeat("x", 300), strings.Repeat("x", 301), strings.Repeat("/", 300), ".isosyncd", "-rf", "a b"}
	h.change(func() {
		for i, n := range names {
			h.store(n, image(20+i, uint64(i)), false)
		}
	})
	x := mountFake(t, h, nil)
	got := x.names()
	if len(got) != len(names) {
		t.Errorf("%d names for %d volumes: %q", len(got), len(names), got)
	}
	sizes := map[int64]bool{}
	for _, n := range got {
		st, err := os.Stat(x.path(n))
		if err != nil {
			t.Errorf("%q is listed, and: %v", n, err)
			continue
		}
		sizes[st.Size()] = true
	}
	if len(sizes) != len(names) {
		t.Errorf("%d different volumes are shown, want %d", len(sizes), len(names))
	}
	mustRun(t, "find", x.dir, "-type", "f")
}

// TestStatfs: df shows the pool, and the folder where the pool's driver does not tell.
func TestStatfs(t *testing.T) {
	h := newFake(t)
	x := mountFake(t, h, nil)
	var st unix.Statfs_t
	if err := unix.Statfs(x.dir, &st); err != nil {
		t.Fatal(err)
	}
	if total, free := int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize; total != 100<<30 || free != 99<<30 {
		t.Errorf("%d of %d bytes free", free, total)
	}
	h.change(func() { h.server.Space = lxd.Space{} })
	if err := unix.Statfs(x.dir, &st); err != nil || st.Blocks == 0 {
		t.Errorf("%d blocks (%v)", st.Blocks, err)
	}
}

// TestXattrs: user.isosyncd.* say what ls cannot.
func TestXattrs(t *testing.T) {
	h := newFake(t)
	data := image(300, 1)
	h.put(t, "a", data, true)
	h.use("a", "/1.0/profiles/p", "/1.0/instances/vm")
	h.change(func() {
		f := h.files["a.iso"]
		f.Info.Label, f.Info.Formats = "MY_LABEL", []string{"iso9660", "udf"}
		h.files["a.iso"] = f
		h.store("b", data, false)
		v := h.volumes["b"]
		v.Problem = problem(isosync.CodeForeign, "not yours")
		h.volumes["b"] = v
	})
	x := mountFake(t, h, nil)
	for key, want := range map[string]string{
		"a sha256": digestOf(data), "a state": "present", "a label": "MY_LABEL", "a format": "iso9660 udf",
		"a used-by": "/1.0/profiles/p\n/1.0/instances/vm", "a owner": "me", "b state": "foreign", "b error": "not yours; do something",
	} {
		name, attr, _ := strings.Cut(key, " ")
		buf := make([]byte, 1000)
		n, err := unix.Getxattr(x.path(name+".iso"), "user.isosyncd."+attr, buf)
		if err != nil || string(buf[:max(n, 0)]) != want {
			t.Errorf("%s: %q (%v), want %q", key, buf[:max(n, 0)], err, want)
		}
	}
	if out := mustRun(t, "getfattr", "--absolute-names", "-d", x.path("b.iso")); strings.Contains(out, "sha256") || !strings.Contains(out, "user.isosyncd.state=\"foreign\"") {
		t.Errorf("getfattr: %s", out)
	}
	if err := unix.Setxattr(x.path("a.iso"), "user.x", []byte("y"), 0); !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Errorf("setxattr: %v", err)
	}
	if _, err := unix.Getxattr(x.path("a.iso"), "user.isosyncd.sha256", make([]byte, 3)); !errors.Is(err, syscall.ERANGE) {
		t.Errorf("a small buffer: %v", err)
	}
}

// TestStatusFiles: .isosyncd has the state as text and as JSON, and a reason for each name that has one.
func TestStatusFiles(t *testing.T) {
	h := newFake(t)
	data := image(300, 1)
	h.put(t, "a", data, true)
	h.change(func() {
		h.files["bad\x1b.iso"] = isosync.FileStatus{
			Name: "bad\x1b.iso", State: isosync.StateFailed, Problem: problem(isosync.CodeNotISO, "it is a cake"),
		}
	})
	x := mountFake(t, h, nil)
	out := mustRun(t, "cat", x.path(".isosyncd/status"))
	for _, want := range []string{"server: online", "images: 1", "it is a cake; do something."} {
		if !strings.Contains(out, want) {
			t.Errorf("status has no %q: %s", want, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Errorf("a name reaches the terminal as it is (I11): %q", out)
	}
	var doc statusDoc
	if err := json.Unmarshal(x.read(".isosyncd/status.json"), &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Volumes) != 1 || doc.Volumes[0].SHA256 != digestOf(data) || len(doc.Files) != 2 || !doc.Server.Online {
		t.Errorf("status.json: %+v", doc)
	}
	if got := string(x.read(".isosyncd/errors/bad\x1b.iso")); got != "it is a cake; do something.\n" {
		t.Errorf("errors/bad.iso: %q", got)
	}
	st, err := os.Stat(x.path(".isosyncd/status.json"))
	if err != nil || st.Size() != int64(len(x.read(".isosyncd/status.json"))) || st.Mode() != 0o444 {
		t.Errorf("status.json is %v, %d bytes (%v)", st.Mode(), st.Size(), err)
	}
}

// TestManyVolumes: ls -l of 10,000 volumes asks for the directory, and nothing for each file.
func TestManyVolumes(t *testing.T) {
	const many = 10_000
	h := newFake(t)
	manyVolumes(h, many)
	var r *requests
	x := mountFake(t, h, func(c *Config) { r = traced(c) })
	for _, cmd := range [][]string{{"ls", "-lU", "--color=never", x.dir}, {"find", x.dir, "-size", "+1c", "-name", "*.iso"}} {
		r.take()
		out := mustRun(t, cmd[0], cmd[1:]...)
		if got := strings.Count(out, ".iso\n"); got != many {
			t.Errorf("%s shows %d files", cmd[0], got)
		}
		n := r.take()
		t.Logf("%s: %v", cmd[0], n)
		if asked := n["LOOKUP"] + n["GETATTR"] + n["GETXATTR"] + n["LISTXATTR"]; asked > many/20 {
			t.Errorf("%s: %d requests for single files", cmd[0], asked)
		}
	}
}

func manyVolumes(h *fakeHeart, many int) {
	h.change(func() {
		for i := range many {
			h.store(fmt.Sprintf("image-%05d", i), []byte("0123456789"), false)
		}
	})
}
