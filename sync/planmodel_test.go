package sync

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"isosyncd/lxd"
)

// world is a model of folder, pool and journal. Its actions are those of the workers, step by step, so that each can
// be cut off at any of them.
type world struct {
	situation
	clock   int               // makes incarnations
	foreign map[string]string // volumes of others: their incarnation
	content map[string]string // what a volume holds: a digest; "torn" if it was cut off
	running map[string]bool   // operations that nobody saw the end of: they will succeed
	t       *rapid.T
}

func (w *world) incarnation() time.Time {
	w.clock++
	return t0.Add(time.Duration(w.clock) * time.Second)
}

func (w *world) put(name, description, content string) {
	w.Volumes[name] = lxd.Volume{
		Name: name, ContentType: "iso", Size: 100, Description: description, CreatedAt: w.incarnation(),
	}
	w.content[name] = content
}

func (w *world) describe(name, description string) {
	v := w.Volumes[name]
	v.Description = description
	w.Volumes[name] = v
}

func (w *world) remove(name string) {
	if at, theirs := w.foreign[name]; theirs && at == w.Volumes[name].Incarnation() {
		w.t.Fatalf("deleted volume %s, which is not ours", name)
	}
	if len(w.Volumes[name].UsedBy) > 0 {
		w.t.Fatalf("deleted volume %s, which is in use", name)
	}
	delete(w.Volumes, name)
	delete(w.content, name)
}

// steps runs them in order and stops after the cut-th; false = it was cut off.
func steps(cut *int, list ...func()) bool {
	for _, f := range list {
		if *cut == 0 {
			return false
		}
		f()
		*cut--
	}
	return true
}

// makeVolume is upload or copy, and commit.
func (w *world) makeVolume(cut *int, name string, in Intent, digest string) bool {
	if _, taken := w.Volumes[name]; taken {
		return false // errStale
	}
	description := ""
	if in.Kind == IntentCopy {
		description = pendingHuman
	}
	set := func(change func(*Intent)) {
		w.record(name, func(r *Record) { c := *r.Intent; change(&c); r.Intent = &c })
	}
	in.Size, in.At = 100, t0
	return steps(cut,
		func() { w.record(name, func(r *Record) { r.File, r.Intent = in.File, &in }) },
		func() { w.put(name, description, "torn") },
		func() { w.running[name] = true; w.content[name] = digest },
		func() { set(func(i *Intent) { i.Operation, i.Digest = "op", digest }) },
		func() {
			delete(w.running, name)
			set(func(i *Intent) { i.Operation, i.Seen, i.Incarnation = "", true, w.Volumes[name].Incarnation() })
		},
		func() { w.mark(name) },
		func() { w.markedRecord(name) },
	)
}

func (w *world) mark(name string) {
	in := w.Records[name].Intent
	if w.content[name] != in.Digest {
		w.t.Fatalf("marked volume %s as %s, but it holds %s", name, in.Digest, w.content[name])
	}
	w.describe(name, Mark{Owner: owner, SHA256: in.Digest, File: in.File}.Describe(""))
}

func (w *world) markedRecord(name string) {
	in := w.Records[name].Intent
	w.Records[name] = Record{Volume: name, File: in.File, Present: &Presence{
		Digest: in.Digest, Incarnation: w.Volumes[name].Incarnation(), Source: in.Source,
	}}
}

