package fusefs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"isosyncd/lxd"
	isosync "isosyncd/sync"
)

// statusDoc is .isosyncd/status.json. Its keys are stable; new ones may come. Times are RFC 3339, sizes bytes.
type statusDoc struct {
	At      time.Time    `json:"at"`
	Folder  string       `json:"folder"`
	Owner   string       `json:"owner"`
	Problem string       `json:"problem,omitempty"`
	Server  serverDoc    `json:"server"`
	Files   []fileDoc    `json:"files"`
	Volumes []volumeDoc  `json:"volumes"`
	Writing []writingDoc `json:"writing"`
}

type serverDoc struct {
	Online  bool      `json:"online"`
	Since   time.Time `json:"since"`
	Listed  time.Time `json:"listed"`
	Problem string    `json:"problem,omitempty"`
	Addr    string    `json:"addr"`
	Vendor  string    `json:"vendor"`
	Version string    `json:"version"`
	Pool    string    `json:"pool"`
	Project string    `json:"project"`
	Used    int64     `json:"used"`
	Total   int64     `json:"total"`
}

type fileDoc struct {
	Name    string    `json:"name"`
	Volume  string    `json:"volume,omitempty"`
	State   string    `json:"state"`
	Since   time.Time `json:"since"`
	Size    int64     `json:"size"`
	Done    int64     `json:"done,omitempty"`
	Total   int64     `json:"total,omitempty"`
	SHA256  string    `json:"sha256,omitempty"`
	Code    string    `json:"code,omitempty"`
	Problem string    `json:"problem,omitempty"`
}

type volumeDoc struct {
	Name    string    `json:"name"`
	File    string    `json:"file"`
	Size    int64     `json:"size"`
	Created time.Time `json:"created"`
	State   string    `json:"state"`
	SHA256  string    `json:"sha256,omitempty"`
	UsedBy  []string  `json:"used_by,omitempty"`
	Problem string    `json:"problem,omitempty"`
}

type writingDoc struct {
	Name  string `json:"name"`
	Size  int64  `json:"size"`
	Open  bool   `json:"open"`
	Given bool   `json:"given"` // to the daemon: it is one of files now
}

func (t *tree) status() statusDoc {
	v := t.view()
	s := v.snap
	doc := statusDoc{
		At: s.At, Folder: s.Folder, Owner: s.Owner, Problem: problemText(s.Problem),
		Server: serverDoc{
			Online: s.Server.Online, Since: s.Server.Since, Listed: s.Server.Listed, Problem: problemText(s.Server.Problem),
			Addr: s.Server.Server.Addr, Vendor: s.Server.Server.Vendor, Version: s.Server.Server.Version,
			Pool: s.Server.Pool, Project: s.Server.Project, Used: s.Server.Space.Used, Total: s.Server.Space.Total,
		},
		Files: make([]fileDoc, 0, len(s.Files)), Volumes: make([]volumeDoc, 0, len(v.list)), Writing: t.writings(),
	}
	for i := range s.Files {
		f := &s.Files[i]
		d := fileDoc{
			Name: f.Name, Volume: f.Volume, State: string(f.State), Since: f.Since, Size: f.ID.Size, SHA256: f.Digest,
			Problem: problemText(f.Problem),
		}
		if f.Problem != nil {
			d.Code = string(f.Problem.Code)
		}
		if f.Progress != nil {
			d.Done, d.Total = f.Progress.Done, f.Progress.Total
		}
		doc.Files = append(doc.Files, d)
	}
	for _, e := range v.list {
		doc.Volumes = append(doc.Volumes, volumeDoc{
			Name: e.volume.Name, File: e.name, Size: e.volume.Size, Created: e.volume.CreatedAt, State: stateOf(e),
			SHA256: e.volume.Digest, UsedBy: e.volume.UsedBy, Problem: problemText(e.volume.Problem),
		})
	}
	return doc
}

