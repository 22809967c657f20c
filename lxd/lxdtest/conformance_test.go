package lxdtest_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"isosyncd/lxd"
	"isosyncd/lxd/lxdtest"
)

// traits is where the servers differ, and may. Everything else is the same for all of them.
type traits struct {
	early    bool     // refuses before the first byte what the others refuse after the last one
	foreign  bool     // has volumes of other content types
	reads    bool     // gives the bytes of a volume back
	torn     bool     // killed while it creates a volume, it may show that with its full size and a part of its bytes
	waitSync bool     // answers a wait for a failed operation, or a wait that took too long, with type sync
	async    bool     // describes and deletes by operations
	renames  bool     // a renamed volume still has its bytes
	prefix   bool     // events have PROJECT_NAME instead of the name
	odd      []string // names that it takes
	bad      []string // names that it refuses, before or after the upload
}

var (
	longName = strings.Repeat("n", 200)

	traitsOf = map[lxdtest.Kind]traits{
		lxdtest.KindStore: {
			early: true, async: true, renames: true, prefix: true,
			odd: []string{"ü", "-dash", ".hid", "a%2fb", "?x&y=%41", "a+b", "$x`'\"*", "k.iso", "x.json", longName},
			bad: []string{"a b", "..", "sem-..", "back\\slash"},
		},
		lxdtest.KindStoreIncus: {
			early: true, reads: true, waitSync: true, renames: true,
			odd: []string{"a b", "..", "sem-..", "ü", "-dash", ".hid", "a%2fb", "back\\slash", "?x&y=%41", longName},
			bad: []string{"bell\x07"},
		},
		// Debian's Incus 6.0.4. What a later one does differently, the clients find out by api_extensions.
		lxdtest.KindIncus: {
			foreign: true, torn: true, prefix: true,
			odd: []string{"a b", "..", "sem-..", "ü", "-dash", ".hid", "a%2fb", "back\\slash", "?x&y=%41", longName},
			bad: []string{strings.Repeat("n", 304)},
		},
	}
)

// a case is a test of what every server has to do.
type testCase struct {
	name string
	run  func(t *testing.T, s *lxdtest.Server, tr traits)
	own  bool // needs a server of its own: it kills it
}

func cases() []testCase {
	return []testCase{
		{name: "import", run: testImport},
		{name: "sizes", run: testSizes},
		{name: "duplicate name", run: testDuplicate},
		{name: "bad names", run: testBadNames},
		{name: "odd names", run: testOddNames},
		{name: "missing pool", run: testMissingPool},
		{name: "missing project", run: testMissingProject},
		{name: "empty image", run: testEmpty},
		{name: "cut upload", run: testCutUpload},
		{name: "cut chunks", run: testCutChunks},
		{name: "whole chunks", run: testWholeChunks},
		{name: "concurrent imports", run: testConcurrent},
		{name: "describe", run: testDescribe},
		{name: "config is fixed", run: testConfigFixed},
		{name: "if-match", run: testIfMatch},
		{name: "copy", run: testCopy},
		{name: "delete", run: testDelete},
		{name: "in use", run: testInUse},
		{name: "rename", run: testRename},
		{name: "incarnation", run: testIncarnation},
		{name: "foreign content", run: testForeign},
		{name: "lists", run: testLists},
		{name: "projects", run: testProjects},
		{name: "shared project", run: testSharedProject},
		{name: "pools", run: testPools},
		{name: "space", run: testSpace},
		{name: "read back", run: testReadBack},
		{name: "no snapshots", run: testNoSnapshots},
		{name: "events", run: testEvents},
		{name: "wait", run: testWait},
		{name: "operation vanishes", run: testVanishes},
		{name: "running", run: testRunning},
		{name: "errors", run: testErrors},
		{name: "restart", run: testRestart, own: true},
		{name: "kill while uploading", run: testKillUpload, own: true},
		{name: "kill while creating", run: testKillCreate, own: true},
	}
}

// TestConformanceStore runs the suite against the embedded store, in both dialects.
func TestConformanceStore(t *testing.T) {
	t.Parallel()
	t.Run("lxd", func(t *testing.T) { conform(t, lxdtest.Store) })
	t.Run("incus", func(t *testing.T) { conform(t, lxdtest.StoreIncus) })
}

// TestConformanceIncus runs the suite against a real Incus.
func TestConformanceIncus(t *testing.T) {
	t.Parallel()
	conform(t, lxdtest.Incus)
}

func conform(t *testing.T, start func(testing.TB) *lxdtest.Server) {
	shared := start(t)
	tr := traitsOf[shared.Kind()]
	// The group ends before the server that its tests share.
	t.Run("server", func(t *testing.T) {
		for i, c := range cases() {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				if c.own {
					c.run(t, start(t), tr)
					return
				}
				c.run(t, shared.In(t, fmt.Sprintf("p%d", i), nil), tr)
			})
		}
	})
}

// put imports a file of size bytes, and waits for it.
func put(t *testing.T, p *lxd.Pool, name string, size int64) *os.File {
	t.Helper()
	f := lxdtest.File(t, size)
	if err := tryPut(t, p, name, f, size); err != nil {
		t.Fatalf("import %q: %v", name, err)
	}
	return f
}

func tryPut(t *testing.T, p *lxd.Pool, name string, f *os.File, size int64) error {
	t.Helper()
	ctx := lxdtest.Context(t)
	operation, err := p.Import(ctx, name, f, size, nil)
	if err != nil {
		return err
	}
	return p.Wait(ctx, operation)
}

// get asks for a volume that must be there.
func get(t *testing.T, p *lxd.Pool, name string) lxd.Volume {
	t.Helper()
	v, err := p.Volume(lxdtest.Context(t), name)
	if err != nil {
		t.Fatalf("volume %q: %v", name, err)
	}
	return v
}

// absent asks for a volume that must not be there.
func absent(t *testing.T, p *lxd.Pool, name string) {
	t.Helper()
	if v, err := p.Volume(lxdtest.Context(t), name); !errors.Is(err, lxd.ErrNotFound) {
		t.Fatalf("volume %q: %+v, %v; want none", name, v, err)
	}
}

// names lists the volumes.
func names(t *testing.T, p *lxd.Pool) []string {
	t.Helper()
	list, err := p.Volumes(lxdtest.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	n := []string{}
	for _, v := range list {
		n = append(n, v.Name)
	}
	return n
}

// sameBytes compares a volume to the file that it was made of.
func sameBytes(t *testing.T, s *lxdtest.Server, name string, f *os.File, size int64) {
	t.Helper()
	if lxdtest.SumFile(t, s.VolumeFile("default", s.Project(), name), size) != lxdtest.SumFile(t, f.Name(), size) {
		t.Fatalf("volume %q does not have the bytes of its file", name)
	}
}

// volumeURL is the path of a volume, with the server's project.
func volumeURL(s *lxdtest.Server, escaped string) string {
	return "/1.0/storage-pools/default/volumes/custom" + escaped + "?project=" + s.Project()
}

// raw makes a request past package lxd, waits for the operation if it began one, and returns the status: that of the
// operation's end, as package lxd would see it.
func raw(t *testing.T, s *lxdtest.Server, method, path string, body any) (status int, text string) {
	t.Helper()
	status, b, err := s.Do(method, path, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	e := envelope(t, b)
	if e.Type == "async" {
		var failed *lxd.Error
		switch err := s.Pool(t).Wait(lxdtest.Context(t), e.Operation); {
		case errors.As(err, &failed):
			return failed.Status, failed.Message
		case err != nil:
			t.Fatal(err)
		}
		return http.StatusOK, ""
	}
	return status, string(b)
}