// apply does one line of a plan, up to the cut-th step. truth gives the digest of a file's bytes.
func (w *world) apply(a Action, cut int) {
	var f File
	if a.File >= 0 {
		f = w.Files[a.File]
	}
	switch a.Kind {
	case ActHash:
		w.Digests[f.ID] = Digest{SHA256: w.truth(f)}
	case ActImport:
		w.makeVolume(&cut, a.Volume, Intent{Kind: IntentImport, File: f.Name, Source: f.ID}, w.hashed(f))
	case ActStage:
		w.makeVolume(&cut, a.From, Intent{Kind: IntentImport, File: f.Name, Source: f.ID}, w.hashed(f))
	case ActCopy:
		w.copy(&cut, a, f)
	case ActSwap:
		if steps(&cut, func() { w.remove(a.Volume) }) {
			w.copy(&cut, a, f)
		}
	case ActSpool:
		w.Spooled[w.truth(f)] = true
	case ActInPlace:
		in := Intent{Kind: IntentReplace, File: f.Name, Source: f.ID, Digest: a.Digest, At: t0, Size: 100}
		if steps(&cut,
			func() { w.record(a.Volume, func(r *Record) { r.File, r.Intent = in.File, &in }) },
			func() { w.remove(a.Volume) }) && w.makeVolume(&cut, a.Volume, in, a.Digest) {
			delete(w.Spooled, a.Digest)
		}
	case ActRestore:
		in := *w.Records[a.Volume].Intent
		if w.makeVolume(&cut, a.Volume, in, in.Digest) {
			delete(w.Spooled, in.Digest)
		}
	case ActAwait:
		w.await(a.Volume)
	case ActMark:
		steps(&cut, func() { w.mark(a.Volume) }, func() { w.markedRecord(a.Volume) })
	case ActDiscard:
		delete(w.running, a.Volume)
		steps(&cut, func() { w.remove(a.Volume) }, func() {
			w.record(a.Volume, func(r *Record) {
				if r.Intent != nil && r.Intent.Kind != IntentReplace {
					r.Intent = nil
				}
			})
		})
	case ActUnstage, ActPrune:
		steps(&cut, func() { w.remove(a.Volume) }, func() { delete(w.Records, a.Volume) })
	case ActRemove:
		if a.Old != "" {
			w.remove(a.Volume)
		}
		if a.File >= 0 {
			w.Files = slices.Delete(slices.Clone(w.Files), a.File, a.File+1)
		}
		delete(w.Records, a.Volume)
	case ActConsume:
		if w.content[a.Volume] != w.truth(f) {
			w.t.Fatalf("consumed %s, whose volume holds %s", f.Name, w.content[a.Volume])
		}
		w.record(a.Volume, func(r *Record) { r.Consumed = true })
		w.Files = slices.Delete(slices.Clone(w.Files), a.File, a.File+1)
	case ActAdopt:
		delete(w.foreign, a.Volume)
		w.content[a.Volume] = a.Digest
		steps(&cut,
			func() { w.describe(a.Volume, Mark{Owner: owner, SHA256: a.Digest, File: f.Name}.Describe("")) },
			func() { w.Records[a.Volume] = Record{Volume: a.Volume, File: f.Name, Present: &Presence{Source: f.ID}} })
	case ActNothing, ActHold:
	}
}

func (w *world) copy(cut *int, a Action, f File) {
	m, ours := OurMark(w.Volumes[a.From], owner)
	if !ours || m.SHA256 != a.Digest {
		return // errStale
	}
	file := m.File
	if f.Name != "" {
		file = f.Name
	}
	in := Intent{Kind: IntentCopy, File: file, From: a.From}
	if w.Digests[f.ID].SHA256 == m.SHA256 {
		in.Source = f.ID
	}
	w.makeVolume(cut, a.Volume, in, w.content[a.From])
}

// await: the operation succeeded, or is forgotten, or never was.
func (w *world) await(name string) {
	_, there := w.Volumes[name]
	in := *w.Records[name].Intent
	in.Operation = ""
	ran := w.running[name]
	delete(w.running, name)
	switch {
	case there && ran && in.Digest != "":
		in.Seen, in.Incarnation = true, w.Volumes[name].Incarnation()
	case !there && in.Kind != IntentReplace:
		w.record(name, func(r *Record) { r.Intent = nil })
		return
	}
	w.record(name, func(r *Record) { r.Intent = &in })
}

// truth is the digest of a file's bytes: its identity says which.
func (w *world) truth(f File) string { return digestOf(fmt.Sprint("content", f.ID.MTime)) }

func (w *world) hashed(f File) string {
	w.Digests[f.ID] = Digest{SHA256: w.truth(f)}
	return w.truth(f)
}

