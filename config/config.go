// Package config reads the settings of isosyncd from its file, the environment and flags, and checks them.
//
// One table, Keys, says what there is: flags, the commented example file, the README's table and `isosyncd config` all
// come from it. Only the command imports this package; the other rooms get typed values.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/viper"
)

// ExitCode is what a process ends with when its configuration is wrong: EX_CONFIG of sysexits.h. systemd is told not
// to restart after it.
const ExitCode = 78

// Settings are all settings. The zero value is not usable: Load fills in the defaults.
type Settings struct {
	Folder          string        `mapstructure:"folder"`
	Remote          string        `mapstructure:"remote"`
	Project         string        `mapstructure:"project"`
	Pool            string        `mapstructure:"pool"`
	Target          string        `mapstructure:"target"`
	StateDir        string        `mapstructure:"state_dir"`
	Owner           string        `mapstructure:"owner"`
	SettleDelay     time.Duration `mapstructure:"settle_delay"`
	ScanInterval    time.Duration `mapstructure:"scan_interval"`
	RefreshInterval time.Duration `mapstructure:"refresh_interval"`
	MaxUploads      int           `mapstructure:"max_uploads"`
	EarlyUpload     string        `mapstructure:"early_upload"`
	Replace         string        `mapstructure:"replace"`
	Prune           bool          `mapstructure:"prune"`
	PruneDelay      time.Duration `mapstructure:"prune_delay"`
	RestoreDeleted  bool          `mapstructure:"restore_deleted"`
	Consume         bool          `mapstructure:"consume"`
	RequireChecksum bool          `mapstructure:"require_checksum"`
	StatusFiles     string        `mapstructure:"status_files"`
	Mount           string        `mapstructure:"mount"`
	MountWait       string        `mapstructure:"mount_wait"`
	AllowOther      bool          `mapstructure:"allow_other"`
	CacheSize       Size          `mapstructure:"cache_size"`
	Control         string        `mapstructure:"control"`
	MetricsAddress  string        `mapstructure:"metrics_address"`
	LogLevel        string        `mapstructure:"log_level"`
	LogFormat       string        `mapstructure:"log_format"`
}

// Source says where the value of a setting came from.
type Source string

// The sources, the weakest first.
const (
	FromDefault Source = "default"
	FromFile    Source = "file"
	FromEnv     Source = "environment"
	FromFlag    Source = "flag"
)

// Options say what Load reads. The environment is that of the process.
type Options struct {
	File  string            // path of the configuration file; "" = the usual places, where it may also be missing
	Flags map[string]string // settings given on the command line, by key; they win
}

// Loaded is what Load found.
type Loaded struct {
	Settings
	File     string            // the file that was read; "" = none
	Sources  map[string]Source // by key
	Warnings []string          // for people: what was ignored, and what it may have been meant to be
	Instance string            // NAME of isosyncd@NAME, when the file is /etc/isosyncd/NAME.yaml; "" = the plain one
}

// Error says everything that is wrong with a configuration, one sentence for each fault.
type Error struct {
	File   string // that was read; "" = none
	Faults []string
}

func (e *Error) Error() string {
	where := "configuration"
	if e.File != "" {
		where += " " + e.File
	}
	if len(e.Faults) == 1 {
		return where + ": " + e.Faults[0]
	}
	return where + ":\n  " + strings.Join(e.Faults, "\n  ")
}

// ExitCode is that of a process that cannot start because of it.
func (e *Error) ExitCode() int { return ExitCode }

// Load reads file, environment and flags, in this order: later ones win. Empty environment variables count as unset.
// The error is an *Error that lists all faults. What a daemon needs beyond that is checked by CheckRun.
func Load(o Options) (*Loaded, error) {
	v := viper.New()
	v.SetEnvPrefix(strings.TrimSuffix(envPrefix, "_"))
	v.AutomaticEnv()
	l := &Loaded{Sources: make(map[string]Source)}
	if err := readFile(v, l, o.File); err != nil {
		return nil, err
	}
	// Every key needs a default: without one, viper's Unmarshal ignores the environment variable of the same name.
	for _, k := range Keys() {
		v.SetDefault(k.Name, k.Default)
	}
	for key, text := range o.Flags {
		v.Set(key, text)
	}

	faults := unknownKeys(v.AllKeys())
	if len(faults) == 0 {
		faults = decode(v, &l.Settings)
	}
	l.note(v, o.Flags)
	if len(faults) == 0 {
		l.fill()
		faults = l.check()
	}
	if len(faults) > 0 {
		return nil, &Error{File: l.File, Faults: faults}
	}
	return l, nil
}

