package sync

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"isosyncd/lxd"
)

// business returns what is left to finish for a name, whatever the folder says now.
func (p *planner) business(name string, keeper int) (Action, bool) {
	r := p.Records[name]
	_, there := p.Volumes[name]
	m, ours := p.marks[name]
	switch {
	case r.Removing:
		return p.removal(name, keeper), true
	case r.Intent != nil && !ours:
		if a, ok := p.intent(name, keeper, r.Intent); ok {
			return a, true
		}
	case IsStage(name) && ours:
		return p.stage(name, m)
	}
	if there || !p.CanCopy {
		return Action{}, false
	}
	for _, s := range p.stages[name] {
		if !p.Busy[s] {
			return Action{Kind: ActCopy, Volume: name, File: keeper, From: s, Digest: p.marks[s].SHA256}, true
		}
	}
	return Action{}, false
}

// intent decides a name that we were making, and whose volume, if it is there, is not marked.
func (p *planner) intent(name string, keeper int, in *Intent) (Action, bool) {
	v, there := p.Volumes[name]
	switch {
	case in.Operation != "" && !in.Seen:
		return Action{Kind: ActAwait, Volume: name, File: keeper}, true
	case there && in.Seen && v.Incarnation() == in.Incarnation:
		return Action{Kind: ActMark, Volume: name, File: keeper, Digest: in.Digest, Old: in.Incarnation}, true
	case there && !in.Seen && in.Made(v):
		return Action{Kind: ActDiscard, Volume: name, File: keeper, Old: v.Incarnation()}, true
	case !there && in.Kind == IntentReplace && p.Spooled[in.Digest]:
		return Action{Kind: ActRestore, Volume: name, File: keeper, Digest: in.Digest}, true
	}
	return Action{}, false
}

// pendingHuman is the description that a copy gets before it is marked: a copy without one would take over its source's
// mark before it has its bytes.
const pendingHuman = "being copied by isosyncd"

// Made reports whether an unmarked volume can be what an intent of ours left behind, its end not seen. The name was
// free when the intent was written; so only somebody's import of an image of the same size since then could be taken
// for ours, and that is the same image in all likelihood. Whatever a person has touched or uses is not ours.
func (in *Intent) Made(v lxd.Volume) bool {
	return v.ContentType == "iso" && len(v.UsedBy) == 0 && v.Size >= in.Size &&
		(v.Description == "" || strings.HasPrefix(v.Description, pendingHuman))
}

// stage decides one of our marked stages. The volume that it is for reads from it while that is absent or to be
// replaced by its bytes; in every other case it is not needed.
func (p *planner) stage(name string, m Mark) (Action, bool) {
	target, _ := VolumeName(m.File)
	if p.Busy[target] {
		return Action{}, false
	}
	if _, there := p.Volumes[target]; !there {
		if p.CanCopy || p.wants(target, m.SHA256) {
			return Action{}, false
		}
		return held(name, -1, &Problem{
			Code:   CodeServer,
			Text:   fmt.Sprintf("%s has the only copy of volume %s, and the server does not copy volumes of this pool", name, target),
			Remedy: "put the image into the folder again; the stage goes when its volume is there",
		}), true
	}
	tm, ours := p.marks[target]
	switch {
	case ours && tm.SHA256 != m.SHA256 && p.wants(target, m.SHA256):
		return Action{}, false // the volume's own row swaps, or waits
	case !ours && p.Records[target].Intent != nil:
		if _, unfinished := p.intent(target, -1, p.Records[target].Intent); unfinished {
			return Action{}, false // a copy from it was cut off
		}
	}
	return p.unlessUsed(Action{Kind: ActUnstage, Volume: name, File: -1, Old: p.Volumes[name].Incarnation()})
}

// wants reports whether a file that maps to the name has the digest, or may have it: it is not hashed yet.
func (p *planner) wants(name, digest string) bool {
	i := p.keeper(name)
	if i < 0 {
		return false
	}
	d, known := p.Digests[p.Files[i].ID]
	return !known && p.Files[i].Held == nil || d.SHA256 == digest
}

func (p *planner) unlessUsed(a Action) (Action, bool) {
	if v := p.Volumes[a.Volume]; len(v.UsedBy) > 0 {
		return held(a.Volume, a.File, inUse(v)), true
	}
	return a, true
}

func inUse(v lxd.Volume) *Problem {
	return &Problem{
		Code: CodeInUse, Waits: true,
		Text:   fmt.Sprintf("volume %s is in use by %s", quoteName(v.Name), users(v.UsedBy)),
		Remedy: "detach it there; it goes ahead by itself when it is free",
	}
}

