package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"isosyncd/control"
)

var renderTime = time.Date(2026, 11, 25, 15, 4, 5, 0, time.UTC)

const someDigest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

func before(d time.Duration) time.Time { return renderTime.Add(-d) }

func onlineServer() control.Server {
	return control.Server{
		Online: true, Since: before(time.Hour), ListedAt: before(3 * time.Second), Vendor: "incus", Version: "6.0.4",
		Address: "unix:/var/lib/incus/unix.socket", Pool: "default", Driver: "dir", Project: "default", Events: true,
		Space: &control.Space{Used: 12 << 30, Total: 50 << 30, Free: 38 << 30},
	}
}

// scenes are what goldens are made of.
func scenes() map[string]*control.Status {
	empty := &control.Status{Version: 1, At: renderTime, Running: true, Folder: "/srv/iso-drop", Server: onlineServer()}

	one := *empty
	one.Files = []control.File{{
		Name: "debian.iso", Volume: "debian", State: "present", Size: 659554304, SHA256: someDigest, Since: before(time.Hour),
	}}

	mixed := *empty
	mixed.NeedsPerson = 2
	mixed.Server.Project = "lab"
	mixed.Files = []control.File{
		one.Files[0],
		{
			Name:   "Ubuntu 24.04 Désktop amd64 with a name that is far too long for any column.iso",
			Volume: "Ubuntu-24.04-Desktop-amd64-with-a-name-that-is-far-to-1a2b3c4d", State: "uploading", Size: 6 << 30,
			Progress: &control.Progress{Done: 2 << 30, Total: 6 << 30, Started: before(20 * time.Second), ElapsedSeconds: 20, BytesPerSecond: 107374182, LeftSeconds: 40},
		},
		{
			Name: "fedora.iso", Volume: "fedora", State: "storing", Size: 2 << 30,
			Progress: &control.Progress{Started: before(12 * time.Second), ElapsedSeconds: 12},
		},
		{
			Name: "\x1b]0;owned\a\u202egnp.iso", Volume: "gnp", State: "failed", Size: 12345, Problem: &control.Problem{
				Code: "not-iso", Text: `"\x1b]0;owned\a\u202egnp.iso" is not an ISO image: it looks like an HTML page`,
				Remedy: "the download failed, get it again", NeedsPerson: true,
			},
		},
		{Name: "new.iso", Volume: "new", State: "settling", Size: 4096, Problem: &control.Problem{
			Code: "writing", Text: "new.iso is still being written", Remedy: "nothing needs to be done", Waits: true,
		}},
		{
			Name: "win.iso", Volume: "win", State: "waiting", Size: 5 << 30, SHA256: strings.Repeat("ab", 32),
			UsedBy: []string{"/1.0/instances/desktop-of-a-person-with-a-long-name?project=lab", "/1.0/profiles/default"},
			Problem: &control.Problem{
				Code: "in-use", Text: "win.iso is new, but its volume win is in use by instance desktop-of-a-person-with-a-long-name (project lab), profile default",
				Remedy: "detach it there; it goes ahead by itself when it is free", Waits: true, NeedsPerson: true,
			},
		},
		{
			Name: "x.iso", Volume: "x", State: "retrying", Size: 1 << 20, Attempts: 3, NextTry: renderTime.Add(20 * time.Second),
			Problem: &control.Problem{Code: "server", Text: "the server failed: internal error", Remedy: "it is tried again by itself (3 so far)", Waits: true},
		},
	}
	mixed.Volumes = []control.Volume{
		{Name: "debian", Ours: true, Size: 659554304, SHA256: someDigest, File: "debian.iso"},
		{Name: "left-over", Ours: true, Size: 1 << 30, SHA256: someDigest},
		{Name: "theirs\n", Size: 2048, UsedBy: []string{"/1.0/instances/vm1"}},
	}

	away := *empty
	problem := &control.Problem{
		Code: "away", Text: "the server is away: connect to unix:/var/lib/incus/unix.socket: connection refused",
		Remedy: "everything goes on by itself when it answers", Waits: true, NeedsPerson: true,
	}
	away.NeedsPerson = 1
	away.Server = control.Server{Problem: problem, Since: before(5 * time.Minute), Vendor: "incus", Version: "6.0.4", Address: "unix:/var/lib/incus/unix.socket", Pool: "default"}
	away.Files = []control.File{
		{Name: "a.iso", Volume: "a", State: "waiting", Size: 1 << 20, Problem: problem},
		{Name: "b.iso", Volume: "b", State: "waiting", Size: 1 << 20, Problem: problem},
	}

	stopped := one
	stopped.Running = false
	stopped.Server = control.Server{}

	many := *empty
	for i := range 500 {
		f := one.Files[0]
		f.Name, f.Volume = fmt.Sprintf("image-%03d.iso", i), fmt.Sprintf("image-%03d", i)
		if i%100 == 99 {
			f.State, f.Problem = "failed", &control.Problem{Code: "checksum", Text: "checksum mismatch", Remedy: "get the image again", NeedsPerson: true}
			many.NeedsPerson++
		}
		many.Files = append(many.Files, f)
	}
	return map[string]*control.Status{"empty": empty, "one": &one, "mixed": &mixed, "away": &away, "stopped": &stopped, "many": &many}
}

