package lxdtest_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"isosyncd/lxd"
	"isosyncd/lxd/lxdtest"
)

func testDescribe(t *testing.T, s *lxdtest.Server, tr traits) {
	p := s.Pool(t)
	put(t, p, "v", 1000)
	before := get(t, p, "v")
	const text = `Debian 13 "trixie" amd64 ü [isosyncd owner=host sha256=00 file="d.iso"]`
	if err := p.Describe(lxdtest.Context(t), "v", text); err != nil {
		t.Fatal(err)
	}
	after := get(t, p, "v")
	if after.Description != text || after.Size != before.Size || after.Incarnation() != before.Incarnation() {
		t.Errorf("the volume became %+v, was %+v", after, before)
	}
	status, body, err := s.Do(http.MethodPatch, volumeURL(s, "/v"), map[string]string{"description": "other"})
	if want := http.StatusOK; err != nil || (status == http.StatusAccepted) != tr.async || !tr.async && status != want {
		t.Errorf("PATCH: %d %s %v", status, body, err)
	}
	// A PATCH that says nothing of the description clears it.
	if status, body := raw(t, s, http.MethodPatch, volumeURL(s, "/v"), map[string]any{}); status != http.StatusOK {
		t.Errorf("an empty PATCH: %d %s", status, body)
	}
	if v := get(t, p, "v"); v.Description != "" {
		t.Errorf("the description is still %q", v.Description)
	}
	if err := p.Describe(lxdtest.Context(t), "absent", "x"); !errors.Is(err, lxd.ErrNotFound) {
		t.Errorf("describe what is not there: %v", err)
	}
}

func testConfigFixed(t *testing.T, s *lxdtest.Server, _ traits) {
	p := s.Pool(t)
	f := put(t, p, "v", 1000)
	for method, body := range map[string]any{
		http.MethodPatch: map[string]any{"description": "x", "config": map[string]string{"user.a": "b"}},
		http.MethodPut:   map[string]any{"description": "x", "config": map[string]string{"size": "2000"}},
	} {
		if status, text := raw(t, s, method, volumeURL(s, "/v"), body); status < 400 || !strings.Contains(text, "config cannot be changed") {
			t.Errorf("%s: %d %s", method, status, text)
		}
	}
	if v := get(t, p, "v"); v.Size != 1000 || v.Description != "" {
		t.Errorf("the volume became %+v", v)
	}
	sameBytes(t, s, "v", f, 1000)
}

