package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// verdict is one goal after it was measured.
type verdict struct {
	id       string // such as "2a"
	goal     string // in words
	limit    limit
	want     string // the limit in words
	measured string // "" = it was not measured
	met      bool
	why      string // it is missed; shown only then
}

// figure is one row of what else was measured.
type figure struct {
	group, name, value, note string
}

// report is one run.
type report struct {
	facts    [][2]string // date, machine, versions, method
	verdicts []verdict
	figures  []figure
}

// count is how many goals are met, and how many were measured.
func (r *report) count() (met, measured int) {
	for i := range r.verdicts {
		if f := &r.verdicts[i]; f.measured != "" {
			measured++
			if f.met {
				met++
			}
		}
	}
	return met, measured
}

// summary is the last line of a run.
func (r *report) summary() string {
	met, _ := r.count()
	return fmt.Sprintf("%d of %d goals met", met, len(r.verdicts))
}

// markdown is the generated part of docs/PERFORMANCE.md.
func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("## The run\n\n")
	for _, f := range r.facts {
		fmt.Fprintf(&b, "- %s: %s\n", f[0], f[1])
	}
	fmt.Fprintf(&b, "\n## Goals\n\n%s.\n\n", r.summary())
	b.WriteString(tableRow("", "goal", "wanted", "measured", "met", "why not"))
	b.WriteString(tableRow("---", "---", "---", "---", "---", "---"))
	for i := range r.verdicts {
		f := &r.verdicts[i]
		measured, met, why := f.measured, "yes", ""
		switch {
		case measured == "":
			measured, met = "not measured", "-"
		case !f.met:
			met, why = "**no**", f.why
		}
		b.WriteString(tableRow(f.id, f.goal, f.want, measured, met, why))
	}
	for _, group := range r.groups() {
		fmt.Fprintf(&b, "\n## %s\n\n", group)
		b.WriteString(tableRow("what", "median (least to most)", ""))
		b.WriteString(tableRow("---", "---", "---"))
		for _, f := range r.figures {
			if f.group == group {
				b.WriteString(tableRow(f.name, f.value, f.note))
			}
		}
	}
	return b.String()
}

// groups are those of the figures, in the order in which they came up.
func (r *report) groups() []string {
	var out []string
	for _, f := range r.figures {
		if !slices.Contains(out, f.group) {
			out = append(out, f.group)
		}
	}
	return out
}

// tableRow is one of a table. A bar in a cell would be another cell.
func tableRow(cells ...string) string {
	escape := strings.NewReplacer("|", `\|`, "\n", " ")
	out := "|"
	for _, c := range cells {
		out += " " + escape.Replace(c) + " |"
	}
	return out + "\n"
}

// The generated part of a document stands between these lines.
const (
	generatedBegin = "<!-- make bench writes from here -->"
	generatedEnd   = "<!-- to here -->"
)

// replaced puts text between the two lines, and leaves all else as it is.
func replaced(document, text string) (string, error) {
	before, rest, ok := strings.Cut(document, generatedBegin+"\n")
	_, after, ok2 := strings.Cut(rest, generatedEnd)
	if !ok || !ok2 || strings.Contains(after, generatedBegin) {
		return "", errors.New("it has no part to be generated: the lines " + generatedBegin + " and " + generatedEnd + " must stand there once")
	}
	return before + generatedBegin + "\n\n" + strings.TrimRight(text, "\n") + "\n\n" + generatedEnd + after, nil
}

func TestReport(t *testing.T) {
	r := report{
		facts: [][2]string{{"machine", "2 cores"}},
		verdicts: []verdict{
			{id: "1", goal: "one", want: "at most 1", measured: "0.5", met: true, why: "never seen"},
			{id: "2", goal: "a | b", want: "at most 1", measured: "2", why: "the server"},
			{id: "3", goal: "three", want: "at most 1", why: "never seen"},
		},
		figures: []figure{{"Import", "a", "1 s", ""}, {"Drop", "c", "3 s", ""}, {"Import", "b", "2 s", "n"}},
	}
	if met, measured := r.count(); met != 1 || measured != 2 {
		t.Errorf("%d met, %d measured", met, measured)
	}
	want := `## The run

- machine: 2 cores

## Goals

1 of 3 goals met.

|  | goal | wanted | measured | met | why not |
| --- | --- | --- | --- | --- | --- |
| 1 | one | at most 1 | 0.5 | yes |  |
| 2 | a \| b | at most 1 | 2 | **no** | the server |
| 3 | three | at most 1 | not measured | - |  |

## Import

| what | median (least to most) |  |
| --- | --- | --- |
| a | 1 s |  |
| b | 2 s | n |

## Drop

| what | median (least to most) |  |
| --- | --- | --- |
| c | 3 s |  |
`
	if got := r.markdown(); got != want {
		t.Errorf("it is\n%s\nwant\n%s", got, want)
	}
}

func TestReplaced(t *testing.T) {
	document := "by hand\n" + generatedBegin + "\nold\n" + generatedEnd + "\nby hand, too\n"
	got, err := replaced(document, "new\n")
	if err != nil || got != "by hand\n"+generatedBegin+"\n\nnew\n\n"+generatedEnd+"\nby hand, too\n" {
		t.Errorf("%q, %v", got, err)
	}
	if again, err := replaced(got, "new"); err != nil || again != got {
		t.Errorf("the second time it is %q, %v", again, err)
	}
	for _, bad := range []string{"", generatedBegin + "\n", generatedEnd, document + document, generatedEnd + "\n" + generatedBegin + "\n"} {
		if got, err := replaced(bad, "new"); err == nil {
			t.Errorf("%q became %q", bad, got)
		}
	}
}
