package sync

import (
	"cmp"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"isosyncd/iso"
)

// This file is what the inbox knows of files that are still being written.

const (
	growPoll  = 100 * time.Millisecond // between looks at a file that grows
	growFresh = 2 * time.Second        // since it grew
)

// writingPoll is when to look again at a file that is being written and changed at since: most writers close soon after
// the last byte, and no event tells of that.
func (in *inbox) writingPoll(since time.Time) time.Time {
	if in.now.Sub(since) < growFresh {
		return in.now.Add(min(growPoll, in.poll()))
	}
	return in.now.Add(in.poll())
}

// expect is how many bytes a file of size bytes, that somebody writes, will have at least; 0 = it does not begin an
// image, it may be anybody's (see folder.foreign) before it is finished, or nobody wants to know.
func (in *inbox) expect(d *folder, f *os.File, size int64) int64 {
	if size == 0 || d.shared || !in.cfg.Early {
		return 0
	}
	_, err := in.probe(f)
	var cut *iso.TruncatedError
	switch {
	case err == nil:
		return size
	case errors.As(err, &cut):
		return max(size, cut.Declared)
	}
	return 0
}

// expectDraft tells the next scans which name a draft will have, as far as anybody knows.
func (in *inbox) expectDraft(draft *os.File, name string) {
	f := File{Name: name, Held: writingProblem(name), Draft: filepath.Base(draft.Name())}
	f.Volume, _ = VolumeName(name)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.coming[f.Draft] = f
}

// scanDrafts looks at the drafts that expectDraft told of, until they have got their name or are gone. One that did not
// change costs one fstatat.
func (in *inbox) scanDrafts(d *folder) []File {
	in.mu.Lock()
	coming := slices.Collect(maps.Values(in.coming))
	in.mu.Unlock()
	files := coming[:0]
	for _, file := range coming {
		err := in.scanDraft(d, &file)
		in.mu.Lock()
		if err == nil {
			in.coming[file.Draft] = file
			files = append(files, file)
		} else {
			delete(in.coming, file.Draft)
		}
		in.mu.Unlock()
	}
	slices.SortFunc(files, func(a, b File) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Draft, b.Draft)) })
	return files
}

// scanDraft brings a draft up to date. The error is that it is not there any more, or cannot be read.
func (in *inbox) scanDraft(d *folder, file *File) error {
	st, err := d.stat(file.Draft)
	if err != nil || st.id == file.ID {
		return err
	}
	f, st, err := d.open(file.Draft)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	file.ID, file.Since, file.Expect = st.id, in.now, in.expect(d, f, st.id.Size)
	return nil
}

// openGrowing opens a file that somebody else writes, or a draft, for reading.
func (in *inbox) openGrowing(f File) (*os.File, error) {
	d, err := openFolder(in.cfg.Path)
	if err != nil {
		return nil, err
	}
	defer d.close()
	r, st, err := d.open(cmp.Or(f.Draft, f.Name))
	if err != nil {
		return nil, openProblem(f.Name, err)
	}
	if st.id.inode() != f.ID.inode() {
		_ = r.Close() // read only
		return nil, changed(f.Name)
	}
	return r, nil
}
