package sync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	gosync "sync"
	"time"

	"isosyncd/iso"
)

type inboxConfig struct {
	Path        string        // of the folder, absolute
	SettleDelay time.Duration // positive
	Owner       string
	Now         func() time.Time // with a monotonic reading; only differences count
	Log         *slog.Logger
	Leases      bool // false = leases tell nothing, as on NFS
	Early       bool // files may be sent while they are written: their beginning is looked at
}

// scanResult is what one look at the folder found.
type scanResult struct {
	At      time.Time
	Folder  folderID
	Problem *Problem            // the folder is missing, no folder, unreadable: then nothing else means anything
	Files   []File              // by Name; shared with other results as long as nothing changes: read only
	Drafts  []File              // files that are being written under hidden names, as far as they may be sent already
	Notes   map[string]noteInfo // our status files, by the name of their image; "" = the one about the folder
	Next    time.Time           // look again at the latest; zero = no need
}

// inbox does all I/O on the drop folder. scan, putNote and dropNote belong to one goroutine; the rest may be called from
// any. Between scans it holds no descriptor but those of pins.
type inbox struct {
	cfg   inboxConfig
	probe func(f *os.File) (iso.Info, error) // iso.ProbeFile, but for tests of what disks do
	pins  pinSet
	moved chan struct{} // 1-buffered: scan found another folder at the path than before

	// What follows belongs to the scanning goroutine.
	now      time.Time // of the scan at work
	scans    uint64
	folder   folderID
	swept    time.Time
	entries  map[string]*entry
	files    []File // of the last scan
	names    []string
	lists    map[string]*sumList
	sums     map[string]sumsOf   // of all lists, by image
	sidecars map[string]*sumList // those that hold their image
	badList  *sumList            // the first that holds all images
	sumCount int
	notes    map[string]*noteEntry // by their own file name

	mu      gosync.Mutex
	vouched map[string]vouched   // guarded by mu; by name
	drafts  map[string]draftSeen // guarded by mu; see abandoned
	coming  map[string]File      // guarded by mu; drafts whose name in the folder is known, by their own, as last seen
	dropped map[string]uint64    // guarded by mu; notes that we removed, and in which scan, until the watch hears of it
}

type vouched struct {
	id   Identity
	scan uint64 // the one that it was made before
}

func newInbox(cfg inboxConfig) *inbox {
	return &inbox{
		cfg: cfg, probe: iso.ProbeFile,
		pins:    pinSet{all: map[*pinned]struct{}{}, first: make(chan struct{}, 1)},
		moved:   make(chan struct{}, 1),
		entries: map[string]*entry{}, lists: map[string]*sumList{}, notes: map[string]*noteEntry{},
		vouched: map[string]vouched{}, drafts: map[string]draftSeen{}, coming: map[string]File{}, dropped: map[string]uint64{},
	}
}

const (
	// folderPoll is how soon a folder that is not there is looked for again.
	folderPoll = 2 * time.Second
	// sweepEach is how often abandoned drafts are looked for.
	sweepEach = time.Hour
)

// scan lists the folder and brings each file forward. A file that did not change since costs one fstatat.
func (in *inbox) scan(ctx context.Context) scanResult {
	in.now = in.cfg.Now()
	in.scans++
	r := scanResult{At: in.now}
	d, err := openFolder(in.cfg.Path)
	if err == nil {
		defer d.close()
		r.Folder = d.id
		in.noticeFolder(d.id)
		err = in.scanFolder(ctx, d, &r)
	} else {
		in.noticeFolder(folderID{})
	}
	var p *Problem
	switch {
	case err == nil:
	case ctx.Err() != nil:
		r.Problem = &Problem{
			Code: CodeFolder, Waits: true, Text: "the scan of the folder was broken off", Remedy: "it is scanned again",
		}
	case errors.As(err, &p):
		r.Problem, r.Next = p, in.now.Add(folderPoll)
	default:
		r.Problem, r.Next = folderProblem(in.cfg.Path, err), in.now.Add(folderPoll)
	}
	return r
}

// noticeFolder tells the watch that it looks at the wrong folder.
func (in *inbox) noticeFolder(id folderID) {
	if id == in.folder {
		return
	}
	in.folder = id
	select {
	case in.moved <- struct{}{}:
	default:
	}
}

