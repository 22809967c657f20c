package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/viper"
)

// Size is a number of bytes.
type Size int64

func (s Size) String() string {
	if s < 0 {
		return strconv.FormatInt(int64(s), 10)
	}
	return strings.ReplaceAll(humanize.IBytes(uint64(s)), " ", "")
}

// decode fills s, and returns a sentence for each value that is not of its setting's kind.
func decode(v *viper.Viper, s *Settings) []string {
	err := v.UnmarshalExact(s, viper.DecodeHook(convert))
	if err == nil {
		return nil
	}
	var faults []string
	for _, err := range leaves(err) {
		fault := err.Error()
		var named interface {
			error
			Name() string
			Unwrap() error
		}
		if errors.As(err, &named) {
			fault = named.Name() + " " + named.Unwrap().Error()
		}
		faults = append(faults, fault)
	}
	slices.Sort(faults)
	return faults
}

// leaves takes joined errors apart.
func leaves(err error) []error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if joined, ok := e.(interface{ Unwrap() []error }); ok {
			var all []error
			for _, part := range joined.Unwrap() {
				all = append(all, leaves(part)...)
			}
			return all
		}
	}
	return []error{err}
}

// convert turns a value of the file (which has YAML's type), the environment or a flag (text) into its setting's type.
// It is stricter than viper by itself, which takes a bare 10 for ten nanoseconds, and 1 for true.
func convert(_, to reflect.Type, value any) (any, error) {
	if to.Kind() == reflect.Struct {
		return value, nil
	}
	switch value.(type) {
	case string, bool, int, int64, uint64, float64:
	default:
		return nil, errors.New("must be one value, and not a list, a mapping or a date")
	}
	text := fmt.Sprint(value)
	switch to {
	case reflect.TypeFor[string]():
		return text, nil
	case reflect.TypeFor[time.Duration]():
		return parseDuration(text)
	case reflect.TypeFor[bool]():
		return parseBool(text)
	case reflect.TypeFor[int]():
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("must be a whole number, and not %q", text)
		}
		return n, nil
	case reflect.TypeFor[Size]():
		return parseSize(text)
	}
	return nil, fmt.Errorf("has the unknown type %v", to)
}

func parseDuration(text string) (time.Duration, error) {
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return 0, fmt.Errorf("must have a unit, such as %ss or %sm", text, text)
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("must be a duration, such as 5s, 2m or 1h30m, and not %q", text)
	}
	if d < time.Millisecond {
		return 0, fmt.Errorf("must be at least 1ms, and not %s", text)
	}
	return d, nil
}

func parseBool(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "true", "yes", "on":
		return true, nil
	case "false", "no", "off":
		return false, nil
	}
	return false, fmt.Errorf("must be true or false, and not %q", text)
}

func parseSize(text string) (Size, error) {
	n, err := humanize.ParseBytes(text)
	if err != nil || n > 1<<62 {
		return 0, fmt.Errorf("must be a size, such as 500MB or 10GiB, and not %q", text)
	}
	return Size(n), nil
}

// Text is the value of a setting as it would be written in the file, without quotes; "" for a key that is none.
func (s *Settings) Text(key string) string {
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("mapstructure") != key {
			continue
		}
		if d, ok := v.Field(i).Interface().(time.Duration); ok {
			return shortDuration(d)
		}
		return fmt.Sprint(v.Field(i).Interface())
	}
	return ""
}

// shortDuration writes 60s as 1m, not 1m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Changes lists the keys whose values differ, in the order of Keys.
func (s *Settings) Changes(other *Settings) []Key {
	var changed []Key
	for _, k := range Keys() {
		if s.Text(k.Name) != other.Text(k.Name) {
			changed = append(changed, k)
		}
	}
	return changed
}
