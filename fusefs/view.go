package fusefs

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"

	isosync "isosyncd/sync"
)

// Inode numbers. Volumes have a hash below draftInos, drafts count from there, the status files stand in between.
const (
	rootIno     = 1
	controlIno  = 2
	errorsIno   = 3
	firstVolume = 1 << 16
	draftInos   = 1 << 62
)

// entry is a volume as a directory entry. It is never changed.
type entry struct {
	name   string
	ino    uint64
	volume *isosync.VolumeStatus
	file   *isosync.FileStatus // the folder's file that maps to this volume, whatever its bytes; nil = none
}

// view is a Snapshot as a directory. It is never changed, and made once for each Snapshot.
type view struct {
	snap     *isosync.Snapshot
	list     []*entry // by volume name
	byName   map[string]*entry
	byVolume map[string]*entry
	byIno    map[uint64]*entry
	files    map[string]*isosync.FileStatus // by volume name
	dirents  []fuse.DirEntry                // of list
}

// newView makes a view. Inode numbers are a hash of name and incarnation, so they outlive the mount. Two that fall
// together are told apart by what came first: numbers of old, the view before, are kept.
//
// Stages and volumes that may be torn are not shown: they are no images yet.
func newView(snap *isosync.Snapshot, old *view) *view {
	v := &view{
		snap:     snap,
		list:     make([]*entry, 0, len(snap.Volumes)),
		byName:   make(map[string]*entry, len(snap.Volumes)),
		byVolume: make(map[string]*entry, len(snap.Volumes)),
		byIno:    make(map[uint64]*entry, len(snap.Volumes)),
		files:    make(map[string]*isosync.FileStatus, len(snap.Files)),
		dirents:  make([]fuse.DirEntry, 0, len(snap.Volumes)),
	}
	for i := range snap.Files {
		f := &snap.Files[i]
		if have := v.files[f.Volume]; f.Volume != "" && (have == nil || have.State != isosync.StatePresent) {
			v.files[f.Volume] = f
		}
	}
	var fresh []*entry
	for i := range snap.Volumes {
		vol := &snap.Volumes[i]
		if vol.Stage || vol.Partial || vol.ContentType != "iso" {
			continue
		}
		e := &entry{name: entryName(vol.Name), volume: vol, file: v.files[vol.Name]}
		if v.byName[e.name] != nil {
			continue // the server lists one name twice, as a cluster may: the first stands for both
		}
		v.list = append(v.list, e)
		v.byName[e.name], v.byVolume[vol.Name] = e, e
		if was := old.volume(vol.Name); was != nil && was.volume.Incarnation() == vol.Incarnation() && v.byIno[was.ino] == nil {
			e.ino = was.ino
			v.byIno[e.ino] = e
		} else {
			fresh = append(fresh, e)
		}
	}
	for _, e := range fresh {
		e.ino = volumeIno(e.volume)
		for v.byIno[e.ino] != nil {
			e.ino = (e.ino+1)%(draftInos-firstVolume) + firstVolume
		}
		v.byIno[e.ino] = e
	}
	for _, e := range v.list {
		v.dirents = append(v.dirents, fuse.DirEntry{Name: e.name, Ino: e.ino, Mode: fuse.S_IFREG})
	}
	return v
}

func (v *view) volume(name string) *entry {
	if v == nil {
		return nil
	}
	return v.byVolume[name]
}

func volumeIno(vol *isosync.VolumeStatus) uint64 {
	sum := sha256.Sum256([]byte(vol.Name + "\x00" + vol.Incarnation()))
	return binary.LittleEndian.Uint64(sum[:])%(draftInos-firstVolume) + firstVolume
}

// find is the entry that a name means: its own name, or that of the file in the folder that the volume was made from,
// so that whoever wrote "Ubuntu 24.ISO" finds it again under that name. It is nil where there is none.
func (v *view) find(name string) *entry {
	if e := v.byName[name]; e != nil {
		return e
	}
	if !isosync.IsImage(name) {
		return nil
	}
	volume, err := isosync.VolumeName(name)
	if err != nil {
		return nil
	}
	if e := v.byVolume[volume]; e != nil && e.volume.Ours && e.file != nil && e.file.Name == name {
		return e
	}
	return nil
}
