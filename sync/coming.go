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

// expect is how many bytes a file of size bytes, that somebody writes, will have at least; 0 = it does not begin an
// image, or it may be anybody's (see folder.foreign) before it is finished.
func (in *inbox) expect(d *folder, f *os.File, size int64) int64 {
	if size == 0 || d.shared {
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
	in.mu.Lock()
	defer in.mu.Unlock()
	in.coming[filepath.Base(draft.Name())] = name
}

// scanDrafts looks at the drafts that expectDraft told of, until they have got their name or are gone.
func (in *inbox) scanDrafts(d *folder) []File {
	in.mu.Lock()
	coming := maps.Clone(in.coming)
	in.mu.Unlock()
	files := make([]File, 0, len(coming))
	for draft, name := range coming {
		f, st, err := d.open(draft)
		if err != nil {
			in.mu.Lock()
			delete(in.coming, draft)
			in.mu.Unlock()
			continue
		}
		file := File{Name: name, ID: st.id, Held: writingProblem(name), Draft: draft, Expect: in.expect(d, f, st.id.Size)}
		_ = f.Close() // read only
		file.Volume, _ = VolumeName(name)
		files = append(files, file)
	}
	slices.SortFunc(files, func(a, b File) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Draft, b.Draft)) })
	return files
}

// openGrowing opens a file that somebody else writes, or a draft, for reading.
func (in *inbox) openGrowing(f File) (*os.File, error) {
	d, err := openFolder(in.cfg.Path)
	if err != nil {
		return nil, err
	}
	defer d.close()
	name := f.Name
	if f.Draft != "" {
		name = f.Draft
	}
	r, st, err := d.open(name)
	if err != nil {
		return nil, openProblem(f.Name, err)
	}
	if st.id.inode() != f.ID.inode() {
		_ = r.Close() // read only
		return nil, changed(f.Name)
	}
	return r, nil
}
