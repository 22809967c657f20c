package sync

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"isosyncd/lxd"
)

// isoImage makes the smallest image that the prober takes for whole: a primary descriptor, its terminator, a root
// directory, and n sectors in all; the seed makes its bytes its own.
func isoImage(sectors int, seed string) []byte {
	const sector = 2048
	b := make([]byte, sectors*sector)
	pvd := b[16*sector:]
	pvd[0] = 1
	copy(pvd[1:], "CD001\x01")
	copy(pvd[8:72], strings.Repeat(" ", 64))
	copy(pvd[40:], "TEST")
	binary.LittleEndian.PutUint32(pvd[80:], uint32(sectors))
	binary.BigEndian.PutUint32(pvd[84:], uint32(sectors))
	binary.LittleEndian.PutUint16(pvd[128:], sector)
	binary.BigEndian.PutUint16(pvd[130:], sector)
	root := pvd[156:]
	root[0] = 34
	binary.LittleEndian.PutUint32(root[2:], 18)
	binary.BigEndian.PutUint32(root[6:], 18)
	binary.LittleEndian.PutUint32(root[10:], sector)
	binary.BigEndian.PutUint32(root[14:], sector)
	root[25] = 2
	root[32] = 1
	end := b[17*sector:]
	end[0] = 255
	copy(end[1:], "CD001\x01")
	copy(b[18*sector:], root[:34])
	for i := 19 * sector; i < len(b); i += 32 {
		h := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(seed), uint64(i)))
		copy(b[i:], h[:])
	}
	return b
}

func hexOf(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// rig is a Syncer over a fake pool and a real folder.
type rig struct {
	*Syncer
	t      *testing.T
	remote *fakeRemote
	folder string
	cfg    Config
	stop   func()
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	r := &rig{t: t, remote: newFakeRemote(), folder: t.TempDir()}
	r.cfg = Config{
		Folder: r.folder, StateDir: filepath.Join(t.TempDir(), "state"), Owner: owner,
		Dial:        func(context.Context) (Remote, error) { return r.remote, nil },
		SettleDelay: 100 * time.Millisecond, ScanInterval: time.Minute, RefreshInterval: time.Minute, MaxUploads: 2,
		Policy: Policy{Replace: ReplaceStaged}, StatusFiles: StatusProblems,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&r.cfg)
	}
	return r
}

// start runs the Syncer until the test ends, or stop is called.
func (r *rig) start() *rig {
	r.t.Helper()
	var err error
	if r.Syncer, err = New(r.cfg); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := r.Syncer
	go func() { done <- s.Run(ctx) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Run: %v", err)
		}
		if err := s.Close(); err != nil {
			r.t.Errorf("Close: %v", err)
		}
	}
	r.t.Cleanup(r.stop)
	return r
}

func (r *rig) drop(name string, b []byte) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.folder, name), b, 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// until waits for a snapshot that satisfies ok.
func (r *rig) until(what string, ok func(*Snapshot) bool) *Snapshot {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	var last *Snapshot
	err := r.await(ctx, func(s *Snapshot) (bool, error) { last = s; return ok(s), nil })
	if err != nil {
		for _, f := range last.Files {
			r.t.Logf("file %s: %s, problem %v", f.Name, f.State, f.Problem)
		}
		for _, v := range last.Volumes {
			r.t.Logf("volume %s: ours %v, %q", v.Name, v.Ours, v.Description)
		}
		r.t.Fatalf("waited for %s: %v", what, err)
	}
	return last
}

func fileIn(s *Snapshot, name string) *FileStatus {
	for i := range s.Files {
		if s.Files[i].Name == name {
			return &s.Files[i]
		}
	}
	return nil
}

func (r *rig) untilState(name string, state State) *FileStatus {
	r.t.Helper()
	s := r.until(name+" is "+string(state), func(s *Snapshot) bool {
		f := fileIn(s, name)
		return f != nil && f.State == state
	})
	return fileIn(s, name)
}

