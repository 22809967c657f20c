package lxd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const operationsPath = "/1.0/operations/"

// operationID takes the id from "/1.0/operations/ID?project=P" or from a bare id.
func operationID(s string) (string, bool) {
	s, _, _ = strings.Cut(s, "?")
	s = strings.TrimPrefix(s, operationsPath)
	ok := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !('0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || r == '-')
	}) < 0
	return s, ok
}

// operation is an operation as both servers show it. Status codes: SERVER-API 6.
type operation struct {
	ID          string              `json:"id"`
	Class       string              `json:"class"`
	Description string              `json:"description"`
	Status      string              `json:"status"`
	StatusCode  int                 `json:"status_code"`
	Resources   map[string][]string `json:"resources"`
	Metadata    json.RawMessage     `json:"metadata"`
	Err         string              `json:"err"`
	ErrCode     int                 `json:"err_code"` // LXD 6.8
}

const (
	opSuccess   = 200
	opFailure   = 400
	opCancelled = 401
)

// result is the end of an operation; done is false while there is none.
func (o *operation) result(op string) (done bool, err error) {
	switch o.StatusCode {
	case opSuccess:
		return true, nil
	case opFailure, opCancelled:
		text := o.Err
		if text == "" {
			text = "operation ended as " + o.Status
		}
		return true, &Error{Op: op, Status: errorStatus(o.ErrCode), Message: message(text), InOp: true}
	}
	return false, nil
}

// Wait returns when an operation ended: nil = success, *Error with InOp = failure, ErrUnknown = the server does not
// know it any more, as it forgets all 5 s after their end and at each restart, ErrAway = the server does not answer.
//
// It asks in rounds of 20 s, so that a server which died without a word is noticed.
func (p *Pool) Wait(ctx context.Context, operation string) error {
	return p.wait(ctx, "wait for operation", operation)
}

func (p *Pool) wait(ctx context.Context, op, name string) error {
	id, ok := operationID(name)
	if !ok {
		return fmt.Errorf("%s %q: %w: that is no operation", op, message(name), ErrUnknown)
	}
	for {
		began := time.Now()
		done, err := p.waitRound(ctx, op, id)
		if done {
			return err
		}
		// A server that answers at once instead of waiting must not be asked all the time.
		if rest := p.client.round/20 - time.Since(began); rest > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(rest):
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", op, context.Cause(ctx))
		}
	}
}

// waitRound asks once. The status of the HTTP answer is 200 whatever comes, once the operation was found (SERVER-API
// 6), so that an error there is either the operation's or only the end of this round; which it is, a second look tells.
func (p *Pool) waitRound(ctx context.Context, op, id string) (done bool, err error) {
	round := p.client.round
	query := p.query()
	query.Set("timeout", strconv.Itoa(max(1, int(round/time.Second))))
	r := request{op: op, method: http.MethodGet, path: operationsPath + id + "/wait", query: query, timeout: round + shortTimeout, again: true}
	ours, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	req, err := p.client.newRequest(ours, r)
	if err != nil {
		return true, err
	}
	resp, err := p.client.transport.RoundTrip(req)
	if err != nil {
		return true, transportError(ctx, op, err)
	}
	defer func() { _ = resp.Body.Close() }()
	env, err := readEnvelope(ctx, op, resp)
	var o operation
	if err == nil {
		if _, err = env.open(op, &o); err == nil {
			return o.result(op)
		}
		return true, err
	}
	var e *Error
	switch {
	case !errors.As(err, &e) || e.alien:
		return true, err
	case resp.StatusCode == http.StatusNotFound:
		return true, unknownOperation(op)
	case resp.StatusCode != http.StatusOK:
		return true, err
	}
	return p.second(ctx, op, id, e)
}

// second looks at the operation that a wait said something bad of.
func (p *Pool) second(ctx context.Context, op, id string, said *Error) (done bool, err error) {
	var o operation
	_, err = p.client.do(ctx, request{op: op, method: http.MethodGet, path: operationsPath + id, query: p.query(), timeout: shortTimeout}, &o)
	if errors.Is(err, ErrNotFound) {
		return true, unknownOperation(op)
	}
	if err != nil {
		return true, err
	}
	done, err = o.result(op)
	var e *Error
	if errors.As(err, &e) && o.ErrCode == 0 {
		e.Status = said.Status // only the answer to wait has a code there
	}
	return done, err
}

func unknownOperation(op string) error {
	return fmt.Errorf("%s: %w: the server does not know the operation any more", op, ErrUnknown)
}

// Running returns an operation that is at work on a volume now, or "".
//
// Incus does not say which volume a server-side copy is about. Such a copy counts as one of this volume: to wait for
// somebody else's is a delay, to take no notice of our own is a volume deleted while it is made.
func (p *Pool) Running(ctx context.Context, name string) (string, error) {
	op := "operations on " + message(name)
	query := p.query()
	query.Set("recursion", "1")
	var groups map[string][]operation
	_, err := p.client.do(ctx, request{op: op, method: http.MethodGet, path: "/1.0/operations", query: query, timeout: longTimeout, again: true}, &groups)
	if err != nil {
		return "", err
	}
	var maybe string
	for _, list := range groups {
		for i := range list {
			o := &list[i]
			if done, _ := o.result(op); done || (o.Class != "" && o.Class != "task") {
				continue
			}
			id, ok := operationID(o.ID)
			if !ok {
				continue
			}
			urls := o.urls()
			switch {
			case slices.ContainsFunc(urls, func(u string) bool { return p.isVolume(u, name) }):
				return operationsPath + id, nil
			case len(urls) == 0 && o.Description == "Copying storage volume":
				maybe = operationsPath + id
			}
		}
	}
	return maybe, nil
}

// urls lists the volumes that an operation says it is about, in all the places where it may say so.
func (o *operation) urls() []string {
	urls := slices.Concat(o.Resources["storage_volumes"], o.Resources["storage_volume_snapshots"])
	var m struct {
		EntityURL string `json:"entity_url"`
	}
	if len(o.Metadata) > 0 && json.Unmarshal(o.Metadata, &m) == nil && m.EntityURL != "" {
		urls = append(urls, m.EntityURL)
	}
	return urls
}

// isVolume reports whether an API URL is that of a custom volume of this pool and project. A URL without a project
// counts: LXD leaves out "default", and some versions all of them.
func (p *Pool) isVolume(ref, name string) bool {
	u, err := url.Parse(ref)
	if err != nil {
		return false
	}
	if project := u.Query().Get("project"); project != "" && project != p.project && project != p.request {
		return false
	}
	parts := strings.Split(strings.TrimPrefix(u.EscapedPath(), "/"), "/")
	if len(parts) < 6 {
		return false
	}
	for i, want := range []string{"1.0", "storage-pools", p.name, "volumes", "custom", name} {
		if got, err := url.PathUnescape(parts[i]); err != nil || got != want {
			return false
		}
	}
	return true
}
