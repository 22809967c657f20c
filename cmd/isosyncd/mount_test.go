package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"isosyncd/lxd/lxdtest"
)

// mounted starts a daemon with a mount, and returns the directory.
func mounted(t testing.TB, s *site) (dir string, d *process) {
	t.Helper()
	lxdtest.Need(t, "fuse", "root")
	dir = filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.args = append(s.args, "--mount", dir)
	// Last to be cleaned up, and so after the daemon is gone: nothing may be left of a mount, whatever became of it.
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	d = s.run()
	eventually(t, "the mount", func() bool {
		_, err := os.Lstat(filepath.Join(dir, ".isosyncd"))
		return err == nil
	})
	return dir, d
}

// sh runs a line of shell in the mount.
func sh(t testing.TB, dir, line string, env ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*lxdtest.Limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", line)
	cmd.Dir, cmd.WaitDelay = dir, time.Second
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestMountWriters: whatever writes a file into the mount has made a volume when it returns, byte for byte.
func TestMountWriters(t *testing.T) {
	lxdtest.Need(t, "rsync", "curl")
	writers := []struct{ name, line string }{
		{"cp", "cp $SRC cp.iso"},
		{"cp-p", "cp -p $SRC cp-p.iso"},
		{"mv", "cp $SRC $TMP/mv.iso && mv $TMP/mv.iso ."},
		{"install", "install -m 644 $SRC install.iso"},
		{"rsync", "rsync $SRC rsync.iso"},
		{"rsync-a", "rsync -a $SRC rsync-a.iso"},
		{"curl", "curl -s -o curl.iso file://$SRC"},
		{"dd", "dd if=$SRC of=dd.iso bs=64k status=none"},
		{"redirect", "cat $SRC > redirect.iso"},
		{"pieces", "{ head -c 1000000 $SRC; tail -c +1000001 $SRC; } > pieces.iso"},
		{"part", "cp $SRC part.iso.part && mv part.iso.part part.iso"},
		{"crdownload", "cp $SRC crdownload.iso.crdownload && mv crdownload.iso.crdownload crdownload.iso"},
		{"goutput", "cp $SRC .goutputstream-ABC123 && mv .goutputstream-ABC123 goutput.iso"},
	}
	lxdtest.Each(t, func(t *testing.T, server *lxdtest.Server) {
		s := newSite(t, server)
		dir, d := mounted(t, s)
		tmp := t.TempDir()
		for _, w := range writers {
			b := image(2, w.name)
			src := filepath.Join(tmp, "src")
			if err := os.WriteFile(src, b, 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := sh(t, dir, w.line, "SRC="+src, "TMP="+tmp); err != nil {
				t.Fatalf("%s: %v\n%s", w.name, err, out)
			}
			// A rename answers before the import ends; everything else only after it.
			s.good(w.name, b)
			got, err := os.ReadFile(filepath.Join(dir, w.name+".iso"))
			if err != nil || !bytes.Equal(got, b) {
				t.Fatalf("%s: read back through the mount: %v, same bytes %v", w.name, err, bytes.Equal(got, b))
			}
		}
		d.stop()
	})
}

// TestMountFailures: a plain cp fails with the errno that says why.
func TestMountFailures(t *testing.T) {
	lxdtest.Each(t, func(t *testing.T, server *lxdtest.Server) {
		s := newSite(t, server)
		s.foreign("foreign", imageForeign)
		s.cp("used.iso", imageA)
		s.cp("ours.iso", imageB)
		dir, d := mounted(t, s)
		s.good("used", imageA)
		s.good("ours", imageB)
		server.UseVolume("used")
		eventually(t, "the use to be seen", func() bool {
			out, _ := sh(t, dir, "getfattr --only-values -n user.isosyncd.used-by used.iso")
			return strings.Contains(out, "default")
		})
		tmp := t.TempDir()
		write := func(name string, b []byte) string {
			p := filepath.Join(tmp, name)
			if err := os.WriteFile(p, b, 0o644); err != nil {
				t.Fatal(err)
			}
			return p
		}
		whole := write("whole", image(1, "new"))
		text := write("text", bytes.Repeat([]byte("no image\n"), 10_000))
		short := write("short", imageB[:1<<20])
		for _, c := range []struct{ line, want string }{
			{"cp " + text + " text.iso", "Invalid argument"},
			{"cp " + short + " short.iso", "Input/output error"},
			{"cp " + whole + " foreign.iso", "File exists"},
			{"cp " + whole + " used.iso", "Device or resource busy"},
			{"cp " + whole + " _.iso", "Invalid argument"},
			{"rm -f foreign.iso", "Operation not permitted"},
			{"rm -f used.iso", "Device or resource busy"},
			{"mkdir folder", "Operation not permitted"},
			{"ln ours.iso link.iso", "Operation not permitted"},
			{"ln -s ours.iso link.iso", "Operation not permitted"},
			{"echo more >> ours.iso", "Operation not permitted"},
		} {
			out, err := sh(t, dir, c.line)
			if err == nil || !strings.Contains(out, c.want) {
				t.Errorf("%s: %v, %q; want %q", c.line, err, out, c.want)
			}
		}
		s.exact("ours", imageB)
		s.exact("used", imageA)
		if out, err := sh(t, dir, "cp "+whole+" ours.iso"); err != nil {
			t.Errorf("overwrite: %v\n%s", err, out)
		}
		server.Free("used")
		eventually(t, "what is free to be removed", func() bool {
			_, err := sh(t, dir, "rm used.iso")
			return err == nil
		})
		s.good("ours", image(1, "new"))
		if _, there := s.volumes()["used"]; there {
			t.Error("the volume is still there")
		}
		d.stop()
	})
}

// TestMountRealUse: programs that read images read them from the mount, and a machine boots from one.
func TestMountRealUse(t *testing.T) {
	const rescue = "/usr/lib/grub-rescue/grub-rescue-cdrom.iso"
	needFiles(t, rescue)
	lxdtest.Need(t, "file", "isoinfo", "xorriso", "qemu-system-x86_64")
	s := newSite(t, lxdtest.Store(t))
	dir, d := mounted(t, s)
	if out, err := sh(t, dir, "cp "+rescue+" rescue.iso"); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	for line, want := range map[string]string{
		"file rescue.iso":                  "ISO 9660",
		"isoinfo -l -i rescue.iso":         "grub.cfg",
		"xorriso -indev rescue.iso -toc":   "Volume id",
		"cat .isosyncd/status":             "images: 1",
		"df --output=size . | tail -n 1":   "0",
		"find . -name '*.iso' -size +1000": "rescue.iso",
	} {
		if out, err := sh(t, dir, line); err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v; %q does not contain %q", line, err, out[:min(len(out), 500)], want)
		}
	}
	boots(t, filepath.Join(dir, "rescue.iso"))
	d.stop()
}

// boots starts a machine in software emulation, with the image as its only disc, and waits for GRUB on its screen: the
// text page of its memory is read through the monitor.
func boots(t *testing.T, image string) {
	t.Helper()
	dir := t.TempDir()
	text := filepath.Join(dir, "screen")
	var log logBuffer
	cmd := exec.CommandContext(t.Context(), "qemu-system-x86_64", "-machine", "pc,accel=tcg", "-m", "128", "-display", "none",
		"-vga", "std", "-nic", "none", "-boot", "d", "-cdrom", image, "-monitor", "stdio")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	eventually(t, "GRUB on the screen of the machine", func() bool {
		// 0xb8000: 80 x 25 characters, each followed by its colour.
		if _, err := in.Write([]byte("pmemsave 0xb8000 4000 \"" + text + "\"\n")); err != nil {
			t.Fatalf("qemu is gone: %v\n%s", err, log.String())
		}
		page, err := os.ReadFile(text)
		if err != nil {
			return false
		}
		var screen strings.Builder
		for i := 0; i+1 < len(page); i += 2 {
			screen.WriteByte(page[i])
		}
		return strings.Contains(screen.String(), "GRUB") || strings.Contains(screen.String(), "grub")
	})
}
