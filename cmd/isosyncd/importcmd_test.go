package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"isosyncd/lxd/lxdtest"
	isosync "isosyncd/sync"
)

func itoa(n int) string { return strconv.Itoa(n) }

// place of a command: a folder, a server, and the flags that name them.
type cliSite struct {
	t      testing.TB
	server *lxdtest.Server
	folder string
	state  string
	socket string
	args   []string
}

func newCLISite(t testing.TB, server *lxdtest.Server) *cliSite {
	t.Helper()
	dir := t.TempDir()
	s := &cliSite{t: t, server: server, folder: filepath.Join(dir, "drop"), state: filepath.Join(dir, "state"), socket: filepath.Join(dir, "c")}
	if err := os.Mkdir(s.folder, 0o755); err != nil {
		t.Fatal(err)
	}
	s.args = []string{"--remote", server.Addr(), "--project", server.Project(), "--pool", "default", "--owner", owner}
	return s
}

func newStoreSite(t testing.TB) *cliSite { return newCLISite(t, lxdtest.Store(t)) }

// cli adds the flags that the command knows.
func (s *cliSite) cli(command string, args ...string) (code int, stdout, stderr string) {
	s.t.Helper()
	full := append([]string{command}, args...)
	switch command {
	case "status":
		full = append(full, "--control", s.socket, "--state-dir", s.state, "--folder", s.folder)
	case "sync":
		full = append(full, s.args...)
		full = append(full, "--control", s.socket, "--state-dir", s.state, "--folder", s.folder, "--settle-delay", "100ms", "--log-level", "error")
	default:
		full = append(full, s.args...)
		full = append(full, "--state-dir", s.state, "--folder", s.folder)
	}
	return cli(s.t, full...)
}

