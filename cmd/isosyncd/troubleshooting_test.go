package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	gosync "sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"isosyncd/lxd/lxdtest"
)

// trouble is a person's situation: a real server, the real daemon, a folder, and something that is wrong.
type trouble struct {
	*cliSite
	daemon []string // flags of run
	exe    string
}

// troubles are the chapters of docs/TROUBLESHOOTING.md. What it shows is what the real program prints.
var troubles = []struct {
	title string
	code  string   // the problem's, in status and in the file beside the image
	note  string   // the file that appears in the folder
	say   []string // what status must say; a person has nothing else
	setup func(t *trouble)
	more  string // for the document
}{
	{
		"not an ISO image", "not-iso", "html.iso.failed",
		[]string{"html.iso is not an ISO image", "HTML page", "the download went wrong"},
		func(t *trouble) { t.put("html.iso") },
		"The file is something else under the name of an image. The message names what it looks like, and what to do with that.",
	},
	{
		"truncated", "incomplete", "debian.iso.waiting",
		[]string{"debian.iso is incomplete", "ISO 9660", "copy it again"},
		func(t *trouble) { t.write("debian.iso", sampleImage(t.t, "bios-uefi.iso")[:60_000]) },
		"The image itself says how long it is, and the file is shorter: the copy or download was cut off, or it goes on very slowly.",
	},
	{
		"checksum mismatch", "checksum", "debian.iso.failed",
		[]string{"checksum mismatch", "SHA256SUMS", "get the image again, or correct the list"},
		func(t *trouble) {
			t.write("SHA256SUMS", []byte(strings.Repeat("0123456789abcdef", 4)+"  debian.iso\n"))
			t.put("bios.iso", "debian.iso")
		},
		"A list beside the image names it with another sum. Either the image is damaged, or the list is that of another version.",
	},
	{
		"name clash", "clash", "windows-11.iso.failed",
		[]string{"both map to the volume name windows-11", "rename this file"},
		func(t *trouble) {
			t.put("bios.iso", "windows 11.iso")
			t.until("present .*windows 11.iso")
			t.put("joliet.iso", "windows-11.iso")
		},
		"Volume names are simpler than file names, so that two files can come to one name. The one that has it keeps it.",
	},
	{
		"a volume that is not ours", "foreign", "debian.iso.failed",
		[]string{"a volume debian is there already, and it is not ours", "isosyncd adopt debian"},
		func(t *trouble) {
			image := filepath.Join(t.t.TempDir(), "x.iso")
			if err := os.WriteFile(image, sampleImage(t.t, "joliet.iso"), 0o600); err != nil {
				t.t.Fatal(err)
			}
			t.server.Run("storage", "volume", "import", "default", image, "debian", "--type=iso")
			t.put("bios.iso", "debian.iso")
		},
		"Somebody made a volume of that name. It is never touched. `isosyncd adopt` takes it over if it has the size of the file.",
	},
	{
		"in use", "in-use", "debian.iso.waiting",
		[]string{"debian.iso is new", "is in use by profile default", "detach it there"},
		func(t *trouble) {
			t.put("bios.iso", "debian.iso")
			t.until("present .*debian.iso")
			t.server.UseVolume("debian")
			t.until("present .*debian.iso .*profile default")
			t.put("joliet.iso", "debian.iso")
		},
		"The volume has an instance or profile, so it cannot be replaced. Its old image stays usable meanwhile.",
	},
	{
		"pool full", "no-space", "debian.iso.waiting",
		[]string{"the pool lacks room", "free some"},
		func(t *trouble) {
			t.smallPool()
			t.put("bios.iso", "debian.iso")
		},
		"It is found out before anything is sent.",
	},
	{
		"the server is away", "away", ".waiting",
		[]string{"the server is away", "connection refused", "goes on by itself when it answers"},
		func(t *trouble) {
			t.until("online")
			t.server.Kill()
			t.put("bios.iso", "debian.iso")
		},
		"Nothing is lost meanwhile: what is put into the folder waits. Look whether LXD or Incus runs.",
	},
	{
		"the server's certificate changed", "denied", ".waiting",
		[]string{"certificate", "remove the remote and add it again"},
		func(t *trouble) {
			t.until("online")
			t.server.Kill()
			for _, f := range []string{"server.crt", "server.key"} {
				if err := os.Remove(filepath.Join(t.server.Dir(), f)); err != nil {
					t.t.Fatal(err)
				}
			}
			t.server.Restart()
			t.put("bios.iso", "debian.iso")
		},
		"The server has another certificate than the one that was accepted. Both fingerprints are shown. Nothing is sent there.",
	},
	{
		"project limit", "limit", "debian.iso.waiting",
		[]string{"the limits of the project leave too little", "raise limits.disk"},
		func(t *trouble) { t.put("bios.iso", "debian.iso") },
		"The project may not store that much (`limits.disk`), however much room the pool has.",
	},
	{
		"no permission", "denied", ".waiting",
		[]string{"does not have permissions for project", "let the server trust this client for the project"},
		func(t *trouble) { t.put("bios.iso", "debian.iso") },
		"The server knows this client, but does not let it into the project.",
	},
}

