package store_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"isosyncd/lxd/lxdtest"
	"isosyncd/store"
)

// The environment of the process that is killed: its store, its script, and at which point it kills itself, 0 = at none.
const (
	victimDir    = "STORE_VICTIM_DIR"
	victimScript = "STORE_VICTIM_SCRIPT"
	victimPoint  = "STORE_VICTIM_POINT"
)

const victimSize = 200_000

// script is what the victim does, one line after the other: "import N", "copy N M", "describe N text", "rename N M",
// "delete N".
var script = []string{
	"import a", "describe a one", "copy a b", "describe b two", "rename b c", "delete a", "import a", "import d", "rename d b",
	"delete c", "delete b", "copy a c",
}

// TestVictim is the process that the tests below kill. It tells what it begins and what it has done.
func TestVictim(t *testing.T) {
	dir := os.Getenv(victimDir)
	if dir == "" {
		return
	}
	at, err := strconv.Atoi(os.Getenv(victimPoint))
	if err != nil {
		t.Fatal(err)
	}
	passed := 0
	s := serve(t, dir, store.Options{Gate: func(store.Point, string, <-chan struct{}) error {
		// Operations come one after the other here.
		if passed++; passed == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}})
	f := lxdtest.File(t, victimSize)
	fmt.Printf("sum %x\n", lxdtest.SumFile(t, f.Name(), victimSize))
	rounds := 1
	if os.Getenv(victimScript) == "forever" {
		rounds = 1 << 30
	}
	ctx := context.Background()
	for range rounds {
		for _, line := range script {
			fmt.Println("begin", line)
			word := strings.Fields(line)
			if err := obey(ctx, s, word, f); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			fmt.Println("done", line)
		}
		for _, n := range names(t, s.pool) {
			fmt.Println("begin delete", n)
			if err := s.pool.Delete(ctx, n); err != nil {
				t.Fatal(err)
			}
			fmt.Println("done delete", n)
		}
	}
	fmt.Println("passed", passed)
}

func obey(ctx context.Context, s *served, word []string, f *os.File) error {
	p := s.pool
	var operation string
	var err error
	switch word[0] {
	case "import":
		operation, err = p.Import(ctx, word[1], f, victimSize, nil)
	case "copy":
		operation, err = p.Copy(ctx, word[1], word[2], "")
	case "describe":
		return p.Describe(ctx, word[1], word[2])
	case "delete":
		return p.Delete(ctx, word[1])
	case "rename":
		operation, err = s.request(ctx, http.MethodPost, "/1.0/storage-pools/default/volumes/custom/"+word[1], `{"name":"`+word[2]+`"}`)
	}
	if err == nil {
		err = p.Wait(ctx, operation)
	}
	return err
}

// model is what must be there: name to description. maybe has what a line that was begun and not done may have changed.
type model struct {
	have, maybe map[string]string
}

func newModel() *model { return &model{have: map[string]string{}, maybe: map[string]string{}} }

func clone(m map[string]string) map[string]string {
	c := map[string]string{}
	for k, v := range m {
		c[k] = v
	}
	return c
}

func (m *model) read(line string) {
	word := strings.Fields(line)
	switch word[0] {
	case "begin":
		m.maybe = clone(m.have)
		switch a := word[2]; word[1] {
		case "import":
			m.maybe[a] = ""
		case "copy":
			m.maybe[word[3]] = m.have[a]
		case "describe":
			m.maybe[a] = word[3]
		case "rename":
			m.maybe[word[3]] = m.have[a]
			delete(m.maybe, a)
		case "delete":
			delete(m.maybe, a)
		}
	case "done":
		m.have = m.maybe
	}
}

// victim runs until it is killed or done, and returns what it knew, the digest of its volumes, and how many points it
// passed, 0 = it was killed. after is when it is killed from outside; 0 = never.
func victim(t *testing.T, dir, how string, at int, after time.Duration) (m *model, sum string, passed int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestVictim$")
	cmd.Env = append(os.Environ(), victimDir+"="+dir, victimScript+"="+how, victimPoint+"="+strconv.Itoa(at))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if after > 0 {
		kill := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
	}
	m = newModel()
	var rest []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "sum "):
			sum = line[4:]
		case strings.HasPrefix(line, "passed "):
			passed, _ = strconv.Atoi(line[7:])
		case strings.HasPrefix(line, "begin "), strings.HasPrefix(line, "done "):
			m.read(line)
		default:
			rest = append(rest, line)
		}
	}
	if err := cmd.Wait(); err != nil && cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the victim failed by itself: %v\n%s\n%s", err, strings.Join(rest, "\n"), stderr.String())
	}
	return m, sum, passed
}

// inspect opens the store after a crash: it must be what the victim knew, or that with its last line done, and nothing
// else may lie around.
func inspect(t *testing.T, dir string, m *model, sum string) {
	t.Helper()
	s := serve(t, dir, store.Options{})
	defer s.stop()
	list, err := s.pool.Volumes(lxdtest.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	want := []string{}
	for _, v := range list {
		have[v.Name] = v.Description
		path, err := s.store.VolumePath("default", "default", v.Name)
		if err != nil {
			t.Fatal(err)
		}
		got := lxdtest.SumFile(t, path, victimSize)
		info, err := os.Stat(path)
		if err != nil || v.Size != victimSize || info.Size() != victimSize || hex.EncodeToString(got[:]) != sum {
			t.Errorf("volume %q is torn: %+v, %v, %v", v.Name, v, info, err)
		}
		want = append(want, "pools/default/default/"+v.Name+".iso", "pools/default/default/"+v.Name+".json")
	}
	if !equal(have, m.have) && !equal(have, m.maybe) {
		t.Errorf("there is %v; want %v, or %v", have, m.have, m.maybe)
	}
	slices.Sort(want)
	if got := files(t, dir); !slices.Equal(got, want) {
		t.Errorf("files: %q, want %q", got, want)
	}
}

func equal(a, b map[string]string) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

// TestCrashMatrix kills the process at every point that it passes, one after the other.
func TestCrashMatrix(t *testing.T) {
	t.Parallel()
	_, _, points := victim(t, t.TempDir(), "once", 0, 0)
	if points < 2*len(script) {
		t.Fatalf("the script passes %d points only", points)
	}
	for at := 1; at <= points; at++ {
		t.Run(strconv.Itoa(at), func(t *testing.T) {
			dir := t.TempDir()
			m, sum, passed := victim(t, dir, "once", at, 0)
			if passed != 0 {
				t.Fatal("it was not killed")
			}
			inspect(t, dir, m, sum)
		})
	}
}

// TestCrashAnywhere kills the process at no point in particular, several times over the same store.
func TestCrashAnywhere(t *testing.T) {
	t.Parallel()
	const rounds = 12
	for i := range rounds {
		dir := t.TempDir()
		after := 50*time.Millisecond + time.Duration(rand.Int64N(int64(300*time.Millisecond)))
		m, sum, _ := victim(t, dir, "forever", 0, after)
		if sum == "" {
			continue // it was killed before it began
		}
		inspect(t, dir, m, sum)
		if t.Failed() {
			t.Logf("round %d, killed after %v", i, after)
		}
	}
}