// drawWorld makes a state that the rules of the journal and the marks allow, however unlikely.
func drawWorld(t *rapid.T) *world {
	w := &world{
		situation: *newSituation(), foreign: map[string]string{}, content: map[string]string{}, running: map[string]bool{}, t: t,
	}
	yes := func(label string) bool { return rapid.Bool().Draw(t, label) }
	word := func(label string) string {
		return digestOf(fmt.Sprint("content", rapid.Int64Range(1, 3).Draw(t, label)))
	}
	w.policy = Policy{
		Replace:        rapid.SampledFrom([]Replace{ReplaceStaged, ReplaceInPlace, ReplaceNever}).Draw(t, "replace"),
		Prune:          yes("prune"),
		PruneDelay:     pruneDelay,
		RestoreDeleted: yes("restore"),
	}
	w.policy.Consume = !w.policy.Prune && yes("consume")
	w.CanCopy = yes("copies")
	for _, name := range []string{"A b.iso", "a.iso", "A+b.iso", "b.iso"} {
		if !yes("file " + name) {
			continue
		}
		volume, err := VolumeName(name)
		if err != nil {
			t.Fatal(err)
		}
		id := Identity{Ino: uint64(len(w.Files) + 1), Size: 100, MTime: rapid.Int64Range(1, 3).Draw(t, "content")}
		f := File{Name: name, Volume: volume, ID: id}
		w.Files = append(w.Files, f)
		if yes("hashed") {
			w.hashed(f)
		}
	}
	slices.SortFunc(w.Files, func(a, b File) int { return slices.Compare([]byte(a.Name), []byte(b.Name)) })
	for _, name := range []string{"a", "A-b", "b"} {
		file := name + ".iso"
		digest := word("digest")
		switch rapid.IntRange(0, 6).Draw(t, "volume "+name) {
		case 1:
			w.put(name, Mark{Owner: owner, SHA256: digest, File: file}.Describe(""), digest)
		case 2:
			w.put(name, rapid.SampledFrom([]string{"", "theirs"}).Draw(t, "theirs"), "theirs")
			w.foreign[name] = w.Volumes[name].Incarnation()
		case 3:
			w.put(name, "", "torn")
			w.intent(name, Intent{Kind: IntentImport, File: file})
		case 4:
			w.put(name, pendingHuman, digest)
			w.running[name] = yes("running")
			w.intent(name, Intent{Kind: IntentCopy, File: file, Operation: "op", Digest: digest})
		case 5:
			w.put(name, "", digest)
			w.intent(name, Intent{
				Kind: IntentImport, File: file, Seen: true, Digest: digest, Incarnation: w.Volumes[name].Incarnation(),
			})
		case 6:
			w.intent(name, Intent{Kind: IntentReplace, File: file, Digest: digest})
			if yes("spooled") {
				w.Spooled[digest] = true
			}
		}
		if yes("stage") {
			w.put(StageName(digest), Mark{Owner: owner, SHA256: digest, File: file}.Describe(""), digest)
		}
		if v, there := w.Volumes[name]; there && w.Records[name].Intent == nil && yes("used") {
			v.UsedBy = []string{"/1.0/profiles/p"}
			w.Volumes[name] = v
		}
		if yes("known") && w.Records[name].Intent == nil {
			w.record(name, func(r *Record) {
				r.Present = &Presence{Digest: digest, Incarnation: w.Volumes[name].Incarnation()}
				for _, f := range w.Files {
					if w.truth(f) == digest && yes("source") {
						r.Present.Source = f.ID // an identity stands for its bytes: no other file can be the source
					}
				}
			})
		}
		if yes("missing") {
			w.record(name, func(r *Record) { r.MissingSince = t0.Add(-2 * pruneDelay) })
		}
		if rapid.IntRange(0, 9).Draw(t, "removing") == 0 {
			w.record(name, func(r *Record) { r.Removing = true })
		}
	}
	return w
}

// TestPlanModel: from any state, with crashes at any step on the way, plans come to an end; nothing of others and
// nothing in use is deleted (world.remove), nothing is marked that does not hold what the mark says (world.mark), and
// every image that nothing speaks against is a volume in the end.
func TestPlanModel(t *testing.T) {
	for range 10 { // a hundred worlds each
		rapid.Check(t, converges)
	}
}

