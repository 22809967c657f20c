package lxdtest_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"isosyncd/lxd"
	"isosyncd/lxd/lxdtest"
)

func testImport(t *testing.T, s *lxdtest.Server, _ traits) {
	p := s.Pool(t)
	const size = 3_000_001 // no multiple of anything
	f := lxdtest.File(t, size)
	var last int64
	operation, err := p.Import(lxdtest.Context(t), "debian-13", f, size, func(sent int64) { last = sent })
	if err != nil {
		t.Fatal(err)
	}
	if last != size {
		t.Errorf("progress ended at %d of %d bytes", last, size)
	}
	if err := p.Wait(lxdtest.Context(t), operation); err != nil {
		t.Fatal(err)
	}
	v := get(t, p, "debian-13")
	if v.Size != size || v.ContentType != "iso" || v.Description != "" || len(v.UsedBy) != 0 || v.CreatedAt.IsZero() {
		t.Errorf("the volume is %+v", v)
	}
	list, err := p.Volumes(lxdtest.Context(t))
	if err != nil || len(list) != 1 || list[0].Name != "debian-13" || list[0].Size != size {
		t.Errorf("the list is %+v, %v", list, err)
	}
	sameBytes(t, s, "debian-13", f, size)
}

func testSizes(t *testing.T, s *lxdtest.Server, _ traits) {
	p := s.Pool(t)
	for _, size := range []int64{1, 511, 2048, 8192, 1<<20 - 1, 1 << 20, 1<<20 + 1, 5<<20 + 3} {
		name := fmt.Sprintf("v%d", size)
		f := put(t, p, name, size)
		if v := get(t, p, name); v.Size != size {
			t.Errorf("a volume of %d bytes has %d", size, v.Size)
		}
		sameBytes(t, s, name, f, size)
	}
}

func testDuplicate(t *testing.T, s *lxdtest.Server, tr traits) {
	p := s.Pool(t)
	f := put(t, p, "v", 100_000)
	before := get(t, p, "v")
	g := lxdtest.File(t, 50_000)
	operation, err := p.Import(lxdtest.Context(t), "v", g, 50_000, nil)
	if tr.early != (err != nil) {
		t.Errorf("the upload of a second one ended with %v", err)
	}
	if err == nil {
		err = p.Wait(lxdtest.Context(t), operation)
	}
	var refused *lxd.Error
	if !errors.As(err, &refused) || lxd.IsPermanent(err) {
		t.Errorf("a second one of that name: %v; want a refusal that may end", err)
	}
	if after := get(t, p, "v"); after.Incarnation() != before.Incarnation() || after.Size != before.Size {
		t.Errorf("the first one became %+v, was %+v", after, before)
	}
	sameBytes(t, s, "v", f, 100_000)
}

func testBadNames(t *testing.T, s *lxdtest.Server, tr traits) {
	p := s.Pool(t)
	f := lxdtest.File(t, 1000)
	for _, name := range append(slices.Clone(tr.bad), "", "sem/x", " x", "x\ny") {
		var refused *lxd.Error
		if err := tryPut(t, p, name, f, 1000); !errors.As(err, &refused) {
			t.Errorf("name %q: %v; want a refusal", name, err)
		}
	}
	// Past our own client's look at the name.
	for _, name := range []string{"", "sem/x"} {
		status, text := rawImport(t, s, name, "iso", 1000)
		if status < 400 {
			t.Errorf("name %q: %d %s", name, status, text)
		}
	}
	if n := names(t, p); len(n) != 0 {
		t.Errorf("there are volumes now: %q", n)
	}
}

