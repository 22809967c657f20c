package sync

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

var legalVolume = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$`)

func TestVolumeName(t *testing.T) {
	for file, want := range map[string]string{
		"win.iso":                             "win",
		"WIN.ISO":                             "WIN",
		"debian-12.5.0-amd64-netinst.iso":     "debian-12.5.0-amd64-netinst",
		"a_b.c-d.iso":                         "a_b.c-d",
		"a--b.iso":                            "a--b",
		"x.iso.iso":                           "x.iso",
		"plain":                               "plain",
		"Windows 11 (English).iso":            "Windows-11-English",
		"a - b.iso":                           "a-b",
		"c++ tools+.iso":                      "c-tools",
		"Größe.iso":                           "Grosse",
		"Łódź Ørsted æ.iso":                   "Lodz-Orsted-ae",
		"cafe\u0301.iso":                      "cafe",
		"caf\u00e9.iso":                       "cafe",
		"ﬁle ½ Ａ.iso":                         "file-1-2-A",
		"..iso":                               "", // a dot, and nothing else
		"a..b...c.iso":                        "a.b.c",
		"../../etc/passwd.iso":                "etc-passwd",
		"-rf.iso":                             "rf",
		"_.-x-._.iso":                         "x",
		"%2e%2e.iso":                          "2e-2e",
		"a\nb\x1b[31m\u202ec.iso":             "a-b-31m-c",
		"bad\xff\xfeutf8.iso":                 "bad-utf8",
		"日本語.iso":                             "",
		"日本語 12.iso":                          "12",
		"isosyncd-stage-0123456789abcdef.iso": "",
		"~isosyncd-stage-x.iso":               "",
		"isosyncd-stage.iso":                  "isosyncd-stage",
		strings.Repeat("x", 64) + ".iso":      strings.Repeat("x", 64),
	} {
		got, err := VolumeName(file)
		if got != want {
			t.Errorf("VolumeName(%q) = %q, want %q", file, got, want)
		}
		var p *Problem
		if want == "" && (!errors.As(err, &p) || p.Code != CodeName || p.Remedy == "" || strings.ContainsAny(p.Text, "\n\x1b")) {
			t.Errorf("VolumeName(%q): error %v", file, err)
		}
	}
}

// TestVolumeNameIsLegal: whatever the file is called, the name is one that every server takes, the mapping is the same
// each time, and a name that is legal already is kept.
func TestVolumeNameIsLegal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		file := rapid.OneOf(
			rapid.String(),
			rapid.StringMatching(`[A-Za-z0-9._-]{1,80}`),
			rapid.StringMatching(`[a-zé ß+.~-]{1,300}`),
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 1, 255), func(b []byte) string { return string(b) }),
		).Draw(t, "file")
		checkVolumeName(t, file)
	})
}

func checkVolumeName(t interface{ Fatalf(string, ...any) }, file string) {
	name, err := VolumeName(file + ".iso")
	again, _ := VolumeName(file + ".ISO")
	if name != again {
		t.Fatalf("%q: %q and %q", file, name, again)
	}
	if err != nil {
		return
	}
	if !legalVolume.MatchString(name) || strings.Contains(name, "..") || IsStage(name) {
		t.Fatalf("%q became %q", file, name)
	}
	if kept, err := VolumeName(name + ".iso"); err != nil || kept != name {
		t.Fatalf("%q became %q and then %q, %v", file, name, kept, err)
	}
}

func FuzzVolumeName(f *testing.F) {
	f.Add("win")
	f.Add("Größe \xff..-")
	f.Fuzz(func(t *testing.T, file string) { checkVolumeName(t, file) })
}

// TestLongNamesStayDistinct: names that differ only where they are cut get different volumes (S14).
func TestLongNamesStayDistinct(t *testing.T) {
	base := strings.Repeat("en_windows_server_2022_", 6)
	a, errA := VolumeName(base + "x64.iso")
	b, errB := VolumeName(base + "arm64.iso")
	if errA != nil || errB != nil || a == b || len(a) > maxVolumeName ||
		!strings.HasPrefix(a, base[:40]) {
		t.Errorf("%q, %q", a, b)
	}
}

func TestIsImage(t *testing.T) {
	for name, want := range map[string]bool{
		"win.iso": true, "WIN.ISO": true, "w.IsO": true, "a b.iso": true, "-rf.iso": true, "win (1).iso": true,
		"\xff.iso": true, "a\nb.iso": true, "~x.iso": true,
		".iso": false, ".win.iso": false, "iso": false, "win.img": false, "win.iso.sha256": false, "": false,
		// D3: the temporary names of programs
		"win.iso.part": false, "win.iso.crdownload": false, "Unconfirmed 123.crdownload": false, "win.iso.download": false,
		".goutputstream-ABC123": false, ".win.iso.AbCdEf": false, ".~lock.win.iso#": false, "win.iso~": false,
		"#win.iso#": false, "win.iso.filepart": false, "win.iso.tmp": false, "win.iso.partial": false, "win.iso.!ut": false,
		"win.iso.!qB": false, "win.iso.aria2": false, ".syncthing.win.iso.tmp": false, "~syncthing~win.iso": false,
		"._win.iso": false, "~$win.iso": false, ".isosyncd-draft-0011.iso": false, "a/b.iso": false, "a\x00.iso": false,
	} {
		if got := IsImage(name); got != want {
			t.Errorf("IsImage(%q) = %v", name, got)
		}
	}
}

func TestStageName(t *testing.T) {
	s := StageName(strings.Repeat("0123456789abcdef", 4))
	if s != "isosyncd-stage-0123456789abcdef" || !IsStage(s) || IsStage("win") || !legalVolume.MatchString(s) {
		t.Errorf("stage %q", s)
	}
}

// TestQuoteName is I11: nothing that a text for people holds can move a cursor or hide.
func TestQuoteName(t *testing.T) {
	for name, want := range map[string]string{
		"win.iso":           "win.iso",
		"my image.iso":      "my image.iso",
		"Größe.iso":         "Größe.iso",
		"日本.iso":            "日本.iso",
		"":                  `""`,
		" x":                `" x"`,
		`a"b`:               `"a\"b"`,
		`back\slash`:        `"back\\slash"`,
		"a\nb":              `"a\nb"`,
		"\x1b[31mred":       `"\x1b[31mred"`,
		"evil\u202egnp.iso": `"evil\u202egnp.iso"`,
		"zero\u200bwidth":   `"zero\u200bwidth"`,
		"blank\u3164":       `"blank\u3164"`,
		"\xff":              `"\xff"`,
	} {
		if got := quoteName(name); got != want {
			t.Errorf("quoteName(%q) = %s, want %s", name, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOf(rapid.Byte()).Draw(t, "b")
		s := rapid.OneOf(rapid.Just(string(b)), rapid.String()).Draw(t, "s")
		q := quoteName(s)
		if !utf8.ValidString(q) || q == "" || len(q) > 8*1100 {
			t.Fatalf("%q became %q", s, q)
		}
		for _, r := range q {
			if !unicode.IsPrint(r) || unseen(r) {
				t.Fatalf("%q became %q, with %U", s, q, r)
			}
		}
	})
}
