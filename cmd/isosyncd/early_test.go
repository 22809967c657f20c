package main

import (
	"encoding/json"
	"testing"

	"isosyncd/control"
	"isosyncd/lxd/lxdtest"
	isosync "isosyncd/sync"
)

// TestEarlyUpload: an image that is still being written is on its way to the server already; when its writer is done the
// volume comes of exactly these bytes, which were sent once. One whose writer went back is sent again, and the torn volume
// never counts.
func TestEarlyUpload(t *testing.T) {
	lxdtest.Each(t, func(t *testing.T, server *lxdtest.Server) {
		for _, c := range []struct {
			name    string
			args    []string
			rewrite bool
			early   bool
			sends   int64
		}{
			{name: "on", early: true, sends: 1},
			{name: "rewritten", rewrite: true, early: true, sends: 2},
			{name: "off", args: []string{"--early-upload", "off"}, sends: 1},
		} {
			t.Run(c.name, func(t *testing.T) {
				s := newSite(t, server, c.args...)
				defer s.clear()
				d := s.run()
				data := image(4, c.name)
				w := s.writer("a.iso", data)
				w.write(2 << 20)
				if c.early {
					eventually(t, "the first half to be sent", func() bool { return s.sent("a.iso") == 2<<20 })
				} else {
					eventually(t, "the file to be seen", func() bool { return s.sent("a.iso") == 0 })
				}
				if v := s.volumes(); len(v) > 0 {
					t.Errorf("volumes of a file that is not finished: %v", v)
				}
				if c.rewrite {
					data[1<<20] ^= 1
					if _, err := w.f.WriteAt(data[1<<20:1<<20+1], 1<<20); err != nil {
						t.Fatal(err)
					}
				}
				w.write(len(data))
				w.close()
				s.good("a", data)
				var st control.Status
				eventually(t, "the volume to be known", func() bool { // the server has it a moment before
					st = s.status()
					return len(st.Files) == 1 && st.Files[0].State == string(isosync.StatePresent)
				})
				if sent := st.Totals.BytesSent; sent != c.sends*int64(len(data)) {
					t.Errorf("%d bytes were sent, want %d times %d", sent, c.sends, len(data))
				}
				d.stop()
			})
		}
	})
}

// status asks the daemon as a person does; the zero value while it does not listen yet.
func (s *site) status() (st control.Status) {
	s.t.Helper()
	out, err := sh(s.t, s.folder, program(s.t)+" status --json --control "+s.control())
	if err != nil {
		return st
	}
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		s.t.Fatalf("%v in %s", err, out)
	}
	return st
}

// sent is how much of a file that is still being written was sent; -1 = there is no such file.
func (s *site) sent(name string) int64 {
	st := s.status()
	for i := range st.Files {
		switch f := &st.Files[i]; {
		case f.Name != name || f.State != string(isosync.StateSettling):
		case f.Progress == nil:
			return 0
		default:
			return f.Progress.Done
		}
	}
	return -1
}
