package sync

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"isosyncd/lxd"
)

const (
	owner      = "host:/drop"
	pruneDelay = time.Minute
)

// t0 is the time of every plan in these tests; nothing in a plan depends on the real one.
var t0 = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// digestOf makes a digest of a word, so that rows read well.
func digestOf(word string) string {
	h := sha256.Sum256([]byte(word))
	return hex.EncodeToString(h[:])
}

func ident(word string) Identity {
	h := sha256.Sum256([]byte(word))
	return Identity{Dev: 1, Ino: uint64(h[0])<<8 | uint64(h[1]), Size: 100, MTime: 1, CTime: int64(h[2])}
}

// situation builds a View by small steps.
type situation struct {
	View
	policy Policy
}

func newSituation() *situation {
	return &situation{
		View: View{
			Owner: owner, Digests: map[Identity]Digest{}, Volumes: map[string]lxd.Volume{}, Records: map[string]Record{},
			Folder: FolderState{Same: true}, Space: lxd.Space{Used: 0, Total: 10_000}, Driver: "dir", CanCopy: true,
			Spooled: map[string]bool{}, Busy: map[string]bool{},
		},
		policy: Policy{Replace: ReplaceStaged, PruneDelay: pruneDelay},
	}
}

// file adds a whole file whose bytes are the word; its digest is known if hashed.
func (s *situation) file(name, word string, hashed bool) *situation {
	volume, err := VolumeName(name)
	if err != nil {
		volume = ""
	}
	f := File{Name: name, Volume: volume, ID: ident(name + word)}
	s.Files = append(s.Files, f)
	if hashed {
		s.Digests[f.ID] = Digest{SHA256: digestOf(word)}
	}
	return s
}

func (s *situation) last() *File { return &s.Files[len(s.Files)-1] }

// volume adds one of ours, made from the file with those bytes.
func (s *situation) volume(name, file, word string, usedBy ...string) *situation {
	return s.raw(name, Mark{Owner: owner, SHA256: digestOf(word), File: file}.Describe("text"), usedBy...)
}

func (s *situation) raw(name, description string, usedBy ...string) *situation {
	s.Volumes[name] = lxd.Volume{
		Name: name, ContentType: "iso", Size: 100, Description: description, UsedBy: usedBy, CreatedAt: t0.Add(-time.Hour),
	}
	return s
}

func (s *situation) stage(file, word string, usedBy ...string) *situation {
	return s.volume(StageName(digestOf(word)), file, word, usedBy...)
}

func (s *situation) record(name string, change func(*Record)) *situation {
	r := s.Records[name]
	r.Volume = name
	change(&r)
	s.Records[name] = r
	return s
}

func (s *situation) intent(name string, in Intent) *situation {
	if in.Kind == "" {
		in.Kind = IntentImport
	}
	if in.Size == 0 {
		in.Size = 100
	}
	in.At = t0.Add(-time.Minute)
	return s.record(name, func(r *Record) { r.Intent = &in })
}

func (s *situation) set(change func(*situation)) *situation { change(s); return s }

// lines renders a plan for comparison: kind, volume, and what distinguishes it.
func lines(s *situation, plan []Action) []string {
	var out []string
	for _, a := range plan {
		words := []string{string(a.Kind), a.Volume}
		if a.File >= 0 {
			words = append(words, "file="+s.Files[a.File].Name)
		}
		if a.From != "" {
			words = append(words, "from="+a.From)
		}
		if !a.NotBefore.IsZero() {
			words = append(words, "until="+a.NotBefore.Sub(t0).String())
		}
		if a.Problem != nil {
			words = append(words, "because="+string(a.Problem.Code))
			if a.Problem.Waits {
				words = append(words, "waits")
			}
		}
		out = append(out, strings.Join(words, " "))
	}
	return out
}

var stageA2 = StageName(digestOf("a2"))

