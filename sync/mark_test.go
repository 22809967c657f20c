package sync

import (
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"
)

var someHex = strings.Repeat("0123456789abcdef", 4)

func TestMarkText(t *testing.T) {
	m := Mark{Owner: "host:/srv/iso-drop", SHA256: someHex, File: "debian.iso"}
	want := `Debian 12.5.0 amd64 n [isosyncd owner=host:/srv/iso-drop sha256=` + someHex + ` file="debian.iso"]`
	if got := m.Describe("Debian 12.5.0 amd64 n"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := m.Describe(""); got != want[len("Debian 12.5.0 amd64 n "):] {
		t.Errorf("without a text: %s", got)
	}
}

func TestParseMark(t *testing.T) {
	mark := `[isosyncd owner=me sha256=` + someHex + ` file="a.iso"]`
	other := strings.Replace(mark, "owner=me", "owner=you", 1)
	for _, c := range []struct {
		name, description, human string
		ok                       bool
	}{
		{"alone", mark, "", true},
		{"as written", "Debian " + mark, "Debian", true},
		{"text behind it", "Debian " + mark + " do not delete", "Debian do not delete", true},
		{"no spaces around", "x" + mark + "y", "x y", true},
		{"lines", "a\n" + mark + "\nb", "a b", true},
		{"none", "my own image", "my own image", false},
		{"empty", "", "", false},
		{"two", mark + " " + other, mark + " " + other, false},
		{"the same twice", mark + mark, mark + mark, false},
		{"two, one of them broken", "[isosyncd owner=x " + mark, "[isosyncd owner=x", true},
		{"inside a broken one", "[isosyncd " + mark + "]", "[isosyncd ]", true},
		{"upper-case hex", strings.Replace(mark, "abcdef", "ABCDEF", 1), "", false},
		{"short hex", strings.Replace(mark, "sha256=0", "sha256=", 1), "", false},
		{"long hex", strings.Replace(mark, "sha256=", "sha256=0", 1), "", false},
		{"no owner", strings.Replace(mark, "owner=me", "owner=", 1), "", false},
		{"empty owner", strings.Replace(mark, "owner=me", `owner=""`, 1), "", false},
		{"owner quoted without need", strings.Replace(mark, "owner=me", `owner="me"`, 1), "", false},
		{"owner with a space", strings.Replace(mark, "owner=me", `owner=m e`, 1), "", false},
		{"two spaces", strings.Replace(mark, " sha256", "  sha256", 1), "", false},
		{"not closed", mark[:len(mark)-1], "", false},
		{"other quotes", strings.ReplaceAll(mark, `"`, "`"), "", false},
		{"raw bytes in the name", strings.Replace(mark, "a.iso", "ä.iso", 1), "", false},
		{"more in it", strings.Replace(mark, "]", " x=y]", 1), "", false},
		{"other case", strings.Replace(mark, "isosyncd", "ISOSYNCD", 1), "", false},
	} {
		human, m, ok := ParseMark(c.description)
		if ok != c.ok {
			t.Errorf("%s: ok = %v, mark %+v", c.name, ok, m)
			continue
		}
		want := c.human
		if !ok {
			want = c.description
		}
		if human != want {
			t.Errorf("%s: human = %q, want %q", c.name, human, want)
		}
		if ok && m != (Mark{Owner: "me", SHA256: someHex, File: "a.iso"}) || !ok && m != (Mark{}) {
			t.Errorf("%s: mark %+v", c.name, m)
		}
	}
}

func drawMark(t *rapid.T) Mark {
	bytes := rapid.Map(rapid.SliceOfN(rapid.Byte(), 1, 255), func(b []byte) string { return string(b) })
	return Mark{
		Owner:  rapid.OneOf(rapid.StringMatching(`[a-z:/]{1,20}`), rapid.StringN(1, 50, 200), bytes).Draw(t, "owner"),
		SHA256: rapid.StringMatching(`[0-9a-f]{64}`).Draw(t, "sha256"),
		File: rapid.OneOf(rapid.Just("a.iso"), rapid.String(), bytes,
			rapid.Just(`x" [isosyncd owner=me sha256=`+someHex+` file="y"]`)).Draw(t, "file"),
	}
}

// TestMarkRoundTrip: what Describe writes is what ParseMark reads, whatever is in the text before it, and the whole is one
// printable line.
func TestMarkRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawMark(t)
		text := rapid.OneOf(
			rapid.String(),
			rapid.Just(m.String()),
			rapid.StringMatching(`(\[isosyncd ){1,3}[a-z \]"]{0,40}`),
			rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
			rapid.Map(rapid.IntRange(0, 3000), func(n int) string { return strings.Repeat("ä", n) }),
		).Draw(t, "text")
		d := m.Describe(text)
		human, got, ok := ParseMark(d)
		if !ok || got != m {
			t.Fatalf("%q: got %+v, %v", d, got, ok)
		}
		if again := got.Describe(human); again != d {
			t.Fatalf("described again:\n%q\n%q", d, again)
		}
		for _, r := range d {
			if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
				t.Fatalf("%U in %q", r, d)
			}
		}
		if len(d) > max(maxHuman, len(m.String())) {
			t.Fatalf("%d bytes", len(d))
		}
	})
}

func FuzzParseMark(f *testing.F) {
	f.Add(`Debian [isosyncd owner=me sha256=` + someHex + ` file="a.iso"] x`)
	f.Add(`[isosyncd owner="a b" sha256=` + someHex + ` file="\u00e4"]`)
	f.Fuzz(func(t *testing.T, s string) {
		human, m, ok := ParseMark(s)
		if !ok {
			if human != s || m != (Mark{}) {
				t.Errorf("not ours, yet %q, %+v", human, m)
			}
			return
		}
		if !strings.Contains(s, m.String()) || len(m.SHA256) != 64 || m.Owner == "" {
			t.Errorf("%q gave %+v", s, m)
		}
		if _, again, ok := ParseMark(m.Describe(human)); !ok || again != m {
			t.Errorf("%q, written again, gave %+v, %v", s, again, ok)
		}
	})
}
