package main

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestShowName(t *testing.T) {
	for in, want := range map[string]string{
		"debian-12.5.0-amd64-netinst.iso": "debian-12.5.0-amd64-netinst.iso",
		"Ubuntu 24.04 (béta).iso":         "Ubuntu 24.04 (béta).iso",
		"日本語.iso":                         "日本語.iso",
		"":                                `""`,
		" a.iso":                          `" a.iso"`,
		"a\nb.iso":                        `"a\nb.iso"`,
		"\x1b[31mred.iso":                 `"\x1b[31mred.iso"`,
		"\u202egnp.iso":                   `"\u202egnp.iso"`,
		"a\u200b.iso":                     `"a\u200b.iso"`,
		"a\u3164b.iso":                    `"a\u3164b.iso"`,
		"a\xff.iso":                       `"a\xff.iso"`,
		`a"b.iso`:                         `"a\"b.iso"`,
		"a\u009bm.iso":                    `"a\u009bm.iso"`,
		"a\u00a0b.iso":                    `"a\u00a0b.iso"`,
	} {
		if got := showName(in); got != want {
			t.Errorf("%q is shown as %s, want %s", in, got, want)
		}
	}
}

// Whatever the bytes: nothing hidden reaches a terminal, and two names never look the same.
func TestShowNameProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
		a, b := name.Draw(t, "a"), name.Draw(t, "b")
		if s := showName(a); !utf8.ValidString(s) || strings.IndexFunc(s, hidden) >= 0 {
			t.Fatalf("%q is shown as %q", a, s)
		}
		if a != b && showName(a) == showName(b) {
			t.Fatalf("%q and %q look the same", a, b)
		}
		if s := showText(a); strings.IndexFunc(s, func(r rune) bool { return hidden(r) }) >= 0 {
			t.Fatalf("%q is shown as %q", a, s)
		}
	})
}

func TestShowUser(t *testing.T) {
	for in, want := range map[string]string{
		"/1.0/profiles/default":             "profile default",
		"/1.0/instances/vm1?project=p%20q":  "instance vm1 (project p q)",
		"/1.0/instances/a%2Fb":              "instance a/b",
		"/1.0/storage-pools/default/x/\x1b": `"storage-pools/default/x/\x1b"`,
	} {
		if got := showUser(in); got != want {
			t.Errorf("%q is shown as %s, want %s", in, got, want)
		}
	}
	many := showUsers([]string{"/1.0/instances/e", "/1.0/instances/d", "/1.0/instances/c", "/1.0/instances/b", "/1.0/instances/a"})
	if many != "instance a, instance b, instance c, 2 more" {
		t.Error(many)
	}
}

func TestShowDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "0 s", 59900 * time.Millisecond: "59 s", time.Minute: "1 min", 119 * time.Minute: "1 h",
		47 * time.Hour: "47 h", 48 * time.Hour: "2 days", 100 * 24 * time.Hour: "100 days",
	} {
		if got := showDuration(d); got != want {
			t.Errorf("%v is shown as %s, want %s", d, got, want)
		}
	}
}

func TestCutAndWrap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := showText(rapid.String().Draw(t, "s"))
		n := rapid.IntRange(2, 30).Draw(t, "n")
		if c := cut(s, n); width(c) > n || width(s) <= n && c != s {
			t.Fatalf("cut to %d is %q, %d wide", n, c, width(c))
		}
		if p := pad(s, n); width(p) > n {
			t.Fatalf("padded to %d is %q", n, p)
		}
		lines := wrapText(s, n)
		for _, l := range lines {
			if width(l) > n {
				t.Fatalf("%q is wider than %d", l, n)
			}
		}
		squeeze := func(s string) string { return strings.Join(strings.Fields(s), "") }
		if squeeze(strings.Join(lines, " ")) != squeeze(s) {
			t.Fatalf("%q became %q", s, lines)
		}
	})
}

func TestBar(t *testing.T) {
	for _, c := range []struct {
		part float64
		n    int
		want string
	}{
		{0, 10, "[>.......]"}, {0.5, 10, "[====>...]"}, {1, 10, "[========]"}, {7, 10, "[========]"}, {-1, 10, "[--------]"}, {0.5, 0, "[>]"},
	} {
		if got := bar(c.part, c.n); got != c.want {
			t.Errorf("%v of %d: %s, want %s", c.part, c.n, got, c.want)
		}
	}
}
