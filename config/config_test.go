package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// clean takes everything of the environment away that Load looks at.
func clean(t *testing.T) {
	t.Helper()
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, envPrefix) && !strings.HasPrefix(name, envPrefix+"TEST_") {
			t.Setenv(name, "")
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{"STATE_DIRECTORY", "RUNTIME_DIRECTORY", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"} {
		t.Setenv(name, "")
	}
}

// file writes a configuration file.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaults(t *testing.T) {
	clean(t)
	l, err := Load(Options{File: file(t, "folder: /srv/iso-drop\n")})
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	place := placesOf("")
	want := Settings{
		Folder: "/srv/iso-drop", StateDir: place.state, Owner: ownerOf(host, "/srv/iso-drop"), Control: place.control,
		SettleDelay: 5 * time.Second, ScanInterval: time.Minute, RefreshInterval: time.Minute, MaxUploads: 2, EarlyUpload: "auto",
		Replace: "staged", PruneDelay: time.Minute, StatusFiles: "problems", MountWait: "import", CacheSize: 10 << 30,
		LogLevel: "info", LogFormat: "auto",
	}
	if diff := cmp.Diff(want, l.Settings); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	for _, k := range Keys() {
		source := FromDefault
		if k.Name == "folder" {
			source = FromFile
		}
		if l.Sources[k.Name] != source {
			t.Errorf("%s comes from %q, want %q", k.Name, l.Sources[k.Name], source)
		}
	}
}

// TestPrecedence takes one setting of each kind through all sources.
func TestPrecedence(t *testing.T) {
	tests := []struct {
		key, env        string
		file, inEnv     string // as written there
		flag            string
		want            [4]string // default, file, environment, flag
		defaultIsByHost bool
	}{
		{key: "pool", file: "a", inEnv: "b", flag: "c", want: [4]string{"", "a", "b", "c"}},
		{key: "settle_delay", file: "1s", inEnv: "90s", flag: "100ms", want: [4]string{"5s", "1s", "1m30s", "100ms"}},
		{key: "max_uploads", file: "3", inEnv: "4", flag: "5", want: [4]string{"2", "3", "4", "5"}},
		{key: "restore_deleted", file: "true", inEnv: "no", flag: "yes", want: [4]string{"false", "true", "false", "true"}},
		{key: "cache_size", file: "1GiB", inEnv: "0", flag: "2 MiB", want: [4]string{"10GiB", "1.0GiB", "0B", "2.0MiB"}},
		{key: "replace", file: "never", inEnv: "in-place", flag: "staged", want: [4]string{"staged", "never", "in-place", "staged"}},
		{key: "state_dir", file: "/a", inEnv: "/b", flag: "/c", want: [4]string{"", "/a", "/b", "/c"}, defaultIsByHost: true},
		{key: "owner", file: "a", inEnv: "b", flag: "c", want: [4]string{"", "a", "b", "c"}, defaultIsByHost: true},
	}
	sources := []Source{FromDefault, FromFile, FromEnv, FromFlag}
	for _, tt := range tests {
		t.Run(tt.key, func(t *testing.T) {
			clean(t)
			for level, source := range sources {
				text := "folder: /srv\n"
				o := Options{}
				if level >= 1 {
					text += tt.key + ": " + tt.file + "\n"
				}
				if level >= 2 {
					t.Setenv(envPrefix+strings.ToUpper(tt.key), tt.inEnv)
				}
				if level >= 3 {
					o.Flags = map[string]string{tt.key: tt.flag}
				}
				o.File = file(t, text)
				l, err := Load(o)
				if err != nil {
					t.Fatalf("%s: %v", source, err)
				}
				got := l.Text(tt.key)
				if got != tt.want[level] && !(level == 0 && tt.defaultIsByHost && got != "") {
					t.Errorf("%s: %q, want %q", source, got, tt.want[level])
				}
				if l.Sources[tt.key] != source {
					t.Errorf("it comes from %q, want %q", l.Sources[tt.key], source)
				}
			}
		})
	}
}

