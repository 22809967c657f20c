package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"isosyncd/lxd/lxdtest"
)

// TestScript runs the scenarios of testdata/script, each in a folder and through a mount, against the store and against a
// real Incus. A line is a command and its words; "quoted words" may have blanks; # begins a comment. See scriptCommands.
func TestScript(t *testing.T) {
	files, err := filepath.Glob("../../testdata/script/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	lxdtest.Each(t, func(t *testing.T, server *lxdtest.Server) {
		for _, mode := range []string{"folder", "mount"} {
			for _, file := range files {
				name := strings.TrimSuffix(filepath.Base(file), ".txt")
				t.Run(mode+"/"+name, func(t *testing.T) {
					s := newSite(t, server.In(t, "script-"+mode+"-"+name, nil))
					r := &runner{t: t, site: s, in: s.folder}
					r.start = func() { r.daemon = s.run() }
					if mode == "mount" {
						r.in = ""
						r.start = func() {
							if r.in == "" {
								r.in, r.daemon = mounted(t, s)
								return
							}
							r.daemon = s.run()
							eventually(t, "the mount", func() bool {
								_, err := os.Lstat(filepath.Join(r.in, ".isosyncd"))
								return err == nil
							})
						}
					}
					r.run(string(read(t, file)), mode)
				})
			}
		}
	})
}

// runner is one scenario at work.
type runner struct {
	t      *testing.T
	site   *site
	in     string // where files are dropped: the folder, or the mount
	start  func()
	daemon *process
}

func (r *runner) run(script, mode string) {
	r.start()
	for n, line := range strings.Split(script, "\n") {
		words := splitWords(line)
		if len(words) == 0 {
			continue
		}
		if only, ok := strings.CutSuffix(words[0], ":"); ok { // "folder: rm a.iso" is for that mode only
			if words = words[1:]; only != mode {
				continue
			}
		}
		f, ok := scriptCommands[words[0]]
		if !ok {
			r.t.Fatalf("line %d: there is no command %q", n+1, words[0])
		}
		if err := f(r, words[1:]); err != nil {
			r.t.Fatalf("line %d: %s: %v", n+1, line, err)
		}
	}
	r.daemon.stop()
}

func splitWords(line string) []string {
	line, _, _ = strings.Cut(line, "#")
	var words []string
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			words = append(words, part)
			continue
		}
		words = append(words, strings.Fields(part)...)
	}
	return words
}

