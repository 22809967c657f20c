package lxd

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

const op1 = "/1.0/operations/op-1"

func running(code int, err string) map[string]any {
	return map[string]any{"id": "op-1", "class": "task", "status": "x", "status_code": code, "err": err}
}

// Wait understands both forms (SERVER-API 6): failure as an error of the wait, or as the operation's own state.
func TestWait(t *testing.T) {
	var f fake
	f.t = t
	deadline := f.body(200, errorBody(500, "context deadline exceeded"))
	for name, c := range map[string]struct {
		wait, look http.HandlerFunc
		status     int // of an *Error with InOp
		is         error
		ok         bool
	}{
		"success":               {wait: f.sync(running(200, "")), ok: true},
		"rounds":                {wait: in(f.sync(running(103, "")), f.sync(running(105, "")), f.sync(running(200, ""))), ok: true},
		"failure, new form":     {wait: f.sync(running(400, "no space")), status: 500},
		"cancelled, new form":   {wait: f.sync(running(401, "")), status: 500},
		"failure, old form":     {wait: f.body(200, errorBody(500, "no space")), look: f.sync(running(400, "no space")), status: 500},
		"inner code, old form":  {wait: f.body(200, errorBody(404, "Storage pool not found")), look: f.sync(running(400, "Storage pool not found")), status: 404, is: ErrNotFound},
		"round over, old form":  {wait: in(deadline, f.sync(running(200, ""))), look: f.sync(running(103, "")), ok: true},
		"over and done":         {wait: deadline, look: f.sync(running(200, "")), ok: true},
		"over and failed":       {wait: deadline, look: f.sync(running(400, "no")), status: 500},
		"over and gone":         {wait: deadline, look: f.fail(404, "Operation not found"), is: ErrUnknown},
		"gone":                  {wait: f.fail(404, "Operation not found"), is: ErrUnknown},
		"the server died":       {wait: hangUp, is: ErrAway},
		"it died in between":    {wait: deadline, look: hangUp, is: ErrAway},
		"denied":                {wait: f.fail(403, "no"), is: ErrDenied},
		"a proxy's 404":         {wait: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }},
		"LXD 6.8 has the code":  {wait: f.sync(map[string]any{"id": "op-1", "status_code": 400, "err": "x", "err_code": 412}), status: 412},
		"an operation of 404":   {wait: f.body(200, errorBody(404, "x")), look: f.sync(running(103, "")), is: context.DeadlineExceeded},
		"it never ends":         {wait: f.sync(running(103, "")), is: context.DeadlineExceeded},
		"it answers with trash": {wait: f.sync([]string{"x"})},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, "incus")
			f.on("GET "+op1+"/wait", c.wait)
			if c.look != nil {
				f.on("GET "+op1, c.look)
			}
			p := f.pool()
			p.client.round = 20 * time.Millisecond
			ctx := testContext(t)
			if c.is == context.DeadlineExceeded {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 100*time.Millisecond)
				defer cancel()
			}
			err := p.Wait(ctx, op1)
			var e *Error
			switch {
			case (err == nil) != c.ok:
				t.Fatalf("got %v", err)
			case c.is != nil && !errors.Is(err, c.is):
				t.Errorf("got %v, want %v", err, c.is)
			case c.status != 0 && (!errors.As(err, &e) || e.Status != c.status || !e.InOp):
				t.Errorf("got %#v", err)
			case errors.Is(err, ErrUnknown) != (c.is == ErrUnknown):
				t.Errorf("got %v", err)
			}
			if !slices.Contains(f.requests(), "GET "+op1+"/wait?project=default&timeout=1") {
				t.Errorf("it asked %q", f.requests())
			}
		})
	}
}

