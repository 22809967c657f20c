package store

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// maxBody bounds every request body but an image, in bytes.
const maxBody = 1 << 20

// errAnswered is what a handler returns that has answered by itself.
var errAnswered = errors.New("answered")

// request is an HTTP request, taken apart.
type request struct {
	*http.Request
	path    []string // segments after /1.0, unescaped
	query   url.Values
	project string // as the request names it
	all     bool   // all-projects
	owner   string // the project that holds its volumes
}

// reply is what a handler returns for a sync answer.
type reply struct {
	metadata any
	etag     string
	location string // not "" = 201
}

// Handler serves the API. A server that uses it must be ended before Close can return.
func (s *Store) Handler() http.Handler {
	routes := s.routes()
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		if !s.enter() {
			writeError(w, refuse(http.StatusServiceUnavailable, "The store is being closed"))
			return
		}
		defer s.leave()
		r, err := s.parse(hr)
		if err == nil {
			err = dispatch(routes, w, r)
		}
		if err != nil && !errors.Is(err, errAnswered) {
			writeError(w, err)
		}
	})
}

// parse takes the path apart before anything is unescaped: a volume may be called "..".
func (s *Store) parse(hr *http.Request) (*request, error) {
	r := &request{Request: hr, query: hr.URL.Query()}
	for seg := range strings.SplitSeq(strings.Trim(hr.URL.EscapedPath(), "/"), "/") {
		plain, err := url.PathUnescape(seg)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "Bad path: %v", err)
		}
		r.path = append(r.path, plain)
	}
	r.project = r.query.Get("project")
	r.all = isTrue(r.query.Get("all-projects"))
	if r.all && r.project != "" {
		return nil, refuse(http.StatusBadRequest, "Cannot specify a project when requesting all projects")
	}
	if t := r.query.Get("target"); t != "" {
		return nil, refuse(http.StatusNotFound, "Cluster member %q not found", t)
	}
	if r.project == "" {
		r.project = defaultProject
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.state.hasProject(r.project) {
		return nil, errNoProject
	}
	r.owner = s.state.storageProject(r.project)
	return r, nil
}

// handler answers one kind of request: with a reply, with an error, or by itself and errAnswered.
type handler func(w http.ResponseWriter, r *request) (reply, error)

// route is a path of the API; a segment "*" stands for a name.
type route struct {
	pattern string
	methods map[string]handler
}

// routes is the API.
func (s *Store) routes() []route {
	type m = map[string]handler
	volume := m{"GET": s.getVolume, "PUT": s.putVolume, "PATCH": s.putVolume, "POST": s.renameVolume, "DELETE": s.deleteVolume}
	return []route{
		{"", m{"GET": s.getServer}},
		{"events", m{"GET": func(w http.ResponseWriter, r *request) (reply, error) { return reply{}, s.events(w, r) }}},
		{"operations", m{"GET": s.listOperations}},
		{"operations/*", m{"GET": s.getOperation, "DELETE": s.cancelOperation}},
		{"operations/*/wait", m{"GET": s.waitOperation}},
		{"projects", m{"GET": s.listProjects, "POST": s.createProject}},
		{"projects/*", m{"GET": s.getProject, "DELETE": s.deleteProject}},
		{"projects/*/state", m{"GET": s.projectState}},
		{"profiles", m{"GET": s.listProfiles, "POST": s.createProfile}},
		{"profiles/*", m{"GET": s.getProfile, "PUT": s.putProfile, "PATCH": s.putProfile, "DELETE": s.deleteProfile}},
		{"instances", m{"GET": s.listNothing}},
		{"storage-pools", m{"GET": s.listPools, "POST": s.createPool}},
		{"storage-pools/*", m{"GET": s.getPool, "DELETE": s.deletePool}},
		{"storage-pools/*/resources", m{"GET": s.poolResources}},
		{"storage-pools/*/volumes", m{"GET": s.listVolumes, "POST": s.createVolume}},
		{"storage-pools/*/volumes/*", m{"GET": s.listVolumes, "POST": s.createVolume}},
		{"storage-pools/*/volumes/*/*", volume},
		{"storage-pools/*/volumes/*/*/state", m{"GET": s.volumeState}},
		{"storage-pools/*/volumes/*/*/snapshots", m{"GET": s.listSnapshots, "POST": s.refuseSnapshot}},
		{"storage-pools/*/volumes/*/*/backups", m{"GET": s.listBackups, "POST": s.createBackup}},
		{"storage-pools/*/volumes/*/*/backups/*", m{"GET": s.getBackup, "DELETE": s.deleteBackup}},
		{"storage-pools/*/volumes/*/*/backups/*/export", m{"GET": s.exportBackup}},
		{"storage-volumes", m{"GET": s.listAllVolumes}},
		{"storage-volumes/*", m{"GET": s.listAllVolumes}},
	}
}