// write makes a file appear at once, whole: what a scan sees of one that is being written is another story.
func (t *trouble) write(name string, b []byte) {
	t.t.Helper()
	tmp := filepath.Join(t.folder, "."+name)
	err := os.WriteFile(tmp, b, 0o644)
	if err == nil {
		err = os.Rename(tmp, filepath.Join(t.folder, name))
	}
	if err != nil {
		t.t.Fatal(err)
	}
}

func (t *trouble) put(sample string, as ...string) {
	t.t.Helper()
	t.write(append(as, sample)[0], sampleImage(t.t, sample))
}

// smallPool makes a pool of 64 KiB: the real server on a real, small file system.
func (t *trouble) smallPool() {
	t.t.Helper()
	dir := t.t.TempDir() // not in the server's directory: that is refused
	// In the daemon's own mount namespace, so that the mount goes away with it.
	cmd := exec.CommandContext(lxdtest.Context(t.t), "nsenter", "-t", fmt.Sprint(t.server.PID()), "-m", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.t.Fatalf("%v: %s", err, out)
	}
	t.server.Run("storage", "create", "small", "dir", "source="+dir)
	t.daemon = append(t.daemon, "--pool", "small")
}

// start runs the daemon until the end of the test.
func (t *trouble) start() *logBuffer {
	t.t.Helper()
	log := &logBuffer{}
	args := append([]string{
		"run", "--folder", t.folder, "--state-dir", t.state, "--control", t.socket, "--settle-delay", "200ms",
		"--scan-interval", "1s", "--refresh-interval", "1s",
	}, t.daemon...)
	cmd := exec.CommandContext(context.Background(), t.exe, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.t.Fatal(err)
	}
	t.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.t.Failed() {
			t.t.Logf("the daemon logged:\n%s", log)
		}
	})
	return log
}

// status is what a person sees who types isosyncd status.
func (t *trouble) status() (code int, text string) {
	t.t.Helper()
	code, out, errs := cli(t.t, "status", "--control", t.socket, "--state-dir", t.state, "--folder", t.folder)
	return code, out + errs
}

// settledStatus has a server that was asked, and a file that was judged.
var settledStatus = regexp.MustCompile(`(?s)(online|cannot be used).*\nfiles   [^\n]*1 (failed|waiting)`)

func (t *trouble) until(pattern string) {
	t.t.Helper()
	re := regexp.MustCompile(pattern)
	var text string
	defer func() {
		if t.t.Failed() {
			t.t.Logf("status was:\n%s", text)
		}
	}()
	lxdtest.Eventually(t.t, "a status with "+pattern, func() bool {
		_, text = t.status()
		return re.MatchString(text)
	})
}

// A person who never read the docs can tell what is wrong, and what to do, from the status and the folder alone; and the
// document shows just that.
func TestTroubleshooting(t *testing.T) {
	lxdtest.Need(t, "incus", "nsenter")
	exe := program(t)
	chapters := make([]string, len(troubles))
	var wg gosync.WaitGroup
	wg.Add(len(troubles))
	t.Run("each", func(t *testing.T) {
		for i := range troubles {
			t.Run(troubles[i].title, func(t *testing.T) {
				t.Parallel()
				defer wg.Done()
				chapters[i] = chapter(t, exe, i)
			})
		}
	})
	wg.Wait()
	if t.Failed() || len(chapters[0]) == 0 {
		return
	}
	text := troubleshootingHead + strings.Join(chapters, "") + troubleshootingTail
	path := filepath.Join("..", "..", "docs", "TROUBLESHOOTING.md")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(was), text); d != "" {
		t.Errorf("docs/TROUBLESHOOTING.md is not what the program prints (UPDATE_GOLDEN=1 writes it anew):\n%s", d)
	}
}

