package fusefs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSemanticsNamesTests: each test that docs/SEMANTICS.md names exists, and each row of its tables of claims names one.
func TestSemanticsNamesTests(t *testing.T) {
	doc, err := os.ReadFile("../docs/SEMANTICS.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Benchmark)\w+)\(`).FindAllStringSubmatch(string(src), -1) {
			have[m[1]] = true
		}
	}
	name := regexp.MustCompile("`((?:Test|Benchmark)\\w+)`")
	named := map[string]bool{}
	for _, m := range name.FindAllStringSubmatch(string(doc), -1) {
		named[m[1]] = true
		if !have[m[1]] {
			t.Errorf("there is no %s", m[1])
		}
	}
	claims := false
	for line := range strings.Lines(string(doc)) {
		switch {
		case strings.HasPrefix(line, "| claim |"):
			claims = true
		case !strings.HasPrefix(line, "|"):
			claims = false
		case claims && !strings.HasPrefix(line, "|---") && !name.MatchString(line):
			t.Errorf("a claim without a test: %s", line)
		}
	}
	if len(named) < 30 {
		t.Errorf("only %d tests are named", len(named))
	}
}
