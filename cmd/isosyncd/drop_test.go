package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"isosyncd/iso"
	"isosyncd/lxd/lxdtest"
	isosync "isosyncd/sync"
)

// debianImages are real images of Debian's packages grub-rescue-pc, memtest86+ and ipxe.
var debianImages = []string{
	"/usr/lib/grub-rescue/grub-rescue-cdrom.iso", "/usr/lib/memtest86+/memtest86+x64.iso", "/usr/lib/memtest86+/memtest86+ia32.iso",
	"/usr/lib/ipxe/ipxe.iso",
}

// needFiles skips, or fails where all is required, unless the files are there.
func needFiles(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			continue
		}
		if strings.Contains(os.Getenv(lxdtest.RequireEnv), "all") {
			t.Fatalf("%s is missing; run .ci/packages", p)
		}
		t.Skipf("SKIPPED: %s is missing; run .ci/packages", p)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDropRealImages: cp of real images gives volumes of exactly their size and bytes, marked.
func TestDropRealImages(t *testing.T) {
	needFiles(t, debianImages...)
	lxdtest.Each(t, func(t *testing.T, server *lxdtest.Server) {
		s := newSite(t, server)
		d := s.run()
		for _, path := range debianImages {
			if out, err := exec.CommandContext(t.Context(), "cp", path, s.folder).CombinedOutput(); err != nil {
				t.Fatalf("cp: %v\n%s", err, out)
			}
		}
		for _, path := range debianImages {
			name, err := isosync.VolumeName(filepath.Base(path))
			if err != nil {
				t.Fatal(err)
			}
			s.good(name, read(t, path))
			human, m, _ := isosync.ParseMark(s.volumes()[name].Description)
			if human == "" || m.File != filepath.Base(path) {
				t.Errorf("volume %s is described as %q", name, s.volumes()[name].Description)
			}
		}
		d.stop()
	})
}

// TestCopyKilledMidway: a cp that is killed leaves a file that is closed, and still; it is no volume, and says why.
func TestCopyKilledMidway(t *testing.T) {
	lxdtest.Each(t, func(t *testing.T, server *lxdtest.Server) {
		s := newSite(t, server)
		d := s.run()
		b := image(8, "killed")
		writer := exec.CommandContext(t.Context(), "dd", "of="+filepath.Join(s.folder, "k.iso"), "bs=64k", "status=none")
		in, err := writer.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		const written = 3 << 20
		if _, err := in.Write(b[:written]); err != nil {
			t.Fatal(err)
		}
		eventually(t, "dd to have written", func() bool {
			st, err := os.Stat(filepath.Join(s.folder, "k.iso"))
			return err == nil && st.Size() == written
		})
		_ = writer.Process.Kill()
		_ = writer.Wait()
		s.held("k.iso", "waiting", "incomplete", "3145728 of 8388608 bytes")
		if v, there := s.volumes()["k"]; there {
			t.Fatalf("a torn volume: %+v", v)
		}
		s.cp("k.iso", b)
		s.good("k", b)
		eventually(t, "the status file to go", func() bool { return s.note("k.iso", "waiting") == "" })
		d.stop()
	})
}

