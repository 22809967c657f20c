package sync

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"isosyncd/lxd"
)

// This file and its two neighbours are the planner: pure functions from what is there to what is to be done.
//
//	what is there                                              outcome
//	----------------------------------------------------------  ------------------------------------------------
//	(business of the journal, planvolume.go)
//	removal asked for                                           remove (hold while in use or not ours)
//	our intent, operation known, its end not seen               await
//	our intent, volume unmarked, operation seen to succeed      mark
//	our intent, volume unmarked, not seen                       discard, then as if it were absent
//	our intent to replace, volume gone, bytes in the spool      restore
//	volume gone, a stage of ours for it                         copy from the stage
//	stage of ours, its volume has the bytes or wants others     unstage
//	no file, our volume                                         leave; prune if the policy and its guards allow
//	(files, planfile.go)
//	being written, begins an image, volume absent               early (hold where it does not pay, or did not)
//	being written, incomplete, no ISO, ...                      hold, with which
//	another file keeps the name                                 hold: clash
//	a checksum list is required, none names the file            hold
//	a list or the image's own sum disagrees                     hold
//	volume absent, deleted on the server, same file as then     hold (restore_deleted: import)
//	volume absent, a volume of ours has the size, or a list     hash
//	volume absent, a volume of ours has the digest              copy
//	volume absent                                               import (hold without room)
//	volume not ours                                             hold: foreign (adopt: take over)
//	our volume, digest of the file not known                    hash
//	our volume, same digest                                     nothing (consume: remove the file)
//	our volume, other digest, policy never                      hold
//	our volume, other digest, in use                            hold: names the users
//	our volume, other digest, staged                            stage, then swap (hold without room)
//	our volume, other digest, in-place or no copies here        spool, then replace in place
//	(gate)
//	the last try failed for good, same file                     hold until it changes
//	the last try failed, its time has not come                  hold until then

// ActionKind names what is to be done with one volume.
type ActionKind string

// The kinds of action. Each can be cut off at any step, and what is there then leads to a row of the table again.
const (
	ActNothing ActionKind = "nothing" // the file's volume is there
	ActHold    ActionKind = "hold"    // Problem says why
	ActHash    ActionKind = "hash"    // the file, into the journal
	ActAwait   ActionKind = "await"   // the end of the intent's operation
	ActMark    ActionKind = "mark"    // the volume, as the intent says
	ActDiscard ActionKind = "discard" // a volume of ours that may be torn
	ActImport  ActionKind = "import"  // File to Volume
	ActEarly   ActionKind = "early"   // the same, while File is still being written
	ActCopy    ActionKind = "copy"    // From to Volume
	ActStage   ActionKind = "stage"   // File to From
	ActSwap    ActionKind = "swap"    // delete Volume, copy From to it
	ActSpool   ActionKind = "spool"   // File into the spool
	ActInPlace ActionKind = "inplace" // delete Volume, import it from the spool
	ActRestore ActionKind = "restore" // import Volume from the spool: its old one is deleted already
	ActUnstage ActionKind = "unstage" // delete the stage Volume
	ActPrune   ActionKind = "prune"   // delete Volume: its file is gone
	ActRemove  ActionKind = "remove"  // delete Volume and File: somebody asked for it
	ActConsume ActionKind = "consume" // remove File: its volume is verified
	ActAdopt   ActionKind = "adopt"   // mark a foreign Volume
)

// Action is one line of a plan.
type Action struct {
	Kind      ActionKind
	Volume    string // what it is about; "" for a file that maps to no name
	File      int    // index into View.Files; -1 = none
	From      string // another volume: the source of a copy, the stage of a replacement
	Digest    string // of the bytes that Volume gets; "" = not known before they are read
	Old       string // incarnation of the volume that is deleted on the way
	Problem   *Problem
	NotBefore time.Time // of a hold that ends by the clock
	need      int64     // bytes of the pool's room that it takes
}