func converges(t *rapid.T) {
	w := drawWorld(t)
	had := map[string]bool{} // volumes that some good volume or stage stood for at the start
	for name, v := range w.Volumes {
		if m, ours := OurMark(v, owner); ours {
			target, _ := VolumeName(m.File)
			had[target] = true
			_ = name
		}
	}
	removing := map[string]bool{}
	for name, r := range w.Records {
		removing[name] = r.Removing
	}
	crashes := rapid.IntRange(0, 6).Draw(t, "crashes")
	const enough = 100
	for round := 0; ; round++ {
		plan := Plan(w.View, w.policy, t0)
		checkShape(t, w, plan)
		todo := slices.DeleteFunc(slices.Clone(plan), func(a Action) bool {
			return a.Kind == ActHold || a.Kind == ActNothing
		})
		if len(todo) == 0 {
			break
		}
		if round > enough {
			t.Fatalf("no end after %d rounds; still: %v", round, lines(&w.situation, plan))
		}
		cut := -1
		if crashes > 0 {
			crashes--
			cut = rapid.IntRange(0, 9).Draw(t, "cut")
		}
		w.apply(rapid.SampledFrom(todo).Draw(t, "action"), cut)
	}
	w.checkEnd(t, had, removing)
}

func checkShape(t *rapid.T, w *world, plan []Action) {
	lineOf := map[int]int{}
	acts := map[string]int{}
	for _, a := range plan {
		if a.File >= 0 {
			lineOf[a.File]++
		}
		if a.Kind != ActHold && a.Kind != ActNothing {
			acts[a.Volume]++
		}
		if a.Kind == ActHold && (a.Problem == nil || a.Problem.Text == "" || a.Problem.Remedy == "") {
			t.Fatalf("a hold of %s without a reason and a remedy", a.Volume)
		}
	}
	for i := range w.Files {
		if lineOf[i] != 1 {
			t.Fatalf("file %s has %d lines", w.Files[i].Name, lineOf[i])
		}
	}
	for name, n := range acts {
		if n > 1 {
			t.Fatalf("volume %s has %d actions in one plan", name, n)
		}
	}
}

func (w *world) checkEnd(t *rapid.T, had, removing map[string]bool) {
	plan := Plan(w.View, w.policy, t0)
	holds := map[string]Code{}
	for _, a := range plan {
		if a.Kind == ActHold {
			holds[fmt.Sprint(a.Volume, a.File)] = a.Problem.Code
		}
		if a.Kind == ActNothing && a.Digest == "" {
			t.Fatalf("file of %s waits for something that does not come", a.Volume)
		}
	}
	for i, f := range w.Files {
		if _, held := holds[fmt.Sprint(f.Volume, i)]; held {
			continue
		}
		v, there := w.Volumes[f.Volume]
		if m, ours := OurMark(v, owner); !there || !ours || m.SHA256 != w.truth(f) || w.content[f.Volume] != w.truth(f) {
			t.Fatalf("file %s is not held, and its volume is not good: %+v", f.Name, v)
		}
	}
	for name, v := range w.Volumes {
		m, ours := OurMark(v, owner)
		if !ours {
			continue
		}
		if w.content[name] != m.SHA256 {
			t.Fatalf("volume %s is marked %s and holds %s", name, m.SHA256, w.content[name])
		}
		if !IsStage(name) {
			continue
		}
		target, _ := VolumeName(m.File)
		if !slices.ContainsFunc(plan, func(a Action) bool { return a.Kind == ActHold && (a.Volume == name || a.Volume == target) }) {
			t.Fatalf("stage %s is left over", name)
		}
	}
	for name := range had {
		_, there := w.Volumes[name]
		if !there && !removing[name] && !w.policy.Prune && len(w.stagesOf(name)) == 0 {
			t.Fatalf("volume %s was there, or staged, and is lost", name)
		}
	}
	for name, at := range w.foreign {
		if v, there := w.Volumes[name]; !there || v.Incarnation() != at {
			t.Fatalf("volume %s of somebody else is gone", name)
		}
	}
}

func (w *world) stagesOf(name string) []string {
	var out []string
	for s, v := range w.Volumes {
		if m, ours := OurMark(v, owner); ours && IsStage(s) {
			if target, _ := VolumeName(m.File); target == name {
				out = append(out, s)
			}
		}
	}
	return out
}

func BenchmarkPlan10000(b *testing.B) {
	s := newSituation()
	for i := range 10_000 {
		name := fmt.Sprintf("image-%05d", i)
		s.file(name+".iso", name, true).volume(name, name+".iso", name)
	}
	b.ReportAllocs()
	for b.Loop() {
		Plan(s.View, s.policy, t0)
	}
}