// good fails unless the volume holds the bytes, carries our mark for them, and no stage is left.
func (r *rig) good(volume string, b []byte) {
	r.t.Helper()
	r.until("no stage", func(*Snapshot) bool { return !slices.ContainsFunc(r.remote.names(), IsStage) })
	v, content, there := r.remote.get(volume)
	m, ours := OurMark(v, owner)
	if !there || content != hexOf(b) || !ours || m.SHA256 != hexOf(b) {
		r.t.Fatalf("volume %s: there %v, right bytes %v, mark %v", volume, there, content == hexOf(b), m)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestImport(t *testing.T) {
	r := newRig(t, nil).start()
	a := isoImage(40, "a")
	r.drop("a.iso", a)
	f := r.untilState("a.iso", StatePresent)
	r.good("a", a)
	if f.Digest != hexOf(a) || f.Volume != "a" {
		t.Errorf("file status %+v", f)
	}
	if n := r.remote.count("import"); n != 1 {
		t.Errorf("%d uploads", n)
	}
	r.until("volume with its file", func(s *Snapshot) bool {
		return len(s.Volumes) == 1 && s.Volumes[0].File == "a.iso" && s.Volumes[0].Ours
	})
}

// TestUnchangedIsNotSentAgain: neither a restart nor the loss of the state directory costs an upload.
func TestUnchangedIsNotSentAgain(t *testing.T) {
	r := newRig(t, nil).start()
	a := isoImage(40, "a")
	r.drop("a.iso", a)
	r.untilState("a.iso", StatePresent)
	for _, lost := range []bool{false, true} {
		r.stop()
		if lost {
			if err := os.RemoveAll(r.cfg.StateDir); err != nil {
				t.Fatal(err)
			}
		}
		r.start()
		r.untilState("a.iso", StatePresent)
		if n := r.remote.count("import"); n != 1 {
			t.Errorf("state lost %v: %d uploads", lost, n)
		}
	}
	r.good("a", a)
}

func TestReplaceStaged(t *testing.T) {
	r := newRig(t, nil).start()
	r.drop("a.iso", isoImage(40, "a"))
	r.untilState("a.iso", StatePresent)
	b := isoImage(50, "b")
	r.drop("a.iso", b)
	r.untilHas("a.iso", b)
	r.good("a", b)
	if n := r.remote.count("import"); n != 2 {
		t.Errorf("%d uploads", n)
	}
}

// TestReplaceWithoutCopies: a pool that cannot copy is found out once, and the image is sent again.
func TestReplaceWithoutCopies(t *testing.T) {
	r := newRig(t, nil)
	r.remote.noCopy = true
	r.start()
	r.drop("a.iso", isoImage(40, "a"))
	r.untilState("a.iso", StatePresent)
	for i, b := range [][]byte{isoImage(50, "b"), isoImage(45, "c")} {
		r.drop("a.iso", b)
		r.untilHas("a.iso", b)
		r.good("a", b)
		if n := r.remote.count("copy"); n != 1 {
			t.Errorf("replacement %d: asked %d times to copy", i, n)
		}
	}
}

func TestReplaceInPlace(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Policy.Replace = ReplaceInPlace }).start()
	r.drop("a.iso", isoImage(40, "a"))
	r.untilState("a.iso", StatePresent)
	b := isoImage(50, "b")
	r.drop("a.iso", b)
	r.untilHas("a.iso", b)
	r.good("a", b)
	if held, err := r.spool.list(); err != nil || len(held) > 0 {
		t.Errorf("spool: %v, %v", held, err)
	}
}

func TestReplaceWaitsWhileInUse(t *testing.T) {
	r := newRig(t, nil).start()
	a := isoImage(40, "a")
	r.drop("a.iso", a)
	r.untilState("a.iso", StatePresent)
	use := func(by ...string) {
		r.remote.with(func() {
			v := r.remote.volumes["a"]
			v.UsedBy = by
			r.remote.volumes["a"] = v
		})
	}
	use("/1.0/profiles/default")
	r.until("use seen", func(s *Snapshot) bool { return len(s.Volumes) == 1 && len(s.Volumes[0].UsedBy) == 1 })
	b := isoImage(50, "b")
	r.drop("a.iso", b)
	f := r.untilState("a.iso", StateWaiting)
	if f.Problem.Code != CodeInUse || !strings.Contains(f.Problem.Text, "profile default") {
		t.Errorf("problem %v", f.Problem)
	}
	r.good("a", a)
	use()
	r.untilHas("a.iso", b)
	r.good("a", b)
	if n := r.remote.count("import"); n != 2 {
		t.Errorf("%d uploads", n)
	}
}