// View is what a plan is made from. The planner changes nothing of it.
type View struct {
	Owner    string
	Files    []File // by Name
	Digests  map[Identity]Digest
	Volumes  map[string]lxd.Volume
	Records  map[string]Record
	Folder   FolderState
	Space    lxd.Space        // of the pool
	Limits   lxd.Space        // of the project; Total 0 = none that we know of
	Reserved int64            // bytes of it that running uploads will need
	Driver   string           // of the pool
	CanCopy  bool             // the server copies volumes of this pool
	Spooled  map[string]bool  // digests whose bytes are in the spool
	Busy     map[string]bool  // volumes that a worker is at, or reads from: no action touches them
	Early    map[string]inode // files that are being sent while they are written, by volume: not busy
	Tired    map[inode]bool   // files that are not sent before they are finished
}

// FolderState is what prune must know.
type FolderState struct {
	Problem *Problem // the folder cannot be read: View.Files says nothing then
	Same    bool     // it is the folder that the journal knows
}

type planner struct {
	View
	policy  Policy
	now     time.Time
	byName  map[string][]int    // files by volume name
	drafts  map[string][]int    // and those that are not in the folder yet
	marks   map[string]Mark     // of our volumes, stages too, by volume name
	stages  map[string][]string // our marked stages by the volume they are for
	donors  map[string]string   // digest -> one of our volumes that has it
	sizes   map[int64]bool      // sizes of our volumes
	free    int64               // what plans may still use of the pool, -1 = not known
	left    int64               // and of the project's limits
	pruning *Problem            // why nothing may be pruned now; set by guardPrune
	actions []Action
}

// Plan says what to do. It is pure: no I/O, no clock, no randomness; the same state gives the same plan. The result is
// sorted by volume and file; at most one line per volume is not a hold, and each file has exactly one line, a draft at
// most one.
func Plan(view View, policy Policy, now time.Time) []Action {
	p := &planner{View: view, policy: policy, now: now}
	p.index()
	for _, name := range p.names() {
		p.volume(name)
	}
	for i := range p.Files {
		if f := &p.Files[i]; f.Volume == "" && f.Draft == "" {
			p.hold(i, "", heldBy(f))
		}
	}
	slices.SortStableFunc(p.actions, func(a, b Action) int {
		return cmp.Or(cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.File, b.File))
	})
	return p.actions
}

func heldBy(f *File) *Problem {
	if f.Held != nil {
		return f.Held
	}
	return &Problem{
		Code: CodeName, Text: "no volume name can be made of " + quoteName(f.Name),
		Remedy: "rename the file so that it has letters or digits",
	}
}

func (p *planner) index() {
	p.byName, p.drafts = map[string][]int{}, map[string][]int{}
	for i := range p.Files {
		switch f := &p.Files[i]; {
		case f.Volume == "":
		case f.Draft != "":
			p.drafts[f.Volume] = append(p.drafts[f.Volume], i)
		default:
			p.byName[f.Volume] = append(p.byName[f.Volume], i)
		}
	}
	p.marks = map[string]Mark{}
	p.stages = map[string][]string{}
	p.donors = map[string]string{}
	p.sizes = map[int64]bool{}
	for name, v := range p.Volumes {
		m, ok := OurMark(v, p.Owner)
		if !ok {
			continue
		}
		p.marks[name] = m
		p.sizes[v.Size] = true
		if d, ok := p.donors[m.SHA256]; !ok || betterDonor(name, d) {
			p.donors[m.SHA256] = name
		}
		if IsStage(name) {
			target, _ := VolumeName(m.File) // OurMark proved that it maps
			p.stages[target] = append(p.stages[target], name)
		}
	}
	for _, s := range p.stages {
		slices.Sort(s)
	}
	p.left = p.Limits.Free()
	if p.left >= 0 {
		p.left = max(0, p.left-p.Reserved)
	}
	p.free = p.Space.Free()
	if p.free >= 0 {
		p.free = max(0, p.free-p.Reserved)
	}
	p.guardPrune()
}

// betterDonor prefers volumes that stay over stages, and is deterministic.
func betterDonor(a, b string) bool {
	if IsStage(a) != IsStage(b) {
		return IsStage(b)
	}
	return a < b
}

// OurMark returns the mark of a volume that is ours: an ISO volume that carries our owner, under the very name that the
// file of the mark maps to. The last part tells our volume from a copy that somebody made of it, description and all.
func OurMark(v lxd.Volume, owner string) (Mark, bool) {
	if v.ContentType != "iso" {
		return Mark{}, false
	}
	_, m, ok := ParseMark(v.Description)
	if !ok || m.Owner != owner {
		return Mark{}, false
	}
	target, err := VolumeName(m.File)
	if err != nil {
		return Mark{}, false
	}
	return m, v.Name == target || v.Name == StageName(m.SHA256)
}

