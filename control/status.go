package control

import (
	"encoding/json"
	"time"
	"unicode/utf8"

	isosync "isosyncd/sync"
)

// Version is the version of the wire format. Fields may be added to it; none changes its meaning or goes away.
const Version = 1

// Status is a Snapshot as it goes over the socket, and as `isosyncd status --json` prints it.
type Status struct {
	Version     int       `json:"version"`
	At          time.Time `json:"at"`
	Running     bool      `json:"running"` // false: no daemon answered, this is what its journal remembers
	Folder      string    `json:"folder"`
	Owner       string    `json:"owner"`
	Problem     *Problem  `json:"problem,omitempty"` // with the folder as a whole
	Server      Server    `json:"server"`
	Files       []File    `json:"files"`        // by name
	Volumes     []Volume  `json:"volumes"`      // by name: the ISO volumes of the pool, ours or not
	NeedsPerson int       `json:"needs_person"` // how many problems nobody but a person ends; see Problem
	Totals      Totals    `json:"totals"`
}

// Problem says why something is not where it should be.
type Problem struct {
	Code        string `json:"code"`         // stable: see the codes of package sync
	Text        string `json:"text"`         // what happened and why; one sentence without a full stop
	Remedy      string `json:"remedy"`       // what to do, and what will happen by itself
	Waits       bool   `json:"waits"`        // it goes away by itself when its cause does
	NeedsPerson bool   `json:"needs_person"` // nothing but a person ends the cause
}

func (p *Problem) Error() string { return p.Text + "; " + p.Remedy }

// Server is the connection and the pool behind it.
type Server struct {
	Online          bool      `json:"online"`
	Problem         *Problem  `json:"problem,omitempty"`
	Since           time.Time `json:"since,omitzero"`     // of online
	ListedAt        time.Time `json:"listed_at,omitzero"` // when the volumes were last listed; absent = never
	Vendor          string    `json:"vendor,omitempty"`   // "lxd" or "incus"
	Version         string    `json:"version,omitempty"`
	Name            string    `json:"name,omitempty"`
	Address         string    `json:"address,omitempty"`
	Pool            string    `json:"pool,omitempty"`
	Driver          string    `json:"driver,omitempty"`
	Project         string    `json:"project,omitempty"`
	Space           *Space    `json:"space,omitempty"`  // absent = the driver does not tell
	Events          bool      `json:"events"`           // the event stream is up
	EventReconnects int       `json:"event_reconnects"` // streams opened after the first one
}

// Space of the pool, in bytes.
type Space struct {
	Used  int64 `json:"used"`
	Total int64 `json:"total"`
	Free  int64 `json:"free"`
}

// File is an image of the folder.
type File struct {
	Name      string    `json:"name"`               // bytes that are no UTF-8 are shown as U+FFFD
	RawName   []byte    `json:"raw_name,omitempty"` // base64 of the real name, if it is no UTF-8
	Volume    string    `json:"volume,omitempty"`   // "" = no volume name can be made of the name
	State     string    `json:"state"`
	Problem   *Problem  `json:"problem,omitempty"`
	Since     time.Time `json:"since,omitzero"`    // of state
	NextTry   time.Time `json:"next_try,omitzero"` // absent = none is planned
	Attempts  int       `json:"attempts,omitempty"`
	Size      int64     `json:"size"`
	SHA256    string    `json:"sha256,omitempty"` // absent = not known yet
	Label     string    `json:"label,omitempty"`  // what the image calls itself
	Formats   []string  `json:"formats,omitempty"`
	BootBIOS  bool      `json:"boot_bios,omitempty"`
	BootUEFI  bool      `json:"boot_uefi,omitempty"`
	UsedBy    []string  `json:"used_by,omitempty"` // of its volume
	Progress  *Progress `json:"progress,omitempty"`
	imageName string    // the real name
}

// RealName is the name as it is in the folder.
func (f *File) RealName() string {
	switch {
	case f.imageName != "":
		return f.imageName
	case len(f.RawName) > 0:
		return string(f.RawName)
	}
	return f.Name
}

// Progress of the step at work.
type Progress struct {
	Done           int64     `json:"done"`  // bytes
	Total          int64     `json:"total"` // bytes; 0 = nobody can tell, as while the server writes to the pool
	Started        time.Time `json:"started"`
	ElapsedSeconds float64   `json:"elapsed_seconds"`
	BytesPerSecond float64   `json:"bytes_per_second"`
	LeftSeconds    float64   `json:"left_seconds,omitempty"` // at this pace; absent = cannot be told
}

// Volume is an ISO volume of the pool.
type Volume struct {
	Name        string    `json:"name"`
	Ours        bool      `json:"ours"`
	Stage       bool      `json:"stage,omitempty"`   // only exists while another is replaced
	Partial     bool      `json:"partial,omitempty"` // being made by us: its bytes may be torn
	Size        int64     `json:"size"`              // -1 = not stated
	SHA256      string    `json:"sha256,omitempty"`  // from our mark
	File        string    `json:"file,omitempty"`    // of the folder whose bytes it has
	Description string    `json:"description,omitempty"`
	UsedBy      []string  `json:"used_by,omitempty"` // API paths, such as /1.0/profiles/default
	CreatedAt   time.Time `json:"created_at,omitzero"`
	Problem     *Problem  `json:"problem,omitempty"`
}

