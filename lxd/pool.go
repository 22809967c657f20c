package lxd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Pool is one storage pool, seen from one project. It is safe for use by several goroutines.
type Pool struct {
	client  *Client
	name    string
	driver  string
	request string // the project that requests name
	project string // the one whose volumes that gives (SERVER-API 8)
	target  string // the cluster member that has the volumes of a local pool; "" = it does not matter
}

// wirePool is a pool as both servers show it.
type wirePool struct {
	Name   string `json:"name"`
	Driver string `json:"driver"`
	Status string `json:"status"`
}

// Pool opens a pool. It looks before anything is sent there, because an import into a pool or project that does not
// exist is refused only after its last byte (SERVER-API 1.2). name "" means the only pool, or the one that is called
// "default"; else the error lists what there is.
func (c *Client) Pool(ctx context.Context, name string) (*Pool, error) {
	p := &Pool{client: c, name: name, request: c.target.project()}
	if err := p.findProject(ctx); err != nil {
		return nil, err
	}
	if name == "" {
		var err error
		if p.name, err = p.onlyPool(ctx); err != nil {
			return nil, err
		}
	}
	var w wirePool
	op := "open pool " + message(p.name)
	_, err := c.do(ctx, request{op: op, method: http.MethodGet, path: apiPath("storage-pools", p.name), query: p.query(), timeout: shortTimeout, again: true}, &w)
	if errors.Is(err, ErrNotFound) {
		names, lerr := p.poolNames(ctx)
		if lerr != nil || len(names) == 0 {
			return nil, fmt.Errorf("%w; there is no such pool on %s", err, c.server.Addr)
		}
		return nil, fmt.Errorf("%w; the pools of %s are: %s", err, c.server.Addr, strings.Join(names, ", "))
	}
	if err != nil {
		return nil, err
	}
	p.driver = w.Driver
	switch member := c.target.Member; {
	case !c.server.Clustered && member != "" && member != c.member:
		return nil, fmt.Errorf("%s: %s is not clustered, so there is no member %s", op, c.server.Addr, message(member))
	case !c.server.Clustered || c.spread[p.driver]:
		// One volume of a name, wherever it is.
	case member != "":
		p.target = member
	default:
		p.target = c.member
	}
	return p, nil
}

// findProject learns which project the volumes are in.
func (p *Pool) findProject(ctx context.Context) error {
	p.project = p.request
	if p.request == "default" {
		return nil
	}
	op := "open project " + message(p.request)
	var w struct {
		Config map[string]string `json:"config"`
	}
	_, err := p.client.do(ctx, request{op: op, method: http.MethodGet, path: apiPath("projects", p.request), timeout: shortTimeout, again: true}, &w)
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w; there is no such project on %s, or it is not for this client", err, p.client.server.Addr)
	}
	if err != nil {
		return err
	}
	if !isTrue(w.Config["features.storage.volumes"]) {
		p.project = "default"
	}
	return nil
}

// isTrue reads a boolean of the servers' configuration.
func isTrue(s string) bool {
	return slices.Contains([]string{"true", "1", "yes", "on"}, strings.ToLower(s))
}

// onlyPool chooses the pool that nobody named.
func (p *Pool) onlyPool(ctx context.Context) (string, error) {
	names, err := p.poolNames(ctx)
	switch {
	case err != nil:
		return "", err
	case len(names) == 0:
		return "", fmt.Errorf("choose a pool: %s has none; create one, such as with: storage create default dir", p.client.server.Addr)
	case len(names) == 1:
		return names[0], nil
	case slices.Contains(names, "default"):
		return "default", nil
	}
	return "", fmt.Errorf("choose a pool: %s has several, and none is called default: %s", p.client.server.Addr, strings.Join(names, ", "))
}

// poolNames lists the pools that this project may see, sorted.
func (p *Pool) poolNames(ctx context.Context) ([]string, error) {
	query := p.query()
	query.Set("recursion", "1")
	var list []wirePool
	_, err := p.client.do(ctx, request{op: "list the pools", method: http.MethodGet, path: "/1.0/storage-pools", query: query, timeout: shortTimeout, again: true}, &list)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(list))
	for _, w := range list {
		names = append(names, w.Name)
	}
	slices.Sort(names)
	return names, nil
}

// Server says whom we talk to.
func (p *Pool) Server() Server { return p.client.Server() }

// Name is the pool's name, such as "default".
func (p *Pool) Name() string { return p.name }

