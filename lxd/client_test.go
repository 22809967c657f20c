package lxd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestDialSaysWhoItIs(t *testing.T) {
	both(t, func(t *testing.T, f *fake) {
		f.ext = append(f.ext, "backup_iso")
		s := f.dial().Server()
		want := Server{
			Vendor: f.vendor, Version: "6.9", Name: "m1", Addr: f.addr,
			Extensions: map[string]bool{"custom_volume_iso": true, "backup_iso": true},
		}
		if !reflect.DeepEqual(s, want) {
			t.Errorf("got %+v, want %+v", s, want)
		}
	})
}

func TestDialRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change    func(*fake)
		want      error
		words     string
		permanent bool
	}{
		"LXD 5.0":     {func(f *fake) { f.ext = nil; f.env["server_version"] = "5.0.4" }, ErrNoISO, "LXD 5.0.4", true},
		"untrusted":   {func(f *fake) { f.auth = "untrusted"; f.env["server"] = ""; f.ext = nil }, ErrUntrusted, "does not trust", true},
		"hung up":     {func(f *fake) { f.on("GET /1.0", hangUp) }, ErrAway, "", false},
		"a stranger":  {func(f *fake) { f.env["server"] = "docker" }, nil, "docker", false},
		"denied":      {func(f *fake) { f.on("GET /1.0", f.fail(403, "no")) }, ErrDenied, "", true},
		"not started": {func(f *fake) { f.http.Close() }, ErrAway, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, "lxd")
			c.change(f)
			_, err := Dial(testContext(t), f.target())
			if err == nil || (c.want != nil && !errors.Is(err, c.want)) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("got %v", err)
			}
			if IsPermanent(err) != c.permanent {
				t.Errorf("permanent: %v, of %v", IsPermanent(err), err)
			}
		})
	}
}

func TestPoolIsChosen(t *testing.T) {
	pool := func(names ...string) (list []map[string]string) {
		for _, n := range names {
			list = append(list, map[string]string{"name": n, "driver": "zfs"})
		}
		return list
	}
	for name, c := range map[string]struct {
		pools []map[string]string
		ask   string
		want  string
		words []string
	}{
		"the only one":    {pool("tank"), "", "tank", nil},
		"default of many": {pool("a", "default"), "", "default", nil},
		"none":            {pool(), "", "", []string{"none"}},
		"many":            {pool("slow", "fast"), "", "", []string{"fast, slow"}},
		"named":           {pool("slow", "fast"), "fast", "fast", nil},
		"missing":         {pool("slow", "fast"), "medium", "", []string{"medium", "fast, slow"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, "incus")
			f.on("GET /1.0/storage-pools", f.sync(c.pools))
			f.on("GET /1.0/storage-pools/default", f.fail(404, "Storage pool not found"))
			for _, p := range c.pools {
				f.on("GET /1.0/storage-pools/"+p["name"], f.sync(p))
			}
			p, err := f.dial().Pool(testContext(t), c.ask)
			if c.want != "" {
				if err != nil || p.Name() != c.want || p.Driver() != "zfs" {
					t.Fatalf("got %v, %v", p, err)
				}
				return
			}
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range c.words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
			if c.ask != "" && !errors.Is(err, ErrNotFound) {
				t.Errorf("%v is not ErrNotFound", err)
			}
		})
	}
}

func TestProjects(t *testing.T) {
	f := newFake(t, "lxd")
	f.on("GET /1.0/projects/own", f.sync(map[string]any{"config": map[string]string{"features.storage.volumes": "true"}}))
	f.on("GET /1.0/projects/shared", f.sync(map[string]any{"config": map[string]string{"features.storage.volumes": "false"}}))
	f.on("GET /1.0/projects/old", f.sync(map[string]any{"config": map[string]string{}}))
	for project, want := range map[string]string{"": "default", "own": "own", "shared": "default", "old": "default"} {
		p := f.pool(func(t *Target) { t.Project = project })
		if p.Project() != want {
			t.Errorf("project %q has its volumes in %q, want %q", project, p.Project(), want)
		}
		ask := project
		if ask == "" {
			ask = "default"
		}
		if last := f.requests()[len(f.requests())-1]; !strings.HasSuffix(last, "?project="+ask) {
			t.Errorf("for project %q it asked %s", project, last)
		}
	}
	c := f.dial(func(t *Target) { t.Project = "none" })
	if _, err := c.Pool(testContext(t), "default"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "none") {
		t.Errorf("got %v", err)
	}
}

