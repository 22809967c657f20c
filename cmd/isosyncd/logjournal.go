package main

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/coreos/go-systemd/v22/journal"
)

// journalHandler sends records to systemd's journal with native fields, so that journalctl ISOSYNCD_FILE=win.iso works.
// The message carries the same as text, because that is what journalctl shows.
type journalHandler struct {
	level  slog.Leveler
	prefix string      // of groups, with a dot at its end
	attrs  []slog.Attr // from With, keys already prefixed
	send   func(message string, p journal.Priority, fields map[string]string) error
}

var _ slog.Handler = (*journalHandler)(nil)

// Enabled follows the level.
func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

// WithAttrs adds fields to each record.
func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = slices.Clone(h.attrs)
	for _, a := range attrs {
		a.Key = h.prefix + a.Key
		c.attrs = append(c.attrs, a)
	}
	return &c
}

// WithGroup puts a group's name before the keys that come.
func (h *journalHandler) WithGroup(name string) slog.Handler {
	c := *h
	if name != "" {
		c.prefix += name + "."
	}
	return &c
}

// Handle sends one record.
func (h *journalHandler) Handle(_ context.Context, r slog.Record) error {
	fields := map[string]string{"SYSLOG_IDENTIFIER": "isosyncd"}
	var text strings.Builder
	text.WriteString(r.Message)
	add := func(key string, v slog.Value) {
		value := journalText(v)
		fields[journalField(key)] = value
		text.WriteString(" " + key + "=")
		if strings.ContainsFunc(value, func(r rune) bool { return r == ' ' || r == '"' || r == '=' || !unicode.IsPrint(r) }) || value == "" {
			value = strconv.Quote(value)
		}
		text.WriteString(value)
	}
	for _, a := range h.attrs {
		eachAttr("", a, add)
	}
	r.Attrs(func(a slog.Attr) bool {
		eachAttr(h.prefix, a, add)
		return true
	})
	return h.send(text.String(), journalPriority(r.Level), fields)
}

// eachAttr resolves an attribute, and takes groups apart.
func eachAttr(prefix string, a slog.Attr, add func(key string, v slog.Value)) {
	v := a.Value.Resolve()
	switch {
	case a.Equal(slog.Attr{}):
	case v.Kind() == slog.KindGroup:
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, g := range v.Group() {
			eachAttr(prefix, g, add)
		}
	default:
		add(prefix+a.Key, v)
	}
}

func journalText(v slog.Value) string {
	if v.Kind() == slog.KindTime {
		return v.Time().Format(time.RFC3339Nano)
	}
	return v.String()
}

// journalField makes a field name: upper case, digits and underscores (systemd.journal-fields(7)).
func journalField(key string) string {
	return "ISOSYNCD_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z' || r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
}

func journalPriority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}