// TestInUseAtTheLastMoment: somebody attaches the volume between our look and our delete.
func TestInUseAtTheLastMoment(t *testing.T) {
	r := newRig(t, nil)
	once := true
	r.remote.before = func(call, name string) error {
		if call == "delete" && name == "a" && once {
			once = false
			return lxd.ErrInUse
		}
		return nil
	}
	r.start()
	r.drop("a.iso", isoImage(40, "a"))
	r.untilState("a.iso", StatePresent)
	b := isoImage(50, "b")
	r.drop("a.iso", b)
	r.untilHas("a.iso", b)
	r.good("a", b)
}

func TestForeignIsNeverTouched(t *testing.T) {
	r := newRig(t, nil)
	r.remote.with(func() { r.remote.put("a", "mine", "theirs", 7) })
	r.start()
	r.drop("a.iso", isoImage(40, "a"))
	f := r.untilState("a.iso", StateFailed)
	if f.Problem.Code != CodeForeign {
		t.Errorf("problem %v", f.Problem)
	}
	v, content, _ := r.remote.get("a")
	if v.Description != "mine" || content != "theirs" || r.remote.count("import")+r.remote.count("delete") > 0 {
		t.Errorf("touched: %+v", v)
	}
	b, err := os.ReadFile(filepath.Join(r.folder, "a.iso.failed"))
	for try := 0; err != nil && try < 600; try++ {
		time.Sleep(50 * time.Millisecond)
		b, err = os.ReadFile(filepath.Join(r.folder, "a.iso.failed"))
	}
	if err != nil || !strings.Contains(string(b), "not ours") {
		t.Errorf("status file: %q, %v", b, err)
	}
}

// TestForeignAppearsDuringUpload (S11): the server says "already exists" after the bytes; the volume is not ours.
func TestForeignAppearsDuringUpload(t *testing.T) {
	r := newRig(t, nil)
	r.remote.before = func(call, name string) error {
		if call == "import" {
			r.remote.put("a", "", "theirs", 40*2048)
		}
		return nil
	}
	r.start()
	r.drop("a.iso", isoImage(40, "a"))
	f := r.untilState("a.iso", StateFailed)
	if f.Problem.Code != CodeForeign {
		t.Errorf("problem %v", f.Problem)
	}
	if v, content, _ := r.remote.get("a"); content != "theirs" || v.Description != "" {
		t.Errorf("touched: %+v", v)
	}
}

func TestAdopt(t *testing.T) {
	r := newRig(t, nil)
	a := isoImage(40, "a")
	r.remote.with(func() { r.remote.put("a", "my words", hexOf(a), int64(len(a))) })
	r.start()
	r.drop("a.iso", a)
	r.untilState("a.iso", StateFailed)
	if err := r.Adopt(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	r.untilState("a.iso", StatePresent)
	r.good("a", a)
	v, _, _ := r.remote.get("a")
	if human, _, _ := ParseMark(v.Description); human != "my words" {
		t.Errorf("description %q", v.Description)
	}
	if err := r.Adopt(t.Context(), "nothing"); err == nil {
		t.Error("adopted a volume that is not there")
	}
}

func TestDeletedOnServer(t *testing.T) {
	r := newRig(t, nil).start()
	a := isoImage(40, "a")
	r.drop("a.iso", a)
	r.untilState("a.iso", StatePresent)
	r.remote.with(func() { delete(r.remote.volumes, "a") })
	f := r.untilState("a.iso", StateFailed)
	if f.Problem.Code != CodeRemoved {
		t.Errorf("problem %v", f.Problem)
	}
	if err := r.Retry(t.Context(), "a.iso"); err != nil {
		t.Fatal(err)
	}
	r.untilState("a.iso", StatePresent)
	r.good("a", a)
}

func TestSameBytesAreCopied(t *testing.T) {
	r := newRig(t, nil).start()
	a := isoImage(40, "a")
	r.drop("a.iso", a)
	r.untilState("a.iso", StatePresent)
	if err := os.Rename(filepath.Join(r.folder, "a.iso"), filepath.Join(r.folder, "b.iso")); err != nil {
		t.Fatal(err)
	}
	r.untilState("b.iso", StatePresent)
	r.good("b", a)
	r.good("a", a)
	if n := r.remote.count("import"); n != 1 {
		t.Errorf("%d uploads", n)
	}
}

func TestConsume(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Policy.Consume = true }).start()
	a := isoImage(40, "a")
	r.drop("a.iso", a)
	r.until("the file is gone", func(s *Snapshot) bool {
		return len(s.Files) == 0 && len(s.Volumes) == 1 && s.Volumes[0].Ours
	})
	r.good("a", a)
	if _, err := os.Stat(filepath.Join(r.folder, "a.iso")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("file: %v", err)
	}
}