func TestClusterMember(t *testing.T) {
	for name, c := range map[string]struct {
		clustered bool
		driver    string
		member    string
		want      string
		bad       bool
	}{
		"single":             {false, "dir", "", "", false},
		"single, named":      {false, "dir", "m1", "", false},
		"single, wrong name": {false, "dir", "m2", "", true},
		"local pool":         {true, "dir", "", "m1", false},
		"local pool, named":  {true, "dir", "m2", "m2", false},
		"remote pool":        {true, "ceph", "m2", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, "lxd")
			f.env["server_clustered"] = c.clustered
			f.env["storage_supported_drivers"] = []map[string]any{{"Name": "dir", "Remote": false}, {"Name": "ceph", "Remote": true}}
			f.on("GET /1.0/storage-pools/default", f.sync(map[string]any{"name": "default", "driver": c.driver}))
			f.on("GET "+volumesPath+"/x", f.sync(map[string]any{"name": "x"}))
			f.on("GET "+volumesPath, f.sync([]map[string]any{
				{"name": "a", "location": "m1"}, {"name": "b", "location": "m2"}, {"name": "c", "location": ""},
			}))
			p, err := f.dial(func(t *Target) { t.Member = c.member }).Pool(testContext(t), "default")
			if c.bad {
				if err == nil || !strings.Contains(err.Error(), c.member) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Volume(testContext(t), "x"); err != nil {
				t.Fatal(err)
			}
			want := "GET " + volumesPath + "/x?project=default"
			if c.want != "" {
				want += "&target=" + c.want
			}
			if !slices.Contains(f.requests(), want) {
				t.Errorf("asked %q, want %q", f.requests(), want)
			}
			list, err := p.Volumes(testContext(t))
			var names string
			for _, v := range list {
				names += v.Name
			}
			if want := map[string]string{"": "abc", "m1": "ac", "m2": "bc"}[c.want]; err != nil || names != want {
				t.Errorf("listed %q, want %q (%v)", names, want, err)
			}
		})
	}
}

