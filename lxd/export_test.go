package lxd

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func exportFake(t *testing.T, ext ...string) *fake {
	f := newFake(t, "incus")
	f.ext = append(f.ext, ext...)
	f.on("GET "+volumesPath+"/x", f.sync(map[string]any{"name": "x", "content_type": "iso", "config": map[string]string{"size": "10"}}))
	f.on("GET "+volumesPath+"/fs", f.sync(map[string]any{"name": "fs", "content_type": "filesystem", "config": map[string]string{"size": "10"}}))
	return f
}

func stream(text string, cut bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = io.WriteString(w, text)
		_ = http.NewResponseController(w).Flush()
		if cut {
			panic(http.ErrAbortHandler)
		}
	}
}

func TestExportDirect(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
		end    error
	}{
		"whole":                   {stream("0123456789", false), "0123456789", nil},
		"padded":                  {stream("0123456789\x00\x00", false), "0123456789", nil},
		"short":                   {stream("01234", false), "01234", io.ErrUnexpectedEOF},
		"cut off":                 {stream("01234", true), "01234", io.ErrUnexpectedEOF},
		"cut off after the image": {stream("0123456789", true), "0123456789", nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := exportFake(t, "backup_iso", "direct_backup")
			f.on("POST "+volumesPath+"/x/backups", func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Accept") != "application/octet-stream" {
					t.Errorf("it accepts %q", r.Header.Get("Accept"))
				}
				c.answer(w, r)
			})
			body, size, err := f.pool().Export(testContext(t), "x")
			if err != nil || size != 10 {
				t.Fatalf("got %d, %v", size, err)
			}
			got, err := io.ReadAll(body)
			if string(got) != c.want || !errors.Is(err, c.end) {
				t.Errorf("read %q, %v", got, err)
			}
			if err := body.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestExportByBackup(t *testing.T) {
	f := exportFake(t, "backup_iso")
	var backup string
	f.on("POST "+volumesPath+"/x/backups", func(w http.ResponseWriter, r *http.Request) {
		body := readJSON[map[string]any](t, r.Body)
		backup, _ = body["name"].(string)
		if at, err := time.Parse(time.RFC3339, body["expires_at"].(string)); err != nil || at.Before(time.Now()) {
			t.Errorf("it expires at %v", body["expires_at"])
		}
		f.on("GET "+volumesPath+"/x/backups/"+backup+"/export", stream("0123456789", false))
		f.on("DELETE "+volumesPath+"/x/backups/"+backup, f.async("op-1"))
		f.async("op-1")(w, r)
	})
	f.on("GET "+op1+"/wait", f.sync(running(200, "")))
	body, size, err := f.pool().Export(testContext(t), "x")
	if err != nil || size != 10 {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	if string(got) != "0123456789" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	remove := "DELETE " + volumesPath + "/x/backups/" + backup + "?project=default"
	if slices.Contains(f.requests(), remove) {
		t.Error("the backup was removed too early")
	}
	for range 2 {
		if err := body.Close(); err != nil {
			t.Error(err)
		}
	}
	if n := strings.Count(strings.Join(f.requests(), "\n"), remove); n != 1 {
		t.Errorf("the backup was removed %d times", n)
	}
}

func TestExportFails(t *testing.T) {
	var f fake
	f.t = t
	for name, c := range map[string]struct {
		ext     []string
		volume  string
		answer  http.HandlerFunc
		wait    http.HandlerFunc
		is      error
		removes bool
	}{
		"not known":        {nil, "x", nil, nil, ErrNotRead, false},
		"no ISO":           {[]string{"backup_iso", "direct_backup"}, "fs", nil, nil, ErrNotRead, false},
		"no volume":        {[]string{"backup_iso", "direct_backup"}, "none", nil, nil, ErrNotFound, false},
		"refused":          {[]string{"backup_iso", "direct_backup"}, "x", f.fail(403, "no"), nil, ErrDenied, false},
		"hung up":          {[]string{"backup_iso", "direct_backup"}, "x", hangUp, nil, ErrAway, false},
		"the backup fails": {[]string{"backup_iso"}, "x", f.async("op-1"), f.sync(running(400, "no space")), nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := exportFake(t, c.ext...)
			if c.answer != nil {
				f.on("POST "+volumesPath+"/x/backups", c.answer)
			}
			if c.wait != nil {
				f.on("GET "+op1+"/wait", c.wait)
			}
			_, _, err := f.pool().Export(testContext(t), c.volume)
			if err == nil || (c.is != nil && !errors.Is(err, c.is)) {
				t.Errorf("got %v", err)
			}
			if removed := strings.Contains(strings.Join(f.requests(), "\n"), "DELETE "); removed != c.removes {
				t.Errorf("a backup was removed: %v", removed)
			}
		})
	}
}

func TestExportStalls(t *testing.T) {
	f := exportFake(t, "backup_iso", "direct_backup")
	release := make(chan struct{})
	defer close(release)
	f.on("POST "+volumesPath+"/x/backups", func(w http.ResponseWriter, r *http.Request) {
		stream("01234", false)(w, r)
		<-release
	})
	body, _, err := f.pool(func(t *Target) { t.Stall = 200 * time.Millisecond }).Export(testContext(t), "x")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	if string(got) != "01234" || !errors.Is(err, ErrAway) {
		t.Errorf("read %q, %v", got, err)
	}
	_ = body.Close()
}