func TestPlanRows(t *testing.T) {
	created := t0.Add(-time.Hour).UTC().Format(time.RFC3339Nano)
	rows := []struct {
		name string
		s    *situation
		want []string
	}{
		// Files without a volume.
		{"nothing at all", newSituation(), nil},
		{"a new file", newSituation().file("a.iso", "a", false), []string{"import a file=a.iso"}},
		{
			"a file that is not ready",
			newSituation().file("a.iso", "a", false).set(func(s *situation) {
				s.last().Held = &Problem{Code: CodeWriting, Waits: true}
			}),
			[]string{"hold a file=a.iso because=writing waits"},
		},
		{
			"a file without a usable name",
			newSituation().file("_.iso", "a", false),
			[]string{"hold  file=_.iso because=name"},
		},
		{
			"two files, one name: the first by name keeps it",
			newSituation().file("A b.iso", "a", false).file("A+b.iso", "b", false),
			[]string{"import A-b file=A b.iso", "hold A-b file=A+b.iso because=clash"},
		},
		{
			"two files, one name: the journal's keeps it",
			newSituation().file("A b.iso", "a", false).file("A+b.iso", "b", false).
				record("A-b", func(r *Record) { r.File = "A+b.iso" }),
			[]string{"hold A-b file=A b.iso because=clash", "import A-b file=A+b.iso"},
		},
		{
			"two files, one name: the mark's keeps it",
			newSituation().file("A b.iso", "a", true).file("A+b.iso", "b", true).volume("A-b", "A+b.iso", "b"),
			[]string{"hold A-b file=A b.iso because=clash", "nothing A-b file=A+b.iso"},
		},
		{
			"a checksum list is required",
			newSituation().file("a.iso", "a", false).set(func(s *situation) { s.policy.RequireChecksum = true }),
			[]string{"hold a file=a.iso because=no-checksum waits"},
		},
		{
			"a list names the file: hash before import",
			newSituation().file("a.iso", "a", false).set(func(s *situation) {
				s.last().Sums = []Sum{{Algorithm: "sha256", Hex: digestOf("a"), List: "SHA256SUMS"}}
			}),
			[]string{"hash a file=a.iso"},
		},
		{
			"a list agrees",
			newSituation().file("a.iso", "a", true).set(func(s *situation) {
				s.policy.RequireChecksum = true
				s.last().Sums = []Sum{{Algorithm: "sha256", Hex: digestOf("a"), List: "SHA256SUMS"}}
			}),
			[]string{"import a file=a.iso"},
		},
		{
			"a list disagrees",
			newSituation().file("a.iso", "a", true).set(func(s *situation) {
				s.last().Sums = []Sum{{Algorithm: "sha256", Hex: digestOf("b"), List: "SHA256SUMS"}}
			}),
			[]string{"hold a file=a.iso because=checksum"},
		},
		{
			"a list in another algorithm: hash again with it",
			newSituation().file("a.iso", "a", true).set(func(s *situation) {
				s.last().Sums = []Sum{{Algorithm: "md5", Hex: "00", List: "MD5SUMS"}}
			}),
			[]string{"hash a file=a.iso"},
		},
		{
			"a list in another algorithm disagrees, also for a file that is imported already",
			newSituation().file("a.iso", "a", false).volume("a", "a.iso", "a").set(func(s *situation) {
				s.last().Sums = []Sum{{Algorithm: "md5", Hex: "00", List: "MD5SUMS"}}
				s.Digests[s.last().ID] = Digest{SHA256: digestOf("a"), Others: map[string]string{"md5": "11"}}
			}),
			[]string{"hold a file=a.iso because=checksum"},
		},
		{
			"the image's own sum disagrees",
			newSituation().file("a.iso", "a", false).set(func(s *situation) {
				s.Digests[s.last().ID] = Digest{SHA256: digestOf("a"), Bad: "sum differs"}
			}),
			[]string{"hold a file=a.iso because=checksum"},
		},
		{
			"a list overrules the image's own sum",
			newSituation().file("a.iso", "a", false).set(func(s *situation) {
				s.Digests[s.last().ID] = Digest{SHA256: digestOf("a"), Bad: "sum differs"}
				s.last().Sums = []Sum{{Algorithm: "sha256", Hex: digestOf("a")}}
			}),
			[]string{"import a file=a.iso"},
		},
		{
			"no room",
			newSituation().file("a.iso", "a", false).set(func(s *situation) { s.Space.Used = 9_901 }),
			[]string{"hold a file=a.iso because=no-space waits"},
		},
		{
			"the project may not store so much",
			newSituation().file("a.iso", "a", false).set(func(s *situation) { s.Limits = lxd.Space{Used: 50, Total: 149} }),
			[]string{"hold a file=a.iso because=limit waits"},
		},
		{
			"the project may store one of two",
			newSituation().file("a.iso", "a", false).file("b.iso", "b", false).set(func(s *situation) { s.Limits = lxd.Space{Used: 50, Total: 249} }),
			[]string{"import a file=a.iso", "hold b file=b.iso because=limit waits"},
		},
		{
			"just room",
			newSituation().file("a.iso", "a", false).set(func(s *situation) { s.Space.Used = 9_900 }),
			[]string{"import a file=a.iso"},
		},
		{
			"room for one of two",
			newSituation().file("a.iso", "a", false).file("b.iso", "b", false).set(func(s *situation) { s.Space.Used = 9_850 }),
			[]string{"import a file=a.iso", "hold b file=b.iso because=no-space waits"},
		},
		{
			"room that running uploads will need",
			newSituation().file("a.iso", "a", false).set(func(s *situation) { s.Space.Used, s.Reserved = 9_800, 101 }),
			[]string{"hold a file=a.iso because=no-space waits"},
		},
		{
			"room that a held failure does not take",
			newSituation().file("a.iso", "a", false).file("b.iso", "b", false).
				set(func(s *situation) { s.Space.Used = 9_900; s.Limits = lxd.Space{Total: 100} }).
				record("a", func(r *Record) {
					r.Failure = &Failure{Code: CodeServer, Source: ident("a.isoa"), NotBefore: t0.Add(time.Second)}
				}),
			[]string{"hold a file=a.iso until=1s because=server waits", "import b file=b.iso"},
		},
		{
			"no room at all",
			newSituation().file("a.iso", "a", false).set(func(s *situation) { s.Space.Used = 10_000 }),
			[]string{"hold a file=a.iso because=no-space waits"},
		},
		{
			"the limits leave nothing at all",
			newSituation().file("a.iso", "a", false).set(func(s *situation) { s.Limits = lxd.Space{Used: 100, Total: 100} }),
			[]string{"hold a file=a.iso because=limit waits"},
		},
		{
			"the limits leave just enough, but the pool does not",
			newSituation().file("a.iso", "a", false).set(func(s *situation) {
				s.Limits, s.Space.Used = lxd.Space{Total: 100}, 9_901
			}),
			[]string{"hold a file=a.iso because=no-space waits"},
		},
		{
			"the limits leave just enough",
			newSituation().file("a.iso", "a", false).set(func(s *situation) { s.Limits = lxd.Space{Total: 100} }),
			[]string{"import a file=a.iso"},
		},
		{
			"a volume is a better source of a copy than a stage",
			newSituation().file("c.iso", "a2", true).volume("z", "z.iso", "a2").stage("y.iso", "a2").volume("y", "y.iso", "a2"),
			[]string{"copy c file=c.iso from=y", "unstage " + stageA2},
		},
		{
			"a pool that does not tell its room",
			newSituation().file("a.iso", "a", false).set(func(s *situation) { s.Space = lxd.Space{} }),
			[]string{"import a file=a.iso"},
		},
		{
			"deleted on the server",
			newSituation().file("a.iso", "a", true).record("a", func(r *Record) { r.Present = &Presence{Source: ident("a.isoa")} }),
			[]string{"hold a file=a.iso because=removed"},
		},
		{
			"deleted on the server, restore_deleted",
			newSituation().file("a.iso", "a", true).record("a", func(r *Record) { r.Present = &Presence{Source: ident("a.isoa")} }).
				set(func(s *situation) { s.policy.RestoreDeleted = true }),
			[]string{"import a file=a.iso"},
		},
		{
			"deleted on the server, another file since",
			newSituation().file("a.iso", "a", true).record("a", func(r *Record) { r.Present = &Presence{Source: ident("other")} }),
			[]string{"import a file=a.iso"},
		},
		// Same bytes, no upload.
		{
			"a volume of ours has the size: hash before import",
			newSituation().file("b.iso", "a", false).volume("a", "a.iso", "a"),
			[]string{"hash b file=b.iso"},
		},
		{
			"a volume of ours has the digest",
			newSituation().file("b.iso", "a", true).volume("a", "a.iso", "a"),
			[]string{"copy b file=b.iso from=a"},
		},
		{
			"a volume of ours has the digest, but the pool does not copy",
			newSituation().file("b.iso", "a", true).volume("a", "a.iso", "a").set(func(s *situation) { s.CanCopy = false }),
			[]string{"import b file=b.iso"},
		},
		{
			"a volume of ours has the digest, but a worker is at it",
			newSituation().file("b.iso", "a", true).volume("a", "a.iso", "a").set(func(s *situation) { s.Busy["a"] = true }),
			[]string{"import b file=b.iso"},
		},
		{
			"a foreign volume is no source of copies, whatever it says",
			newSituation().file("b.iso", "a", true).
				raw("x", Mark{Owner: "else", SHA256: digestOf("a"), File: "x.iso"}.Describe("")).
				raw("y", Mark{Owner: owner, SHA256: digestOf("a"), File: "z.iso"}.Describe("a copy somebody made of z")),
			[]string{"import b file=b.iso"},
		},
		// Volumes that are not ours.
		{
			"foreign",
			newSituation().file("a.iso", "a", false).raw("a", ""),
			[]string{"hold a file=a.iso because=foreign"},
		},
		{
			"another owner's",
			newSituation().file("a.iso", "a", true).raw("a", Mark{Owner: "else", SHA256: digestOf("a"), File: "a.iso"}.Describe("")),
			[]string{"hold a file=a.iso because=foreign"},
		},
		{
			"another content type, marked",
			newSituation().file("a.iso", "a", true).volume("a", "a.iso", "b").set(func(s *situation) {
				v := s.Volumes["a"]
				v.ContentType = "filesystem"
				s.Volumes["a"] = v
			}),
			[]string{"hold a file=a.iso because=foreign"},
		},
		{
			"adopt: hash first",
			newSituation().file("a.iso", "a", false).raw("a", "mine").record("a", func(r *Record) { r.Adopt = true }),
			[]string{"hash a file=a.iso"},
		},
		{
			"adopt",
			newSituation().file("a.iso", "a", true).raw("a", "mine").record("a", func(r *Record) { r.Adopt = true }),
			[]string{"adopt a file=a.iso"},
		},
		{
			"adopt, too small",
			newSituation().file("a.iso", "a", true).raw("a", "mine").record("a", func(r *Record) { r.Adopt = true }).
				set(func(s *situation) { s.last().ID.Size = 101 }),
			[]string{"hold a file=a.iso because=foreign"},
		},
		{
			"adopt, as large as a driver may make it",
			newSituation().file("a.iso", "a", true).raw("a", "mine").record("a", func(r *Record) { r.Adopt = true }).
				set(func(s *situation) { v := s.Volumes["a"]; v.Size = 100 + 8<<30; s.Volumes["a"] = v }),
			[]string{"adopt a file=a.iso"},
		},
		{
			"adopt, far too large",
			newSituation().file("a.iso", "a", true).raw("a", "mine").record("a", func(r *Record) { r.Adopt = true }).
				set(func(s *situation) { v := s.Volumes["a"]; v.Size = 101 + 8<<30; s.Volumes["a"] = v }),
			[]string{"hold a file=a.iso because=foreign"},
		},
		{
			"adopt, another content type",
			newSituation().file("a.iso", "a", true).raw("a", "mine").record("a", func(r *Record) { r.Adopt = true }).
				set(func(s *situation) { v := s.Volumes["a"]; v.ContentType = "block"; s.Volumes["a"] = v }),
			[]string{"hold a file=a.iso because=foreign"},
		},
		// Our volume, with its file.
		{
			"unchanged",
			newSituation().file("a.iso", "a", true).volume("a", "a.iso", "a"),
			[]string{"nothing a file=a.iso"},
		},
		{
			"not hashed yet",
			newSituation().file("a.iso", "a", false).volume("a", "a.iso", "a"),
			[]string{"hash a file=a.iso"},
		},
		{
			"consume",
			newSituation().file("a.iso", "a", true).volume("a", "a.iso", "a").set(func(s *situation) { s.policy.Consume = true }),
			[]string{"consume a file=a.iso"},
		},
		{
			"replace: stage",
			newSituation().file("a.iso", "a2", true).volume("a", "a.iso", "a"),
			[]string{"stage a file=a.iso from=" + stageA2},
		},
		{
			"replace: swap",
			newSituation().file("a.iso", "a2", true).volume("a", "a.iso", "a").stage("a.iso", "a2"),
			[]string{"swap a file=a.iso from=" + stageA2},
		},
		{
			"replace: swap with the bytes of another volume",
			newSituation().file("a.iso", "b", true).volume("a", "a.iso", "a").volume("b", "b.iso", "b"),
			[]string{"swap a file=a.iso from=b"},
		},
		{
			"replace: in use",
			newSituation().file("a.iso", "a2", true).volume("a", "a.iso", "a", "/1.0/profiles/p").stage("a.iso", "a2"),
			[]string{"hold a file=a.iso because=in-use waits"},
		},
		{
			"replace: never",
			newSituation().file("a.iso", "a2", true).volume("a", "a.iso", "a").set(func(s *situation) { s.policy.Replace = ReplaceNever }),
			[]string{"hold a file=a.iso because=replace-off"},
		},
		{
			"replace: no room for both",
			newSituation().file("a.iso", "a2", true).volume("a", "a.iso", "a").set(func(s *situation) { s.Space.Used = 9_901 }),
			[]string{"hold a file=a.iso because=no-space waits"},
		},
		{
			"replace: a larger image needs room for its stage and its copy",
			newSituation().file("a.iso", "a2", true).volume("a", "a.iso", "a").set(func(s *situation) {
				v := s.Volumes["a"]
				v.Size = 50
				s.Volumes["a"] = v
				s.Space.Used = 9_851
			}),
			[]string{"hold a file=a.iso because=no-space waits"},
		},
		{
			"replace: on btrfs a copy takes no room",
			newSituation().file("a.iso", "a2", true).volume("a", "a.iso", "a").set(func(s *situation) {
				v := s.Volumes["a"]
				v.Size = 50
				s.Volumes["a"] = v
				s.Space.Used, s.Driver = 9_851, "btrfs"
			}),
			[]string{"stage a file=a.iso from=" + stageA2},
		},
		{
			"replace: in-place, spool first",
			newSituation().file("a.iso", "a2", true).volume("a", "a.iso", "a").set(func(s *situation) { s.policy.Replace = ReplaceInPlace }),
			[]string{"spool a file=a.iso"},
		},
		{
			"replace: in-place",
			newSituation().file("a.iso", "a2", true).volume("a", "a.iso", "a").set(func(s *situation) {
				s.policy.Replace = ReplaceInPlace
				s.Spooled[digestOf("a2")] = true
			}),
			[]string{"inplace a file=a.iso"},
		},
		{
			"replace: no copies on this pool",
			newSituation().file("a.iso", "a2", true).volume("a", "a.iso", "a").set(func(s *situation) { s.CanCopy = false }),
			[]string{"spool a file=a.iso"},
		},
		{
			"replace: somebody has the stage's name",
			newSituation().file("a.iso", "a2", true).volume("a", "a.iso", "a").raw(stageA2, "mine"),
			[]string{"hold a file=a.iso because=foreign"},
		},
		{
			"replace: the stage is being made",
			newSituation().file("a.iso", "a2", true).volume("a", "a.iso", "a").set(func(s *situation) { s.Busy[stageA2] = true }),
			[]string{"nothing a file=a.iso"},
		},
		// Unfinished business.
		{
			"an operation whose end nobody saw",
			newSituation().file("a.iso", "a", false).intent("a", Intent{Operation: "op"}),
			[]string{"await a file=a.iso"},
		},
		{
			"an operation whose end nobody saw, its file gone",
			newSituation().intent("a", Intent{Operation: "op"}),
			[]string{"await a"},
		},
		{
			"seen, not marked",
			newSituation().file("a.iso", "a", false).raw("a", "").
				intent("a", Intent{Operation: "op", Seen: true, Digest: digestOf("a"), Incarnation: created}),
			[]string{"mark a file=a.iso"},
		},
		{
			"seen, but another volume has the name since",
			newSituation().file("a.iso", "a", true).raw("a", "").
				intent("a", Intent{Seen: true, Digest: digestOf("a"), Incarnation: "other"}),
			[]string{"hold a file=a.iso because=foreign"},
		},
		{
			"torn",
			newSituation().file("a.iso", "a", false).raw("a", "").intent("a", Intent{}),
			[]string{"discard a file=a.iso"},
		},
		{
			"a torn copy",
			newSituation().file("a.iso", "a", true).raw("a", pendingHuman).intent("a", Intent{Kind: IntentCopy}),
			[]string{"discard a file=a.iso"},
		},
		{
			"our intent, but the volume is in use: somebody's",
			newSituation().file("a.iso", "a", true).raw("a", "", "/1.0/profiles/p").intent("a", Intent{}),
			[]string{"hold a file=a.iso because=foreign"},
		},
		{
			"our intent, but the volume is described: somebody's",
			newSituation().file("a.iso", "a", true).raw("a", "mine").intent("a", Intent{}),
			[]string{"hold a file=a.iso because=foreign"},
		},
		{
			"our intent, but the volume is smaller: somebody's",
			newSituation().file("a.iso", "a", true).raw("a", "").intent("a", Intent{Size: 101}),
			[]string{"hold a file=a.iso because=foreign"},
		},
		{
			"an intent, and no volume: import",
			newSituation().file("a.iso", "a", false).intent("a", Intent{}),
			[]string{"import a file=a.iso"},
		},
		{
			"an intent to replace, cut off before the delete",
			newSituation().file("a.iso", "a2", true).volume("a", "a.iso", "a").
				intent("a", Intent{Kind: IntentReplace, Digest: digestOf("a2")}).
				set(func(s *situation) { s.policy.Replace = ReplaceInPlace; s.Spooled[digestOf("a2")] = true }),
			[]string{"inplace a file=a.iso"},
		},
		{
			"an intent to replace, the old one gone",
			newSituation().file("a.iso", "a3", true).intent("a", Intent{Kind: IntentReplace, Digest: digestOf("a2")}).
				set(func(s *situation) { s.Spooled[digestOf("a2")] = true }),
			[]string{"restore a file=a.iso"},
		},
		{
			"an intent to replace, the old one and the file gone",
			newSituation().intent("a", Intent{Kind: IntentReplace, Digest: digestOf("a2")}).
				set(func(s *situation) { s.Spooled[digestOf("a2")] = true }),
			[]string{"restore a"},
		},
		{
			"an intent to replace, but the spool is lost",
			newSituation().file("a.iso", "a2", true).intent("a", Intent{Kind: IntentReplace, Digest: digestOf("a2")}),
			[]string{"import a file=a.iso"},
		},
		// Stages.
		{
			"swap cut off after the delete",
			newSituation().file("a.iso", "a2", true).stage("a.iso", "a2"),
			[]string{"copy a file=a.iso from=" + stageA2},
		},
		{
			"swap cut off after the delete, the file gone",
			newSituation().stage("a.iso", "a2"),
			[]string{"copy a from=" + stageA2},
		},
		{
			"swap cut off after the delete, the file changed",
			newSituation().file("a.iso", "a3", true).stage("a.iso", "a2"),
			[]string{"copy a file=a.iso from=" + stageA2},
		},
		{
			"swap cut off in the copy",
			newSituation().file("a.iso", "a2", true).stage("a.iso", "a2").raw("a", pendingHuman).
				intent("a", Intent{Kind: IntentCopy}),
			[]string{"discard a file=a.iso"},
		},
		{
			"swap cut off before the stage went",
			newSituation().file("a.iso", "a2", true).stage("a.iso", "a2").volume("a", "a.iso", "a2"),
			[]string{"nothing a file=a.iso", "unstage " + stageA2},
		},
		{
			"a stage that no file wants any more",
			newSituation().file("a.iso", "a3", true).stage("a.iso", "a2").volume("a", "a.iso", "a3"),
			[]string{"nothing a file=a.iso", "unstage " + stageA2},
		},
		{
			"a stage whose file is not hashed yet",
			newSituation().file("a.iso", "a3", false).stage("a.iso", "a2").volume("a", "a.iso", "a"),
			[]string{"hash a file=a.iso"},
		},
		{
			"a stage whose file is gone",
			newSituation().stage("a.iso", "a2").volume("a", "a.iso", "a"),
			[]string{"unstage " + stageA2},
		},
		{
			"a stage whose volume somebody else took",
			newSituation().stage("a.iso", "a2").raw("a", "mine"),
			[]string{"unstage " + stageA2},
		},
		{
			"a stage in use",
			newSituation().stage("a.iso", "a2", "/1.0/profiles/p").volume("a", "a.iso", "a2"),
			[]string{"hold " + stageA2 + " because=in-use waits"},
		},
		{
			"a stage with the only copy, where the pool does not copy, the file gone",
			newSituation().stage("a.iso", "a2").set(func(s *situation) { s.CanCopy = false }),
			[]string{"hold " + stageA2 + " because=server"},
		},
		{
			"a stage where the pool does not copy, the file there",
			newSituation().file("a.iso", "a2", true).stage("a.iso", "a2").set(func(s *situation) { s.CanCopy = false }),
			[]string{"import a file=a.iso"},
		},
		{
			"a torn stage",
			newSituation().file("a.iso", "a2", true).volume("a", "a.iso", "a").raw(stageA2, "").intent(stageA2, Intent{}),
			[]string{"nothing a file=a.iso", "discard " + stageA2},
		},
		{
			"a stage that somebody made, without a mark",
			newSituation().raw(stageA2, ""), nil,
		},
		{
			"a stage of another owner",
			newSituation().raw(stageA2, Mark{Owner: "else", SHA256: digestOf("a2"), File: "a.iso"}.Describe("")), nil,
		},
		{
			"a stage whose volume a worker is at",
			newSituation().stage("a.iso", "a2").volume("a", "a.iso", "a2").set(func(s *situation) { s.Busy["a"] = true }), nil,
		},
		// Removal.
		{
			"remove",
			newSituation().file("a.iso", "a", true).volume("a", "a.iso", "a").record("a", func(r *Record) { r.Removing = true }),
			[]string{"remove a file=a.iso"},
		},
		{
			"remove, the volume gone already",
			newSituation().file("a.iso", "a", true).record("a", func(r *Record) { r.Removing = true }),
			[]string{"remove a file=a.iso"},
		},
		{
			"remove, in use",
			newSituation().volume("a", "a.iso", "a", "/1.0/instances/vm").record("a", func(r *Record) { r.Removing = true }),
			[]string{"hold a because=in-use waits"},
		},
		{
			"remove, not ours",
			newSituation().raw("a", "mine").record("a", func(r *Record) { r.Removing = true }),
			[]string{"hold a because=foreign"},
		},
		// The gate.
		{
			"failed, its time not come",
			newSituation().file("a.iso", "a", false).record("a", func(r *Record) {
				r.Failure = &Failure{Code: CodeServer, Source: ident("a.isoa"), NotBefore: t0.Add(time.Second)}
			}),
			[]string{"hold a file=a.iso until=1s because=server waits"},
		},
		{
			"failed, its time come",
			newSituation().file("a.iso", "a", false).record("a", func(r *Record) {
				r.Failure = &Failure{Code: CodeServer, Source: ident("a.isoa"), NotBefore: t0}
			}),
			[]string{"import a file=a.iso"},
		},
		{
			"failed for good",
			newSituation().file("a.iso", "a", false).record("a", func(r *Record) {
				r.Failure = &Failure{Code: CodeRefused, Source: ident("a.isoa"), Permanent: true}
			}),
			[]string{"hold a file=a.iso because=refused"},
		},
		{
			"failed for good, another file since",
			newSituation().file("a.iso", "a", false).record("a", func(r *Record) {
				r.Failure = &Failure{Code: CodeRefused, Source: ident("other"), Permanent: true}
			}),
			[]string{"import a file=a.iso"},
		},
		{
			"failed, and there is nothing to do any more",
			newSituation().file("a.iso", "a", true).volume("a", "a.iso", "a").record("a", func(r *Record) {
				r.Failure = &Failure{Code: CodeRefused, Source: ident("a.isoa"), Permanent: true}
			}),
			[]string{"nothing a file=a.iso"},
		},
		// Busy.
		{
			"a worker is at it",
			newSituation().file("a.iso", "a", false).set(func(s *situation) { s.Busy["a"] = true }),
			[]string{"nothing a file=a.iso"},
		},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			plan := Plan(row.s.View, row.s.policy, t0)
			if diff := cmp.Diff(row.want, lines(row.s, plan)); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
			for _, a := range plan {
				if a.Problem != nil && a.Kind != ActHold {
					t.Errorf("%s %s has a problem and is no hold", a.Kind, a.Volume)
				}
			}
		})
	}
}

