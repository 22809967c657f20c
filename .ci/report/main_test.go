package main

import (
	"bytes"
	"strings"
	"testing"
)

const (
	passed   = `{"Action":"pass","Package":"p","Test":"TestA"}` + "\n"
	realPass = `{"Action":"pass","Package":"p","Test":"TestConformanceIncus/import"}` + "\n"
	skipped  = `{"Action":"output","Package":"p","Test":"TestS","Output":"    x.go:1: SKIPPED: no incus\n"}` + "\n" +
		`{"Action":"output","Package":"p","Test":"TestS","Output":"--- SKIP: TestS\n"}` + "\n" + `{"Action":"skip","Package":"p","Test":"TestS"}` + "\n"
	failed = `{"Action":"output","Package":"p","Test":"TestF","Output":"    x.go:2: broken\n"}` + "\n" +
		`{"Action":"fail","Package":"p","Test":"TestF"}` + "\n" + `{"Action":"fail","Package":"p"}` + "\n"
	unbuilt = `{"ImportPath":"q","Action":"build-output","Output":"q.go:1: undefined\n"}` + "\n" + `{"ImportPath":"q","Action":"build-fail"}` + "\n" +
		`{"Action":"fail","Package":"q","FailedBuild":"q"}` + "\n"
	panicked = `{"Action":"output","Package":"r","Output":"panic: test timed out\n"}` + "\n" + `{"Action":"fail","Package":"r"}` + "\n"
)

func TestReport(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		strict   bool
		code     int
		want     []string
	}{
		{"all well", passed, false, 0, []string{"\n1 passed, 0 failed, 0 skipped\n"}},
		{"all well, strictly", passed + realPass, true, 0, []string{"\n2 passed, 0 failed, 0 skipped\n"}},
		{"nothing ran", "", false, 1, []string{"no test ran"}},
		{"skipped", passed + skipped, false, 0, []string{"1 tests were SKIPPED", "p TestS: x.go:1: SKIPPED: no incus", "\n1 passed, 0 failed, 1 skipped\n"}},
		{"skipped, strictly", passed + realPass + skipped, true, 1, []string{"none may be skipped"}},
		{"no real server", passed, true, 1, []string{"did not run against a real server"}},
		{"failed", passed + failed, false, 1, []string{"x.go:2: broken", "--- FAIL: p TestF", "\n1 passed, 1 failed, 0 skipped\n"}},
		{"not built", passed + unbuilt, false, 1, []string{"q.go:1: undefined", "--- FAIL: build of q"}},
		{"timed out", passed + panicked, false, 1, []string{"panic: test timed out"}},
		{"output of go itself", "go: no such thing\n" + passed, false, 0, []string{"go: no such thing"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			if code := run(strings.NewReader(tt.in), &out, tt.strict); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("it lacks %q:\n%s", want, out.String())
				}
			}
		})
	}
}