// fill gives what depends on the host where nobody said anything, be it by an empty value.
func (l *Loaded) fill() {
	place := placesOf(l.Instance)
	for _, f := range []struct {
		key   string
		field *string
		value func() string
	}{
		{"state_dir", &l.StateDir, func() string { return place.state }},
		{"control", &l.Control, func() string { return place.control }},
		{"owner", &l.Owner, func() string { return defaultOwner(l.Folder) }},
	} {
		if *f.field == "" {
			*f.field, l.Sources[f.key] = f.value(), FromDefault
		}
	}
}

// readFile reads the configuration file into v.
func readFile(v *viper.Viper, l *Loaded, file string) error {
	must := true
	if file == "" {
		file = os.Getenv(envPrefix + "CONFIG")
	}
	if file == "" {
		file, must = usualFile(), false
	}
	l.Instance = instanceOf(file)
	v.SetConfigFile(file)
	v.SetConfigType("yaml") // whatever it is called
	err := v.ReadInConfig()
	var syntax viper.ConfigParseError
	switch {
	case err == nil:
		l.File = file
		return nil
	case errors.Is(err, fs.ErrNotExist) && !must:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		err = errors.New("there is no such file; isosyncd config --example prints one to start from")
	case errors.As(err, &syntax):
		err = fmt.Errorf("it is not YAML: %w", errors.Unwrap(syntax))
	default:
		var path *fs.PathError
		if errors.As(err, &path) {
			err = fmt.Errorf("it cannot be read: %w", path.Err)
		}
	}
	return &Error{File: file, Faults: []string{err.Error()}}
}

// note remembers where each value came from, and environment variables that look like settings and are none.
func (l *Loaded) note(v *viper.Viper, flags map[string]string) {
	known := []string{"CONFIG"}
	for _, k := range Keys() {
		env := strings.ToUpper(k.Name)
		known = append(known, env)
		_, flag := flags[k.Name]
		switch {
		case flag:
			l.Sources[k.Name] = FromFlag
		case os.Getenv(envPrefix+env) != "":
			l.Sources[k.Name] = FromEnv
		case v.InConfig(k.Name):
			l.Sources[k.Name] = FromFile
		default:
			l.Sources[k.Name] = FromDefault
		}
	}
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		rest, ok := strings.CutPrefix(name, envPrefix)
		if !ok || slices.Contains(known, rest) || strings.HasPrefix(rest, "TEST_") || strings.HasPrefix(rest, "FAILPOINT") {
			continue
		}
		w := fmt.Sprintf("the environment variable %s is no setting and was ignored", name)
		if near := nearest(rest, known); near != "" {
			w += "; did you mean " + envPrefix + near + "?"
		}
		l.Warnings = append(l.Warnings, w)
	}
	slices.Sort(l.Warnings)
}

// unknownKeys makes a fault of each key that is no setting.
func unknownKeys(keys []string) []string {
	var known []string
	for _, k := range Keys() {
		known = append(known, k.Name)
	}
	var faults []string
	for _, key := range keys {
		if slices.Contains(known, key) {
			continue
		}
		fault := fmt.Sprintf("%s is no setting", key)
		near := nearest(key, known)
		if near == "" {
			near = nearest(key[strings.LastIndexByte(key, '.')+1:], known)
		}
		if near != "" {
			fault += "; did you mean " + near + "?"
		} else {
			fault += "; isosyncd config --example lists what there is"
		}
		faults = append(faults, fault)
	}
	slices.Sort(faults)
	return faults
}

// nearest is the word of a list that s was probably meant to be; "" = none is near. Hyphens are underscores here.
func nearest(s string, words []string) string {
	s = strings.ReplaceAll(s, "-", "_")
	best, least := "", 3 // more than two edits are another word
	for _, w := range words {
		if d := distance(strings.ToLower(s), strings.ToLower(w)); d < least && d < len(w)/2+1 {
			best, least = w, d
		}
	}
	return best
}

// distance is the number of bytes to insert, delete or replace to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