func TestRenderGolden(t *testing.T) {
	for name, st := range scenes() {
		for _, v := range []view{{Width: 80, Height: 24}, {Width: 200, Height: 50}, {}} {
			v.Now = renderTime
			t.Run(fmt.Sprintf("%s-%d", name, v.Width), func(t *testing.T) {
				got := renderStatus(st, v)
				golden(t, fmt.Sprintf("render-%s-%d.txt", name, v.Width), got)
				lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
				if v.Height > 0 && len(lines) >= v.Height {
					t.Errorf("%d lines in a terminal of %d", len(lines), v.Height)
				}
				for _, l := range lines {
					if v.Width > 0 && width(l) > v.Width {
						t.Errorf("%d cells: %s", width(l), l)
					}
					if strings.ContainsFunc(l, hidden) {
						t.Errorf("hidden characters: %q", l)
					}
					if l != strings.TrimRight(l, " ") {
						t.Errorf("blanks at the end: %q", l)
					}
				}
			})
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (UPDATE_GOLDEN=1 writes it anew):\n%s", path, d)
	}
}

// Colours add nothing but colours.
func TestRenderColour(t *testing.T) {
	for name, st := range scenes() {
		v := view{Width: 80, Height: 24, Now: renderTime}
		plain := renderStatus(st, v)
		v.Colour = true
		coloured := renderStatus(st, v)
		if coloured == plain && len(st.Files) > 0 {
			t.Errorf("%s: no colours", name)
		}
		if got := stripColour(coloured); got != plain {
			t.Errorf("%s: %s", name, cmp.Diff(plain, got))
		}
	}
}

func stripColour(s string) string {
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(s, "\x1b[")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		_, s, _ = strings.Cut(after, "m")
	}
}

// Nothing gets lost where there is room, and what needs a person never does.
func TestRenderShowsEverything(t *testing.T) {
	st := scenes()["many"]
	all := renderStatus(st, view{Now: renderTime})
	for i := range st.Files {
		if !strings.Contains(all, st.Files[i].Name) {
			t.Errorf("%s is missing", st.Files[i].Name)
		}
	}
	few := renderStatus(st, view{Width: 80, Height: 30, Now: renderTime})
	for i := 99; i < 500; i += 100 {
		if !strings.Contains(few, st.Files[i].Name) {
			t.Errorf("%s, which needs a person, is missing", st.Files[i].Name)
		}
	}
	if !strings.Contains(few, "more; without --watch") {
		t.Error("what is left out is not counted")
	}
}

// However narrow or low a terminal is, nothing breaks.
func TestRenderTinyTerminals(t *testing.T) {
	for name, st := range scenes() {
		for w := 1; w < 100; w++ {
			for _, h := range []int{1, 3, 10} {
				for _, l := range strings.Split(renderStatus(st, view{Width: w, Height: h, Now: renderTime}), "\n") {
					if width(l) > w {
						t.Fatalf("%s in %d cells: %q has %d", name, w, l, width(l))
					}
				}
			}
		}
	}
}
