package sync

import (
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"

	"isosyncd/lxd"
)

// file decides the file that keeps a name, when nothing is left to finish for it.
func (p *planner) file(name string, i int) Action {
	f := &p.Files[i]
	if f.Held != nil {
		if a, ok := p.early(name, i); ok {
			return a
		}
		return held(name, i, f.Held)
	}
	if p.policy.RequireChecksum && len(f.Sums) == 0 {
		return held(name, i, &Problem{
			Code: CodeNoChecksum, Waits: true,
			Text:   "no checksum list names " + quoteName(f.Name) + ", and require_checksum is on",
			Remedy: "put " + quoteName(f.Name+".sha256") + " or SHA256SUMS beside it",
		})
	}
	v, there := p.Volumes[name]
	d, known := p.Digests[f.ID]
	known = known && covers(d, f.Sums)
	if known {
		if bad := disagree(f, d); bad != nil {
			return held(name, i, bad)
		}
	}
	if !there {
		return p.absent(name, i, d.SHA256, known)
	}
	m, ours := p.marks[name]
	switch {
	case !ours:
		return p.foreign(name, i, v, known)
	case !known:
		return Action{Kind: ActHash, Volume: name, File: i}
	case m.SHA256 == d.SHA256:
		if p.policy.Consume {
			return Action{Kind: ActConsume, Volume: name, File: i, Digest: d.SHA256}
		}
		return Action{Kind: ActNothing, Volume: name, File: i, Digest: d.SHA256}
	}
	return p.replace(name, i, v, d.SHA256)
}

// covers reports whether a digest was taken with every algorithm that the lists want.
func covers(d Digest, sums []Sum) bool {
	for _, s := range sums {
		if s.Algorithm != "sha256" && d.Others[s.Algorithm] == "" {
			return false
		}
	}
	return true
}

// disagree holds a file whose bytes are not what a list, or the image itself, says of them.
func disagree(f *File, d Digest) *Problem {
	for _, s := range f.Sums {
		got := d.SHA256
		if s.Algorithm != "sha256" {
			got = d.Others[s.Algorithm]
		}
		if got != s.Hex {
			return &Problem{
				Code: CodeChecksum,
				Text: fmt.Sprintf("checksum mismatch: %s wants %s %s, %s has %s",
					quoteName(s.List), s.Algorithm, short(s.Hex), quoteName(f.Name), short(got)),
				Remedy: "get the image again, or correct the list; it is not imported as long as they disagree",
			}
		}
	}
	if d.Bad != "" && len(f.Sums) == 0 {
		return &Problem{
			Code:   CodeChecksum,
			Text:   "the image is damaged: " + d.Bad,
			Remedy: "get the image again; a checksum list beside it that names it overrules this",
		}
	}
	return nil
}

func short(hex string) string {
	const shown = 12
	if len(hex) <= shown {
		return hex
	}
	return hex[:shown] + "..."
}

// absent decides a file whose volume is not there.
func (p *planner) absent(name string, i int, digest string, known bool) Action {
	f := &p.Files[i]
	r := p.Records[name]
	if pr := r.Present; pr != nil && pr.Source == f.ID && !p.policy.RestoreDeleted {
		return held(name, i, &Problem{
			Code:   CodeRemoved,
			Text:   fmt.Sprintf("volume %s was deleted on the server", name),
			Remedy: "touch the file or run isosyncd retry to import it again, or remove the file",
		})
	}
	sent := p.Early[name] == f.ID.inode() // its digest is compared with what lists say before it counts
	if !known && (len(f.Sums) > 0 && !sent || p.sizes[f.ID.Size]) {
		return Action{Kind: ActHash, Volume: name, File: i}
	}
	if donor := p.donor(digest); known && donor != "" {
		return Action{Kind: ActCopy, Volume: name, File: i, From: donor, Digest: digest}
	}
	if !p.room(f.ID.Size) {
		return held(name, i, p.noSpace(f.ID.Size, ""))
	}
	return Action{Kind: ActImport, Volume: name, File: i, Digest: digest, need: f.ID.Size}
}

// early decides a file that is still being written: it is sent meanwhile, where that is new to the server, nothing is
// left to finish, and nothing went wrong before.
func (p *planner) early(name string, i int) (Action, bool) {
	f := &p.Files[i]
	_, there := p.Volumes[name]
	r := p.Records[name]
	need := max(f.Expect, f.ID.Size)
	switch {
	case p.policy.EarlyFrom <= 0 || f.Expect <= 0 || need < p.policy.EarlyFrom:
	case there || r.Intent != nil || r.Failure != nil || p.Tired[f.ID.inode()]:
	case p.policy.RequireChecksum && len(f.Sums) == 0:
	case p.sizes[need]: // the same bytes, perhaps: a copy on the server costs nothing
	case !p.room(need):
	default:
		return Action{Kind: ActEarly, Volume: name, File: i, need: need}, true
	}
	return Action{}, false
}

// donor is a volume of ours with the digest that may be read from now; "" = there is none.
func (p *planner) donor(digest string) string {
	d := p.donors[digest]
	if !p.CanCopy || p.Busy[d] {
		return ""
	}
	return d
}