func TestRemoveAndRename(t *testing.T) {
	r := newRig(t, nil).start()
	a := isoImage(40, "a")
	r.drop("a.iso", a)
	r.untilState("a.iso", StatePresent)
	if err := r.Rename(t.Context(), "a", "b"); err != nil {
		t.Fatal(err)
	}
	r.good("b", a)
	if _, _, there := r.remote.get("a"); there {
		t.Error("the old name is still there")
	}
	if f, err := r.Open("b"); err != nil {
		t.Error(err)
	} else {
		_ = f.Close()
	}
	if err := r.Remove(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if len(r.remote.names()) > 0 {
		t.Errorf("left: %v", r.remote.names())
	}
	if _, err := os.Stat(filepath.Join(r.folder, "b.iso")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("file: %v", err)
	}
	var p *Problem
	if err := r.Remove(t.Context(), "b"); !errors.As(err, &p) || p.Code != CodeName {
		t.Errorf("removing it again: %v", err)
	}
	if n := r.remote.count("import"); n != 1 {
		t.Errorf("%d uploads", n)
	}
}

// TestAwayIsOneCondition: a server that is away is said once, costs no failures, and everything goes on by itself.
func TestAwayIsOneCondition(t *testing.T) {
	r := newRig(t, nil)
	r.remote.away = true
	r.start()
	a, b := isoImage(40, "a"), isoImage(40, "b")
	r.drop("a.iso", a)
	r.drop("b.iso", b)
	for _, name := range []string{"a.iso", "b.iso"} {
		if f := r.untilState(name, StateWaiting); f.Problem.Code != CodeAway || f.Attempts > 0 {
			t.Errorf("%s: %+v", name, f)
		}
	}
	r.remote.with(func() { r.remote.away = false })
	r.Refresh()
	r.untilState("a.iso", StatePresent)
	r.untilState("b.iso", StatePresent)
	r.good("a", a)
	r.good("b", b)
}

// TestLostReply (S3): the server made the volume, and its answer got lost.
func TestLostReply(t *testing.T) {
	r := newRig(t, nil)
	lost := 0
	r.remote.after = func(call, name string) error {
		if call == "import" && lost < 1 {
			lost++
			return lxd.ErrAway
		}
		return nil
	}
	r.start()
	a := isoImage(40, "a")
	r.drop("a.iso", a)
	r.untilState("a.iso", StatePresent)
	r.good("a", a)
	if n := r.remote.count("import"); n != 2 {
		t.Errorf("%d uploads", n)
	}
}

func TestRefusedForGoodIsNotTriedAgain(t *testing.T) {
	r := newRig(t, nil)
	r.remote.before = func(call, name string) error {
		if call == "import" && name == "a" {
			return &lxd.Error{Op: "import a", Status: 400, Message: "Invalid \x1b[31mname"}
		}
		return nil
	}
	r.start()
	r.drop("a.iso", isoImage(40, "a"))
	r.drop("b.iso", isoImage(40, "b"))
	f := r.untilState("a.iso", StateFailed)
	if f.Problem.Code != CodeRefused || strings.Contains(f.Problem.Text, "\x1b") {
		t.Errorf("problem %q", f.Problem.Text)
	}
	r.untilState("b.iso", StatePresent)
	r.Rescan()
	if n := r.remote.count("import"); n != 2 {
		t.Errorf("%d uploads", n)
	}
}

// TestFolderGoneDeletesNothing (D4, I6), with prune on.
func TestFolderGoneDeletesNothing(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Policy.Prune = true }).start()
	a := isoImage(40, "a")
	r.drop("a.iso", a)
	r.untilState("a.iso", StatePresent)
	aside := r.folder + ".aside"
	if err := os.Rename(r.folder, aside); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(aside) })
	r.Rescan()
	r.until("the folder is missed", func(s *Snapshot) bool { return s.Problem != nil })
	if err := os.Mkdir(r.folder, 0o755); err != nil {
		t.Fatal(err)
	}
	r.Rescan()
	r.until("another folder is seen", func(s *Snapshot) bool { return s.Problem == nil && len(s.Files) == 0 })
	r.good("a", a)
	if n := r.remote.count("delete"); n > 0 {
		t.Errorf("%d deletes", n)
	}
}

