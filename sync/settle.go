package sync

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"isosyncd/iso"
)

// A file of the folder goes through these phases. Whenever its Identity changes it begins anew.
type phase int

const (
	phaseNew     phase = iota // to be looked at, or nothing came of it: trouble says why
	phaseWriting              // somebody has it open for writing
	phaseYoung                // it changed less than the settle delay ago, and nothing else tells that it is finished
	phaseOdd                  // not a regular file: trouble says what
	phaseProbed               // it was whole or not, an image or not: verdict
)

// softFactor times the settle delay is how long a file waits that only its partition table calls incomplete (DESIGN 3).
const softFactor = 10

// entry is what is remembered of a file between scans. Nothing else than the scanning goroutine touches it. Times are by
// the injected clock and compared with each other only: those of the file may lie.
type entry struct {
	name    string
	volume  string
	stat    entryStat
	seen    time.Time // when this identity was first seen
	phase   phase
	vouched bool     // the identity is one that accept made: nothing follows
	trouble *Problem // for phaseNew and phaseOdd
	soon    bool     // trouble is worth a look before the next full scan
	info    iso.Info
	verdict error // what the probe said
	passed  bool  // with this identity it was free to be imported once
	expect  int64 // of an image that is still being written: bytes that it will have, at least; else 0
	sums    sumsOf
	held    *Problem
	since   time.Time // of held
	scan    uint64    // the last that saw it
}

// look does what I/O is needed to bring e forward: none for a file that was probed, and did not change since.
func (in *inbox) look(d *folder, e *entry) {
	if in.odd(d, e) || e.phase == phaseProbed {
		return
	}
	e.phase, e.trouble, e.soon, e.expect = phaseNew, nil, false, 0
	f, st, err := d.open(e.name)
	if err != nil {
		e.fail(err)
		return
	}
	defer func() { _ = f.Close() }() // read only; the lease goes with it
	if st.id != e.stat.id {
		in.restart(e, st)
		if in.odd(d, e) {
			return
		}
	}
	if d.foreign(e.name, f, st) {
		e.phase = phaseYoung // the next look tells what it is
		return
	}
	lease := leaseUnknown
	if in.cfg.Leases {
		lease = takeLease(f)
	}
	still := e.vouched || in.now.Sub(e.seen) >= in.cfg.SettleDelay
	switch {
	case lease == leaseBusy:
		e.phase, e.expect = phaseWriting, in.expect(d, f, e.stat.id.Size)
	case !still && (lease == leaseUnknown || !d.leases):
		e.phase, e.expect = phaseYoung, in.expect(d, f, e.stat.id.Size)
	default:
		in.ask(f, e)
	}
}

// ask lets the image itself say whether it is one, and whole. What changed under its eyes, though nobody seemed to write,
// is young again.
func (in *inbox) ask(f *os.File, e *entry) {
	info, err := in.probe(f)
	st, serr := fstat(int(f.Fd()))
	if serr != nil {
		e.fail(serr)
		return
	}
	if st.id != e.stat.id {
		in.restart(e, st)
		e.phase = phaseYoung
		return
	}
	if err != nil && !errors.Is(err, iso.ErrNotISO) && !errors.Is(err, iso.ErrTruncated) {
		e.fail(err)
		return
	}
	e.phase, e.info, e.verdict = phaseProbed, info, err
}

// fail notes that a file could not be opened or read. The next scan tries again.
func (e *entry) fail(err error) {
	e.trouble = openProblem(e.name, err)
	e.soon = exhausted(err) || e.trouble.Code == CodeWriting
}

// odd reports, and remembers, what is no file to import at all.
func (in *inbox) odd(d *folder, e *entry) bool {
	switch {
	case !e.stat.regular():
		e.trouble = oddProblem(e.name, e.stat.mode)
	case e.stat.nlink > 1 && d.shared:
		e.trouble = &Problem{
			Code: CodeNotRegular,
			Text: quoteName(e.name) + " has a second name, a hard link, and everybody may write to the folder: " +
				"anybody could have linked a file there that is not theirs",
			Remedy: "copy the file instead of linking it, or take the right to write from others (chmod o-w)",
		}
	default:
		return false
	}
	e.phase = phaseOdd
	return true
}

// judge says why e may not be imported now; nil = it may. next is when that may change without the file's doing; zero =
// never.
func (in *inbox) judge(e *entry) (held *Problem, next time.Time) {
	switch e.phase {
	case phaseNew, phaseOdd:
		if e.soon {
			next = in.now.Add(in.poll())
		}
		return e.trouble, next
	case phaseWriting:
		return writingProblem(e.name), in.writingPoll(e.seen)
	case phaseYoung:
		return in.youngProblem(e.name), e.seen.Add(in.cfg.SettleDelay)
	case phaseProbed:
	}
	held, next = in.judgeVerdict(e)
	if held == nil {
		held, next = in.judgeLists(e)
	}
	return held, next
}

func (in *inbox) judgeVerdict(e *entry) (held *Problem, next time.Time) {
	if e.verdict == nil {
		return in.judgeHole(e)
	}
	var cut *iso.TruncatedError
	if errors.As(e.verdict, &cut) {
		switch soft := e.seen.Add(softFactor * in.cfg.SettleDelay); {
		case cut.Soft && (len(e.sums.Sums) > 0 || e.info.Sum != nil):
			return nil, next // the list, or the sum in the image, knows better: hashing decides
		case !cut.Soft:
			return incompleteProblem(e.name, cut), next
		case in.now.Before(soft):
			return softProblem(e.name, cut, true), soft
		}
		return softProblem(e.name, cut, false), next
	}
	var not *iso.NotISOError
	if !errors.As(e.verdict, &not) {
		return openProblem(e.name, e.verdict), next // look keeps no other verdict
	}
	// The beginning of an image is none yet: only what stays like that is refused.
	if still := e.seen.Add(in.cfg.SettleDelay); !e.vouched && in.now.Before(still) {
		return in.youngProblem(e.name), still
	}
	return &Problem{
		Code:   CodeNotISO,
		Text:   fmt.Sprintf("%s is not an ISO image: it looks like %s", quoteName(e.name), not.LooksLike),
		Remedy: not.Remedy,
	}, next
}