func (in *inbox) scanFolder(ctx context.Context, d *folder, r *scanResult) error {
	// Before the names are read: a draft that is gone by now has got its name, so that one or the other is seen.
	r.Drafts = in.scanDrafts(d)
	names := in.names[:0]
	var lists, notes []string
	err := d.each(func(name string) {
		if IsImage(name) {
			names = append(names, name)
		} else if isNote(name) {
			notes = append(notes, name)
		} else if _, ok := isList(name); ok {
			lists = append(lists, name)
		}
	})
	in.names = names
	if err != nil {
		return err
	}
	slices.Sort(lists)
	soonest := func(t time.Time) {
		if !t.IsZero() && (r.Next.IsZero() || t.Before(r.Next)) {
			r.Next = t
		}
	}
	for i := range r.Drafts {
		soonest(in.writingPoll(r.Drafts[i].Since))
	}
	dirty := in.scanLists(d, lists)
	for i, name := range names {
		if i%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		c, next, err := in.scanFile(d, name)
		if err != nil {
			return fmt.Errorf("%s: %w", quoteName(name), err)
		}
		dirty = dirty || c
		soonest(next)
	}
	for name, e := range in.entries {
		if e.scan != in.scans {
			delete(in.entries, name)
			dirty = true
		}
	}
	if dirty || in.files == nil {
		in.files = in.fileList()
	}
	r.Files = in.files
	r.Notes = in.scanNotes(d, notes)
	in.forgetVouched()
	switch {
	case in.swept.IsZero(): // sweep does it at the start; a scan by itself changes nothing
		in.swept = in.now
	case in.now.Sub(in.swept) >= sweepEach:
		in.swept = in.now
		if _, err := d.f.Seek(0, io.SeekStart); err == nil {
			in.sweepDrafts(d)
		}
	}
	return nil
}

// scanFile brings one file forward. dirty: its File is another than before.
func (in *inbox) scanFile(d *folder, name string) (dirty bool, next time.Time, err error) {
	st, err := d.stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, next, nil // gone since it was listed
	}
	if err != nil && !errors.Is(err, fs.ErrPermission) && !exhausted(err) {
		if _, ferr := d.stat("."); ferr != nil {
			return false, next, ferr // it is not about this file
		}
	}
	e := in.entries[name]
	if e == nil {
		e = &entry{name: name, since: in.now}
		e.volume, _ = VolumeName(name) // none: the plan holds it
		in.entries[name] = e
		in.restart(e, st)
		dirty = true
	}
	e.scan = in.scans
	before, expect := e.phase, e.expect
	switch {
	case err != nil:
		in.restart(e, st)
		e.fail(err)
	default:
		if st != e.stat {
			in.restart(e, st)
			dirty = true
		}
		e.vouched = e.vouched || e.held != nil && in.vouchedFor(name, st.id) // accept was not quite done at the last scan
		in.look(d, e)
	}
	sums := in.sums[name]
	if !sameSums(sums, e.sums) {
		e.sums, dirty = sums, true
	}
	held, next := in.judge(e)
	if !sameProblem(held, e.held) {
		if held == nil || e.held == nil || held.Code != e.held.Code {
			e.since = in.now
		}
		e.held, dirty = held, true
	}
	if held == nil {
		e.passed = true
	}
	return dirty || e.phase != before || e.expect != expect, next, nil
}

// fileList makes the files of a scan.
func (in *inbox) fileList() []File {
	files := make([]File, 0, len(in.entries))
	for _, e := range in.entries {
		files = append(files, File{
			Name: e.name, Volume: e.volume, ID: e.stat.id, Info: e.info, Sums: e.sums.Sums, Held: e.held, Since: e.since,
			Expect: e.expect,
		})
	}
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	return files
}

// vouch tells the next scans that a file is finished: it is one that accept or rename put there.
func (in *inbox) vouch(name string, id Identity) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.vouched[name] = vouched{id: id}
}

func (in *inbox) vouchedFor(name string, id Identity) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	v, ok := in.vouched[name]
	return ok && v.id == id
}

// forgetVouched drops what two scans have had the chance to see, and removals that no watch wanted to hear of.
func (in *inbox) forgetVouched() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for name, v := range in.vouched {
		switch {
		case v.scan == 0:
			in.vouched[name] = vouched{id: v.id, scan: in.scans}
		case v.scan < in.scans:
			delete(in.vouched, name)
		}
	}
	for name, scan := range in.dropped {
		if scan+1 < in.scans {
			delete(in.dropped, name)
		}
	}
}