func (t *tree) writings() []writingDoc {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]writingDoc, 0, len(t.drafts))
	for d := range t.drafts {
		d.mu.Lock()
		out = append(out, writingDoc{Name: d.name, Size: d.size, Open: d.writers > 0, Given: d.sub != nil})
		d.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b writingDoc) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (t *tree) statusJSON() []byte {
	b, err := json.MarshalIndent(t.status(), "", "  ")
	if err != nil {
		return []byte(err.Error() + "\n") // no type of statusDoc can fail
	}
	return append(b, '\n')
}

// statusText is for people: what is wrong comes first, what is fine is counted.
func (t *tree) statusText() []byte {
	s := t.status()
	var b bytes.Buffer
	server := fmt.Sprintf("%s %s, pool %s", s.Server.Vendor, s.Server.Version, quote(s.Server.Pool))
	if s.Server.Online {
		fmt.Fprintf(&b, "server: online, %s\n", server)
	} else {
		fmt.Fprintf(&b, "server: away since %s, %s; the list is from %s\n", stamp(s.Server.Since), server, stamp(s.Server.Listed))
		if s.Server.Problem != "" {
			fmt.Fprintf(&b, "  %s.\n", s.Server.Problem)
		}
	}
	if free := (lxd.Space{Used: s.Server.Used, Total: s.Server.Total}).Free(); free >= 0 {
		fmt.Fprintf(&b, "space:  %d of %d bytes free\n", free, s.Server.Total)
	}
	if s.Problem != "" {
		fmt.Fprintf(&b, "folder: %s.\n", s.Problem)
	}
	states := map[string]int{}
	for _, v := range s.Volumes {
		states[v.State]++
	}
	fmt.Fprintf(&b, "images: %d\n", len(s.Volumes))
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, d := range s.Writing {
		if !d.Given {
			fmt.Fprintf(w, "\n%s\tbeing written\t%d bytes", quote(d.Name), d.Size)
		}
	}
	for _, f := range s.Files {
		if f.State == string(isosync.StatePresent) {
			continue
		}
		fmt.Fprintf(w, "\n%s\t%s\t", quote(f.Name), f.State)
		switch {
		case f.Problem != "":
			fmt.Fprintf(w, "%s.", f.Problem)
		case f.Total > 0:
			fmt.Fprintf(w, "%d of %d bytes", f.Done, f.Total)
		}
	}
	for _, v := range s.Volumes {
		if v.Problem != "" {
			fmt.Fprintf(w, "\n%s\t%s\t%s.", quote(v.File), v.State, v.Problem)
		}
	}
	_ = w.Flush() // into memory
	b.WriteByte('\n')
	return b.Bytes()
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Format(time.RFC3339)
}

// errorTexts are .isosyncd/errors: for each name with something wrong, what it is. The newest failure of an operation
// on a name comes first, then what the heart says of the file and of the volume.
func (t *tree) errorTexts() map[string]func() []byte {
	parts := map[string][]string{}
	add := func(name, text string) {
		if text != "" && !slices.Contains(parts[name], text) {
			parts[name] = append(parts[name], text)
		}
	}
	t.mu.Lock()
	for name, n := range t.notes {
		add(name, fmt.Sprintf("%s: %s.", stamp(n.at), n.err))
	}
	t.mu.Unlock()
	v := t.view()
	for i := range v.snap.Files {
		f := &v.snap.Files[i]
		if f.Problem != nil {
			add(f.Name, f.Problem.Error()+".")
		}
	}
	for _, e := range v.list {
		if e.volume.Problem != nil {
			add(e.name, e.volume.Problem.Error()+".")
		}
	}
	texts := make(map[string]func() []byte, len(parts))
	for name, lines := range parts {
		if name == "" || len(name) > maxName || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
			continue // no name for a file
		}
		texts[name] = func() []byte { return []byte(strings.Join(lines, "\n") + "\n") }
	}
	return texts
}