func testOddNames(t *testing.T, s *lxdtest.Server, tr traits) {
	p := s.Pool(t)
	want := slices.Clone(tr.odd)
	for i, name := range tr.odd {
		size := int64(1000 + i)
		f := lxdtest.File(t, size)
		if err := tryPut(t, p, name, f, size); err != nil {
			t.Errorf("import %q: %v", name, err)
			continue
		}
		sameBytes(t, s, name, f, size)
		if err := p.Describe(lxdtest.Context(t), name, "this is "+name); err != nil {
			t.Errorf("describe %q: %v", name, err)
		}
		if v := get(t, p, name); v.Size != size || v.Description != "this is "+name || v.Name != name {
			t.Errorf("volume %q is %+v", name, v)
		}
	}
	slices.Sort(want)
	have := names(t, p)
	slices.Sort(have)
	if !slices.Equal(have, want) {
		t.Errorf("the list has %q, want %q", have, want)
	}
	for _, name := range tr.odd {
		var err error
		if name == ".." {
			// Our client does not delete what a path could lead past.
			if status, text := raw(t, s, http.MethodDelete, volumeURL(s, "/%2E%2E"), nil); status != http.StatusOK {
				err = fmt.Errorf("%d %s", status, text)
			}
		} else {
			err = p.Delete(lxdtest.Context(t), name)
		}
		if err != nil {
			t.Errorf("delete %q: %v", name, err)
		}
	}
	if n := names(t, p); len(n) != 0 {
		t.Errorf("left after all was deleted: %q", n)
	}
}

func testMissingPool(t *testing.T, s *lxdtest.Server, tr traits) {
	_, err := s.Client(t).Pool(lxdtest.Context(t), "nowhere")
	if !errors.Is(err, lxd.ErrNotFound) || !strings.Contains(err.Error(), "default") {
		t.Errorf("a pool that is not there: %v; want ErrNotFound and the pools that are", err)
	}
	status, text, err := s.Do(http.MethodGet, "/1.0/storage-pools/nowhere/volumes/custom", nil)
	if err != nil || status != http.StatusNotFound {
		t.Errorf("list: %d %s %v", status, text, err)
	}
	status, said := rawImportTo(t, s, "/1.0/storage-pools/nowhere/volumes/custom", "v", "iso", 1000)
	if tr.early && status != http.StatusNotFound || status < 400 {
		t.Errorf("import: %d %s", status, said)
	}
}