func TestStateDirIsLocked(t *testing.T) {
	r := newRig(t, nil).start()
	if _, err := New(r.cfg); !errors.Is(err, ErrLocked) {
		t.Errorf("a second one: %v", err)
	}
}

func TestReadJournal(t *testing.T) {
	r := newRig(t, nil).start()
	r.drop("a.iso", isoImage(40, "a"))
	r.untilState("a.iso", StatePresent)
	if _, err := ReadJournal(r.cfg.StateDir); !errors.Is(err, ErrLocked) {
		t.Errorf("while it runs: %v", err)
	}
	r.stop()
	s, err := ReadJournal(r.cfg.StateDir)
	if err != nil || len(s.Files) != 1 || s.Files[0].State != StatePresent {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestSubmitWhileAway: what is to be safe on the local disk only may wait for a server that is away; what is to be a volume
// is refused, and nothing is left behind.
func TestSubmitWhileAway(t *testing.T) {
	r := newRig(t, nil)
	r.remote.away = true
	r.start()
	r.until("away", func(s *Snapshot) bool { return s.Server.Problem != nil })
	submit := func(name string, wait Wait) error {
		draft, err := r.NewDraft("")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := draft.Write(isoImage(40, name)); err != nil {
			t.Fatal(err)
		}
		return r.Submit(t.Context(), draft, name, wait)
	}
	var p *Problem
	if err := submit("now.iso", WaitImport); !errors.As(err, &p) || p.Code != CodeAway {
		t.Errorf("to be imported now: %v", err)
	}
	if err := submit("later.iso", WaitStaged); err != nil {
		t.Errorf("to be staged: %v", err)
	}
	r.remote.with(func() { r.remote.away = false })
	r.Refresh()
	r.untilState("later.iso", StatePresent)
	r.good("later", isoImage(40, "later.iso"))
	r.until("nothing but the image in the folder", func(*Snapshot) bool {
		names, err := os.ReadDir(r.folder)
		if err != nil {
			t.Fatal(err)
		}
		r.Rescan() // the note that the server is away goes with a scan
		return len(names) == 1
	})
}

// TestQuiet: a snapshot that only says how new it is must not be made while another one is due, or its counters would
// speak of scans whose files it does not show.
func TestQuiet(t *testing.T) {
	d := newDecider(&Syncer{}, nil)
	now := time.Now()
	if d.quiet(now) {
		t.Error("quiet before the first snapshot")
	}
	d.told = true
	if !d.quiet(now) {
		t.Error("not quiet, with nothing due")
	}
	d.planDue.at(now.Add(time.Minute)) // of a retry
	if !d.quiet(now) {
		t.Error("not quiet, with something due much later")
	}
	d.changed()
	if d.quiet(now) {
		t.Error("quiet, with a plan due")
	}
	d.planDue.due = time.Time{}
	if d.quiet(now) {
		t.Error("quiet, with a snapshot due")
	}
}