// TestSlowWriter: 1 MiB every 100 ms with a pause of 7 s, longer than any delay of the daemon, in the middle.
func TestSlowWriter(t *testing.T) {
	lxdtest.Each(t, func(t *testing.T, server *lxdtest.Server) {
		s := newSite(t, server)
		d := s.run()
		b := image(8, "slow")
		f, err := os.Create(filepath.Join(s.folder, "slow.iso"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 8 {
			if i == 4 {
				time.Sleep(7 * time.Second)
			}
			if _, err := f.Write(b[i<<20 : (i+1)<<20]); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		intents := func() (n int) {
			for _, step := range s.traced() {
				if strings.HasSuffix(step, ".intent") {
					n++
				}
			}
			return n
		}
		if _, there := s.volumes()["slow"]; there || intents() > 0 {
			t.Fatal("imported before it was finished")
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		s.good("slow", b)
		d.stop()
		if n := intents(); n != 1 {
			t.Errorf("imported %d times", n)
		}
	})
}

// TestDaemonKilledWhileUploading: after a kill -9 in the middle of the bytes there is exactly one good volume.
func TestDaemonKilledWhileUploading(t *testing.T) {
	lxdtest.Each(t, func(t *testing.T, server *lxdtest.Server) {
		s := newSite(t, server)
		b := image(200, "large")
		s.cp("large.iso", b)
		for i := range 3 {
			d := s.run()
			eventually(t, "the upload to begin", func() bool {
				return strings.Contains(d.log.String(), "msg=started operation=") || ours(s.volumes()["large"], b)
			})
			time.Sleep(time.Duration(i) * 30 * time.Millisecond) // somewhere in the middle; any place will do
			d.kill()
		}
		d := s.run()
		s.good("large", b)
		d.stop()
		if n := len(s.volumes()); n != 1 {
			t.Errorf("%d volumes", n)
		}
	})
}

// TestTornVolumeIsNeverGood: incusd is killed while it writes a volume. It lists that with its full size afterwards
// (RELIABILITY 1.1); it must be made again.
func TestTornVolumeIsNeverGood(t *testing.T) {
	server := lxdtest.Incus(t)
	s := newSite(t, server)
	d := s.run()
	b := image(300, "torn")
	torn := false
	for try := 0; try < 6 && !torn; try++ {
		name := "torn" + string(rune('a'+try))
		s.cp(name+".iso", b[:len(b)-try]) // other bytes each time, so that nothing is copied on the server
		eventually(t, "the volume to be listed", func() bool { _, there := s.volumes()[name]; return there })
		server.Kill()
		server.Restart()
		s.pool = server.Pool(t)
		before := strings.Count(d.log.String(), "may be torn")
		s.good(name, b[:len(b)-try])
		torn = strings.Count(d.log.String(), "may be torn") > before || before > 0
	}
	if !torn {
		t.Error("the server was never caught while it wrote: the test proved nothing")
	}
	d.stop()
}

// TestStateLost: without its state directory the daemon knows its volumes by their marks, and sends nothing again.
func TestStateLost(t *testing.T) {
	lxdtest.Each(t, func(t *testing.T, server *lxdtest.Server) {
		s := newSite(t, server)
		imported(s)
		if err := os.RemoveAll(s.state); err != nil {
			t.Fatal(err)
		}
		was := s.volumes()["a"]
		d := s.run()
		s.cp("b.iso", imageB) // when this is there, everything before it was decided
		s.good("b", imageB)
		s.good("a", imageA)
		d.stop()
		if now := s.volumes()["a"]; now.Incarnation() != was.Incarnation() || strings.Contains(d.log.String(), "volume=a file=a.iso size=1048576 operation=import") {
			t.Errorf("made again: %+v", now)
		}
	})
}

// TestBadInput: whatever is in the folder is a stated hold or a correct import, and the daemon lives on.
func TestBadInput(t *testing.T) {
	lxdtest.Each(t, func(t *testing.T, server *lxdtest.Server) {
		s := newSite(t, server)
		d := s.run()
		path := func(name string) string { return filepath.Join(s.folder, name) }
		outside := filepath.Join(t.TempDir(), "outside.iso")
		err := errors.Join(
			os.WriteFile(outside, imageA, 0o600),
			os.Mkdir(path("folder.iso"), 0o755),
			os.Symlink(outside, path("link.iso")),
			os.Symlink("loop.iso", path("loop.iso")),
			syscall.Mkfifo(path("pipe.iso"), 0o644),
		)
		if err != nil {
			t.Fatal(err)
		}
		s.cp("text.iso", []byte("this is no image\n"))
		s.cp("empty.iso", nil)
		s.cp("page.iso", []byte("<!DOCTYPE html><html><body>404 Not Found</body></html>"))
		odd := []string{
			strings.Repeat("long", 62) + ".iso", "with blanks and 'quotes'.iso", "new\nline.iso", "über-ünï.iso", "\xff\xfe-bytes.iso",
			"-rf.iso", "UPPER.ISO",
		}
		for i, name := range odd {
			s.cp(name, image(1, name+string(rune(i))))
		}
		s.held("folder.iso", "failed", "a folder")
		s.held("link.iso", "failed", "a symbolic link")
		s.held("loop.iso", "failed", "a symbolic link")
		s.held("pipe.iso", "failed", "a named pipe")
		s.held("text.iso", "failed", "not an ISO image", "text")
		s.held("empty.iso", "failed", "not an ISO image", "empty")
		s.held("page.iso", "failed", "not an ISO image", "HTML")
		for i, name := range odd {
			volume, err := isosync.VolumeName(name)
			if err != nil {
				t.Fatal(err)
			}
			s.good(volume, image(1, name+string(rune(i))))
		}
		s.cp("after.iso", imageB)
		s.good("after", imageB)
		d.stop()
		if n := len(s.volumes()); n != len(odd)+1 {
			t.Errorf("%d volumes, want %d", n, len(odd)+1)
		}
	})
}

// TestDebiansFalseFriends: files that Debian ships under names ending in .iso, and that are something else.
func TestDebiansFalseFriends(t *testing.T) {
	friends := map[string]string{
		"/usr/lib/coccinelle/standard.iso":     "text",
		"/usr/share/doc/minicom/tables/mc.iso": "character conversion table",
	}
	for path := range friends {
		needFiles(t, path)
	}
	server := lxdtest.Store(t)
	s := newSite(t, server)
	d := s.run()
	for path, looksLike := range friends {
		s.cp(filepath.Base(path), read(t, path))
		s.held(filepath.Base(path), "failed", "not an ISO image", looksLike)
	}
	d.stop()
	if len(s.volumes()) > 0 {
		t.Errorf("volumes: %v", s.volumes())
	}
}

// TestUnreadableFile: a daemon that is not root meets a file that it may not read. It says so, and imports it as soon as
// it may.
func TestUnreadableFile(t *testing.T) {
	lxdtest.Need(t, "root")
	const nobody = 65534
	dir, err := os.MkdirTemp("", "unreadable")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(program(t)), 0o755)); err != nil { //nolint:gosec // others must get in
		t.Fatal(err)
	}
	folder := filepath.Join(dir, "drop")
	for _, sub := range []string{"drop", "isos", "state"} {
		p := filepath.Join(dir, sub)
		if err := errors.Join(os.Mkdir(p, 0o700), os.Chown(p, nobody, nobody)); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(folder, "a.iso")
	if err := errors.Join(os.WriteFile(path, imageA, 0o600), os.Chmod(path, 0)); err != nil {
		t.Fatal(err)
	}
	var log logBuffer
	cmd := exec.CommandContext(t.Context(), program(t), "run", "--folder", folder, "--remote", "store:"+filepath.Join(dir, "isos"),
		"--state-dir", filepath.Join(dir, "state"), "--control", filepath.Join(dir, "state", "c.sock"), "--settle-delay", "200ms",
		"--scan-interval", "1s", "--log-level", "debug")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, Pdeathsig: syscall.SIGKILL}
	cmd.Stdout, cmd.Stderr, cmd.Dir = &log, &log, dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	eventually(t, "a status file that says so", func() bool {
		b, err := os.ReadFile(path + ".failed")
		return err == nil && bytes.Contains(b, []byte("may not be read")) && bytes.Contains(b, []byte("chmod"))
	})
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the import", func() bool {
		return strings.Contains(log.String(), "msg=done operation=import volume=a")
	})
}

