package iso

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// The keys are a contract with scripts: all of them, always, in this order, on one line.
func TestReportKeys(t *testing.T) {
	want := []string{
		"file", "verdict", "reason", "formats", "label", "size", "declared_size", "boot_bios", "boot_uefi", "hybrid_mbr",
		"hybrid_gpt", "apm", "joliet", "rock_ridge", "udf_revision", "looks_like",
	}
	for _, r := range []Report{
		Verdict("", Info{}, nil),
		Verdict("a\n.iso", Info{Label: "a\x1b[31m\xff\n", Formats: []string{"udf"}}, &NotISOError{"x", "y"}),
	} {
		line, err := json.Marshal(r)
		if err != nil || bytes.ContainsAny(line, "\n\x1b") || !utf8.Valid(line) {
			t.Fatalf("%q %v", line, err)
		}
		var keys []string
		dec := json.NewDecoder(bytes.NewReader(line))
		for depth, key := 0, true; ; {
			tok, err := dec.Token()
			if err != nil {
				break
			}
			switch d, ok := tok.(json.Delim); {
			case ok && (d == '{' || d == '['):
				depth++
			case ok:
				depth--
				key = true
			case depth == 1 && key:
				keys = append(keys, tok.(string))
				key = false
			case depth == 1:
				key = true
			}
		}
		if !slices.Equal(keys, want) {
			t.Errorf("keys %q", keys)
		}
		if bytes.Contains(line, []byte("null")) {
			t.Errorf("null in %s", line)
		}
	}
}

func TestVerdictOfErrors(t *testing.T) {
	for _, c := range []struct {
		err                 error
		verdict, reason     string
		looksLike           string
		declared, wantFinal int64
	}{
		{nil, "accept", "", "", 10, 10},
		{&TruncatedError{Declared: 20, Actual: 10, Reason: "GPT", Soft: true}, "incomplete", "incomplete: has 10 of 20 bytes (GPT)", "", 10, 20},
		{&NotISOError{LooksLike: "text", Remedy: "do that"}, "reject", "not an ISO image: it looks like text; do that", "text", 0, 0},
		{errors.New("disk on fire"), "reject", "disk on fire", "", 0, 0},
	} {
		r := Verdict("f", Info{DeclaredSize: c.declared}, c.err)
		if r.Verdict != c.verdict || r.Reason != c.reason || r.LooksLike != c.looksLike || r.DeclaredSize != c.wantFinal {
			t.Errorf("%v: %+v", c.err, r)
		}
	}
}

func TestDescribe(t *testing.T) {
	for _, c := range []struct{ label, publisher, want string }{
		{"Debian 12.5.0 amd64 n", "", "Debian 12.5.0 amd64 n"},
		{"CDROM", "EXAMPLE LTD", "CDROM (EXAMPLE LTD)"},
		{"", "EXAMPLE LTD", "EXAMPLE LTD"},
		{"Fedora-WS-Live-40", "Fedora Project", "Fedora-WS-Live-40"},
		{"CDROM", "_COPYING.TXT", "CDROM"},
		{"", "", ""},
		{"x [isosyncd owner=evil sha256=00]", "", "x (isosyncd owner=evil sha256=00)"},
		{"a\x1b[31mred\nline\x00two\u202eevil\u200b  end ", "", "a (31mred line two evil end"},
		{"bad \xff\xfe bytes", "", "bad bytes"},
		{"Größe ✓", "", "Größe ✓"},
		{strings.Repeat("ü", 64), "", strings.Repeat("ü", 64)},
		{strings.Repeat("ü", 65), "", strings.Repeat("ü", 63) + "…"},
		{"L", strings.Repeat("p", 41), "L (" + strings.Repeat("p", 39) + "…)"},
	} {
		if got := Describe(Info{Label: c.label, Publisher: c.publisher}); got != c.want {
			t.Errorf("%q by %q: %q, want %q", c.label, c.publisher, got, c.want)
		}
	}
}
