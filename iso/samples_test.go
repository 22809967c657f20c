package iso

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

type expectation struct{ file, verdict, what, facts string }

// expectations reads testdata/iso/expect.txt, whose first line says what its columns are.
func expectations(t testing.TB) []expectation {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "testdata", "iso", "expect.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var all []expectation
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		col := strings.Split(lines.Text(), "\t")
		if len(col) != 4 || slices.Contains(col, "") {
			t.Fatalf("expect.txt: not four columns: %q", lines.Text())
		}
		all = append(all, expectation{col[0], col[1], col[2], col[3]})
	}
	return all
}

// facts writes down what was found in the words of expect.txt.
func facts(info Info, err error) string {
	var all []string
	add := func(is bool, name string) {
		if is {
			all = append(all, name)
		}
	}
	var cut *TruncatedError
	add(slices.Contains(info.Formats, "iso9660"), "iso9660")
	add(slices.Contains(info.Formats, "udf"), "udf="+info.UDFRevision)
	add(info.Joliet, "joliet")
	add(info.RockRidge, "rockridge")
	add(info.BootBIOS, "bios")
	add(info.BootUEFI, "uefi")
	add(info.HybridMBR, "mbr")
	add(info.HybridGPT, "gpt")
	add(info.APM, "apm")
	add(info.Sum != nil, "sum")
	add(errors.As(err, &cut) && cut.Soft, "soft")
	if len(all) == 0 {
		return "-"
	}
	return strings.Join(all, ",")
}

func TestSamples(t *testing.T) {
	all := expectations(t)
	for _, want := range all {
		t.Run(want.file, func(t *testing.T) {
			b := sample(t, want.file)
			info, err := probeBytes(t, b)
			report := Verdict(want.file, info, err)
			what := report.Label
			if report.Verdict == "reject" {
				what = report.LooksLike
			}
			if what == "" {
				what = "-"
			}
			got := expectation{want.file, report.Verdict, what, facts(info, err)}
			if got != want {
				t.Errorf("got  %v\nwant %v\nreason: %s", got, want, report.Reason)
			}

			f, openErr := os.Open(filepath.Join("..", "testdata", "iso", want.file))
			if openErr != nil {
				t.Fatal(openErr)
			}
			defer func() { _ = f.Close() }()
			if _, fileErr := ProbeFile(f); Verdict(want.file, info, fileErr).Verdict != want.verdict {
				t.Errorf("ProbeFile: %v, want %s", fileErr, want.verdict)
			}
		})
	}

	// Each sample is in the list.
	files, err := filepath.Glob(filepath.Join("..", "testdata", "iso", "*.iso"))
	if err != nil || len(files) != len(all) {
		t.Errorf("%d samples, %d lines in expect.txt (%v)", len(files), len(all), err)
	}
}

// Every beginning of an image that is shorter than its descriptors claim is incomplete, or too short to be known as an
// image; never is it accepted. At its firm end only the partition tables can object, and at the larger end nothing.
func TestTruncationSweep(t *testing.T) {
	for _, e := range expectations(t) {
		if e.verdict != "accept" || strings.Contains(e.facts, "gpt") {
			continue
		}
		t.Run(e.file, func(t *testing.T) { sweep(t, sample(t, e.file)) })
	}
	// With a GPT the backup header is the last sector: it is missing until the very end.
	t.Run("gpt-hybrid.iso", func(t *testing.T) { sweep(t, sample(t, "gpt-hybrid.iso")) })
}

func sweep(t *testing.T, image []byte) {
	t.Helper()
	whole, err := probeBytes(t, image)
	if err != nil {
		t.Fatal(err)
	}
	firm, soft := whole.DeclaredSize, max(whole.DeclaredSize, whole.SoftSize)
	if firm == 0 {
		if whole.UDFRevision != "1.50" {
			t.Fatal("declares no end")
		}
		return // write-once: no end is known
	}
	cuts := []int64{firm - 1, firm, firm + 1, soft - 1, soft, soft + 1, 32767, 32768, 32769, 32774, 34815, 34816}
	for n := int64(0); n <= int64(len(image)); n += 1024 {
		cuts = append(cuts, n)
	}
	for _, n := range cuts {
		if n < 0 || n > int64(len(image)) {
			continue
		}
		info, err := probeBytes(t, image[:n])
		var (
			cut *TruncatedError
			not *NotISOError
		)
		switch {
		case n >= soft:
			if err != nil {
				t.Errorf("%d of %d bytes: %v", n, soft, err)
			}
		case n >= firm:
			if !errors.As(err, &cut) || !cut.Soft || cut.Declared != soft || cut.Actual != n {
				t.Errorf("%d bytes, firm end %d, soft end %d: %v", n, firm, soft, err)
			}
		case errors.As(err, &not):
			if n >= firstDescriptor+7 {
				t.Errorf("%d of %d bytes: %v", n, firm, err)
			}
		case !errors.As(err, &cut):
			t.Errorf("%d of %d bytes: %v", n, firm, err)
		case n >= firstDescriptor+sectorSize && cut.Soft:
			t.Errorf("%d of %d bytes: soft: %v", n, firm, err)
		}
		if n >= firstDescriptor+sectorSize && info.Label != whole.Label && whole.Formats[0] == "iso9660" && !whole.Joliet {
			t.Errorf("%d of %d bytes: label %q", n, firm, info.Label)
		}
	}
}