// TestSamples drops what is in testdata/iso all at once, and finds each sample where expect.txt says.
func TestSamples(t *testing.T) {
	s := newSite(t, lxdtest.Store(t))
	samples := map[string]string{} // verdicts
	for line := range strings.Lines(string(read(t, "../../testdata/iso/expect.txt"))) {
		f := strings.Split(line, "\t")
		if !strings.HasPrefix(line, "#") && len(f) > 1 && strings.HasSuffix(f[0], ".iso") {
			samples[f[0]] = f[1]
			s.cp(f[0], read(t, filepath.Join("../../testdata/iso", f[0])))
		}
	}
	d := s.run()
	for name, verdict := range samples {
		b := read(t, filepath.Join("../../testdata/iso", name))
		switch verdict {
		case "accept":
			volume, err := isosync.VolumeName(name)
			if err != nil {
				t.Fatal(err)
			}
			s.good(volume, b)
		case "incomplete":
			kind := "waiting"
			_, err := iso.Probe(bytes.NewReader(b), int64(len(b)))
			if cut := (*iso.TruncatedError)(nil); errors.As(err, &cut) && cut.Soft {
				kind = "failed" // after ten settle delays
			}
			s.held(name, kind, "incomplete")
		default:
			s.held(name, "failed", "not an ISO image")
		}
	}
	d.stop()
}
