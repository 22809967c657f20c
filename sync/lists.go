package sync

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxSums bounds what is kept of all lists together, in entries.
const maxSums = 1_000_000

// sumList is a checksum list of the folder, as it is remembered between scans.
type sumList struct {
	name     string
	image    string // that a sidecar is about; "" = it may be about any
	stat     entryStat
	seen     time.Time // when this identity was first seen
	read     bool      // sums and problem are those of stat
	arriving bool      // it is being written; sums are still those of before
	problem  *Problem  // why it cannot be believed: it holds the images that it may be about
	sums     map[string]sumsOf
	scan     uint64 // the last that saw it
}

// scanLists reads what lists are new or changed. dirty: something that is said of an image may be another now.
func (in *inbox) scanLists(d *folder, names []string) (dirty bool) {
	for _, name := range names {
		st, err := d.stat(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && st.mode&unix.S_IFMT == unix.S_IFDIR {
			continue // a folder called SHA256SUMS is nobody's list
		}
		l := in.lists[name]
		if l == nil {
			l = &sumList{name: name}
			l.image, _ = isList(name)
			in.lists[name] = l
		}
		l.scan = in.scans
		if l.read && err == nil && st == l.stat {
			continue
		}
		if l.stat != st || l.seen.IsZero() {
			l.stat, l.seen = st, in.now
		}
		arriving, problem := l.arriving, l.problem
		l.read, l.arriving, l.problem = false, false, nil
		if err == nil {
			err = in.readSums(d, l)
		}
		if err != nil {
			l.problem = listProblem(l.name, err)
		}
		dirty = dirty || l.read || l.arriving != arriving || !sameProblem(l.problem, problem)
	}
	for name, l := range in.lists {
		if l.scan != in.scans {
			in.sumCount -= len(l.sums)
			delete(in.lists, name)
			dirty = true
		}
	}
	if dirty {
		in.index()
	}
	return dirty
}

// readSums reads one list, unless it is still being written.
func (in *inbox) readSums(d *folder, l *sumList) error {
	f, st, err := d.open(l.name)
	if errors.Is(err, unix.EAGAIN) {
		l.arriving = true
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only; the lease goes with it
	if d.shared && st.nlink > 1 {
		return errNotRegular // as with images: anybody could have linked a file there that is not theirs
	}
	if d.foreign(l.name, f, st) {
		l.arriving = true
		return nil
	}
	if l.arriving = in.listArriving(f, l, d.leases); l.arriving || st.id != l.stat.id {
		l.arriving = true
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(f, maxList+1))
	if err != nil {
		return err
	}
	if st, err = fstat(int(f.Fd())); err != nil || st.id != l.stat.id {
		l.arriving = true
		return err
	}
	sums, err := parseSums(l.name, data)
	switch {
	case err != nil:
	case in.sumCount-len(l.sums)+len(sums) > maxSums:
		err = fmt.Errorf("all lists of the folder together have more than %d entries", maxSums)
	default:
		in.sumCount += len(sums) - len(l.sums)
		l.sums, l.read = sums, true
		return in.silent(l)
	}
	return err
}

func (in *inbox) listArriving(f *os.File, l *sumList, tell bool) bool {
	lease := leaseUnknown
	if in.cfg.Leases {
		lease = takeLease(f)
	}
	return lease == leaseBusy || (lease == leaseUnknown || !tell) && in.now.Sub(l.seen) < in.cfg.SettleDelay
}

// errSilent says that a sidecar has no sum of its image: it is cut short, or an error page was downloaded instead.
var errSilent = errors.New("silent")

// silent reports a sidecar without a sum. Detached signatures (.asc) have none.
func (in *inbox) silent(l *sumList) error {
	if l.image == "" || len(l.sums[l.image].Sums) > 0 || strings.HasSuffix(strings.ToLower(l.name), ".asc") {
		return nil
	}
	l.read = false
	if in.now.Sub(l.seen) < in.cfg.SettleDelay {
		l.arriving = true // such as an empty file that is about to be filled
		return nil
	}
	return errSilent
}

func listProblem(name string, err error) *Problem {
	if errors.Is(err, errSilent) {
		return &Problem{
			Code:   CodeChecksum,
			Text:   fmt.Sprintf("the checksum list %s has no checksum of this image in it", quoteName(name)),
			Remedy: "get the list again, or remove it; the image is not imported before",
		}
	}
	p := openProblem(name, err)
	p.Text = "the checksum list " + p.Text
	if p.Code != CodeUnreadable || !p.Waits {
		p.Remedy = "make it a readable file, or remove it; the image is not imported before"
	}
	return p
}

// index gathers what all lists say.
func (in *inbox) index() {
	in.sums = make(map[string]sumsOf, in.sumCount)
	in.sidecars = map[string]*sumList{}
	in.badList = nil
	for _, l := range in.lists {
		for image, said := range l.sums {
			of := in.sums[image]
			switch {
			case of.Twice:
			case said.Twice:
				of = said // a list that contradicts itself is what the person must hear of
			default:
				// A fresh slice: the lists keep theirs.
				of.Sums = append(of.Sums[:len(of.Sums):len(of.Sums)], said.Sums...)
				sortSums(of.Sums)
			}
			in.sums[image] = of
		}
		switch {
		case l.problem == nil && !l.arriving:
		case l.image != "":
			if old := in.sidecars[l.image]; old == nil || worse(l, old) {
				in.sidecars[l.image] = l
			}
		case in.badList == nil || worse(l, in.badList):
			in.badList = l
		}
	}
}

// worse orders lists that hold: those with a problem before those that only arrive, then by name.
func worse(a, b *sumList) bool {
	if (a.problem != nil) != (b.problem != nil) {
		return a.problem != nil
	}
	return a.name < b.name
}