// TestEveryKeyFromEnvironment guards against viper's trap: a key without a default is never read from the environment.
func TestEveryKeyFromEnvironment(t *testing.T) {
	values := map[Kind]string{KindText: "/x/y", KindBool: "true", KindNumber: "7", KindDuration: "7s", KindSize: "7MiB"}
	for _, k := range Keys() {
		t.Run(k.Name, func(t *testing.T) {
			clean(t)
			value := values[k.Kind]
			switch {
			case k.Kind == KindChoice:
				value = k.Choices[len(k.Choices)-1]
			case k.Name == "metrics_address":
				value = "localhost:1"
			}
			want := value
			if k.Kind == KindSize {
				want = "7.0MiB"
			}
			t.Setenv(k.Env(), value)
			l, err := Load(Options{File: file(t, "")})
			if err != nil {
				t.Fatal(err)
			}
			if got := l.Text(k.Name); got != want {
				t.Errorf("%s=%s gives %q, want %q", k.Env(), value, got, want)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	tests := []struct {
		name, text string
		flags      map[string]string
		want       string // the whole sentence
	}{
		{name: "unknown key", text: "foldr: /srv", want: "foldr is no setting; did you mean folder?"},
		{name: "unknown key with hyphen", text: "settle-delay: 5s", want: "settle-delay is no setting; did you mean settle_delay?"},
		{name: "unknown key far from all", text: "quux: 1", want: "quux is no setting; isosyncd config --example lists what there is"},
		{name: "nested key", text: "policy:\n  prune: true", want: "policy.prune is no setting; did you mean prune?"},
		{name: "bare number as duration", text: "settle_delay: 10", want: "settle_delay must have a unit, such as 10s or 10m"},
		{name: "bare number as text", text: `settle_delay: "10"`, want: "settle_delay must have a unit, such as 10s or 10m"},
		{name: "tiny duration", text: "settle_delay: 10us", want: "settle_delay must be at least 1ms, and not 10us"},
		{name: "zero duration", text: "scan_interval: 0s", want: "scan_interval must be at least 1ms, and not 0s"},
		{name: "negative duration", text: "prune_delay: -5s", want: "prune_delay must be at least 1ms, and not -5s"},
		{name: "no duration", text: "settle_delay: soon", want: `settle_delay must be a duration, such as 5s, 2m or 1h30m, and not "soon"`},
		{name: "long duration", text: "settle_delay: 2h", want: "settle_delay must be at most 1h, and not 2h"},
		{name: "no number", text: "max_uploads: many", want: `max_uploads must be a whole number, and not "many"`},
		{name: "no whole number", text: "max_uploads: 1.5", want: `max_uploads must be a whole number, and not "1.5"`},
		{name: "number out of range", text: "max_uploads: 17", want: "max_uploads must be 1 to 16, and not 17"},
		{name: "number as bool", text: "prune: 1", want: `prune must be true or false, and not "1"`},
		{name: "no bool", text: "prune: maybe", want: `prune must be true or false, and not "maybe"`},
		{name: "no size", text: "cache_size: big", want: `cache_size must be a size, such as 500MB or 10GiB, and not "big"`},
		{name: "negative size", text: "cache_size: -1GiB", want: `cache_size must be a size, such as 500MB or 10GiB, and not "-1GiB"`},
		{name: "list", text: "folder: [/a, /b]", want: "folder must be one value, and not a list, a mapping or a date"},
		{name: "no choice", text: "replace: inplace", want: `replace must be staged, in-place or never, and not "inplace"`},
		{name: "bool as choice", text: "replace: true", want: `replace must be staged, in-place or never, and not "true"`},
		{name: "relative folder", text: "folder: drop", want: `folder must be an absolute path, and not "drop"`},
		{name: "relative mount", text: "mount: iso", want: `mount must be an absolute path, and not "iso"`},
		{name: "prune and consume", text: "prune: true\nconsume: true", want: "prune and consume exclude each other: a consumed file is gone, and prune would delete its volume; choose one"},
		{name: "owner with blank", text: "owner: my host", want: `owner must be at most 128 letters, digits and . _ : / @ + -, and not "my host"`},
		{name: "owner with bracket", text: `owner: "x]"`, want: `owner must be at most 128 letters, digits and . _ : / @ + -, and not "x]"`},
		{name: "metrics without port", text: "metrics_address: localhost", want: `metrics_address must be host:port, such as localhost:9112, and not "localhost"`},
		{name: "metrics with a name as port", text: "metrics_address: localhost:http", want: `metrics_address must be host:port, such as localhost:9112, and not "localhost:http"`},
		{name: "plain http", text: "remote: http://host:8443", want: "remote must not be plain http, because anybody on the way could change the images; use https://"},
		{name: "relative socket", text: "remote: unix:sock", want: `remote must have an absolute path after unix:, and not "sock"`},
		{name: "relative store", text: "remote: store:isos", want: `remote must have an absolute path after store:, and not "isos"`},
		{name: "remote nobody knows", text: "remote: ftp://x", want: `remote must be empty, unix:PATH, https://HOST, lxc:NAME, incus:NAME, store:DIR, or a name of isosyncd remote add, and not "ftp://x"`},
		{name: "flag", flags: map[string]string{"max_uploads": "0"}, want: "max_uploads must be 1 to 16, and not 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			clean(t)
			path := file(t, tt.text)
			_, err := Load(Options{File: path, Flags: tt.flags})
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("error %v, want an *Error", err)
			}
			if diff := cmp.Diff([]string{tt.want}, e.Faults); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
			if e.ExitCode() != 78 {
				t.Errorf("exit code %d, want 78", e.ExitCode())
			}
			if want := "configuration " + path + ": " + tt.want; e.Error() != want {
				t.Errorf("it says %q, want %q", e.Error(), want)
			}
		})
	}
}

// TestAllFaultsAtOnce: nobody should have to start five times to learn of five typing errors.
func TestAllFaultsAtOnce(t *testing.T) {
	clean(t)
	for _, text := range []string{
		"foldr: /x\npol: y\n",
		"settle_delay: 10\nmax_uploads: x\nprune: 2\n",
		"folder: x\nmax_uploads: 99\nreplace: no\n",
	} {
		_, err := Load(Options{File: file(t, text)})
		var e *Error
		if !errors.As(err, &e) || len(e.Faults) != strings.Count(text, "\n") {
			t.Errorf("%q gives %v, want one fault for each line", text, err)
		}
	}
}

func TestFiles(t *testing.T) {
	clean(t)
	t.Run("named and missing", func(t *testing.T) {
		_, err := Load(Options{File: filepath.Join(t.TempDir(), "none.yaml")})
		if err == nil || !strings.Contains(err.Error(), "there is no such file") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("no YAML", func(t *testing.T) {
		_, err := Load(Options{File: file(t, "folder: [\n")})
		if err == nil || !strings.Contains(err.Error(), "it is not YAML") || !strings.Contains(err.Error(), "line") {
			t.Errorf("error %v, want one that names the line", err)
		}
	})
	t.Run("twice the same key", func(t *testing.T) {
		_, err := Load(Options{File: file(t, "folder: /a\nfolder: /b\n")})
		if err == nil || !strings.Contains(err.Error(), "already defined") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("directory", func(t *testing.T) {
		_, err := Load(Options{File: t.TempDir()})
		if err == nil || !strings.Contains(err.Error(), "it cannot be read") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("by the environment", func(t *testing.T) {
		path := file(t, "pool: fast\n")
		t.Setenv(envPrefix+"CONFIG", path)
		l, err := Load(Options{})
		if err != nil {
			t.Fatal(err)
		}
		if l.Pool != "fast" || l.File != path || len(l.Warnings) > 0 {
			t.Errorf("pool %q of file %q, warnings %q", l.Pool, l.File, l.Warnings)
		}
	})
	t.Run("empty values are defaults", func(t *testing.T) {
		l, err := Load(Options{File: file(t, "pool:\nstate_dir: \"\"\nowner:\nlog_level:\n")})
		if err != nil {
			t.Fatal(err)
		}
		if l.StateDir == "" || l.Owner == "" || l.LogLevel != "info" || l.Sources["state_dir"] != FromDefault {
			t.Errorf("settings %+v, sources %v", l.Settings, l.Sources)
		}
	})
}

func TestWarnsOfUnknownEnvironment(t *testing.T) {
	clean(t)
	t.Setenv("ISOSYNCD_FOLDR", "/x")
	t.Setenv("ISOSYNCD_FAILPOINT", "x")
	t.Setenv("ISOSYNCD_TEST_REQUIRE_X", "x")
	l, err := Load(Options{File: file(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"the environment variable ISOSYNCD_FOLDR is no setting and was ignored; did you mean ISOSYNCD_FOLDER?"}
	if diff := cmp.Diff(want, l.Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

// TestExample: the example has every setting with its default, and nothing else; the file of the package is it.
func TestExample(t *testing.T) {
	clean(t)
	example := Example()
	l, err := Load(Options{File: file(t, example)})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := Load(Options{File: file(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plain.Settings, l.Settings); diff != "" {
		t.Errorf("the example changes settings (-default +example):\n%s", diff)
	}
	for _, k := range Keys() {
		if n := strings.Count(example, "\n"+k.Name+": "); n != 1 {
			t.Errorf("the example has %s %d times, want once", k.Name, n)
		}
	}
	for line := range strings.SplitSeq(example, "\n") {
		if len(line) > 120 {
			t.Errorf("the example has a line of %d characters: %s", len(line), line)
		}
	}

	path := filepath.Join("..", "packaging", "systemd", "config.yaml")
	if os.Getenv("ISOSYNCD_TEST_UPDATE") != "" {
		if err := os.WriteFile(path, []byte(example), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	packaged, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(example, string(packaged)); diff != "" {
		t.Errorf("%s differs from isosyncd config --example; ISOSYNCD_TEST_UPDATE=1 writes it (-want +got):\n%s", path, diff)
	}
}

// TestReadmeTable: the README's table of settings is that of the code.
func TestReadmeTable(t *testing.T) {
	path := filepath.Join("..", "README.md")
	readme, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- settings: begin -->\n", "<!-- settings: end -->"
	before, rest, ok := strings.Cut(string(readme), begin)
	table, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no %q and %q", path, begin, end)
	}
	if table == Markdown() {
		return
	}
	if os.Getenv("ISOSYNCD_TEST_UPDATE") == "" {
		t.Fatalf("the table of settings in %s is old; ISOSYNCD_TEST_UPDATE=1 writes it (-want +got):\n%s", path, cmp.Diff(Markdown(), table))
	}
	if err := os.WriteFile(path, []byte(before+begin+Markdown()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestKeys: the table and the struct have the same settings.
func TestKeys(t *testing.T) {
	fields := reflect.TypeFor[Settings]()
	if n := len(Keys()); n != fields.NumField() {
		t.Errorf("there are %d keys for %d fields", n, fields.NumField())
	}
	kinds := map[reflect.Type]Kind{
		reflect.TypeFor[string](): KindText, reflect.TypeFor[bool](): KindBool, reflect.TypeFor[int](): KindNumber,
		reflect.TypeFor[time.Duration](): KindDuration, reflect.TypeFor[Size](): KindSize,
	}
	for _, k := range Keys() {
		found := false
		for i := range fields.NumField() {
			f := fields.Field(i)
			if f.Tag.Get("mapstructure") != k.Name {
				continue
			}
			found = true
			if want := kinds[f.Type]; k.Kind != want && !(want == KindText && k.Kind == KindChoice) {
				t.Errorf("%s has kind %s, but its field is %v", k.Name, k.Kind, f.Type)
			}
		}
		if !found {
			t.Errorf("%s has no field", k.Name)
		}
		if k.Usage == "" || (k.Kind == KindChoice) != (len(k.Choices) > 0) {
			t.Errorf("%s is described badly: %+v", k.Name, k)
		}
	}
}

func TestChanges(t *testing.T) {
	a := Settings{Folder: "/a", LogLevel: "info", SettleDelay: time.Second}
	b := a
	b.LogLevel, b.SettleDelay = "debug", 2*time.Second
	var got []string
	for _, k := range a.Changes(&b) {
		got = append(got, k.Name)
	}
	if diff := cmp.Diff([]string{"settle_delay", "log_level"}, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("folder: /a\nsettle_delay: 5s\n")
	f.Add(Example())
	f.Add("a: &a [*a]\n")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(dir, "config.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Load(Options{File: path})
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Fatalf("error of type %T: %v", err, err)
		}
		if err == nil && len(l.check()) > 0 {
			t.Fatalf("it was loaded, but is wrong: %q", l.check())
		}
	})
}
