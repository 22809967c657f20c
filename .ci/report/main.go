// Command report reads what go test -json prints, and tells a person what matters: each package as it ends, the output
// of each test that failed, and in the end what was skipped, what failed, and the counts.
//
// It fails if a test failed or a package did not build. If ISOSYNCD_TEST_REQUIRE is set, as in CI, it also fails if any
// test was skipped, or if the conformance suite did not run against a real Incus.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	os.Exit(run(os.Stdin, os.Stdout, os.Getenv("ISOSYNCD_TEST_REQUIRE") != ""))
}

// event is a line of go test -json (cmd/test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of a build
	Test       string
	Output     string
	Elapsed    float64
}

// real is what must have run: the suite against the real server.
const real = "TestConformanceIncus"

// most is how much of the output of one failure is shown, in lines.
const most = 100

type report struct {
	out     io.Writer
	output  map[string][]string // by package and test, while it is not known to have passed
	passed  int
	failed  []string
	skipped []string
	real    bool // the conformance suite passed against a real server
	bad     bool // something failed that is no test
}

func run(in io.Reader, out io.Writer, strict bool) int {
	r := &report{out: out, output: map[string][]string{}}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			r.say("%s", lines.Text()) // of the go command itself
			continue
		}
		r.take(e)
	}
	if err := lines.Err(); err != nil {
		r.say("the output of go test could not be read: %v", err)
		r.bad = true
	}
	return r.end(strict)
}

func (r *report) say(format string, args ...any) {
	// Who reads this is gone if it fails; the exit code still tells.
	_, _ = fmt.Fprintf(r.out, format+"\n", args...)
}

func (r *report) take(e event) {
	name := e.Package + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		if e.Action == "build-output" {
			name = e.ImportPath
		}
		r.output[name] = append(r.output[name], strings.TrimSuffix(e.Output, "\n"))
		return
	case "build-fail":
		r.bad = true
		r.failed = append(r.failed, "build of "+e.ImportPath)
		r.show(e.ImportPath)
	case "pass":
		if e.Test == "" {
			r.say("ok    %-30s %6.1f s", e.Package, e.Elapsed)
			break
		}
		r.passed++
		r.real = r.real || strings.HasPrefix(e.Test, real)
	case "skip":
		if e.Test != "" {
			r.skipped = append(r.skipped, name+": "+r.reason(name))
		}
	case "fail":
		if e.Test == "" {
			r.say("FAIL  %-30s %6.1f s", e.Package, e.Elapsed)
			r.show(name) // what no test said: a panic, a time-out
			r.bad = true
			break
		}
		r.failed = append(r.failed, name)
		r.show(name)
	default:
		return
	}
	delete(r.output, name)
}

// show prints the end of what a test said.
func (r *report) show(name string) {
	lines := r.output[name]
	if n := len(lines) - most; n > 0 {
		r.say("... %d lines of %s", n, name)
		lines = lines[n:]
	}
	for _, l := range lines {
		r.say("%s", l)
	}
}

// reason is why a test was skipped: the last line that it said besides the verdict.
func (r *report) reason(name string) string {
	for _, l := range slices.Backward(r.output[name]) {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "---") && !strings.HasPrefix(l, "===") {
			return l
		}
	}
	return "no reason"
}

func (r *report) end(strict bool) int {
	code := 0
	if len(r.skipped) > 0 {
		r.say("\n!!! %d tests were SKIPPED, so what they prove is not proved here:", len(r.skipped))
		for _, s := range r.skipped {
			r.say("!!!   %s", s)
		}
	}
	if strict && len(r.skipped) > 0 {
		r.say("!!! ISOSYNCD_TEST_REQUIRE is set: none may be skipped")
		code = 1
	}
	if strict && !r.real {
		r.say("!!! no %s* passed: the suite did not run against a real server", real)
		code = 1
	}
	if len(r.failed) > 0 || r.bad {
		r.say("")
		for _, f := range r.failed {
			r.say("--- FAIL: %s", f)
		}
		code = 1
	}
	if r.passed == 0 {
		r.say("!!! no test ran")
		code = 1
	}
	r.say("")
	r.say("%d passed, %d failed, %d skipped", r.passed, len(r.failed), len(r.skipped))
	return code
}