// names lists every volume name that a row may speak of, sorted: so a plan does not depend on the order of a map.
func (p *planner) names() []string {
	seen := make(map[string]bool, len(p.Volumes)+len(p.byName))
	for n := range p.byName {
		seen[n] = true
	}
	for n := range p.drafts {
		seen[n] = true
	}
	for n := range p.marks {
		seen[n] = true
	}
	for n := range p.Records {
		seen[n] = true
	}
	for n := range p.stages {
		seen[n] = true
	}
	names := make([]string, 0, len(seen))
	for n := range seen {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// volume decides one name: unfinished business first, then the file that keeps the name. The other files are clashes.
func (p *planner) volume(name string) {
	keeper := p.keeper(name)
	for _, i := range p.byName[name] {
		if i != keeper {
			p.hold(i, name, clash(&p.Files[i], &p.Files[keeper]))
		}
	}
	if p.Busy[name] {
		if keeper >= 0 {
			p.add(Action{Kind: ActNothing, Volume: name, File: keeper})
		}
		return
	}
	if a, ok := p.business(name, keeper); ok {
		p.add(p.gate(a))
		return
	}
	if keeper >= 0 {
		p.add(p.gate(p.file(name, keeper)))
		return
	}
	if a, ok := p.orphan(name); ok {
		p.add(p.gate(a))
		return
	}
	if drafts := p.drafts[name]; len(drafts) == 1 { // of two, nobody knows which will have the name
		if a, ok := p.early(name, drafts[0]); ok {
			p.add(a)
		}
	}
}

// keeper is the file that has the name: the one that the journal or the mark knows, else the first by file name. -1 =
// there is none.
func (p *planner) keeper(name string) int {
	files := p.byName[name]
	if len(files) == 0 {
		return -1
	}
	for _, known := range []string{p.Records[name].File, p.marks[name].File} {
		for _, i := range files {
			if known != "" && p.Files[i].Name == known {
				return i
			}
		}
	}
	return files[0]
}

func clash(loser, keeper *File) *Problem {
	return &Problem{
		Code: CodeClash,
		Text: fmt.Sprintf("%s and %s both map to the volume name %s, and %s keeps it",
			quoteName(loser.Name), quoteName(keeper.Name), loser.Volume, quoteName(keeper.Name)),
		Remedy: "rename this file, or remove the other one",
	}
}

func (p *planner) add(a Action) { p.actions = append(p.actions, a) }

func (p *planner) hold(file int, volume string, why *Problem) {
	p.add(Action{Kind: ActHold, Volume: volume, File: file, Problem: why})
}

func held(volume string, file int, why *Problem) Action {
	return Action{Kind: ActHold, Volume: volume, File: file, Problem: why}
}

// gate turns an action whose last try failed into a hold, until its time comes or its file changes.
func (p *planner) gate(a Action) Action {
	f := p.Records[a.Volume].Failure
	if f == nil || a.Kind == ActHold || a.Kind == ActNothing {
		return a
	}
	if a.File >= 0 && f.Source != p.Files[a.File].ID {
		return a // another file now: its own first try
	}
	if !f.Permanent && !p.now.Before(f.NotBefore) {
		return a
	}
	h := held(a.Volume, a.File, &Problem{Code: f.Code, Text: f.Text, Remedy: f.Remedy, Waits: !f.Permanent})
	if !f.Permanent {
		h.NotBefore = f.NotBefore
	}
	if p.left >= 0 {
		p.left += a.need
	}
	if p.free >= 0 {
		p.free += a.need
	}
	return h
}

// room takes bytes of the pool's room, and of what the project may store, for an action of this plan; false = there is
// not enough.
func (p *planner) room(need int64) bool {
	if p.free >= 0 && p.free < need || p.left >= 0 && p.left < need {
		return false
	}
	if p.free >= 0 {
		p.free -= need
	}
	if p.left >= 0 {
		p.left -= need
	}
	return true
}
