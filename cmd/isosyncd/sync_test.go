package main

import (
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"

	"isosyncd/lxd/lxdtest"
	isosync "isosyncd/sync"
)

func TestSyncOnceAndDryRun(t *testing.T) {
	lxdtest.Each(t, func(t *testing.T, server *lxdtest.Server) {
		s := newCLISite(t, server)
		s.put("bios.iso")
		code, out, errs := s.cli("sync", "--dry-run")
		if code != 0 || !strings.HasPrefix(out, "import: bios.iso (") || !strings.Contains(out, "-> volume bios\n") {
			t.Errorf("%d %s %s", code, out, errs)
		}
		if _, err := os.Lstat(s.state); err == nil || len(s.volumes()) > 0 {
			t.Error("a dry run changed something")
		}
		if code, out, errs := s.cli("sync", "--once"); code != 0 || !strings.Contains(out, "1 present") {
			t.Fatalf("%d %s %s", code, out, errs)
		}
		was := s.volumes()
		if _, m, ok := isosync.ParseMark(was["bios"][strings.Index(was["bios"], " ")+1:]); !ok || m.SHA256 != digestOf(sampleImage(t, "bios.iso")) {
			t.Errorf("volumes are %v", was)
		}
		if code, out, _ := s.cli("sync", "--dry-run"); code != 0 || !strings.HasPrefix(out, "nothing to do: bios.iso") {
			t.Errorf("%d %s", code, out)
		}
		if code, _, _ := s.cli("sync", "--once"); code != 0 || s.volumes()["bios"] != was["bios"] {
			t.Errorf("%d, volumes are %v, were %v", code, s.volumes(), was)
		}
		s.put("html.iso")
		code, out, _ = s.cli("sync", "--dry-run", "--json")
		var lines []plannedLine
		if err := json.Unmarshal([]byte(out), &lines); err != nil || code != 1 || len(lines) != 2 || lines[1].Code != "not-iso" {
			t.Errorf("%v %d %s", err, code, out)
		}
		if code, out, _ := s.cli("sync", "--once"); code != 1 || !strings.Contains(out, "1 failed") {
			t.Errorf("%d %s", code, out)
		}
		if code, _, _ := s.cli("sync"); code != exitUsage {
			t.Errorf("neither --once nor --dry-run: %d", code)
		}
	})
}

// Where a terminal is, the phases are drawn into one line that is gone afterwards.
func TestPhasesLine(t *testing.T) {
	p := newPhases(io.Discard, false)
	s := p.begin("uploading", isosync.StateUploading, 100)
	s(50)
	line := p.step.line(p.step.started, 60)
	if !strings.HasPrefix(line, "uploading [=") || !strings.Contains(line, "50%") || width(line) > 60 {
		t.Error(line)
	}
	p.begin("the server writes to the pool", isosync.StateStoring, 0)
	if line := p.step.line(p.step.started, 60); line != "the server writes to the pool, 0 s" {
		t.Error(line)
	}
	p.end()
	p.end()
}