// Driver is the pool's driver, such as "zfs".
func (p *Pool) Driver() string { return p.driver }

// Project is the project that the volumes are in: "default" also for a project without volumes of its own
// (features.storage.volumes=false).
func (p *Pool) Project() string { return p.project }

// query is what every request about this project needs.
func (p *Pool) query() url.Values { return url.Values{"project": {p.request}} }

// located is query for requests about volumes, which may be on one member of a cluster only.
func (p *Pool) located() url.Values {
	q := p.query()
	if p.target != "" {
		q.Set("target", p.target)
	}
	return q
}

// volumePath is the path of a volume, or of all of them.
func (p *Pool) volumePath(name ...string) string {
	return apiPath(append([]string{"storage-pools", p.name, "volumes", "custom"}, name...)...)
}

// Space asks for the pool's space.
func (p *Pool) Space(ctx context.Context) (Space, error) {
	var w struct {
		Space struct {
			Used  uint64 `json:"used"`
			Total uint64 `json:"total"`
		} `json:"space"`
	}
	_, err := p.client.do(ctx, request{
		op: "space of pool " + message(p.name), method: http.MethodGet, path: apiPath("storage-pools", p.name, "resources"),
		query: p.located(), timeout: longTimeout, again: true,
	}, &w)
	const most = 1<<63 - 1
	return Space{Used: int64(min(w.Space.Used, most)), Total: int64(min(w.Space.Total, most))}, err
}

// Limits asks what the project allows to be stored in this pool (limits.disk and limits.disk.pool.NAME, SERVER-API
// 1.6), the tighter of the two; Total 0 = no limit. A client that is held to its projects may be denied the question.
func (p *Pool) Limits(ctx context.Context) (Space, error) {
	var w struct {
		// Both servers leave the fields' names to Go, with capitals.
		Resources map[string]struct{ Limit, Usage int64 } `json:"resources"`
	}
	_, err := p.client.do(ctx, request{
		op: "limits of project " + message(p.project), method: http.MethodGet, path: apiPath("projects", p.project, "state"),
		timeout: shortTimeout, again: true,
	}, &w)
	var tight Space
	for _, key := range []string{"disk", "disk." + p.name} {
		if r, ok := w.Resources[key]; ok && r.Limit >= 0 {
			// A limit of nothing is said as one byte, because Total 0 means something else.
			if s := (Space{Used: r.Usage, Total: max(1, r.Limit)}); tight.Total == 0 || s.Free() < tight.Free() {
				tight = s
			}
		}
	}
	return tight, err
}

// wireVolume is a volume as both servers show it (SERVER-API 2.1).
type wireVolume struct {
	Name        string            `json:"name"`
	Type        string            `json:"type"`
	ContentType string            `json:"content_type"`
	Config      map[string]string `json:"config"`
	Description string            `json:"description"`
	UsedBy      []string          `json:"used_by"`
	Location    string            `json:"location"`
	Project     string            `json:"project"`
	CreatedAt   time.Time         `json:"created_at"`
}

func (w *wireVolume) volume() Volume {
	size, err := strconv.ParseInt(w.Config["size"], 10, 64)
	if err != nil || size < 0 {
		size = -1
	}
	return Volume{
		Name:        w.Name,
		ContentType: w.ContentType,
		Size:        size,
		Description: w.Description,
		UsedBy:      w.UsedBy,
		CreatedAt:   w.CreatedAt,
		UUID:        w.Config["volatile.uuid"],
		Location:    w.Location,
	}
}

// Volumes lists all custom volumes of the pool, of every content type, without snapshots. On a cluster, those of a
// local pool are those of one member. Nothing is filtered by the server: that makes it slower (SERVER-API 2.2).
func (p *Pool) Volumes(ctx context.Context) ([]Volume, error) {
	query := p.query()
	query.Set("recursion", "1")
	var list []wireVolume
	_, err := p.client.do(ctx, request{
		op: "list the volumes of pool " + message(p.name), method: http.MethodGet, path: p.volumePath(), query: query,
		timeout: longTimeout, again: true,
	}, &list)
	if err != nil {
		return nil, err
	}
	volumes := make([]Volume, 0, len(list))
	for i := range list {
		w := &list[i]
		snapshot := strings.Contains(w.Name, "/")
		foreign := (w.Type != "" && w.Type != "custom") || (w.Project != "" && w.Project != p.project)
		elsewhere := p.target != "" && w.Location != "" && w.Location != p.target
		if !snapshot && !foreign && !elsewhere {
			volumes = append(volumes, w.volume())
		}
	}
	return volumes, nil
}