// users makes API URLs such as /1.0/profiles/default?project=p readable: profile default (project p).
func users(urls []string) string {
	var out []string
	for _, u := range urls {
		path, query, _ := strings.Cut(u, "?")
		parts := strings.Split(strings.Trim(path, "/"), "/")
		s := quoteName(strings.TrimPrefix(path, "/1.0/"))
		if len(parts) == 3 {
			s = strings.TrimSuffix(parts[1], "s") + " " + quoteName(parts[2])
		}
		if project, ok := strings.CutPrefix(query, "project="); ok {
			s += " (project " + quoteName(project) + ")"
		}
		out = append(out, s)
	}
	slices.Sort(out)
	const most = 4
	if len(out) > most {
		out = append(out[:most], fmt.Sprintf("%d more", len(out)-most))
	}
	return strings.Join(out, ", ")
}

func (p *planner) removal(name string, keeper int) Action {
	v, there := p.Volumes[name]
	_, ours := p.marks[name]
	a := Action{Kind: ActRemove, Volume: name, File: keeper}
	if !there {
		return a
	}
	if !ours {
		return held(name, keeper, foreign(v, p.Records[name]))
	}
	a.Old = v.Incarnation()
	a, _ = p.unlessUsed(a)
	return a
}

// orphan decides a volume of ours without a file: it stays, unless prune is on and nothing speaks against it.
func (p *planner) orphan(name string) (Action, bool) {
	v, there := p.Volumes[name]
	r := p.Records[name]
	if _, ours := p.marks[name]; !there || !ours || !p.policy.Prune || r.Consumed {
		return Action{}, false
	}
	if p.Folder.Problem != nil || r.MissingSince.IsZero() || p.now.Sub(r.MissingSince) < p.policy.PruneDelay {
		return Action{}, false
	}
	if p.pruning != nil && !r.Confirmed {
		return held(name, -1, p.pruning), true
	}
	return p.unlessUsed(Action{Kind: ActPrune, Volume: name, File: -1, Old: v.Incarnation()})
}

// guardPrune looks at all volumes of ours at once, since each absence by itself looks harmless.
func (p *planner) guardPrune() {
	total, gone := 0, 0
	for name, m := range p.marks {
		if IsStage(name) || p.Records[name].Consumed || p.Records[name].Confirmed {
			continue
		}
		total++
		if len(p.byName[name]) == 0 && m.File != "" {
			gone++
		}
	}
	var why string
	switch {
	case !p.Folder.Same:
		why = "the folder is not the one that these volumes came from"
	case gone == 0:
		return
	case gone == total:
		why = "all files of the folder are gone at once"
	case 2*gone > total:
		why = fmt.Sprintf("%d of %d files are gone, more than half", gone, total)
	case gone > max(5, total/10):
		why = fmt.Sprintf("%d of %d files are gone at once", gone, total)
	default:
		return
	}
	p.pruning = &Problem{
		Code: CodePrune, Text: "not pruned: " + why,
		Remedy: "put the files back, or confirm each volume with: isosyncd retry VOLUME",
	}
}

// intentAge is when an intent without a volume means nothing any more.
const intentAge = time.Hour

// forgotten lists records that say nothing about anything any more: no file, no volume, no business. The journal
// drops them. It must not be asked while the folder or the pool cannot be read. A young intent stays: an operation
// that we lost sight of may still make its volume.
func forgotten(s View, now time.Time) []string {
	var names []string
	files := map[string]bool{}
	for i := range s.Files {
		files[s.Files[i].Volume] = true
	}
	for name, r := range s.Records {
		if _, there := s.Volumes[name]; there || files[name] || s.Busy[name] {
			continue
		}
		if in := r.Intent; r.Removing || in != nil && (now.Sub(in.At) < intentAge || s.Spooled[in.Digest]) {
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// missing lists volumes of ours whose MissingSince must change: the first full scan without the file sets it, the
// file's return clears it.
func missing(s View, now time.Time) map[string]time.Time {
	out := map[string]time.Time{}
	files := map[string]bool{}
	for i := range s.Files {
		files[s.Files[i].Volume] = true
	}
	for name, v := range s.Volumes {
		if _, ours := OurMark(v, s.Owner); !ours || IsStage(name) {
			continue
		}
		since := s.Records[name].MissingSince
		switch {
		case files[name] && !since.IsZero():
			out[name] = time.Time{}
		case !files[name] && since.IsZero():
			out[name] = now
		}
	}
	return out
}