func (p *planner) noSpace(need int64, more string) *Problem {
	if p.left >= 0 && p.left < need {
		return &Problem{
			Code: CodeLimit, Waits: true,
			Text: fmt.Sprintf("the limits of the project leave too little: %s are needed, it may store %s more",
				humanize.IBytes(uint64(need)), humanize.IBytes(uint64(p.left))),
			Remedy: "raise limits.disk of the project, or delete volumes of it; it goes ahead by itself then" + more,
		}
	}
	return &Problem{
		Code: CodeNoSpace, Waits: true,
		Text: fmt.Sprintf("the pool lacks room: %s are needed, %s are free",
			humanize.IBytes(uint64(need)), humanize.IBytes(uint64(max(0, p.free)))),
		Remedy: "free some; it goes ahead by itself then" + more,
	}
}

func foreign(v lxd.Volume, r Record) *Problem {
	pr := &Problem{
		Code:   CodeForeign,
		Text:   fmt.Sprintf("a volume %s is there already, and it is not ours", v.Name),
		Remedy: "rename the file, or take the volume over with: isosyncd adopt " + v.Name,
	}
	if v.ContentType != "iso" {
		pr.Text = fmt.Sprintf("a %s volume %s is there already", v.ContentType, v.Name)
		pr.Remedy = "rename the file: the names of all custom volumes are shared"
	} else if _, m, ok := ParseMark(v.Description); ok {
		pr.Text = fmt.Sprintf("volume %s belongs to another isosyncd, owner %s", v.Name, quoteName(m.Owner))
	} else if r.Present != nil && r.Present.Incarnation == v.Incarnation() {
		pr.Text = fmt.Sprintf("volume %s was ours, but somebody removed the mark from its description", v.Name)
	}
	return pr
}

// foreign decides a file whose name a volume has that is not ours. It is never touched, but to mark it when asked.
func (p *planner) foreign(name string, i int, v lxd.Volume, known bool) Action {
	f := &p.Files[i]
	switch {
	case !p.Records[name].Adopt || v.ContentType != "iso":
		return held(name, i, foreign(v, p.Records[name]))
	case v.Size < f.ID.Size || v.Size > roundedUp(f.ID.Size):
		return held(name, i, &Problem{
			Code: CodeForeign,
			Text: fmt.Sprintf("volume %s cannot be adopted: it has %d bytes, %s has %d",
				name, v.Size, quoteName(f.Name), f.ID.Size),
			Remedy: "rename the file",
		})
	case !known:
		return Action{Kind: ActHash, Volume: name, File: i}
	}
	return Action{Kind: ActAdopt, Volume: name, File: i, Digest: p.Digests[f.ID].SHA256, Old: v.Incarnation()}
}

// roundedUp bounds the size that a driver makes of an image: some of LXD's round up, the coarsest to 8 GiB (SERVER-API
// 2.1).
func roundedUp(size int64) int64 { return size + 8<<30 }

// replace decides a file whose volume is ours and has other bytes.
func (p *planner) replace(name string, i int, v lxd.Volume, digest string) Action {
	f := &p.Files[i]
	a := Action{Volume: name, File: i, Digest: digest, Old: v.Incarnation()}
	switch {
	case p.policy.Replace == ReplaceNever:
		return held(name, i, &Problem{
			Code:   CodeReplaceOff,
			Text:   fmt.Sprintf("%s has other bytes than its volume, and replace is never", quoteName(f.Name)),
			Remedy: "delete the volume on the server, or put the old file back",
		})
	case len(v.UsedBy) > 0:
		why := *inUse(v)
		why.Text = fmt.Sprintf("%s is new, but its %s", quoteName(f.Name), why.Text)
		return held(name, i, &why)
	case p.policy.Replace == ReplaceInPlace || !p.CanCopy:
		a.Kind = ActSpool
		if p.Spooled[digest] {
			a.Kind = ActInPlace
		}
		return a
	}
	if a.From = p.donor(digest); a.From != "" {
		a.Kind = ActSwap
		return a
	}
	a.Kind, a.From = ActStage, StageName(digest)
	if stage, there := p.Volumes[a.From]; there || p.Busy[a.From] {
		if there && p.Records[a.From].Intent == nil {
			return held(name, i, foreign(stage, Record{}))
		}
		return Action{Kind: ActNothing, Volume: name, File: i} // its own row brings it on
	}
	a.need = p.stagedNeed(f.ID.Size, v.Size)
	if !p.room(a.need) {
		return held(name, i, p.noSpace(a.need, "; or set replace: in-place, which needs no room for both"))
	}
	return a
}

// stagedNeed is the room that a staged replacement needs at its peak: the stage, and then its copy in the place of the
// old volume. Pools that copy by reference need only the stage.
func (p *planner) stagedNeed(size, old int64) int64 {
	if strings.HasPrefix(p.Driver, "btrfs") || strings.HasPrefix(p.Driver, "zfs") {
		return size
	}
	return max(size, 2*size-old)
}