func chapter(t *testing.T, exe string, i int) string {
	what := &troubles[i]
	tr := &trouble{cliSite: newCLISite(t, lxdtest.Incus(t)), exe: exe}
	tr.daemon = []string{"--remote", tr.server.Addr()}
	fingerprints := map[string]string{}
	switch what.title {
	case "the server's certificate changed", "no permission":
		target := tr.server.HTTPS(t)
		var args []string
		if what.title == "no permission" {
			tr.server.Run("project", "create", "lab", "-c", "features.images=false", "-c", "features.profiles=false")
			args = []string{"--restricted", "--projects", "lab"}
		}
		if code, out, errs := tr.remote(tr.server.Token(t, "isosyncd", args...), "add", "prod"); code != 0 {
			t.Fatalf("%d %s %s", code, out, errs)
		}
		fingerprints[strings.TrimPrefix(target.Addr, "https://")] = "10.0.0.7:8443"
		tr.daemon = []string{"--remote", "prod", "--pool", "default"}
	case "project limit":
		tr.server = tr.server.In(t, "lab", map[string]string{"features.images": "false", "features.profiles": "true", "limits.disk": "64KiB"})
		tr.daemon = append(tr.daemon, "--project", "lab")
	case "pool full":
		what.setup(tr)
	}
	tr.start()
	if what.title != "pool full" {
		what.setup(tr)
	}
	// One picture that has everything, and nothing that is only there for a moment.
	var code int
	var status string
	lxdtest.Eventually(t, "a status that says what is wrong", func() bool {
		code, status = tr.status()
		for _, say := range append([]string{"why: "}, what.say...) {
			if !strings.Contains(status, say) {
				return false
			}
		}
		return settledStatus.MatchString(status) && !strings.Contains(status, "\nstage ")
	})
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	var note string
	lxdtest.Eventually(t, "the file "+what.note+" in the folder", func() bool {
		b, err := os.ReadFile(filepath.Join(tr.folder, what.note))
		if err != nil {
			for _, e := range tr.names() {
				if strings.HasSuffix(e, what.note) && strings.HasPrefix(what.note, ".") {
					b, err = os.ReadFile(filepath.Join(tr.folder, e))
				}
			}
		}
		note = string(b)
		return err == nil
	})
	first, _, _ := strings.Cut(note, "\n")
	for _, say := range what.say {
		if !strings.Contains(first, say) {
			t.Errorf("the first line of %s does not say %q: %s", what.note, say, first)
		}
	}
	names := strings.Join(tr.names(), "\n")
	var b bytes.Buffer
	fmt.Fprintf(&b, "## %s\n\n%s\n\n```console\n$ ls\n%s\n$ isosyncd status\n%s```\n\n", strings.ToUpper(what.title[:1])+what.title[1:], what.more, names, status)
	fmt.Fprintf(&b, "The code in `isosyncd status --json` and in the file is `%s`.\n\n", what.code)
	return tr.plain(b.String(), fingerprints)
}

// names lists the folder as ls -A does.
func (t *trouble) names() []string {
	t.t.Helper()
	entries, err := os.ReadDir(t.folder)
	if err != nil {
		t.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	sort.Strings(names)
	return names
}

// plain makes what differs from run to run, and from machine to machine, the same.
func (t *trouble) plain(s string, more map[string]string) string {
	for from, to := range more {
		s = strings.ReplaceAll(s, from, to)
	}
	s = strings.ReplaceAll(s, t.folder, "/srv/iso-drop")
	s = strings.ReplaceAll(s, t.server.Dir(), "/var/lib/incus")
	for _, r := range []struct{ pattern, to string }{
		{`: (look at volume debian|list the volumes of pool default|space of pool default|connect to [^ ]+): `, ": list the volumes of pool default: "},
		{`looked at \d+ s ago`, "looked at 2 s ago"},
		{`since \d+ s`, "since 40 s"},
		{`next try (now|in \d+ s), \d+ failed`, "next try in 8 s, 3 failed"},
		{`Incus [0-9][0-9.]*`, "Incus 6.0.4"},
		{`default \(dir\), \d+ [KMGT]iB of \d+ [KMGT]iB free \[[=>.]+\] \d+% used`, "default (dir), 38 GiB of 50 GiB free [====>...............] 24% used"},
		{`127\.0\.0\.1:\d+`, "127.0.0.1:41234"},
	} {
		s = regexp.MustCompile(r.pattern).ReplaceAllString(s, r.to)
	}
	n := 0
	seen := map[string]string{}
	s = regexp.MustCompile(`[0-9a-f]{64}`).ReplaceAllStringFunc(s, func(hexes string) string {
		if _, there := seen[hexes]; !there {
			n++
			seen[hexes] = strings.Repeat(hex.EncodeToString([]byte{byte(0x10*n + n)}), 32)
		}
		return seen[hexes]
	})
	return s
}

const troubleshootingHead = `# Troubleshooting

What is wrong stands in three places: beside the file, in the folder (` + "`NAME.iso.failed`" + ` needs somebody,
` + "`NAME.iso.waiting`" + ` ends by itself when its cause does; their first line says what and why, and what to do); in
` + "`isosyncd status`" + `, which ends with 1 while anything needs a person; and in the log.

This file is written by a test, from a real daemon and a real server. Look for the words of your message.

`

const troubleshootingTail = `## No daemon runs

` + "`isosyncd status`" + ` says so, and shows what the journal remembers. Start it with ` + "`systemctl start isosyncd`" + `; look at why
it ended with ` + "`journalctl -u isosyncd`" + `. Exit code 78 means that the configuration must be changed first: the log names
each fault.
`