func testIfMatch(t *testing.T, s *lxdtest.Server, _ traits) {
	p := s.Pool(t)
	put(t, p, "v", 1000)
	patch := func(etag string) int {
		req, err := http.NewRequestWithContext(lxdtest.Context(t), http.MethodPatch, "http://server"+volumeURL(s, "/v"), strings.NewReader(`{"description":"x"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("If-Match", etag)
		tr := s.Transport()
		defer tr.CloseIdleConnections()
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if status := patch(`"nonsense"`); status != http.StatusPreconditionFailed {
		t.Errorf("a wrong If-Match: %d", status)
	}
	if v := get(t, p, "v"); v.Description != "" {
		t.Errorf("it was described all the same: %+v", v)
	}
}

func testCopy(t *testing.T, s *lxdtest.Server, _ traits) {
	p := s.Pool(t)
	ctx := lxdtest.Context(t)
	const size = 700_001
	f := put(t, p, "old", size)
	if err := p.Describe(ctx, "old", "theirs"); err != nil {
		t.Fatal(err)
	}
	operation, err := p.Copy(ctx, "old", "new", "ours")
	if err == nil {
		err = p.Wait(ctx, operation)
	}
	if err != nil {
		t.Fatal(err)
	}
	v := get(t, p, "new")
	if v.Size != size || v.ContentType != "iso" {
		t.Errorf("the copy is %+v", v)
	}
	if v.Incarnation() == get(t, p, "old").Incarnation() {
		t.Error("the copy cannot be told from its source")
	}
	// The copy has a life of its own.
	if err := p.Describe(ctx, "new", "mine"); err != nil {
		t.Error(err)
	}
	if v := get(t, p, "old"); v.Description != "theirs" {
		t.Errorf("the source became %+v", v)
	}
	if err := p.Delete(ctx, "old"); err != nil {
		t.Error(err)
	}
	sameBytes(t, s, "new", f, size)

	operation, err = p.Copy(ctx, "absent", "other", "")
	if err == nil {
		err = p.Wait(ctx, operation)
	}
	if err == nil {
		t.Error("a copy of nothing succeeded")
	}
	absent(t, p, "other")
	put(t, p, "taken", 1000)
	if operation, err = p.Copy(ctx, "new", "taken", ""); err == nil {
		err = p.Wait(ctx, operation)
	}
	if v := get(t, p, "taken"); err == nil || v.Size != 1000 {
		t.Errorf("a copy over another volume ended with %v; that is now %+v", err, v)
	}
}

func testDelete(t *testing.T, s *lxdtest.Server, tr traits) {
	p := s.Pool(t)
	put(t, p, "v", 1000)
	put(t, p, "w", 1000)
	if err := p.Delete(lxdtest.Context(t), "v"); err != nil {
		t.Fatal(err)
	}
	absent(t, p, "v")
	if err := p.Delete(lxdtest.Context(t), "v"); err != nil {
		t.Errorf("delete what is not there: %v", err)
	}
	if status, text := raw(t, s, http.MethodDelete, volumeURL(s, "/v"), nil); status != http.StatusNotFound {
		t.Errorf("delete what is not there: %d %s", status, text)
	}
	status, body, err := s.Do(http.MethodDelete, volumeURL(s, "/w"), nil)
	if err != nil || (status == http.StatusAccepted) != tr.async {
		t.Errorf("DELETE: %d %s %v", status, body, err)
	}
	lxdtest.Eventually(t, "the second volume to be gone", func() bool { return len(names(t, p)) == 0 })
}

func testInUse(t *testing.T, s *lxdtest.Server, _ traits) {
	p := s.Pool(t)
	f := put(t, p, "v", 1000)
	s.UseVolume("v")
	if v := get(t, p, "v"); len(v.UsedBy) != 1 || !strings.HasPrefix(v.UsedBy[0], "/1.0/profiles/default") {
		t.Errorf("used by %q", v.UsedBy)
	}
	if err := p.Delete(lxdtest.Context(t), "v"); !errors.Is(err, lxd.ErrInUse) || lxd.IsPermanent(err) {
		t.Errorf("delete what is in use: %v", err)
	}
	if status, text := raw(t, s, http.MethodDelete, volumeURL(s, "/v"), nil); status != http.StatusBadRequest {
		t.Errorf("delete what is in use: %d %s", status, text)
	}
	sameBytes(t, s, "v", f, 1000)
	if err := p.Describe(lxdtest.Context(t), "v", "x"); err != nil {
		t.Errorf("describe what is in use: %v", err)
	}
	s.Free("v")
	if err := p.Delete(lxdtest.Context(t), "v"); err != nil {
		t.Error(err)
	}
	absent(t, p, "v")
}

// testRename is about the embedded store: what the real ones do is why nothing is ever renamed (SERVER-API 3.3).
func testRename(t *testing.T, s *lxdtest.Server, tr traits) {
	if !tr.renames {
		return // it may lose the bytes; nothing of this project renames there
	}
	p := s.Pool(t)
	f := put(t, p, "old", 5000)
	put(t, p, "taken", 1000)
	before := get(t, p, "old")
	if status, text := raw(t, s, http.MethodPost, volumeURL(s, "/old"), map[string]string{"name": "taken"}); status != http.StatusConflict {
		t.Errorf("rename over another: %d %s", status, text)
	}
	if status, text := raw(t, s, http.MethodPost, volumeURL(s, "/old"), map[string]string{"name": "new"}); status >= 300 {
		t.Fatalf("rename: %d %s", status, text)
	}
	absent(t, p, "old")
	if v := get(t, p, "new"); v.Size != before.Size || v.Incarnation() != before.Incarnation() {
		t.Errorf("the volume became %+v, was %+v", v, before)
	}
	sameBytes(t, s, "new", f, 5000)
	put(t, p, "old", 2000) // the name is free
	s.UseVolume("new")
	if status, text := raw(t, s, http.MethodPost, volumeURL(s, "/new"), map[string]string{"name": "newer"}); status != http.StatusBadRequest {
		t.Errorf("rename what is in use: %d %s", status, text)
	}
}

func testIncarnation(t *testing.T, s *lxdtest.Server, _ traits) {
	p := s.Pool(t)
	put(t, p, "v", 1000)
	first := get(t, p, "v")
	if err := p.Delete(lxdtest.Context(t), "v"); err != nil {
		t.Fatal(err)
	}
	put(t, p, "v", 1000)
	if second := get(t, p, "v"); second.Incarnation() == first.Incarnation() {
		t.Errorf("the second volume of a name looks like the first: %q", second.Incarnation())
	}
}

func testForeign(t *testing.T, s *lxdtest.Server, tr traits) {
	status, text := raw(t, s, http.MethodPost, volumeURL(s, ""), map[string]any{"name": "fs", "content_type": "filesystem"})
	p := s.Pool(t)
	if !tr.foreign {
		if status != http.StatusBadRequest {
			t.Errorf("create: %d %s; want a refusal", status, text)
		}
		absent(t, p, "fs")
		return
	}
	if status >= 300 {
		t.Fatalf("create: %d %s", status, text)
	}
	put(t, p, "v", 1000)
	list, err := p.Volumes(lxdtest.Context(t))
	if err != nil || len(list) != 2 || list[0].ContentType != "filesystem" || list[1].ContentType != "iso" {
		t.Errorf("the list is %+v, %v", list, err)
	}
	var refused *lxd.Error
	if err := tryPut(t, p, "fs", lxdtest.File(t, 1000), 1000); !errors.As(err, &refused) {
		t.Errorf("an image over somebody's data: %v", err)
	}
	if v := get(t, p, "fs"); v.ContentType != "filesystem" {
		t.Errorf("somebody's volume became %+v", v)
	}
}

func testLists(t *testing.T, s *lxdtest.Server, _ traits) {
	p := s.Pool(t)
	for _, n := range []string{"b", "a", "c"} {
		put(t, p, n, 1000)
	}
	list := func(query string, into any) {
		t.Helper()
		status, text, err := s.Do(http.MethodGet, volumeURL(s, "")+query, nil)
		if err != nil || status != http.StatusOK {
			t.Fatalf("list%s: %d %s %v", query, status, text, err)
		}
		if err := json.Unmarshal(envelope(t, text).Metadata, into); err != nil {
			t.Fatal(err)
		}
	}
	var urls []string
	list("", &urls)
	suffix := "?project=" + s.Project()
	want := []string{"a" + suffix, "b" + suffix, "c" + suffix}
	for i := range urls {
		urls[i] = strings.TrimPrefix(urls[i], "/1.0/storage-pools/default/volumes/custom/")
	}
	if !slices.Equal(urls, want) {
		t.Errorf("addresses: %q, want %q", urls, want)
	}
	type object struct {
		Name   string
		Config map[string]string
	}
	for query, want := range map[string]int{
		"&recursion=1": 3, "&recursion=2": 3,
		"&recursion=1&filter=content_type+eq+iso":            3,
		"&recursion=1&filter=content_type+eq+block":          0,
		"&recursion=1&filter=name+eq+b":                      1,
		"&recursion=1&filter=name+eq+a+or+name+eq+b":         2,
		"&recursion=1&filter=config.size+eq+1000":            3,
		"&recursion=1&filter=":                               3,
		"&recursion=1&filter=not+name+eq+a+and+name+ne+b":    1,
		"&recursion=1&filter=name+eq+a+and+config.size+eq+1": 0,
	} {
		var objects []object
		if list(query, &objects); len(objects) != want {
			t.Errorf("list%s has %d volumes, want %d", query, len(objects), want)
		}
	}
	if status, _, err := s.Do(http.MethodGet, volumeURL(s, "")+"&filter=bogus", nil); err != nil || status < 400 {
		t.Errorf("a filter that is none: %d %v", status, err)
	}
	if status, _, err := s.Do(http.MethodGet, volumeURL(s, "")+"&all-projects=true", nil); err != nil || status != http.StatusBadRequest {
		t.Errorf("one project and all of them: %d %v", status, err)
	}
	var all []object
	status, text, err := s.Do(http.MethodGet, "/1.0/storage-pools/default/volumes/custom?recursion=1&all-projects=true", nil)
	if err != nil || status != http.StatusOK || json.Unmarshal(envelope(t, text).Metadata, &all) != nil || len(all) < 3 {
		t.Errorf("all projects: %d %s %v", status, text, err)
	}
}
