package sync

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	gosync "sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"isosyncd/lxd"
	"isosyncd/lxd/lxdtest"
)

// TestWriterRaces (D1, D2, I8): while the bytes of a file move, somebody replaces, rewrites, patches, appends to,
// truncates, renames, deletes or touches it. Whatever comes of it, no marked volume ever holds other bytes than its mark
// says, no volume without a mark stays, and the last whole content gets there.
func TestWriterRaces(t *testing.T) {
	inMemory(t)
	type row struct {
		name          string
		start         func(testing.TB) *lxdtest.Server
		leases, early bool // early: the file is still open when its writer comes, and is sent all the same
		files, rounds int
	}
	rows := []row{
		{"store with leases", lxdtest.Store, true, false, 5, 21},
		{"store without leases", lxdtest.Store, false, false, 5, 21},
		{"store early", lxdtest.Store, true, true, 5, 21},
		{"incus", lxdtest.Incus, true, false, 3, 6},
		{"incus early", lxdtest.Incus, true, true, 3, 6},
	}
	together(t, len(rows), rows, func(r row) string { return r.name }, func(t *testing.T, row row) {
		s := row.start(t)
		race := &writerRace{
			t: t, server: s, pool: s.Pool(t), early: row.early, runs: map[string]*racingFile{}, seed: seedOf(t), counts: map[string]int{},
		}
		target := s.Target()
		target.Addr = newTap(t, s.Addr(), race.moving).addr
		race.rig = newRigTo(t, &target, "default", func(c *Config) {
			c.NoLeases = !row.leases
			c.MaxUploads = row.files
			if row.early {
				c.Policy.EarlyFrom = 1
			}
		})
		race.start()
		stop := audit(t, s, race.pool)
		var wg gosync.WaitGroup
		for i := range row.files {
			wg.Go(func() { race.drive(i, row.rounds) })
		}
		wg.Wait()
		read := len(stop())
		t.Logf("%d runs, %d of them met in mid-upload, %d volumes read; %v", row.files*row.rounds, race.met.Load(), read, race.counts)
		if race.met.Load() < int64(row.files*row.rounds)/2 {
			t.Error("most of the writers were not there during the upload: this shows nothing")
		}
		if read < row.files {
			t.Errorf("only %d volumes were read", read)
		}
	})
}

// TestShrinksWhileSent: without leases nothing tells of a writer but the bytes that are not there any more. That is no
// failure, least of all of the server's.
func TestShrinksWhileSent(t *testing.T) {
	inMemory(t)
	s := lxdtest.Store(t)
	target := s.Target()
	data := image(8<<10, seedOf(t)) // far more than what is on its way in socket buffers
	var path string
	var once gosync.Once
	target.Addr = newTap(t, s.Addr(), func(_ context.Context, _ string, at int64) {
		if at > 1<<20 {
			once.Do(func() {
				if err := os.Truncate(path, 2<<20); err != nil {
					t.Errorf("truncate: %v", err)
				}
			})
		}
	}).addr
	r := newRigTo(t, &target, "default", func(c *Config) { c.NoLeases = true })
	path = filepath.Join(r.folder, "a.iso")
	r.start()
	r.drop("a.iso", data)
	f := r.untilState("a.iso", StateWaiting)
	if f.Problem.Code != CodeIncomplete {
		t.Errorf("problem %v", f.Problem)
	}
	if n := r.Snapshot().Totals.Failures; n > 0 {
		t.Errorf("%d failures", n)
	}
	r.drop("a.iso", data)
	r.untilHas("a.iso", data)
}

// writerRace is many files of one Syncer, each with a writer of its own.
type writerRace struct {
	*rig
	t      *testing.T
	server *lxdtest.Server
	pool   *lxd.Pool
	seed   uint64
	early  bool
	met    atomic.Int64 // writers that acted in the middle of an upload

	mu     gosync.Mutex
	runs   map[string]*racingFile // guarded by mu; by the volume that is uploaded
	counts map[string]int         // guarded by mu; kinds of writers
}

// racingFile is one file, and what is to be done to it in the middle of its next upload.
type racingFile struct {
	path string
	at   int64 // bytes of the upload that move before
	once gosync.Once
	act  func()
	done chan struct{} // closed when act is done
}

// moving is the tap's hook.
func (w *writerRace) moving(ctx context.Context, volume string, at int64) {
	w.mu.Lock()
	f := w.runs[volume]
	w.mu.Unlock()
	if f == nil || at < f.at {
		return
	}
	f.once.Do(func() {
		// Half of the writers wait until all was hashed: whoever trusts that digest from then on is wrong.
		if f.at%2 == 0 {
			w.untilHashed(ctx, f.path)
		}
		w.met.Add(1)
		f.act()
		close(f.done)
	})
}

