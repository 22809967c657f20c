package sync

import (
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"pgregory.net/rapid"
)

func digits(n int, c string) string { return strings.Repeat(c, n) }

func TestIsList(t *testing.T) {
	for name, want := range map[string]string{
		"SHA256SUMS": "", "sha512sums": "", "MD5SUMS": "", "SHA1SUMS": "", "SHA256SUMS.txt": "", "sha256sum.txt": "",
		"SHA256SUMS.asc": "", "CHECKSUM": "", "CHECKSUM.SHA256": "", "Fedora-Server-39-1.5-x86_64-CHECKSUM": "",
		"Rocky-9.3-CHECKSUM": "", "ubuntu-SHA256SUMS": "",
		"win.iso.sha256": "win.iso", "win.iso.SHA512": "win.iso", "WIN.ISO.md5": "WIN.ISO", "win.iso.sha1": "win.iso",
		"win.iso.sha256sum": "win.iso", "win.iso.sha256.txt": "win.iso", "win.iso.sha256.asc": "win.iso",
		"win.sha256": "win.iso", "win.iso.CHECKSUM": "win.iso", "win.iso-CHECKSUM": "win.iso",
	} {
		if image, ok := isList(name); !ok || image != want {
			t.Errorf("isList(%q) = %q, %v; want %q", name, image, ok, want)
		}
	}
	for _, name := range []string{
		"win.iso", "readme.txt", ".SHA256SUMS", ".win.iso.sha256", "SHA256SUMS.gpg", "SHA256SUMS.sign", "win.iso.sha384", ".sha256",
		"B3SUMS", "win.iso.sig", "",
	} {
		if image, ok := isList(name); ok {
			t.Errorf("isList(%q) = %q", name, image)
		}
	}
}