// Totals count since the start of the daemon.
type Totals struct {
	Imports       int64   `json:"imports"`
	Copies        int64   `json:"copies"`
	Replaced      int64   `json:"replaced"`
	Deleted       int64   `json:"deleted"`
	Failures      int64   `json:"failures"`
	BytesSent     int64   `json:"bytes_sent"`
	BytesHashed   int64   `json:"bytes_hashed"`
	HashSeconds   float64 `json:"hash_seconds"`
	UploadSeconds float64 `json:"upload_seconds"`
	StoreSeconds  float64 `json:"store_seconds"`
	Scans         int64   `json:"scans"`
	Lists         int64   `json:"lists"`
}

// FromSnapshot makes a Status. It is pure, and keeps nothing of the snapshot that could change.
func FromSnapshot(s *isosync.Snapshot) *Status {
	st := &Status{
		Version: Version, At: s.At, Running: true, Folder: s.Folder, Owner: s.Owner,
		Problem: fromProblem(s.Problem), Server: fromServer(&s.Server),
		Files: make([]File, 0, len(s.Files)), Volumes: make([]Volume, 0, len(s.Volumes)), Totals: Totals(s.Totals),
	}
	used := make(map[string][]string, len(s.Volumes))
	for i := range s.Volumes {
		v := &s.Volumes[i]
		used[v.Name] = v.UsedBy
		st.Volumes = append(st.Volumes, Volume{
			Name: v.Name, Ours: v.Ours, Stage: v.Stage, Partial: v.Partial, Size: v.Size, SHA256: v.Digest, File: v.File,
			Description: v.Human, UsedBy: v.UsedBy, CreatedAt: v.CreatedAt, Problem: fromProblem(v.Problem),
		})
	}
	for i := range s.Files {
		f := fromFile(&s.Files[i], s.At)
		f.UsedBy = used[f.Volume]
		st.Files = append(st.Files, f)
	}
	st.NeedsPerson = st.countPersons()
	return st
}

// countPersons counts what needs a person. A condition of the server or the folder is one, however many files wait
// for it.
func (st *Status) countPersons() int {
	n := 0
	shared := map[string]bool{}
	for _, p := range []*Problem{st.Problem, st.Server.Problem} {
		if p != nil {
			shared[p.Code+p.Text] = true
			if p.NeedsPerson {
				n++
			}
		}
	}
	count := func(p *Problem) {
		if p != nil && p.NeedsPerson && !shared[p.Code+p.Text] {
			n++
		}
	}
	for i := range st.Files {
		count(st.Files[i].Problem)
	}
	for i := range st.Volumes {
		count(st.Volumes[i].Problem)
	}
	return n
}

func fromProblem(p *isosync.Problem) *Problem {
	if p == nil {
		return nil
	}
	return &Problem{Code: string(p.Code), Text: p.Text, Remedy: p.Remedy, Waits: p.Waits, NeedsPerson: needsPerson(p)}
}

// needsPerson tells what ends only when somebody acts: all that does not wait, and what waits for something that
// hardly ever happens by itself. A file that is being written, and a server that stumbled once, end by themselves.
func needsPerson(p *isosync.Problem) bool {
	switch p.Code {
	case isosync.CodeIncomplete, isosync.CodeNoChecksum, isosync.CodeInUse, isosync.CodeNoSpace, isosync.CodeLimit, isosync.CodeAway:
		return true
	}
	return !p.Waits
}

func fromServer(s *isosync.ServerStatus) Server {
	out := Server{
		Online: s.Online, Problem: fromProblem(s.Problem), Since: s.Since, ListedAt: s.Listed,
		Vendor: s.Server.Vendor, Version: s.Server.Version, Name: s.Server.Name, Address: s.Server.Addr,
		Pool: s.Pool, Driver: s.Driver, Project: s.Project, Events: s.Events, EventReconnects: max(0, s.Reconnect-1),
	}
	if out.Problem != nil {
		out.Problem.NeedsPerson = true // everything stands still
	}
	if s.Space.Total > 0 {
		out.Space = &Space{Used: s.Space.Used, Total: s.Space.Total, Free: s.Space.Free()}
	}
	return out
}

func fromFile(f *isosync.FileStatus, now time.Time) File {
	out := File{
		Name: f.Name, Volume: f.Volume, State: string(f.State), Problem: fromProblem(f.Problem), Since: f.Since,
		NextTry: f.NotBefore, Attempts: f.Attempts, Size: f.ID.Size, SHA256: f.Digest, Label: f.Info.Label,
		Formats: f.Info.Formats, BootBIOS: f.Info.BootBIOS, BootUEFI: f.Info.BootUEFI, imageName: f.Name,
	}
	if !utf8.ValidString(f.Name) {
		out.RawName = []byte(f.Name)
	}
	if p := f.Progress; p != nil {
		out.Progress = fromProgress(p, now)
	}
	return out
}

func fromProgress(p *isosync.Progress, now time.Time) *Progress {
	out := &Progress{Done: p.Done, Total: p.Total, Started: p.Started, ElapsedSeconds: max(0, now.Sub(p.Started).Seconds())}
	if out.ElapsedSeconds > 0 && p.Done > 0 {
		out.BytesPerSecond = float64(p.Done) / out.ElapsedSeconds
		if p.Total > p.Done {
			out.LeftSeconds = float64(p.Total-p.Done) / out.BytesPerSecond
		}
	}
	return out
}

// marshal writes one line of JSON. A Status holds nothing that could fail: texts that are no UTF-8 become U+FFFD.
func marshal(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	return append(b, '\n'), err
}