// scriptCommands are what a scenario can say. An image is named by MIB:SEED, such as 2:new: so many MiB whose bytes follow
// from the word.
var scriptCommands = map[string]func(*runner, []string) error{
	// drop FILE IMAGE: write it, as cp does.
	"drop": func(r *runner, a []string) error {
		return os.WriteFile(r.path(a[0]), bytesOf(r.t, a[1]), 0o644)
	},
	// part FILE IMAGE BYTES: only the first of its bytes, into the folder.
	"part": func(r *runner, a []string) error {
		n, err := strconv.Atoi(a[2])
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(r.site.folder, a[0]), bytesOf(r.t, a[1])[:n], 0o644)
	},
	// append FILE IMAGE BYTES: the rest of it.
	"append": func(r *runner, a []string) error {
		n, err := strconv.Atoi(a[2])
		if err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(r.site.folder, a[0]), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.Write(bytesOf(r.t, a[1])[n:])
		return errors.Join(err, f.Close())
	},
	// mv FROM TO, rm FILE: where files are dropped.
	"mv": func(r *runner, a []string) error { return os.Rename(r.path(a[0]), r.path(a[1])) },
	"rm": func(r *runner, a []string) error { return os.Remove(r.path(a[0])) },
	// truncate FILE BYTES: in the folder.
	"truncate": func(r *runner, a []string) error {
		n, err := strconv.ParseInt(a[1], 10, 64)
		if err != nil {
			return err
		}
		return os.Truncate(filepath.Join(r.site.folder, a[0]), n)
	},
	// until COMMAND...: again and again until it succeeds, as what others did on the server is seen a little later.
	"until": func(r *runner, a []string) error {
		f, ok := scriptFile[a[0]]
		if !ok {
			return fmt.Errorf("until does not know %q", a[0])
		}
		var last error
		eventually(r.t, strings.Join(a, " "), func() bool { last = f(r, a[1:]); return last == nil })
		return nil
	},
	// server-rm VOLUME, server-put VOLUME IMAGE, use VOLUME, free VOLUME: what others do on the server.
	"server-rm": func(r *runner, a []string) error {
		return r.site.pool.Delete(lxdtest.Context(r.t), a[0])
	},
	"server-put": func(r *runner, a []string) error { r.site.foreign(a[0], bytesOf(r.t, a[1])); return nil },
	"use":        func(r *runner, a []string) error { r.site.server.UseVolume(a[0]); return nil },
	"free":       func(r *runner, a []string) error { r.site.server.Free(a[0]); return nil },
	// kill, stop, start: the daemon.
	"kill":  func(r *runner, _ []string) error { r.daemon.kill(); return nil },
	"stop":  func(r *runner, _ []string) error { r.daemon.stop(); return nil },
	"start": func(r *runner, _ []string) error { r.start(); return nil },
	// good VOLUME IMAGE: wait until it is there, marked, with exactly these bytes, and no stage is left.
	"good": func(r *runner, a []string) error { r.site.good(a[0], bytesOf(r.t, a[1])); return nil },
	// exact VOLUME IMAGE: it holds exactly these bytes now, whatever else is there.
	"exact": func(r *runner, a []string) error { r.site.exact(a[0], bytesOf(r.t, a[1])); return nil },
	// gone VOLUME: wait until it is not there.
	"gone": func(r *runner, a []string) error {
		eventually(r.t, a[0]+" to be gone", func() bool { _, there := r.site.volumes()[a[0]]; return !there })
		return nil
	},
	// held FILE KIND WORD...: wait for a status file that says these.
	"held": func(r *runner, a []string) error { r.site.held(a[0], a[1], a[2:]...); return nil },
	// volumes N: so many are there now.
	"volumes": func(r *runner, a []string) error {
		if got := len(r.site.volumes()); strconv.Itoa(got) != a[0] {
			return fmt.Errorf("there are %d", got)
		}
		return nil
	},
	// uploads N: this daemon sent so many images.
	"uploads": func(r *runner, a []string) error {
		n := 0
		for _, step := range r.site.traced()[r.daemon.began:] {
			switch step {
			case "import.sent", "early.sent", "stage.sent":
				n++
			}
		}
		if strconv.Itoa(n) != a[0] {
			return fmt.Errorf("it sent %d", n)
		}
		return nil
	},
}

// scriptFile are the commands that "until" takes. fails ERRNO rm FILE: it must end with that error.
var scriptFile = map[string]func(*runner, []string) error{
	"drop": func(r *runner, a []string) error { return os.WriteFile(r.path(a[0]), bytesOf(r.t, a[1]), 0o644) },
	"rm":   func(r *runner, a []string) error { return os.Remove(r.path(a[0])) },
	"fails": func(r *runner, a []string) error {
		want := map[string]error{"EPERM": syscall.EPERM, "EBUSY": syscall.EBUSY}[a[0]]
		if want == nil || a[1] != "rm" {
			return fmt.Errorf("fails does not know %q", a)
		}
		if err := os.Remove(r.path(a[2])); !errors.Is(err, want) {
			return fmt.Errorf("it ended with: %w", err)
		}
		return nil
	},
}

func (r *runner) path(name string) string { return filepath.Join(r.in, name) }

func bytesOf(t *testing.T, spec string) []byte {
	t.Helper()
	mib, seed, ok := strings.Cut(spec, ":")
	n, err := strconv.Atoi(mib)
	if !ok || err != nil {
		t.Fatalf("%q is no image, such as 2:word", spec)
	}
	return image(n, seed)
}
