package fusefs

import (
	"context"
	"slices"
	"strings"
	"syscall"

	isosync "isosyncd/sync"
)

const xattrPrefix = "user.isosyncd."

// xattrs of a file, without the prefix. Those with an empty value are not there.
type xattrs map[string]string

// get answers getxattr(2). That there are no security labels and access lists at all is EOPNOTSUPP: then ls -l asks once
// for the whole mount, instead of twice for each file.
func (x xattrs) get(name string, dest []byte) (uint32, syscall.Errno) {
	if !strings.HasPrefix(name, "user.") {
		return 0, syscall.EOPNOTSUPP
	}
	key, ok := strings.CutPrefix(name, xattrPrefix)
	if !ok || x[key] == "" {
		return 0, syscall.ENODATA
	}
	return fill(x[key], dest)
}

func (x xattrs) list(dest []byte) (uint32, syscall.Errno) {
	var names []string
	for key, value := range x {
		if value != "" {
			names = append(names, xattrPrefix+key+"\x00")
		}
	}
	slices.Sort(names)
	return fill(strings.Join(names, ""), dest)
}

// fill answers getxattr(2) and listxattr(2): the value, or its size where there is no room for it.
func fill(value string, dest []byte) (uint32, syscall.Errno) {
	if len(dest) < len(value) {
		return uint32(len(value)), syscall.ERANGE
	}
	return uint32(copy(dest, value)), 0
}

func (t *tree) volumeXattrs(e *entry) xattrs {
	x := xattrs{
		"sha256":  e.volume.Digest,
		"state":   stateOf(e),
		"used-by": strings.Join(e.volume.UsedBy, "\n"),
		"error":   problemText(e.volume.Problem),
	}
	if _, mark, ok := isosync.ParseMark(e.volume.Description); ok {
		x["owner"] = mark.Owner
	}
	if e.file != nil {
		x["label"], x["format"] = e.file.Info.Label, strings.Join(e.file.Info.Formats, " ")
		if x["error"] == "" {
			x["error"] = problemText(e.file.Problem)
		}
	}
	if x["error"] == "" {
		x["error"] = t.noted(e.name)
	}
	return x
}

func (t *tree) draftXattrs(d *draft) xattrs {
	t.mu.Lock()
	name, sub, volume := d.name, d.sub, d.to.volume
	t.mu.Unlock()
	x := xattrs{"state": "writing", "error": t.noted(name)}
	if sub != nil {
		x["state"] = string(isosync.StateQueued)
	}
	if f := t.view().files[volume]; f != nil && sub != nil {
		x["state"], x["sha256"], x["error"] = string(f.State), f.Digest, problemText(f.Problem)
		x["label"], x["format"] = f.Info.Label, strings.Join(f.Info.Formats, " ")
	}
	return x
}

func problemText(p *isosync.Problem) string {
	if p == nil {
		return ""
	}
	return p.Error()
}

// noted is the last failure of a name; "" = none.
func (t *tree) noted(name string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.notes[name]; ok {
		return n.err.Error()
	}
	return ""
}

// Getxattr gives user.isosyncd.*.
func (n *volumeNode) Getxattr(_ context.Context, attr string, dest []byte) (uint32, syscall.Errno) {
	return n.tree.volumeXattrs(n.now()).get(attr, dest)
}

// Listxattr lists those that have a value.
func (n *volumeNode) Listxattr(_ context.Context, dest []byte) (uint32, syscall.Errno) {
	return n.tree.volumeXattrs(n.now()).list(dest)
}

// Setxattr is not supported: cp -a and rsync -X say nothing of that.
func (n *volumeNode) Setxattr(context.Context, string, []byte, uint32) syscall.Errno {
	return syscall.EOPNOTSUPP
}

// Getxattr gives user.isosyncd.*.
func (n *draftNode) Getxattr(_ context.Context, attr string, dest []byte) (uint32, syscall.Errno) {
	return n.d.tree.draftXattrs(n.d).get(attr, dest)
}

// Listxattr lists those that have a value.
func (n *draftNode) Listxattr(_ context.Context, dest []byte) (uint32, syscall.Errno) {
	return n.d.tree.draftXattrs(n.d).list(dest)
}

// Setxattr is not supported: cp -a and rsync -X say nothing of that.
func (n *draftNode) Setxattr(context.Context, string, []byte, uint32) syscall.Errno {
	return syscall.EOPNOTSUPP
}

// Getxattr says that the directory has none.
func (n *rootNode) Getxattr(_ context.Context, attr string, dest []byte) (uint32, syscall.Errno) {
	return xattrs(nil).get(attr, dest)
}

// Getxattr says that status files have none.
func (n *controlNode) Getxattr(_ context.Context, attr string, dest []byte) (uint32, syscall.Errno) {
	return xattrs(nil).get(attr, dest)
}

// Getxattr says that status files have none.
func (n *textNode) Getxattr(_ context.Context, attr string, dest []byte) (uint32, syscall.Errno) {
	return xattrs(nil).get(attr, dest)
}
