package iso

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestOSNames(t *testing.T) {
	db, err := LoadOSDB(filepath.Join("testdata", "osinfo"))
	if err == nil || !strings.Contains(err.Error(), "broken.xml") || strings.Contains(err.Error(), "\n") {
		t.Errorf("loading: %v, want an error that names broken.xml alone", err)
	}
	for _, c := range []struct {
		info  Info
		name  string
		guess bool
	}{
		{Info{Label: "EX9-Server", System: "LINUX"}, "Example 9 Server", false},
		{Info{Label: "EX9-Server-x86", System: "LINUX"}, "Example 9 Server", false},
		{Info{Label: "EX9-Server", System: "WIN32"}, "", false},
		{Info{Label: "ex9-server", System: "LINUX"}, "", false},
		{Info{Label: "My EX9-Server", System: "LINUX"}, "", false}, // anchored at the start
		{Info{Label: "Example 9.12 amd64", Publisher: "Example Ltd"}, "Example 9", false},
		{Info{Label: "Example 9.12 amd64 extra", Publisher: "Example Ltd"}, "", false}, // its $ counts
		{Info{Label: "Example 9.12 amd64", Publisher: "Another"}, "", false},
		{Info{Label: "Example 9x12 amd64", Publisher: "Example"}, "", false},
		{Info{Label: "EX9 beta", Application: "Builder 1"}, "Example 9", false},
		{Info{Label: "EX9-EXTRA"}, "Example 9", false}, // from the folder beside, which does not name the system
		{Info{Label: "CDROM", VolumeSize: 4096000}, "Example 9", false},
		{Info{Label: "CDROM", VolumeSize: 2048000}, "Example 8", false},
		{Info{Label: "CDROM", VolumeSize: 2048001}, "Example 8", false},
		{Info{Label: "SHARED"}, "Example 8.5", true},
		{Info{Label: "UNNAMED"}, "", false},
		{Info{Label: "", System: "LINUX"}, "", false},
	} {
		if c.info.VolumeSize == 0 {
			c.info.VolumeSize = 1
		}
		if name, guess := db.Name(c.info); name != c.name || guess != c.guess {
			t.Errorf("%+v: %q, guess %v, want %q, %v", c.info, name, guess, c.name, c.guess)
		}
	}
	if name, _ := db.Name(Info{Label: "EX9-EXTRA"}); name != "" {
		t.Errorf("without ISO 9660: %q", name)
	}
}

// No database is no error: nothing has a name then.
func TestNoOSDB(t *testing.T) {
	db, err := LoadOSDB(filepath.Join(t.TempDir(), "missing"))
	if err != nil {
		t.Error(err)
	}
	for _, db := range []*OSDB{db, nil} {
		if name, guess := db.Name(Info{Label: "CDROM", VolumeSize: 1}); name != "" || guess {
			t.Errorf("%q, %v", name, guess)
		}
	}
}

// The database that Debian has: images as its publishers name them, and each medium that names itself in plain text must
// find its own system.
func TestDebianOSDB(t *testing.T) {
	dir := filepath.Dir(debian(t, "/usr/share/osinfo/os"))
	db, err := LoadOSDB(dir)
	if err != nil || len(db.media) < 1500 {
		t.Fatalf("%d media: %v", len(db.media), err)
	}
	for _, c := range []struct {
		info Info
		want string
	}{
		{Info{Label: "Debian 11.5.0 amd64 n", VolumeSize: 400556032}, "Debian 11"},
		{Info{Label: "Ubuntu-Server 22.04.1 LTS amd64", VolumeSize: 1474871296}, "Ubuntu 22.04"},
		{Info{Label: "CCCOMA_X64FRE_EN-US_DV9", Publisher: "MICROSOFT CORPORATION", VolumeSize: 5000000000}, "Microsoft Windows 1"},
		{Info{Label: "Fedora-WS-Live-36-1-5", System: "LINUX", VolumeSize: 2018148352}, "Fedora"},
	} {
		if name, guess := db.Name(c.info); !strings.HasPrefix(name, c.want) {
			t.Errorf("%q: %q (guess %v), want %q", c.info.Label, name, guess, c.want)
		}
	}

	plain, wrong := 0, 0
	for _, m := range db.media {
		info := Info{VolumeSize: max(m.size, 1)}
		if !m.plain(&info) {
			continue
		}
		plain++
		name, guess := db.Name(info)
		if name == "" || name != m.name && !guess && !sameSystem(db, name, m.os) {
			wrong++
			t.Logf("%q of %s is taken for %q", info.Label, m.os, name)
		}
	}
	if plain < 500 || wrong*100 > plain {
		t.Errorf("%d of %d media are taken for another system", wrong, plain)
	}
}

// plain fills in info as the medium says, if it says so in plain text.
func (m *medium) plain(info *Info) bool {
	for _, f := range []struct {
		p  *pattern
		to *string
	}{{m.volume, &info.Label}, {m.system, &info.System}, {m.publisher, &info.Publisher}, {m.application, &info.Application}} {
		if f.p == nil {
			continue
		}
		if f.p.rest != nil {
			return false
		}
		*f.to = f.p.prefix
	}
	return true
}

func sameSystem(db *OSDB, name, os string) bool {
	for _, m := range db.media {
		if m.name == name && m.os == os {
			return true
		}
	}
	return false
}

// The two ways to hold a pattern, as text and as an expression, agree with the expression at the start of a text.
func TestPatterns(t *testing.T) {
	texts := []string{"", "a", "ab", "abc", "abcd", "xabc", "a.c", "ab\n", "a\nb", "ABC"}
	for _, expr := range []string{"abc", "a.c", "^abc", "abc$", "^abc$", "a|b", `a\.c`, "(?i)abc", `ab\z`, "a*", "ab|abcd", `abc\b`} {
		p, err := compile(expr, map[string]*pattern{})
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			if want := regexp.MustCompile("^(?:" + expr + ")").MatchString(text); p.match(text) != want {
				t.Errorf("%q matches %q: %v, want %v", expr, text, p.match(text), want)
			}
		}
	}
}

func BenchmarkLoadOSDB(b *testing.B) {
	dir := filepath.Dir(debian(b, "/usr/share/osinfo/os"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := LoadOSDB(dir); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOSName(b *testing.B) {
	db, err := LoadOSDB(filepath.Dir(debian(b, "/usr/share/osinfo/os")))
	if err != nil {
		b.Fatal(err)
	}
	info := Info{Label: "Debian 11.5.0 amd64 n", VolumeSize: 400556032}
	for b.Loop() {
		_, _ = db.Name(info)
	}
}

func BenchmarkProbe(b *testing.B) {
	for _, name := range []string{"plain.iso", "gpt-hybrid.iso", "udf-bridge.iso", "udf.iso", "random.iso"} {
		b.Run(name, func(b *testing.B) {
			f, err := os.Open(filepath.Join("..", "testdata", "iso", name))
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			b.ReportAllocs()
			for b.Loop() {
				_, _ = ProbeFile(f)
			}
		})
	}
}