// sampleImage is one of testdata/iso.
func sampleImage(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "testdata", "iso", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// put copies a sample into the folder, under its own or another name, and returns its path.
func (s *cliSite) put(sample string, as ...string) string {
	s.t.Helper()
	name := sample
	if len(as) > 0 {
		name = as[0]
	}
	path := filepath.Join(s.folder, name)
	if err := os.WriteFile(path, sampleImage(s.t, sample), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// volumes lists names and descriptions, so that a test sees whether anything changed.
func (s *cliSite) volumes() map[string]string {
	s.t.Helper()
	list, err := s.server.Pool(s.t).Volumes(lxdtest.Context(s.t))
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[string]string{}
	for _, v := range list {
		out[v.Name] = v.Incarnation() + " " + v.Description
	}
	return out
}

func TestImport(t *testing.T) {
	lxdtest.Each(t, func(t *testing.T, server *lxdtest.Server) {
		s := newCLISite(t, server)
		path := s.put("bios-uefi.iso", "My Image.iso")
		image := sampleImage(t, "bios-uefi.iso")
		code, out, errs := s.cli("import", path)
		if code != 0 || out != "My-Image\n" {
			t.Fatalf("%d %s %s", code, out, errs)
		}
		// Both phases are told, in order, also where no bar can be drawn.
		if up, store := strings.Index(errs, "uploading"), strings.Index(errs, "the server writes to the pool"); up < 0 || store < up {
			t.Errorf("phases: %s", errs)
		}
		v, err := server.Pool(t).Volume(lxdtest.Context(t), "My-Image")
		if err != nil {
			t.Fatal(err)
		}
		_, m, ok := isosync.ParseMark(v.Description)
		if !ok || m.SHA256 != digestOf(image) || m.File != "My Image.iso" || !strings.HasPrefix(m.Owner, importPrefix) {
			t.Errorf("mark %+v of %q", m, v.Description)
		}
		if v.Size != int64(len(image)) {
			t.Errorf("%d bytes", v.Size)
		}
		if file := server.VolumeFile("default", server.Project(), "My-Image"); file != "" {
			b, err := os.ReadFile(file)
			if err != nil || !bytes.Equal(b[:len(image)], image) {
				t.Errorf("the bytes on the server differ: %v", err)
			}
		}

		// Once more: nothing is sent, and it is a success.
		was := s.volumes()
		code, out, errs = s.cli("import", path)
		if code != 0 || out != "My-Image\n" || strings.Contains(errs, "uploading") {
			t.Errorf("again: %d %s %s", code, out, errs)
		}
		// Other bytes, a name of a person's, and no name at all.
		for _, c := range []struct{ file, name, want string }{
			{s.put("joliet.iso"), "My-Image", "clash: a volume My-Image with other bytes is there already"},
			{path, "a b", "name: "},
			{s.put("html.iso"), "", "format: html.iso is not an ISO image: it looks like an HTML page"},
			{s.put("cut-plain.iso"), "", "format: cut-plain.iso is incomplete"},
			{s.put("bios.iso", "日本.iso"), "", "name: "},
			{filepath.Join(s.folder, "none.iso"), "", "no such file"},
			{s.folder, "", "not a regular file"},
		} {
			args := []string{c.file}
			if c.name != "" {
				args = append(args, c.name)
			}
			code, out, errs := s.cli("import", args...)
			if code != 1 || out != "" || !strings.Contains(errs, c.want) || strings.Contains(errs, "uploading") {
				t.Errorf("%s: %d %s %s; want %q", c.file, code, out, errs, c.want)
			}
		}
		if now := s.volumes(); len(now) != 1 || now["My-Image"] != was["My-Image"] {
			t.Errorf("volumes are %v, were %v", now, was)
		}
	})
}

// A foreign volume is left as it is, whatever it is called and whoever asks.
func TestImportTouchesNothingForeign(t *testing.T) {
	lxdtest.Each(t, func(t *testing.T, server *lxdtest.Server) {
		s := newCLISite(t, server)
		path := s.put("bios.iso")
		f, err := os.Open(s.put("joliet.iso"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		pool, ctx := server.Pool(t), lxdtest.Context(t)
		op, err := pool.Import(ctx, "bios", f, st.Size(), nil)
		if err == nil {
			err = pool.Wait(ctx, op)
		}
		if err != nil {
			t.Fatal(err)
		}
		was := s.volumes()
		code, _, errs := s.cli("import", path)
		if code != 1 || !strings.Contains(errs, "isosyncd did not make it") {
			t.Errorf("%d %s", code, errs)
		}
		if now := s.volumes(); now["bios"] != was["bios"] || len(now) != 1 {
			t.Errorf("volumes are %v, were %v", now, was)
		}
	})
}

func TestImportChecksum(t *testing.T) {
	s := newStoreSite(t)
	path := s.put("bios.iso")
	sum := digestOf(sampleImage(t, "bios.iso"))
	list := filepath.Join(s.folder, "SHA256SUMS")
	write := func(text string) {
		if err := os.WriteFile(list, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(strings.Repeat("0", 64) + "  bios.iso\n")
	code, _, errs := s.cli("import", path)
	if code != 1 || !strings.Contains(errs, "checksum mismatch: SHA256SUMS wants sha256 000000000000...") || strings.Contains(errs, "uploading") {
		t.Errorf("%d %s", code, errs)
	}
	write(sum + "  bios.iso\n" + strings.Repeat("0", 64) + "  bios.iso\n")
	if code, _, errs := s.cli("import", path); code != 1 || !strings.Contains(errs, "twice") {
		t.Errorf("%d %s", code, errs)
	}
	if v := s.volumes(); len(v) > 0 {
		t.Errorf("volumes are %v", v)
	}
	write(sum + "  bios.iso\n")
	if code, _, errs := s.cli("import", path); code != 0 || len(s.volumes()) != 1 {
		t.Errorf("%d %s", code, errs)
	}
}

// A file that changes while it is sent never becomes a marked volume.
func TestImportOfAChangingFile(t *testing.T) {
	server := lxdtest.Store(t)
	s := newCLISite(t, server)
	path := s.put("bios.iso")
	proxy := lxdtest.FaultProxy(t, server.Addr())
	proxy.Strike(lxdtest.Imports, 1, 0, lxdtest.After(func() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("changed"), 50_000); err != nil {
			t.Error(err)
		}
	}))
	code, _, errs := cli(t, "import", path, "--remote", proxy.Addr(), "--pool", "default")
	if code != 1 || !strings.Contains(errs, "the file changed while it was read; the volume was deleted again") {
		t.Errorf("%d %s", code, errs)
	}
	if v := s.volumes(); len(v) > 0 {
		t.Errorf("volumes are %v", v)
	}
}

// What breaks on the way is said, and leaves no volume that could be taken for a good one.
func TestImportFaults(t *testing.T) {
	for name, c := range map[string]struct {
		fault lxdtest.Fault
		match lxdtest.Match
		say   string
	}{
		"cut":       {lxdtest.CutBody(1000), lxdtest.Imports, "there is no volume of it"},
		"refused":   {lxdtest.Answer(403, 0), lxdtest.Imports, "there is no volume of it"},
		"full":      {lxdtest.Answer(500, 0), lxdtest.Imports, "there is no volume of it"},
		"wait lost": {lxdtest.Answer(404, 0), lxdtest.Waits, "import bios"},
	} {
		t.Run(name, func(t *testing.T) {
			server := lxdtest.Store(t)
			s := newCLISite(t, server)
			proxy := lxdtest.FaultProxy(t, server.Addr())
			proxy.Strike(c.match, 1, 0, c.fault)
			code, out, errs := cli(t, "import", s.put("bios.iso"), "--remote", proxy.Addr(), "--pool", "default")
			if code != 1 || out != "" || !strings.Contains(errs, c.say) {
				t.Errorf("%d %s %s", code, out, errs)
			}
			for name, d := range s.volumes() {
				if strings.Contains(d, "[isosyncd") {
					t.Errorf("volume %s is marked: %s", name, d)
				}
			}
		})
	}
}

func TestImportInterrupted(t *testing.T) {
	server := lxdtest.Store(t)
	s := newCLISite(t, server)
	proxy := lxdtest.FaultProxy(t, server.Addr())
	ctx, cancel := context.WithCancel(context.Background())
	proxy.Strike(lxdtest.Imports, 1, 0, lxdtest.Before(cancel))
	code, _, errs := cliWith(t, ctx, nil, "import", s.put("bios.iso"), "--remote", proxy.Addr(), "--pool", "default")
	if code != 1 || !strings.Contains(errs, "interrupted: bios.iso was not imported") {
		t.Errorf("%d %s", code, errs)
	}
	for name, d := range s.volumes() {
		if strings.Contains(d, "[isosyncd") {
			t.Errorf("volume %s is marked: %s", name, d)
		}
	}
}

func TestCheck(t *testing.T) {
	lxdtest.Each(t, func(t *testing.T, server *lxdtest.Server) {
		s := newCLISite(t, server)
		bios, html := s.put("bios.iso"), s.put("html.iso")
		same := s.put("joliet.iso", "BIOS.ISO")
		was := s.volumes()
		code, out, errs := s.cli("check", bios)
		if code != 0 || out != "bios.iso: would become volume bios\n" || errs != "" {
			t.Errorf("%d %s %s", code, out, errs)
		}
		code, out, _ = s.cli("check", bios, html, same)
		if code != 1 || !strings.Contains(out, "html.iso: would not be imported\n  format   why: html.iso is not an ISO image") ||
			!strings.Contains(out, "BIOS.ISO: would become volume BIOS") {
			t.Errorf("%d %s", code, out)
		}
		code, out, _ = s.cli("check", "--json", bios, html)
		var first checked
		if err := json.NewDecoder(strings.NewReader(out)).Decode(&first); err != nil || code != 1 || !first.OK || first.Volume != "bios" || len(first.Checks) < 6 {
			t.Errorf("%v %d %s", err, code, out)
		}
		if now := s.volumes(); len(now) != len(was) {
			t.Errorf("volumes are %v", now)
		}
		if _, err := os.Lstat(s.state); err == nil {
			t.Error("a state directory was made")
		}

		// What is there already, is ours, or is in use.
		if code, _, errs := s.cli("sync", "--once"); code != 1 { // html.iso stays
			t.Fatalf("sync: %d %s", code, errs)
		}
		code, out, _ = s.cli("check", bios)
		if code != 0 || out != "bios.iso: is there already, as volume bios\n" {
			t.Errorf("%d %s", code, out)
		}
		other := s.put("joliet.iso", "bios.iso")
		code, out, _ = s.cli("check", "-v", other)
		if code != 0 || !strings.Contains(out, "volume bios, which nobody uses, would be replaced") {
			t.Errorf("%d %s", code, out)
		}
		server.UseVolume("bios")
		code, out, _ = s.cli("check", other)
		if code != 1 || !strings.Contains(out, "in use by profile default") {
			t.Errorf("%d %s", code, out)
		}
	})
}

// Two files of one command that map to one name, and a server that is away.
func TestCheckMore(t *testing.T) {
	s := newStoreSite(t)
	a, b := s.put("bios.iso", "x y.iso"), s.put("joliet.iso", "x-y.iso")
	code, out, _ := s.cli("check", a, b)
	if code != 1 || !strings.Contains(out, `x y.iso maps to the volume name x-y too`) {
		t.Errorf("%d %s", code, out)
	}
	s.server.Kill()
	code, out, _ = s.cli("check", a)
	if code != 1 || !strings.Contains(out, "server   why: ") || !strings.Contains(out, "do:  see that it runs") {
		t.Errorf("%d %s", code, out)
	}
}