// judgeHole has patience with an image that has a hole inside: a download may still fill it. Zeros that a copy did not
// write look the same, so patience ends, unless something else vouches for the bytes at once.
func (in *inbox) judgeHole(e *entry) (held *Problem, next time.Time) {
	patient := e.seen.Add(softFactor * in.cfg.SettleDelay)
	if e.info.Hole.Length == 0 || e.vouched || len(e.sums.Sums) > 0 || e.info.Sum != nil || !in.now.Before(patient) {
		return nil, next
	}
	return &Problem{
		Code: CodeIncomplete, Waits: true,
		Text: fmt.Sprintf("%s may be incomplete: %s within it, from byte %d on, were never written", quoteName(e.name),
			humanize.IBytes(uint64(e.info.Hole.Length)), e.info.Hole.Offset), //nolint:gosec // a size
		Remedy: fmt.Sprintf("nothing needs to be done: a download may still fill them, and when the file was still for %v they "+
			"count as zeros; a checksum list beside it that names it ends the waiting", softFactor*in.cfg.SettleDelay),
	}, patient
}

// judgeLists holds a file whose checksum lists cannot be read. What they say is for the plan to compare.
func (in *inbox) judgeLists(e *entry) (held *Problem, next time.Time) {
	if e.sums.Twice {
		return &Problem{
			Code:   CodeChecksum,
			Text:   fmt.Sprintf("%s names %s twice, with different sums", quoteName(e.sums.Sums[0].List), quoteName(e.name)),
			Remedy: "correct the list; the file is not imported before",
		}, next
	}
	for _, l := range []*sumList{in.sidecars[e.name], in.badList} {
		switch {
		case l == nil || l.problem == nil && !l.arriving:
		case l.problem != nil:
			return l.problem, next
		case !e.passed: // what was free before stays so until the list is there
			return &Problem{
				Code: CodeWriting, Waits: true,
				Text:   fmt.Sprintf("the checksum list %s of %s is still being written", quoteName(l.name), quoteName(e.name)),
				Remedy: "nothing needs to be done; it goes on by itself",
			}, in.now.Add(in.poll())
		}
	}
	return nil, next
}

// restart begins anew with another identity.
func (in *inbox) restart(e *entry, st entryStat) {
	e.stat, e.seen, e.phase = st, in.now, phaseNew
	e.vouched = in.vouchedFor(e.name, st.id)
	e.trouble, e.soon, e.info, e.verdict, e.passed, e.expect = nil, false, iso.Info{}, nil, false, 0
}

// poll is how often a file is looked at that waits for something no event tells of.
func (in *inbox) poll() time.Duration { return min(in.cfg.SettleDelay, time.Second) }

func writingProblem(name string) *Problem {
	return &Problem{
		Code: CodeWriting, Waits: true,
		Text:   quoteName(name) + " is still being written: a program has it open for writing",
		Remedy: "nothing needs to be done; it is imported by itself when that program closes it (fuser -v names it)",
	}
}

func (in *inbox) youngProblem(name string) *Problem {
	return &Problem{
		Code: CodeWriting, Waits: true,
		Text:   quoteName(name) + " has just changed, so it may still be arriving",
		Remedy: fmt.Sprintf("nothing needs to be done; it is looked at again when it was still for %v", in.cfg.SettleDelay),
	}
}

func incompleteProblem(name string, cut *iso.TruncatedError) *Problem {
	p := &Problem{
		Code: CodeIncomplete, Waits: true,
		Text:   quoteName(name) + " is " + cut.Error(),
		Remedy: "if nothing writes it any more the copy was cut off: copy it again; it is imported by itself when it is whole",
	}
	if cut.Declared > cut.Actual {
		p.Text = fmt.Sprintf("%s is incomplete: has %s of %s (%d of %d bytes, %s)", quoteName(name),
			humanize.IBytes(uint64(cut.Actual)), humanize.IBytes(uint64(cut.Declared)),
			cut.Actual, cut.Declared, cut.Reason)
	}
	return p
}

func softProblem(name string, cut *iso.TruncatedError, waits bool) *Problem {
	p := incompleteProblem(name, cut)
	p.Waits = waits
	if !waits {
		p.Remedy = "copy it again if the copy was cut off; if it is meant to be so, put a checksum list beside it that " +
			"names it (sha256sum " + quoteName(name) + " > " + quoteName(name+".sha256") + ")"
	}
	return p
}

// oddProblem says what a name is instead of a regular file.
func oddProblem(name string, mode uint32) *Problem {
	what := "not a regular file"
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		what = "a folder"
	case unix.S_IFLNK:
		what = "a symbolic link"
	case unix.S_IFIFO:
		what = "a named pipe"
	case unix.S_IFSOCK:
		what = "a socket"
	case unix.S_IFBLK, unix.S_IFCHR:
		what = "a device"
	}
	return &Problem{
		Code:   CodeNotRegular,
		Text:   quoteName(name) + " is " + what + ", and only regular files are imported",
		Remedy: "put a copy of the image itself there; links are not followed",
	}
}

// sameProblem compares what two problems say.
func sameProblem(a, b *Problem) bool { return a == b || a != nil && b != nil && *a == *b }

func sameSums(a, b sumsOf) bool { return a.Twice == b.Twice && slices.Equal(a.Sums, b.Sums) }
