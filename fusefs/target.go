package fusefs

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"unicode"

	"isosyncd/lxd"
	isosync "isosyncd/sync"
)

// target is what a file that is being written will become.
type target struct {
	temporary bool   // nothing: its name is one that is changed before the end
	volume    string // the volume's name
	file      string // the name in the folder: that of the file which has the volume now, else as written
	replaces  *entry // the volume that is there, ours and unused; nil = a new one
}

// target makes the checks that need no bytes, so that a program fails at open rather than after an hour. The error is a
// *isosync.Problem.
func (t *tree) target(v *view, name string) (target, error) {
	switch {
	case len(name) > maxName:
		return target{}, fmt.Errorf("%w: a name has 255 bytes at most", syscall.ENAMETOOLONG)
	case isTemporary(name), t.anyName && !isosync.IsImage(name):
		return target{temporary: true}, nil
	case name == controlName || !isosync.IsImage(name):
		return target{}, &isosync.Problem{
			Code: isosync.CodeName, Text: quote(name) + " does not end in .iso", Remedy: "only ISO images can be written here",
		}
	}
	if err := online(v.snap, t.wait); err != nil {
		return target{}, err
	}
	e := v.find(name)
	volume, err := isosync.VolumeName(name)
	switch {
	case e != nil:
		volume = e.volume.Name
	case err != nil:
		return target{}, err
	default:
		e = v.byVolume[volume]
	}
	to := target{volume: volume, file: name, replaces: e}
	if f := v.files[volume]; f != nil {
		if f.Name != name && e != v.find(name) {
			return target{}, &isosync.Problem{
				Code:   isosync.CodeClash,
				Text:   fmt.Sprintf("%s would become volume %s, which belongs to %s", quote(name), volume, quote(f.Name)),
				Remedy: "use that name to replace it, or another one",
			}
		}
		to.file = f.Name
	}
	if e == nil {
		return to, nil
	}
	if err := replaceable(e.volume); err != nil {
		return target{}, err
	}
	if mapped, err := isosync.VolumeName(to.file); err != nil || mapped != volume {
		return target{}, foreign(e.volume) // marked as ours, but under a name that no file of ours can have
	}
	return to, nil
}

// online says why nothing can be written now, if so.
func online(s *isosync.Snapshot, wait isosync.Wait) error {
	switch {
	case s.Problem != nil:
		return s.Problem
	case s.Server.Online || wait == isosync.WaitStaged:
		return nil
	case s.Server.Problem != nil:
		return s.Server.Problem
	}
	return &isosync.Problem{
		Code: isosync.CodeAway, Text: "the server does not answer", Remedy: "try again when it does", Waits: true,
	}
}

// replaceable says why a volume must stay as it is, if so.
func replaceable(v *isosync.VolumeStatus) error {
	switch {
	case !v.Ours:
		return foreign(v)
	case len(v.UsedBy) > 0:
		return &isosync.Problem{
			Code: isosync.CodeInUse, Waits: true,
			Text:   fmt.Sprintf("volume %s is in use by %s", quote(v.Name), used(v.UsedBy)),
			Remedy: "detach it there first",
		}
	}
	return nil
}

func foreign(v *isosync.VolumeStatus) error {
	return &isosync.Problem{
		Code: isosync.CodeForeign, Text: fmt.Sprintf("volume %s was not made by this isosyncd", quote(v.Name)),
		Remedy: "use another name, or remove the volume on the server",
	}
}

func used(by []string) string {
	if len(by) == 1 {
		return quote(by[0])
	}
	return fmt.Sprintf("%s and %d more", quote(by[0]), len(by)-1)
}

// room says that n more bytes do not fit into the pool, if it tells how much there is.
func room(s lxd.Space, n int64) error {
	free := s.Free()
	if free < 0 || n <= free {
		return nil
	}
	return &isosync.Problem{
		Code: isosync.CodeNoSpace, Waits: true,
		Text:   fmt.Sprintf("the pool has %d bytes free, and the image needs %d at least", free, n),
		Remedy: "make room in the pool and write it again",
	}
}

// quote makes a name of a file or volume fit for a text that people read (I11): as it is if it is plain, else in quotes
// with everything escaped that leaves no ink or turns text around.
func quote(name string) string {
	if q := strconv.QuoteToGraphic(name); name == "" || len(q) != len(name)+2 || strings.ContainsFunc(name, unicode.IsSpace) {
		return q
	}
	return name
}
