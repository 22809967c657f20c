package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/google/go-cmp/cmp"

	"isosyncd/config"
)

func TestLogFormats(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "")
	for format, want := range map[string]string{
		"text": `level=WARN msg=waiting file="a\x1b[0m b.iso"`,
		"auto": `level=WARN msg=waiting file="a\x1b[0m b.iso"`,
		"json": `"level":"WARN","msg":"waiting","file":"a\u001b[0m b.iso"`,
	} {
		var b bytes.Buffer
		l, err := newLogger(&b, &config.Settings{LogLevel: "info", LogFormat: format})
		if err != nil {
			t.Fatal(err)
		}
		l.Debug("unseen")
		l.Warn("waiting", "file", "a\x1b[0m b.iso")
		if got := b.String(); !strings.Contains(got, want) || strings.Contains(got, "unseen") || strings.Contains(got, "\x1b") {
			t.Errorf("%s: %q, want %q", format, got, want)
		}
		if err := l.reload(&config.Settings{LogLevel: "debug"}); err != nil {
			t.Fatal(err)
		}
		l.Debug("seen")
		if !strings.Contains(b.String(), "seen") {
			t.Errorf("%s: the new level has no effect: %q", format, b.String())
		}
	}
	if _, err := newLogger(nil, &config.Settings{LogLevel: "loud"}); err == nil {
		t.Error("there is no level loud")
	}
}

func TestJournalHandler(t *testing.T) {
	type sent struct {
		Message  string
		Priority journal.Priority
		Fields   map[string]string
	}
	var got []sent
	h := &journalHandler{level: slog.LevelInfo, send: func(m string, p journal.Priority, f map[string]string) error {
		got = append(got, sent{m, p, f})
		return nil
	}}
	log := slog.New(h)
	log.Debug("unseen")
	log.Info("done", "file", "a b.iso", "elapsed", time.Second)
	log.With("volume", "win").WithGroup("server").Warn("waiting", "err", errors.New("x\ny"), slog.Group("pool", "name", "fast"))
	log.Error("stopped", slog.Attr{}, slog.String("empty", ""))
	id := func(fields map[string]string) map[string]string {
		fields["SYSLOG_IDENTIFIER"] = "isosyncd"
		return fields
	}
	want := []sent{
		{`done file="a b.iso" elapsed=1s`, journal.PriInfo, id(map[string]string{"ISOSYNCD_FILE": "a b.iso", "ISOSYNCD_ELAPSED": "1s"})},
		{`waiting volume=win server.err="x\ny" server.pool.name=fast`, journal.PriWarning, id(map[string]string{
			"ISOSYNCD_VOLUME": "win", "ISOSYNCD_SERVER_ERR": "x\ny", "ISOSYNCD_SERVER_POOL_NAME": "fast",
		})},
		{`stopped empty=""`, journal.PriErr, id(map[string]string{"ISOSYNCD_EMPTY": ""})},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
}