// What comes back may be anything. No answer is a panic, and none that LXD or Incus did not give decides anything.
func TestAnswers(t *testing.T) {
	html := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, "<html><body>nginx</body></html>")
		}
	}
	raw := func(status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, text)
		}
	}
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = fmt.Fprint(w, `{"type":"sync","metadata":[`)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	huge := func(status int, size int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			chunk := []byte(strings.Repeat(" ", 1<<20))
			for range size >> 20 {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
			_, _ = fmt.Fprint(w, `{"type":"error","error_code":404,"error":"x"}`)
		}
	}
	type row struct {
		answer    http.HandlerFunc
		status    int // of the *Error; 0 = it is none
		permanent bool
		is        error
	}
	var f fake
	f.t = t
	for name, c := range map[string]row{
		"403":                  {f.fail(403, "no"), 403, true, ErrDenied},
		"401":                  {f.fail(401, "no"), 401, true, ErrDenied},
		"404":                  {f.fail(404, "no"), 404, true, ErrNotFound},
		"400":                  {f.fail(400, "no"), 400, true, nil},
		"408":                  {f.fail(408, "no"), 408, false, nil},
		"409":                  {f.fail(409, "no"), 409, false, nil},
		"423":                  {f.fail(423, "no"), 423, false, nil},
		"425":                  {f.fail(425, "no"), 425, false, nil},
		"429":                  {f.fail(429, "no"), 429, false, nil},
		"500":                  {f.fail(500, "no"), 500, false, nil},
		"error with 200":       {f.body(200, errorBody(404, "inner")), 404, true, ErrNotFound},
		"error without code":   {f.body(200, errorBody(0, "inner")), 500, false, nil},
		"502 HTML":             {html(502), 502, false, nil},
		"404 HTML":             {html(404), 404, false, nil},
		"403 HTML":             {html(403), 403, false, nil},
		"200 HTML":             {html(200), 502, false, nil},
		"empty":                {raw(200, ""), 502, false, nil},
		"empty 404":            {raw(404, ""), 404, false, nil},
		"JSON of another kind": {raw(404, `{"message":"no route"}`), 404, false, nil},
		"JSON array":           {raw(200, `[1,2]`), 502, false, nil},
		"sync with 404":        {f.body(404, map[string]any{"type": "sync"}), 404, false, nil},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, 502, false, nil},
		"cut off":      {cut, 0, false, ErrAway},
		"no answer":    {hangUp, 0, false, ErrAway},
		"not a list":   {f.sync(map[string]any{"name": "x"}), 0, false, nil},
		"wrong inside": {f.sync([]any{map[string]any{"name": 7}}), 0, false, nil},
		"huge error":   {huge(500, 2<<20), 500, false, nil},
		"huge 404":     {huge(404, 2<<20), 404, false, nil},
		"huge list":    {huge(200, 65<<20), 502, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, "lxd")
			f.on("GET "+volumesPath, c.answer)
			_, err := f.pool().Volumes(testContext(t))
			var e *Error
			if errors.As(err, &e) != (c.status != 0) || (e != nil && e.Status != c.status) {
				t.Fatalf("got %v", err)
			}
			if err == nil || IsPermanent(err) != c.permanent {
				t.Errorf("permanent: %v, of %v", IsPermanent(err), err)
			}
			for _, sentinel := range []error{ErrNotFound, ErrDenied, ErrAway, ErrInUse, ErrUnknown} {
				if errors.Is(err, sentinel) != (sentinel == c.is) {
					t.Errorf("%v is %v: %v", err, sentinel, errors.Is(err, sentinel))
				}
			}
			if strings.Contains(name, "HTML") && e.RetryAfter != 7*time.Second {
				t.Errorf("retry after %v", e.RetryAfter)
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "<html>") {
				t.Errorf("that is not for people: %q", err)
			}
			for _, r := range f.requests() {
				if strings.Contains(r, "elsewhere") {
					t.Error("the redirect was followed")
				}
			}
		})
	}
}

// Go writes a list that was never made as null.
func TestEmptyAnswers(t *testing.T) {
	f := newFake(t, "lxd")
	f.on("GET "+volumesPath, f.sync(nil))
	f.on("GET "+volumesPath+"/x", f.sync(nil))
	f.on("GET /1.0/operations", f.sync(nil))
	p := f.pool()
	if list, err := p.Volumes(testContext(t)); err != nil || len(list) != 0 {
		t.Errorf("got %v, %v", list, err)
	}
	if op, err := p.Running(testContext(t), "x"); err != nil || op != "" {
		t.Errorf("got %q, %v", op, err)
	}
	if v, err := p.Volume(testContext(t), "x"); err == nil || IsPermanent(err) {
		t.Errorf("got %v, %v", v, err)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"":                              0,
		"120":                           2 * time.Minute,
		" 3 ":                           3 * time.Second,
		"-5":                            0,
		"soon":                          0,
		"Wed, 25 Nov 2026 12:01:30 GMT": 90 * time.Second,
		"Wed, 25 Nov 2026 11:00:00 GMT": 0,
		"9223372036854775807":           maxRetryAfter,
		"99999999999999999999":          0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {text}}, now); got != want {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
	}
}

func TestMessage(t *testing.T) {
	got := message("a\x1b[31mred\r\nline\u202e two \xff" + strings.Repeat("é", 2000))
	if strings.ContainsAny(got, "\x1b\r\n\u202e") || len(got) > maxMessage || !utf8.ValidString(got) || !strings.HasPrefix(got, "a\uFFFD[31mred  line") {
		t.Errorf("got %q", got)
	}
}

