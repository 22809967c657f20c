package store

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestFileName(t *testing.T) {
	for name, want := range map[string]string{
		"debian-13.1_amd64": "debian-13.1_amd64",
		".":                 "%2E",
		"..":                "%2E.",
		".tmp":              "%2Etmp",
		"a/b":               "a%2Fb",
		"a%2Fb":             "a%252Fb",
		"ü b":               "%C3%BC%20b",
		"":                  "",
	} {
		if got := fileName(name); got != want {
			t.Errorf("%q becomes %q, want %q", name, got, want)
		}
	}
}

// TestFileNameProperties wants names that are safe in any directory, and never the same for two volumes.
func TestFileNameProperties(t *testing.T) {
	anyName := rapid.OneOf(
		rapid.String(),
		rapid.StringMatching(`[a-z.%/=]{0,12}`),
		rapid.StringMatching(`[a-c ]{240,255}`),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 1, 300), func(b []byte) string { return string(b) }),
	)
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyName.Draw(t, "a"), anyName.Draw(t, "b")
		fa, fb := fileName(a), fileName(b)
		if (a == b) != (fa == fb) {
			t.Fatalf("%q and %q become %q and %q", a, b, fa, fb)
		}
		if a == "" {
			return
		}
		odd := strings.ContainsFunc(fa, func(r rune) bool { return r <= ' ' || r == '/' || r == '\\' || r >= 0x7F })
		if odd || fa == "" || fa[0] == '.' || len(fa)+len(".json") > 255 {
			t.Fatalf("%q becomes %q", a, fa)
		}
	})
}

func TestFilter(t *testing.T) {
	v := wireVolume{Name: "debian 13", Type: "custom", ContentType: "iso", Description: "x", Project: "default", Config: map[string]string{"size": "5"}}
	for text, want := range map[string]bool{
		"":                                        true,
		"content_type eq iso":                     true,
		"content_type eq ISO":                     true,
		"content_type ne iso":                     false,
		"not content_type eq iso":                 false,
		"not content_type ne iso":                 true,
		`name eq "debian 13"`:                     true,
		`name eq 'debian 13' and type eq custom`:  true,
		"name eq x or config.size eq 5":           true,
		"name eq x and config.size eq 5":          false,
		"name eq x and type eq y or pool eq ''":   true,
		"location eq none":                        false,
		"description eq x and project eq default": true,
		"nonsense eq 1":                           false,
	} {
		keep, err := parseFilter(text)
		if err != nil || keep(v) != want {
			t.Errorf("%q: %v; want %v", text, err, want)
		}
	}
	for _, text := range []string{"x", "x eq", "x is y", "name eq x and", "name eq x xor name eq y", `name eq "x`, "not"} {
		if _, err := parseFilter(text); err == nil || statusOf(err) != 400 {
			t.Errorf("%q: %v; want a refusal", text, err)
		}
	}
}

func FuzzFilter(f *testing.F) {
	f.Add(`not name eq "a b" and config.size ne '5' or pool eq x`)
	f.Fuzz(func(_ *testing.T, text string) {
		if keep, err := parseFilter(text); err == nil {
			keep(wireVolume{})
		}
	})
}

func TestCheckName(t *testing.T) {
	for name, want := range map[string][2]bool{ // LXD, Incus
		"debian-13":                    {true, true},
		"":                             {false, false},
		"a/b":                          {false, false},
		"a\x00b":                       {false, false},
		"a\nb":                         {false, false},
		"\xff":                         {false, false},
		"a b":                          {false, true},
		"a\u00a0b":                     {false, true},
		"..":                           {false, true},
		"a..b":                         {false, true},
		".":                            {true, true},
		`a\b`:                          {false, true},
		"ü$&*":                         {true, true},
		strings.Repeat("n", maxName):   {true, true},
		strings.Repeat("n", maxName+1): {false, false},
	} {
		for i, vendor := range []string{vendorLXD, vendorIncus} {
			err := checkName(vendor, name)
			var refused *httpError
			if (err == nil) != want[i] || err != nil && (!errors.As(err, &refused) || refused.status != 400) {
				t.Errorf("%s, %q: %v", vendor, name, err)
			}
		}
	}
}

func TestOperationsForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := newOperations(vendorLXD, newHub(), forgetAfter)
		o := ops.begin("default", "Doing", key{"default", "default", "v"}, nil)
		time.Sleep(time.Hour) // one that runs is never forgotten
		if _, err := ops.get(o.ID); err != nil {
			t.Fatal(err)
		}
		ops.end(o, errNoVolume)
		time.Sleep(forgetAfter - 1)
		synctest.Wait()
		if e, err := ops.get(o.ID); err != nil || e.StatusCode != codeFailure || e.ErrCode != 404 || e.Err == "" {
			t.Errorf("just before: %+v, %v", e, err)
		}
		time.Sleep(2 * time.Nanosecond)
		synctest.Wait()
		if _, err := ops.get(o.ID); statusOf(err) != 404 {
			t.Errorf("just after: %v", err)
		}
	})
}

// TestHubSlow wants a listener that does not listen to be dropped, and to hold up nobody.
func TestHubSlow(t *testing.T) {
	h := newHub()
	slow := &listener{queue: make(chan []byte, eventBacklog)}
	narrow := &listener{types: []string{"lifecycle"}, project: "p", queue: make(chan []byte, eventBacklog)}
	if !h.add(slow) || !h.add(narrow) {
		t.Fatal("not added")
	}
	for range eventBacklog + 10 {
		h.send("operation", "p", nil)
	}
	h.send("lifecycle", "q", nil)
	h.send("lifecycle", "p", nil)
	n := 0
	for range slow.queue {
		n++
	}
	if n != eventBacklog {
		t.Errorf("the slow one got %d events and its end, want %d", n, eventBacklog)
	}
	if len(narrow.queue) != 1 {
		t.Errorf("the other one got %d events, want 1", len(narrow.queue))
	}
	h.remove(slow) // twice is no harm
	h.close()
	if _, ok := <-narrow.queue; !ok {
		t.Error("what was sent before the end is lost")
	}
	if _, ok := <-narrow.queue; ok || h.add(narrow) {
		t.Error("the hub is not closed")
	}
}