func testMissingProject(t *testing.T, s *lxdtest.Server, _ traits) {
	target := s.Target()
	target.Project = "nowhere"
	c, err := lxd.Dial(lxdtest.Context(t), target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Pool(lxdtest.Context(t), "default"); !errors.Is(err, lxd.ErrNotFound) {
		t.Errorf("a project that is not there: %v", err)
	}
	if status, text := rawImportTo(t, s, "/1.0/storage-pools/default/volumes/custom?project=nowhere", "v", "iso", 1000); status != http.StatusNotFound {
		t.Errorf("import: %d %s", status, text)
	}
}

func testEmpty(t *testing.T, s *lxdtest.Server, _ traits) {
	if status, text := rawImport(t, s, "v", "iso", 0); status < 400 || !strings.Contains(text, "Size cannot be zero") {
		t.Errorf("an empty image: %d %s", status, text)
	}
	body := map[string]any{"name": "v", "content_type": "iso"}
	if status, text := raw(t, s, http.MethodPost, volumeURL(s, ""), body); status < 400 {
		t.Errorf("a volume of nothing: %d %s", status, text)
	}
	absent(t, s.Pool(t), "v")
}

// leftovers lists the files that an upload which failed may have left.
func leftovers(t *testing.T, s *lxdtest.Server) []string {
	t.Helper()
	dir := filepath.Join(s.Dir(), "isos")
	if !s.Real() {
		dir = filepath.Join(s.Dir(), "store", "pools", "default", ".tmp")
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	return left
}

func testCutUpload(t *testing.T, s *lxdtest.Server, _ traits) {
	const size = 4 << 20
	f := lxdtest.File(t, size)
	for _, cut := range []int64{0, 1, size / 2, size - 1} {
		proxy := lxdtest.FaultProxy(t, s.Addr())
		target := s.Target()
		target.Addr = proxy.Addr()
		c, err := lxd.Dial(lxdtest.Context(t), target)
		if err != nil {
			t.Fatal(err)
		}
		p, err := c.Pool(lxdtest.Context(t), "default")
		if err != nil {
			t.Fatal(err)
		}
		proxy.Strike(lxdtest.Imports, -1, 0, lxdtest.CutBody(cut))
		if err := tryPut(t, p, "v", f, size); err == nil || lxd.IsPermanent(err) {
			t.Errorf("an upload cut after %d bytes ended with %v", cut, err)
		}
		if proxy.Hits() == 0 {
			t.Error("the fault did not strike")
		}
		c.Close()
		absent(t, s.Pool(t), "v")
	}
	// And it can still be made.
	put(t, s.Pool(t), "v", size)
}

// chunked sends an import by hand, in chunks, and returns the connection after the head.
func chunked(t *testing.T, s *lxdtest.Server, name string) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(lxdtest.Context(t), "unix", strings.TrimPrefix(s.Addr(), "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: server\r\nContent-Type: application/octet-stream\r\n"+
		"X-LXD-Type: iso\r\nX-LXD-Name: %[2]s\r\nX-Incus-Type: iso\r\nX-Incus-Name: %[2]s\r\nTransfer-Encoding: chunked\r\n\r\n", volumeURL(s, ""), name)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func testCutChunks(t *testing.T, s *lxdtest.Server, _ traits) {
	conn := chunked(t, s, "v")
	if _, err := fmt.Fprintf(conn, "3e8\r\n%s\r\n", strings.Repeat("x", 1000)); err != nil {
		t.Fatal(err)
	}
	// Half-closed, so that the answer can be read: no last chunk came.
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode < 400 {
			t.Errorf("half an image was taken: %s", resp.Status)
		}
	}
	absent(t, s.Pool(t), "v")
}

func testWholeChunks(t *testing.T, s *lxdtest.Server, _ traits) {
	conn := chunked(t, s, "v")
	if _, err := fmt.Fprintf(conn, "3e8\r\n%s\r\n0\r\n\r\n", strings.Repeat("x", 1000)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	e := envelope(t, text)
	if err != nil || resp.StatusCode != http.StatusAccepted || e.Type != "async" {
		t.Fatalf("%s %s %v", resp.Status, text, err)
	}
	if resp.Header.Get("Location") != e.Operation {
		t.Errorf("Location is %q, the operation %q", resp.Header.Get("Location"), e.Operation)
	}
	p := s.Pool(t)
	if err := p.Wait(lxdtest.Context(t), e.Operation); err != nil {
		t.Fatal(err)
	}
	if v := get(t, p, "v"); v.Size != 1000 {
		t.Errorf("the volume is %+v", v)
	}
}

func testConcurrent(t *testing.T, s *lxdtest.Server, _ traits) {
	const n, size = 4, 300_000
	p := s.Pool(t)
	f := lxdtest.File(t, size)
	var release func()
	if !s.Real() {
		// So that all of them were let in before the first one ends.
		_, release = s.Hold("begin", "v")
	}
	// Each is waited for at once: a server forgets operations soon.
	ends := make(chan error, n)
	var letIn sync.WaitGroup
	letIn.Add(n)
	for range n {
		go func() {
			operation, err := p.Import(lxdtest.Context(t), "v", f, size, nil)
			letIn.Done()
			if err == nil {
				err = p.Wait(lxdtest.Context(t), operation)
			}
			ends <- err
		}()
	}
	letIn.Wait()
	if release != nil {
		release()
	}
	won := 0
	for range n {
		err := <-ends
		var failed *lxd.Error
		switch {
		case err == nil:
			won++
		case !errors.As(err, &failed) || !failed.InOp:
			t.Errorf("a loser got %v; want the failure of its operation", err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d imports of one name succeeded", won, n)
	}
	if v := get(t, p, "v"); v.Size != size {
		t.Errorf("the volume is %+v", v)
	}
	sameBytes(t, s, "v", f, size)
}