// orphans makes n volumes of ours, the first gone of which have no file, and have been missing for that long.
func orphans(n, gone int, since time.Duration) *situation {
	s := newSituation()
	s.policy.Prune = true
	for i := range n {
		name := "v" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		s.volume(name, name+".iso", name)
		if i < gone {
			s.record(name, func(r *Record) { r.MissingSince = t0.Add(-since) })
		} else {
			s.file(name+".iso", name, true)
		}
	}
	return s
}

func TestPlanPrune(t *testing.T) {
	first := "vaa"
	rows := []struct {
		name string
		s    *situation
		want string // the line of the first orphan
	}{
		{"prunes after the delay", orphans(4, 1, pruneDelay), "prune vaa"},
		{"not before the delay", orphans(4, 1, pruneDelay-1), ""},
		{"not when off", orphans(4, 1, pruneDelay).set(func(s *situation) { s.policy.Prune = false }), ""},
		{"half may go", orphans(4, 2, pruneDelay), "prune vaa"},
		{"more than half may not", orphans(5, 3, pruneDelay), "hold vaa because=prune"},
		{"all may not", orphans(1, 1, pruneDelay), "hold vaa because=prune"},
		{"five of many may", orphans(40, 5, pruneDelay), "prune vaa"},
		{"six of forty may not", orphans(40, 6, pruneDelay), "hold vaa because=prune"},
		{"a tenth of very many may", orphans(70, 7, pruneDelay), "prune vaa"},
		{"more than a tenth may not", orphans(70, 8, pruneDelay), "hold vaa because=prune"},
		{
			"confirmed by somebody",
			orphans(1, 1, pruneDelay).record(first, func(r *Record) { r.Confirmed = true }), "prune vaa",
		},
		{
			"the folder cannot be read",
			orphans(4, 1, pruneDelay).set(func(s *situation) { s.Folder.Problem = &Problem{} }), "",
		},
		{
			"another folder than before",
			orphans(4, 1, pruneDelay).set(func(s *situation) { s.Folder.Same = false }), "hold vaa because=prune",
		},
		{
			"in use",
			orphans(4, 1, pruneDelay).set(func(s *situation) {
				v := s.Volumes[first]
				v.UsedBy = []string{"/1.0/instances/vm"}
				s.Volumes[first] = v
			}),
			"hold vaa because=in-use waits",
		},
		{
			"not ours any more",
			orphans(4, 1, pruneDelay).set(func(s *situation) { s.raw(first, "mine") }), "",
		},
		{
			"what we consumed does not count",
			orphans(4, 2, pruneDelay).volume("c", "c.iso", "c").record("c", func(r *Record) { r.Consumed = true }), "prune vaa",
		},
		{
			"what somebody confirmed does not count",
			orphans(4, 2, pruneDelay).volume("c", "c.iso", "c").record("c", func(r *Record) { r.Confirmed = true }), "prune vaa",
		},
		{"stages do not count", orphans(4, 2, pruneDelay).stage("c.iso", "c"), "prune vaa"},
		{
			"consumed by us",
			orphans(4, 1, pruneDelay).record(first, func(r *Record) { r.Consumed = true }), "",
		},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			got := ""
			for _, line := range lines(row.s, Plan(row.s.View, row.s.policy, t0)) {
				if strings.Contains(line, " "+first) && !strings.Contains(line, "file=") {
					got = line
				}
			}
			if got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

func TestUsersReadWell(t *testing.T) {
	got := users([]string{
		"/1.0/profiles/default", "/1.0/instances/vm?project=lab", "/1.0/instances/a", "/1.0/instances/b", "/1.0/instances/c",
		"/1.0/odd\x1b[31m",
	})
	want := `"odd\x1b[31m", instance a, instance b, instance c, 2 more`
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	got, want = users([]string{"/1.0/instances/vm?project=lab"}), "instance vm (project lab)"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestUsersAreCounted(t *testing.T) {
	four := []string{"/1.0/instances/a", "/1.0/instances/b", "/1.0/instances/c", "/1.0/instances/d"}
	if got, want := users(four), "instance a, instance b, instance c, instance d"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestForeignSaysWhose: whoever only did cp learns whose volume it is.
func TestForeignSaysWhose(t *testing.T) {
	iso := lxd.Volume{Name: "a", ContentType: "iso", CreatedAt: t0}
	marked := iso
	marked.Description = Mark{Owner: "else", SHA256: digestOf("a"), File: "a.iso"}.Describe("")
	for want, p := range map[string]*Problem{
		"not ours":       foreign(iso, Record{}),
		"a block volume": foreign(lxd.Volume{Name: "a", ContentType: "block"}, Record{}),
		"owner else":     foreign(marked, Record{}),
		"removed the mark": foreign(iso, Record{
			Present: &Presence{Incarnation: iso.Incarnation()},
		}),
	} {
		if !strings.Contains(p.Text, want) || p.Code != CodeForeign {
			t.Errorf("%q does not say %q", p.Text, want)
		}
	}
	if got := short("0123456789ab"); got != "0123456789ab" {
		t.Errorf("a short digest became %q", got)
	}
}

func TestForgotten(t *testing.T) {
	s := newSituation().
		record("nothing", func(r *Record) { r.Present = &Presence{} }).
		record("there", func(r *Record) { r.Present = &Presence{} }).raw("there", "").
		record("file", func(r *Record) { r.Present = &Presence{} }).file("file.iso", "f", false).
		record("busy", func(r *Record) { r.Present = &Presence{} }).
		record("removing", func(r *Record) { r.Removing = true }).
		intent("young", Intent{}).
		record("old", func(r *Record) { r.Intent = &Intent{At: t0.Add(-2 * intentAge)} }).
		record("spooled", func(r *Record) { r.Intent = &Intent{At: t0.Add(-2 * intentAge), Digest: "d"} })
	s.Busy["busy"] = true
	s.Spooled["d"] = true
	if diff := cmp.Diff([]string{"nothing", "old"}, forgotten(s.View, t0)); diff != "" {
		t.Errorf("forgotten (-want +got):\n%s", diff)
	}
}

func TestMissing(t *testing.T) {
	s := newSituation().
		volume("gone", "gone.iso", "g").
		volume("back", "back.iso", "b").file("back.iso", "b", true).record("back", func(r *Record) { r.MissingSince = t0 }).
		volume("still", "still.iso", "s").record("still", func(r *Record) { r.MissingSince = t0.Add(-1) }).
		stage("gone.iso", "x").
		raw("foreign", "")
	want := map[string]time.Time{"gone": t0, "back": {}}
	if diff := cmp.Diff(want, missing(s.View, t0)); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
}