// dispatch finds the handler. r.path becomes what the stars stand for.
func dispatch(routes []route, w http.ResponseWriter, r *request) error {
	if len(r.path) == 1 && r.path[0] == "" {
		writeSync(w, reply{metadata: []string{"/1.0"}})
		return nil
	}
	if r.path[0] != "1.0" {
		return refuse(http.StatusNotFound, "not found")
	}
	for _, candidate := range routes {
		names, ok := match(candidate.pattern, r.path[1:])
		if !ok {
			continue
		}
		h := candidate.methods[r.Method]
		if h == nil {
			return refuse(http.StatusNotImplemented, "not implemented")
		}
		r.path = names
		answer, err := h(w, r)
		if err != nil {
			return err
		}
		writeSync(w, answer)
		return nil
	}
	return refuse(http.StatusNotFound, "not found")
}

// match compares a path to a pattern, and returns what the stars stand for.
func match(pattern string, path []string) (names []string, ok bool) {
	var want []string
	if pattern != "" {
		want = strings.Split(pattern, "/")
	}
	if len(want) != len(path) {
		return nil, false
	}
	for i, p := range want {
		if p == "*" {
			names = append(names, path[i])
		} else if p != path[i] {
			return nil, false
		}
	}
	return names, true
}

// envelope is around every answer (SERVER-API 1.3, 6).
type envelope struct {
	Type       string `json:"type"`
	Status     string `json:"status"`
	StatusCode int    `json:"status_code"`
	Operation  string `json:"operation"`
	ErrorCode  int    `json:"error_code"`
	Error      string `json:"error"`
	Metadata   any    `json:"metadata"`
}

func write(w http.ResponseWriter, status int, e envelope) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if status != 0 {
		w.WriteHeader(status)
	}
	// The client may be gone, which is its own business.
	_ = json.NewEncoder(w).Encode(e)
}

func writeSync(w http.ResponseWriter, r reply) {
	status := http.StatusOK
	if r.location != "" {
		w.Header().Set("Location", r.location)
		status = http.StatusCreated
	}
	if r.etag != "" {
		w.Header().Set("ETag", `"`+r.etag+`"`)
	}
	if r.metadata == nil {
		r.metadata = struct{}{}
	}
	write(w, status, envelope{Type: "sync", Status: "Success", StatusCode: http.StatusOK, Metadata: r.metadata})
}

func writeAsync(w http.ResponseWriter, o *operation) {
	w.Header().Set("Location", o.url())
	write(w, http.StatusAccepted, envelope{Type: "async", Status: "Operation created", StatusCode: 100, Operation: o.url(), Metadata: o})
}

func writeError(w http.ResponseWriter, err error) {
	write(w, statusOf(err), errorEnvelope(err))
}

func errorEnvelope(err error) envelope {
	return envelope{Type: "error", ErrorCode: statusOf(err), Error: err.Error()}
}

// decode reads a JSON body.
func (r *request) decode(w http.ResponseWriter, into any) error {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil && len(text) > 0 {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		return refuse(http.StatusBadRequest, "Bad request body: %v", err)
	}
	return nil
}

// matches checks If-Match.
func (r *request) matches(etag string) error {
	want := r.Header.Get("If-Match")
	if want == "" || slices.Contains([]string{etag, `"` + etag + `"`, "*"}, want) {
		return nil
	}
	return refuse(http.StatusPreconditionFailed, "ETag does not match: %s vs %q", want, etag)
}

// start runs an operation, and answers the request with it.
func (s *Store) start(w http.ResponseWriter, r *request, description string, about key, f func() error) error {
	o := s.ops.begin(r.project, description, about, nil)
	return s.run(w, o, f)
}

// run is start, for an operation that has begun.
func (s *Store) run(w http.ResponseWriter, o *operation, f func() error) error {
	s.again()
	go func() {
		defer s.leave()
		err := f()
		if errors.Is(err, errStopped) {
			return // as in a process that was killed, nobody hears of it
		}
		if err != nil {
			err = &httpError{statusOf(err), o.Description + ": " + err.Error()}
		}
		s.ops.end(o, err)
	}()
	writeAsync(w, o)
	return errAnswered
}

// perform does what LXD does as an operation since 6.6, and Incus while the request waits.
func (s *Store) perform(w http.ResponseWriter, r *request, description string, about key, f func() error) (reply, error) {
	if s.vendor == vendorLXD {
		return reply{}, s.start(w, r, description, about, f)
	}
	return reply{}, f()
}