// Every volume that a server may have is listed as it is, and can be asked for (SERVER-API 1.4).
func TestVolumes(t *testing.T) {
	f := newFake(t, "lxd")
	names := []string{"debian-13", "..", ".", "a b", "a%2fb", `back\slash`, "?x&y=%41", "ü", "#1"}
	list := []map[string]any{
		{"name": "snap/s0", "type": "custom", "content_type": "filesystem"},
		{"name": "other", "project": "p2"},
		{"name": "vm", "type": "virtual-machine"},
	}
	for i, n := range names {
		list = append(list, map[string]any{
			"name": n, "type": "custom", "content_type": "iso", "project": "default", "description": "d", "location": "none",
			"config":     map[string]string{"size": strconv.Itoa(i), "volatile.uuid": "u" + n},
			"created_at": "2026-11-23T08:21:53.384769082Z", "used_by": []string{"/1.0/profiles/default"},
		})
	}
	f.on("GET "+volumesPath, f.sync(list))
	p := f.pool()
	got, err := p.Volumes(testContext(t))
	if err != nil || len(got) != len(names) {
		t.Fatalf("got %d, %v", len(got), err)
	}
	for i, v := range got {
		want := Volume{
			Name: names[i], ContentType: "iso", Size: int64(i), Description: "d", UsedBy: []string{"/1.0/profiles/default"},
			CreatedAt: time.Date(2026, 11, 23, 8, 21, 53, 384769082, time.UTC), UUID: "u" + names[i], Location: "none",
		}
		if !reflect.DeepEqual(v, want) {
			t.Errorf("got %+v, want %+v", v, want)
		}
		_, err := p.Volume(testContext(t), v.Name)
		if !errors.Is(err, ErrNotFound) { // the fake has none, but it was asked for one
			t.Errorf("volume %q: %v", v.Name, err)
		}
		asked := f.requests()[len(f.requests())-1]
		if !strings.HasPrefix(asked, "GET "+volumesPath+"/") || strings.Count(asked, "/") != 6 || strings.Contains(asked, "/.") {
			t.Errorf("volume %q was asked for as %s", v.Name, asked)
		}
	}
	if v := (&wireVolume{Name: "x"}).volume(); v.Size != -1 {
		t.Errorf("a size that is not stated is %d", v.Size)
	}
}

func TestSpaceAndLimits(t *testing.T) {
	f := newFake(t, "incus")
	f.on("GET /1.0/storage-pools/default/resources", f.sync(map[string]any{"space": map[string]any{"used": 10, "total": uint64(1) << 63}}))
	p := f.pool()
	s, err := p.Space(testContext(t))
	if err != nil || s.Used != 10 || s.Total != 1<<63-1 {
		t.Errorf("got %+v, %v", s, err)
	}
	for text, want := range map[string]Space{
		`{"resources":{"disk":{"Limit":-1,"Usage":7}}}`:                                       {},
		`{"resources":{"disk":{"Limit":100,"Usage":7}}}`:                                      {7, 100},
		`{"resources":{"disk":{"Limit":100,"Usage":7},"disk.default":{"Limit":8,"Usage":7}}}`: {7, 8},
		`{"resources":{"disk":{"Limit":100,"Usage":7},"disk.other":{"Limit":8,"Usage":7}}}`:   {7, 100},
		`{"resources":{"disk":{"Limit":0,"Usage":0}}}`:                                        {0, 1},
		`{"resources":{}}`: {},
	} {
		f.on("GET /1.0/projects/default/state", f.sync(json.RawMessage(text)))
		if got, err := p.Limits(testContext(t)); err != nil || got != want {
			t.Errorf("%s is %+v, %v", text, got, err)
		}
	}
}

func TestCancelledIsNotAway(t *testing.T) {
	f := newFake(t, "lxd")
	release := make(chan struct{})
	defer close(release)
	begun := make(chan struct{})
	f.on("GET "+volumesPath, func(http.ResponseWriter, *http.Request) { close(begun); <-release })
	ctx, cancel := context.WithCancel(testContext(t))
	go func() { <-begun; cancel() }()
	_, err := f.pool().Volumes(ctx)
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrAway) {
		t.Errorf("got %v", err)
	}
}