func TestWaitNamesOnlyOperations(t *testing.T) {
	f := newFake(t, "incus")
	f.on("GET "+op1+"/wait", f.sync(running(200, "")))
	p := f.pool()
	for _, name := range []string{"", "/1.0/operations/", "/1.0/operations/../../x", "/1.0/instances/x", "a b"} {
		if err := p.Wait(testContext(t), name); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"op-1", op1, op1 + "?project=p"} {
		if err := p.Wait(testContext(t), name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestRunning(t *testing.T) {
	op := func(id string, code int, rest map[string]any) map[string]any {
		m := map[string]any{"id": id, "class": "task", "status_code": code, "description": "Creating storage volume", "resources": nil, "metadata": nil}
		for k, v := range rest {
			m[k] = v
		}
		return m
	}
	resource := func(urls ...string) map[string]any {
		return map[string]any{"resources": map[string]any{"storage_volumes": urls}}
	}
	entity := func(u string) map[string]any { return map[string]any{"metadata": map[string]any{"entity_url": u}} }
	const volume = "/1.0/storage-pools/default/volumes/custom/a%20b"
	for name, c := range map[string]struct {
		ops  map[string]any
		want string
	}{
		"none":             {map[string]any{}, ""},
		"by resource":      {map[string]any{"running": []any{op("1", 103, resource(volume))}}, "1"},
		"pending":          {map[string]any{"pending": []any{op("1", 105, resource(volume))}}, "1"},
		"by entity":        {map[string]any{"running": []any{op("1", 103, entity(volume+"?project=default"))}}, "1"},
		"of a backup":      {map[string]any{"running": []any{op("1", 103, resource(volume+"/backups/b"))}}, "1"},
		"ended":            {map[string]any{"success": []any{op("1", 200, resource(volume))}, "failure": []any{op("2", 400, resource(volume))}}, ""},
		"of another":       {map[string]any{"running": []any{op("1", 103, resource(volume+"c"))}}, ""},
		"another pool":     {map[string]any{"running": []any{op("1", 103, resource("/1.0/storage-pools/p/volumes/custom/a%20b"))}}, ""},
		"another project":  {map[string]any{"running": []any{op("1", 103, resource(volume+"?project=p"))}}, ""},
		"a nameless copy":  {map[string]any{"running": []any{op("1", 103, map[string]any{"description": "Copying storage volume"})}}, "1"},
		"a copy of others": {map[string]any{"running": []any{op("1", 103, map[string]any{"description": "Copying storage volume", "resources": resource(volume + "c")["resources"]})}}, ""},
		"ours before it": {map[string]any{
			"running": []any{op("1", 103, map[string]any{"description": "Copying storage volume"}), op("2", 103, resource(volume))},
		}, "2"},
		"a websocket": {map[string]any{"running": []any{op("1", 103, map[string]any{"class": "websocket", "resources": resource(volume)["resources"]})}}, ""},
		"odd URLs":    {map[string]any{"running": []any{op("1", 103, resource("%zz", "", "/1.0/storage-pools/default/volumes/custom/%zz", "http://[::1"))}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, "lxd")
			f.on("GET /1.0/operations", f.sync(c.ops))
			got, err := f.pool().Running(testContext(t), "a b")
			want := c.want
			if want != "" {
				want = operationsPath + want
			}
			if err != nil || got != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	}
}

// Changes are sync on Incus and older LXD, async since LXD 6.6.
func TestSyncAndAsync(t *testing.T) {
	var f fake
	f.t = t
	forms := map[string]struct {
		answer http.HandlerFunc
		wait   http.HandlerFunc
		ok     bool
	}{
		"sync":          {f.sync(map[string]any{}), nil, true},
		"async":         {f.async("op-1"), f.sync(running(200, "")), true},
		"async, failed": {f.async("op-1"), f.sync(running(400, "Custom ISO volume config cannot be changed")), false},
		"refused":       {f.fail(500, "no"), nil, false},
		"nameless":      {f.body(202, map[string]any{"type": "async"}), nil, false},
	}
	for name, c := range forms {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, "lxd")
			var body []string
			record := func(w http.ResponseWriter, r *http.Request) {
				b := make([]byte, 1000)
				n, _ := r.Body.Read(b)
				body = append(body, string(b[:n]))
				c.answer(w, r)
			}
			f.on("PATCH "+volumesPath+"/x", record)
			f.on("DELETE "+volumesPath+"/x", c.answer)
			f.on("GET "+volumesPath+"/x", f.sync(map[string]any{"name": "x"}))
			if c.wait != nil {
				f.on("GET "+op1+"/wait", c.wait)
			}
			p := f.pool()
			if err := p.Describe(testContext(t), "x", `a "b"`); (err == nil) != c.ok {
				t.Errorf("describe: %v", err)
			}
			if want := `{"description":"a \"b\""}`; strings.Join(body, "") != want {
				t.Errorf("sent %q, want only %s", body, want)
			}
			if err := p.Delete(testContext(t), "x"); (err == nil) != c.ok {
				t.Errorf("delete: %v", err)
			}
		})
	}
}

func TestCopy(t *testing.T) {
	both(t, func(t *testing.T, f *fake) {
		var sent string
		f.on("POST "+volumesPath, func(w http.ResponseWriter, r *http.Request) {
			b := make([]byte, 1000)
			n, _ := r.Body.Read(b)
			sent = string(b[:n])
			f.async("op-1")(w, r)
		})
		op, err := f.pool().Copy(testContext(t), "old", "new", "d")
		want := `{"name":"new","type":"custom","content_type":"iso","description":"d","source":{"type":"copy","name":"old","pool":"default"}}`
		if err != nil || op != op1 || sent != want {
			t.Errorf("got %q, %v, sent %s", op, err, sent)
		}
		if _, err := f.pool().Copy(testContext(t), "a/b", "new", ""); !IsPermanent(err) {
			t.Errorf("got %v", err)
		}
	})
}

// Whether a volume is in use is seen on the volume; the server's status and words are the same for other troubles.
func TestDelete(t *testing.T) {
	var f fake
	f.t = t
	used := f.sync(map[string]any{"name": "x", "used_by": []string{"/1.0/profiles/p", "/1.0/instances/vm?project=q"}})
	free := f.sync(map[string]any{"name": "x", "used_by": []string{}})
	gone := f.fail(404, "gone")
	for name, c := range map[string]struct {
		del, wait, look http.HandlerFunc
		is              error
		ok              bool
		permanent       bool
	}{
		"done":                   {del: f.sync(map[string]any{}), ok: true},
		"was not there":          {del: f.fail(404, "Storage volume not found"), ok: true},
		"in use":                 {del: f.fail(400, "whatever"), look: used, is: ErrInUse},
		"in use, async":          {del: f.async("op-1"), wait: f.sync(running(400, "whatever")), look: used, is: ErrInUse},
		"400 of another kind":    {del: f.fail(400, "The storage volume is still in use"), look: free, permanent: true},
		"failed, but gone":       {del: f.fail(500, "x"), look: gone, ok: true},
		"failed, and still here": {del: f.fail(500, "x"), look: free},
		"outcome lost, gone":     {del: f.async("op-1"), wait: f.fail(404, "x"), look: gone, ok: true},
		"outcome lost, here":     {del: f.async("op-1"), wait: f.fail(404, "x"), look: free, is: ErrUnknown},
		"not there, async":       {del: f.async("op-1"), wait: f.sync(map[string]any{"status_code": 400, "err_code": 404, "err": "x"}), ok: true},
		"denied":                 {del: f.fail(403, "no"), look: used, is: ErrDenied, permanent: true},
		"second look fails":      {del: f.fail(400, "no"), look: hangUp, permanent: true},
		"the server died":        {del: hangUp, is: ErrAway},
		"a proxy's 404":          {del: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, look: free},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, "lxd")
			f.on("DELETE "+volumesPath+"/x", c.del)
			for route, h := range map[string]http.HandlerFunc{"GET " + op1 + "/wait": c.wait, "GET " + volumesPath + "/x": c.look} {
				if h != nil {
					f.on(route, h)
				}
			}
			err := f.pool().Delete(testContext(t), "x")
			if (err == nil) != c.ok || (c.is != nil && !errors.Is(err, c.is)) || IsPermanent(err) != c.permanent {
				t.Fatalf("got %v, permanent %v", err, IsPermanent(err))
			}
			if errors.Is(err, ErrInUse) != (c.is == ErrInUse) {
				t.Errorf("got %v", err)
			}
			if c.is == ErrInUse && !strings.Contains(err.Error(), "/1.0/instances/vm") {
				t.Errorf("%v does not say by whom", err)
			}
		})
	}
	if err := newFake(t, "lxd").pool().Delete(testContext(t), ".."); !IsPermanent(err) {
		t.Errorf("got %v", err)
	}
}

// A kept connection that died is no news for a request that can be repeated.
func TestDeadConnection(t *testing.T) {
	f := newFake(t, "lxd")
	f.on("DELETE "+volumesPath+"/x", in(hangUp, f.sync(map[string]any{})))
	f.on("PATCH "+volumesPath+"/x", in(hangUp, f.sync(map[string]any{})))
	p := f.pool()
	if err := p.Delete(testContext(t), "x"); err != nil {
		t.Error(err)
	}
	if err := p.Describe(testContext(t), "x", "d"); err != nil {
		t.Error(err)
	}
}