func TestParseSums(t *testing.T) {
	s256, s512, s1, m5 := digits(64, "a"), digits(128, "b"), digits(40, "c"), digits(32, "d")
	for _, c := range []struct {
		name, list, text string
		want             string // name:algorithm=first digit..., as told below
	}{
		{"text marker", "SHA256SUMS", s256 + "  a.iso\n" + digits(64, "e") + "  b.iso\n", "a.iso:sha256=a b.iso:sha256=e"},
		{"binary marker", "SHA256SUMS", s256 + " *a.iso\n", "a.iso:sha256=a"},
		{"one space", "SHA256SUMS", s256 + " a.iso\n", "a.iso:sha256=a"},
		{"tab", "MD5SUMS", m5 + "\ta.iso\n", "a.iso:md5=d"},
		{"no line end", "SHA256SUMS", s256 + "  a.iso", "a.iso:sha256=a"},
		{"crlf", "SHA256SUMS", s256 + "  a.iso\r\n" + s256 + "  b.iso\r\n", "a.iso:sha256=a b.iso:sha256=a"},
		{"byte order mark", "SHA256SUMS", "\xef\xbb\xbf" + s256 + "  a.iso\n", "a.iso:sha256=a"},
		{"upper case", "SHA256SUMS", strings.ToUpper(s256) + "  a.iso\n", "a.iso:sha256=a"},
		{"spaces in the name", "SHA256SUMS", s256 + "  my image.iso\n", "my image.iso:sha256=a"},
		{"a name that begins with a space", "SHA256SUMS", s256 + "   a.iso\n", " a.iso:sha256=a"},
		{"dot slash", "SHA256SUMS", s256 + "  ./a.iso\n", "a.iso:sha256=a"},
		{"another folder", "SHA256SUMS", s256 + "  ./netboot/a.iso\n" + s256 + "  /x/a.iso\n", ""},
		{"escaped", "SHA256SUMS", `\` + s256 + `  a\nb\\c\r.iso` + "\n", "a\nb\\c\r.iso:sha256=a"},
		{"escaped badly", "SHA256SUMS", `\` + s256 + `  a\x.iso` + "\n" + `\` + s256 + `  b\` + "\n", ""},
		{"not escaped", "SHA256SUMS", s256 + `  a\n.iso` + "\n", `a\n.iso:sha256=a`},
		{
			"all algorithms", "CHECKSUM", s256 + "  a.iso\n" + m5 + "  a.iso\n" + s512 + "  a.iso\n" + s1 + "  a.iso\n",
			"a.iso:sha512=b,sha256=a,sha1=c,md5=d",
		},
		{
			"bsd", "CHECKSUM", "# a.iso: 2295853056 bytes\nSHA256 (a.iso) = " + s256 + "\nMD5 (b (1).iso) = " + m5 + "\n",
			"a.iso:sha256=a b (1).iso:md5=d",
		},
		{"bsd, escaped", "CHECKSUM", `\SHA256 (a\nb.iso) = ` + s256 + "\n", "a\nb.iso:sha256=a"},
		{"openssl", "SHA256SUMS", "SHA256(a.iso)= " + s256 + "\nSHA2-512(a.iso)= " + s512 + "\n", "a.iso:sha512=b,sha256=a"},
		{"unknown tags", "CHECKSUM", "SHA3-256 (a.iso) = " + s256 + "\nBLAKE2b (a.iso) = " + s512 + "\n", ""},
		{"a tag and another length", "CHECKSUM", "SHA256 (a.iso) = " + m5 + "\n", ""},
		{"not hex", "SHA256SUMS", digits(64, "g") + "  a.iso\n", ""},
		{"cut short", "SHA256SUMS", s256[:60] + "  a.iso\n" + s256, ""},
		{"twice, the same", "SHA256SUMS", s256 + "  a.iso\n" + s256 + " *a.iso\n", "a.iso:sha256=a"},
		{"twice, another", "SHA256SUMS", s256 + "  a.iso\n" + digits(64, "e") + "  a.iso\n", "a.iso:sha256=a!"},
		{
			"signed", "SHA256SUMS", "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n" + s256 + "  a.iso\n- " + s256 +
				"  -b.iso\n-----BEGIN PGP SIGNATURE-----\n\n" + s256 + "  evil.iso\n-----END PGP SIGNATURE-----\n",
			"-b.iso:sha256=a a.iso:sha256=a",
		},
		{"html", "SHA256SUMS", "<html><body>404</body></html>", ""},
		{"empty", "SHA256SUMS", "", ""},
		{"alone, in a list of many", "SHA256SUMS", s256 + "\n", ""},
		{"sidecar alone", "a.iso.sha256", s256 + "\n", "a.iso:sha256=a"},
		{"sidecar alone, twice", "a.iso.sha256", s256 + "\n" + digits(64, "e") + "\n", "a.iso:sha256=a!"},
		{"sidecar", "a.iso.sha256", s256 + "  a.iso\n", "a.iso:sha256=a"},
		{"sidecar with a path", "a.iso.sha256", s256 + "  /home/me/a.iso\n", "a.iso:sha256=a"},
		{"sidecar with a path of Windows", "a.iso.sha256", s256 + ` *C:\iso\a.iso`, "a.iso:sha256=a"},
		{
			"sidecar under an old name", "a.iso.sha256", s256 + "  openSUSE-Build491.1.iso\n",
			"a.iso:sha256=a openSUSE-Build491.1.iso:sha256=a",
		},
		{"sidecar about several others", "a.iso.sha256", s256 + "  x.iso\n" + s256 + "  y.iso\n", "x.iso:sha256=a y.iso:sha256=a"},
		{"sidecar about several", "a.iso.sha256", s256 + "  a.iso\n" + s512 + "  y.iso\n", "a.iso:sha256=a y.iso:sha512=b"},
		{"certutil", "a.iso.md5", "MD5 hash of a.iso:\r\n" + m5 + "\r\nCertUtil: done\r\n", "a.iso:md5=d"},
		{"without iso", "a.sha256", s256, "a.iso:sha256=a"},
	} {
		got, err := parseSums(c.list, []byte(c.text))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if s := showSums(got); s != c.want {
			t.Errorf("%s: %q, want %q", c.name, s, c.want)
		}
	}
}

func showSums(of map[string]sumsOf) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		var s []string
		for _, sum := range of[name].Sums {
			s = append(s, sum.Algorithm+"="+sum.Hex[:1])
		}
		twice := ""
		if of[name].Twice {
			twice = "!"
		}
		out = append(out, name+":"+strings.Join(s, ",")+twice)
	}
	return strings.Join(out, " ")
}

func TestParseSumsUTF16(t *testing.T) {
	units := utf16.Encode([]rune(digits(64, "a") + "  ä.iso\r\n"))
	for _, big := range []bool{false, true} {
		data := []byte{0xff, 0xfe}
		if big {
			data = []byte{0xfe, 0xff}
		}
		for _, u := range units {
			if big {
				data = append(data, byte(u>>8), byte(u))
			} else {
				data = append(data, byte(u), byte(u>>8))
			}
		}
		got, err := parseSums("SHA256SUMS", data)
		if s := showSums(got); err != nil || s != "ä.iso:sha256=a" {
			t.Errorf("big-endian %v: %q, %v", big, s, err)
		}
	}
}

func TestParseSumsIsBounded(t *testing.T) {
	if _, err := parseSums("SHA256SUMS", make([]byte, maxList+1)); err == nil {
		t.Error("a list of more than 4 MiB was taken")
	}
	if _, err := parseSums("SHA256SUMS", []byte(strings.Repeat("\n", maxListLines+1))); err == nil {
		t.Error("a list of more than 100,000 lines was taken")
	}
	if _, err := parseSums("SHA256SUMS", []byte(strings.Repeat("\n", maxListLines))); err != nil {
		t.Errorf("100,000 lines: %v", err)
	}
}

// TestParseSumsOfCoreutils: what the real programs write, we read, for any name a file can have.
func TestParseSumsOfCoreutils(t *testing.T) {
	dir := t.TempDir()
	names := []string{"a.iso", "my image.iso", "ä.iso", "a\nb.iso", `back\slash.iso`, "cr\rx.iso", "*star.iso", "x) = y.iso"}
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, algorithm := range algorithms {
		for _, flags := range [][]string{nil, {"--binary"}, {"--tag"}} {
			cmd := exec.CommandContext(t.Context(), algorithm+"sum", append(append(flags, "--"), names...)...)
			cmd.Dir = dir
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %v", cmd.Args, err)
			}
			got, err := parseSums("CHECKSUM", out)
			if err != nil || len(got) != len(names) {
				t.Errorf("%ssum %v: %v, %d names\n%s", algorithm, flags, err, len(got), out)
			}
			for _, n := range names {
				if s := got[n].Sums; len(s) != 1 || s[0].Algorithm != algorithm || !strings.Contains(string(out), s[0].Hex) {
					t.Errorf("%ssum %v: %q: %v", algorithm, flags, n, s)
				}
			}
		}
	}
}

func TestParseSumsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := map[string]string{}
		var text strings.Builder
		for range rapid.IntRange(0, 5).Draw(t, "n") {
			name := rapid.StringMatching(`[^/\x00]{1,30}`).Draw(t, "name")
			if name[0] == ' ' || name[0] == '*' {
				name = "x" + name
			}
			if _, twice := want[name]; twice {
				continue
			}
			a := rapid.SampledFrom([]int{16, 20, 32, 64}).Draw(t, "bytes")
			sum := hex.EncodeToString(rapid.SliceOfN(rapid.Byte(), a, a).Draw(t, "sum"))
			escaped := strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`).Replace(name)
			lead := ""
			if escaped != name {
				lead = `\`
			}
			fmt.Fprintf(&text, "%s%s  %s\n", lead, sum, escaped)
			want[name] = sum
		}
		got, err := parseSums("CHECKSUM", []byte(text.String()))
		if err != nil || len(got) != len(want) {
			t.Fatalf("%q: %v, %v", text.String(), got, err)
		}
		for name, sum := range want {
			if s := got[name].Sums; len(s) != 1 || s[0].Hex != sum {
				t.Fatalf("%q: %v, want %s", name, s, sum)
			}
		}
	})
}

func FuzzParseSums(f *testing.F) {
	f.Add("SHA256SUMS", []byte(digits(64, "a")+"  a.iso\nSHA256 (b.iso) = "+digits(64, "b")+"\n"))
	f.Add("a.iso.md5", []byte("\xff\xfe"+digits(32, "c")))
	f.Fuzz(func(t *testing.T, list string, data []byte) {
		of, err := parseSums(list, data)
		if err != nil && of != nil {
			t.Error("half a list")
		}
		for name, said := range of {
			if name == "" || len(said.Sums) == 0 || len(said.Sums) > len(algorithms) {
				t.Errorf("%q: %v", name, said)
			}
			for _, s := range said.Sums {
				if algorithmOf(len(s.Hex)) != s.Algorithm || !lowerHex(s.Hex) || s.List != list {
					t.Errorf("%q: %+v", name, s)
				}
			}
		}
	})
}