func (w *writerRace) untilHashed(ctx context.Context, path string) {
	for try := 0; ctx.Err() == nil && try < 1000; try++ {
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			return
		}
		if _, hashed := w.journal.digest(statOf(&st).id); hashed {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// outcome is what must be there in the end.
type outcome struct {
	data []byte // of the file; nil = it has no whole one
	code Code   // of its problem, if it has none; "" = the file is gone
}

// drive lets one file go through its rounds.
func (w *writerRace) drive(n, rounds int) {
	rng := rand.New(rand.NewPCG(w.seed, uint64(n))) //nolint:gosec // not for secrets
	for round := range rounds {
		kind, err := w.run(n, round, rng)
		if err != nil {
			w.t.Errorf("file %d, round %d, %s: %v", n, round, kind, err)
			return
		}
	}
}

// run is one round: a file is dropped, and a writer comes while it is uploaded.
func (w *writerRace) run(n, round int, rng *rand.Rand) (kind string, err error) {
	volume, sectors := fmt.Sprintf("f%d", n), 64+4*rng.IntN(120)
	if w.early { // only what is new by name and by size is sent early; no writer makes as many sectors more as there are between
		volume, sectors = fmt.Sprintf("f%d-%d", n, round), 64+600*n+12*round
	}
	name := volume + ".iso"
	path := filepath.Join(w.folder, name)
	_ = os.Remove(path) // a link or a cut file of the round before
	data := image(sectors, rng.Uint64())
	f := &racingFile{path: path, at: rng.Int64N(int64(len(data))), done: make(chan struct{})}
	if w.early {
		f.at |= 1 // nothing is hashed before the file is closed
	}
	writer := writers[rng.IntN(len(writers))]
	seed := rng.Uint64()
	var want outcome
	var werr error
	f.act = func() { want, werr = writer.act(path, data, rand.New(rand.NewPCG(seed, 1))) } //nolint:gosec // not for secrets
	w.mu.Lock()
	w.counts[writer.name]++
	w.runs[volume], w.runs[StageName(hexOf(data))] = f, f
	w.mu.Unlock()
	open, err := os.Create(path)
	if err != nil {
		return writer.name, err
	}
	defer func() { _ = open.Close() }() // the second time
	if _, err := open.Write(data); err != nil {
		return writer.name, err
	}
	if !w.early { // else nothing but an early upload may touch it before the writer came
		_ = open.Close()
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), lxdtest.Limit)
	defer cancel()
	select {
	case <-f.done:
	case <-ctx.Done():
		return writer.name, fmt.Errorf("no upload began: %w", ctx.Err())
	}
	_ = open.Close()
	w.mu.Lock()
	delete(w.runs, volume)
	delete(w.runs, StageName(hexOf(data)))
	w.mu.Unlock()
	if werr != nil {
		return writer.name, werr
	}
	return writer.name, w.converge(ctx, name, volume, want)
}

// converge waits for what must be there, and looks at the server's bytes.
func (w *writerRace) converge(ctx context.Context, name, volume string, want outcome) error {
	digest := ""
	if want.data != nil {
		digest = hexOf(want.data)
	}
	var last *FileStatus
	err := w.await(ctx, func(s *Snapshot) (bool, error) {
		last = fileIn(s, name)
		switch {
		case want.data != nil:
			return last != nil && last.State == StatePresent && last.Digest == digest, nil
		case want.code != "":
			return last != nil && last.Problem != nil && last.Problem.Code == want.code, nil
		}
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("want %s, have %+v: %w", digest+string(want.code), last, err)
	}
	// What an upload left that was broken off is cleared away by the next plans.
	for w.journal.record(volume).Intent != nil && want.data != nil {
		if err := w.await(ctx, next(w.Snapshot())); err != nil {
			return fmt.Errorf("intent %+v is left: %w", w.journal.record(volume).Intent, err)
		}
	}
	if want.data == nil {
		return w.noneTorn(ctx, volume)
	}
	v, err := w.pool.Volume(ctx, volume)
	if err != nil {
		return err
	}
	got, err := os.ReadFile(volumeFile(w.server, volume))
	if m, ours := OurMark(v, owner); err != nil || !ours || m.SHA256 != digest || hexOf(got) != digest {
		return fmt.Errorf("volume %+v has the bytes %s, want %s (%w)", v, hexOf(got), digest, err)
	}
	return nil
}

// noneTorn waits until the volume of a file without whole content is gone, or is the good one of an earlier round.
func (w *writerRace) noneTorn(ctx context.Context, volume string) error {
	for {
		v, err := w.pool.Volume(ctx, volume)
		if _, ours := OurMark(v, owner); ours || errors.Is(err, lxd.ErrNotFound) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("a volume without a mark stays: %+v (%w)", v, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// next is for await: any snapshot but this one.
func next(old *Snapshot) func(*Snapshot) (bool, error) {
	return func(s *Snapshot) (bool, error) { return s != old, nil }
}

// racingWriter is what somebody does to a file. It returns what must come of it.
type racingWriter struct {
	name string
	act  func(path string, data []byte, rng *rand.Rand) (outcome, error)
}

var writers = []racingWriter{
	{"nothing", func(_ string, data []byte, _ *rand.Rand) (outcome, error) { return outcome{data: data}, nil }},
	{"touch", func(path string, data []byte, _ *rand.Rand) (outcome, error) {
		now := time.Now()
		return outcome{data: data}, os.Chtimes(path, now, now)
	}},
	{"replace by rename", func(path string, data []byte, rng *rand.Rand) (outcome, error) {
		other := image(len(data)/2048, rng.Uint64())                     // the same size: only the bytes differ
		if err := os.WriteFile(path+".part", other, 0o644); err != nil { //nolint:gosec // as others do
			return outcome{}, err
		}
		return outcome{data: other}, os.Rename(path+".part", path)
	}},
	{"rewrite", func(path string, data []byte, rng *rand.Rand) (outcome, error) {
		other := image(len(data)/2048+4*rng.IntN(3), rng.Uint64())
		return outcome{data: other}, os.WriteFile(path, other, 0o644) //nolint:gosec // as others do
	}},
	{"patch", patch},
	{"patch and turn the time back", func(path string, data []byte, rng *rand.Rand) (outcome, error) {
		st, err := os.Stat(path)
		if err != nil {
			return outcome{}, err
		}
		out, err := patch(path, data, rng)
		if err != nil {
			return outcome{}, err
		}
		return out, os.Chtimes(path, st.ModTime(), st.ModTime())
	}},
	{"append", func(path string, data []byte, rng *rand.Rand) (outcome, error) {
		more := image(64, rng.Uint64())
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return outcome{}, err
		}
		_, err = f.Write(more)
		return outcome{data: append(append([]byte(nil), data...), more...)}, errors.Join(err, f.Close())
	}},
	{"truncate", func(path string, data []byte, rng *rand.Rand) (outcome, error) {
		return outcome{code: CodeIncomplete}, os.Truncate(path, int64(len(data)/2+rng.IntN(len(data)/2)))
	}},
	{"truncate and write again", func(path string, data []byte, _ *rand.Rand) (outcome, error) {
		if err := os.Truncate(path, int64(len(data)/2)); err != nil {
			return outcome{}, err
		}
		return outcome{data: data}, os.WriteFile(path, data, 0o644) //nolint:gosec // as others do
	}},
	{"delete", func(path string, _ []byte, _ *rand.Rand) (outcome, error) { return outcome{}, os.Remove(path) }},
	{"move away", func(path string, _ []byte, _ *rand.Rand) (outcome, error) {
		return outcome{}, os.Rename(path, path+".old")
	}},
	{"move away and back", func(path string, data []byte, _ *rand.Rand) (outcome, error) {
		if err := os.Rename(path, path+".old"); err != nil {
			return outcome{}, err
		}
		return outcome{data: data}, os.Rename(path+".old", path)
	}},
	{"replace by a link", func(path string, data []byte, rng *rand.Rand) (outcome, error) {
		if err := os.WriteFile(path+".old", image(len(data)/2048, rng.Uint64()), 0o644); err != nil { //nolint:gosec // as others do
			return outcome{}, err
		}
		_ = os.Remove(path + ".link")
		if err := os.Symlink(path+".old", path+".link"); err != nil {
			return outcome{}, err
		}
		return outcome{code: CodeNotRegular}, os.Rename(path+".link", path)
	}},
}

// patch changes some bytes in the middle of a file.
func patch(path string, data []byte, rng *rand.Rand) (outcome, error) {
	const head = 19 * 2048
	changed := append([]byte(nil), data...)
	at := head + rng.IntN(len(data)-head-4096)
	copy(changed[at:], image(21, rng.Uint64())[head:])
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return outcome{}, err
	}
	_, err = f.WriteAt(changed[at:at+4096], int64(at))
	return outcome{data: changed}, errors.Join(err, f.Close())
}
