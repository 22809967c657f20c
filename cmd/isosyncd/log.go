package main

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/coreos/go-systemd/v22/journal"

	"isosyncd/config"
)

// logger is a slog.Logger whose level can change.
type logger struct {
	*slog.Logger
	level *slog.LevelVar
}

// newLogger makes the logger that the settings ask for. It writes to w, or to the journal.
//
// The levels: DEBUG for those who debug isosyncd, INFO for what happened, WARN for what will be tried again, ERROR for
// what somebody must see to.
func newLogger(w io.Writer, s *config.Settings) (*logger, error) {
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(s.LogLevel)); err != nil {
		return nil, fmt.Errorf("log_level must be debug, info, warn or error, and not %q", s.LogLevel)
	}
	o := &slog.HandlerOptions{Level: level}
	var h slog.Handler
	switch format := s.LogFormat; {
	case format == "json":
		h = slog.NewJSONHandler(w, o)
	case format == "journal" || format == "auto" && underJournal():
		h = &journalHandler{level: level, send: journal.Send}
	default:
		h = slog.NewTextHandler(w, o)
	}
	return &logger{slog.New(h), level}, nil
}

// underJournal reports whether stderr is the journal's own stream, as systemd makes it (JOURNAL_STREAM, systemd.exec(5)).
// Somebody may have redirected it inside a service.
func underJournal() bool {
	ok, err := journal.StderrIsJournalStream()
	return err == nil && ok && journal.Enabled()
}

// reload takes a new level over.
func (l *logger) reload(s *config.Settings) error { return l.level.UnmarshalText([]byte(s.LogLevel)) }