// Volume asks for one volume; ErrNotFound where there is none, and also where the pool or project is gone.
func (p *Pool) Volume(ctx context.Context, name string) (Volume, error) {
	op := "look at volume " + message(name)
	if err := checkName(op, name); err != nil {
		return Volume{}, err
	}
	var w wireVolume
	_, err := p.client.do(ctx, request{op: op, method: http.MethodGet, path: p.volumePath(name), query: p.located(), timeout: longTimeout, again: true}, &w)
	if err != nil {
		return Volume{}, err
	}
	return w.volume(), nil
}

// checkName refuses what would be another path, or a snapshot, or lost in a header. What else is a good name is the
// server's business.
func checkName(op, name string) error {
	bad := name == "" || strings.TrimSpace(name) != name ||
		strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r < ' ' || r == 0x7F })
	if bad {
		return &Error{Op: op, Status: http.StatusBadRequest, Message: fmt.Sprintf("%q is no name for a volume", message(name))}
	}
	return nil
}

// Describe sets the description: the only thing of an ISO volume that can change. It sends nothing else, as the
// server refuses everything else (SERVER-API 3.1).
func (p *Pool) Describe(ctx context.Context, name, description string) error {
	op := "describe volume " + message(name)
	if err := checkName(op, name); err != nil {
		return err
	}
	body := struct {
		Description string `json:"description"`
	}{description}
	operation, err := p.client.do(ctx, request{
		op: op, method: http.MethodPatch, path: p.volumePath(name), query: p.located(), body: body, timeout: longTimeout, again: true,
	}, nil)
	if err != nil || operation == "" {
		return err
	}
	return p.wait(ctx, op, operation)
}

// Copy makes a volume from another of the same pool on the server, and returns the operation. The description does
// not always arrive (SERVER-API, live part): look, or set it again.
func (p *Pool) Copy(ctx context.Context, from, to, description string) (string, error) {
	op := fmt.Sprintf("copy volume %s to %s", message(from), message(to))
	if err := errors.Join(checkName(op, from), checkName(op, to)); err != nil {
		return "", err
	}
	type source struct {
		Type string `json:"type"`
		Name string `json:"name"`
		Pool string `json:"pool"`
	}
	body := struct {
		Name        string `json:"name"`
		Type        string `json:"type"`
		ContentType string `json:"content_type"`
		Description string `json:"description"`
		Source      source `json:"source"`
	}{to, "custom", "iso", description, source{"copy", from, p.name}}
	operation, err := p.client.do(ctx, request{
		op: op, method: http.MethodPost, path: p.volumePath(), query: p.located(), body: body, timeout: longTimeout,
	}, nil)
	if err == nil && operation == "" {
		err = fmt.Errorf("%s: the server named no operation", op)
	}
	return operation, err
}

// Delete removes a volume, and waits for it. A volume that is not there is no error, one that something refers to is
// ErrInUse. Which it was is decided by looking at the volume, not by the server's words.
func (p *Pool) Delete(ctx context.Context, name string) error {
	op := "delete volume " + message(name)
	if err := checkName(op, name); err != nil {
		return err
	}
	if name == "." || name == ".." {
		return &Error{Op: op, Status: http.StatusBadRequest, Message: "a volume of that name cannot be addressed for certain"}
	}
	operation, err := p.client.do(ctx, request{
		op: op, method: http.MethodDelete, path: p.volumePath(name), query: p.located(), timeout: longTimeout, again: true,
	}, nil)
	if err == nil && operation != "" {
		err = p.wait(ctx, op, operation)
	}
	var e *Error
	switch {
	case err == nil, errors.Is(err, ErrNotFound):
		return nil
	case errors.Is(err, ErrUnknown), errors.As(err, &e) && !e.alien && !errors.Is(err, ErrDenied):
		return p.afterDelete(ctx, name, err)
	}
	return err
}

// afterDelete looks why a volume could not be deleted, or whether it could.
func (p *Pool) afterDelete(ctx context.Context, name string, failed error) error {
	v, err := p.Volume(ctx, name)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err == nil && len(v.UsedBy) > 0:
		return fmt.Errorf("%w by %s: %w", ErrInUse, message(strings.Join(v.UsedBy, ", ")), failed)
	}
	return failed
}
