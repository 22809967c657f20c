package store

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func (s *Store) listNothing(http.ResponseWriter, *request) (reply, error) {
	return reply{metadata: []any{}}, nil
}

// listed shows objects, or their addresses.
func listed[T any](r *request, objects []T, url func(T) string) reply {
	if r.recursive() {
		return reply{metadata: objects}
	}
	urls := []string{}
	for _, o := range objects {
		urls = append(urls, url(o))
	}
	return reply{metadata: urls}
}

type wirePool struct {
	Config      map[string]string `json:"config"`
	Description string            `json:"description"`
	Name        string            `json:"name"`
	Driver      string            `json:"driver"`
	UsedBy      []string          `json:"used_by"`
	Status      string            `json:"status"`
	Locations   []string          `json:"locations"`
}

// showPool is called with mu held.
func (s *Store) showPool(p poolRecord) wirePool {
	used := []string{}
	for k := range s.volumes {
		if k.pool == p.Name {
			used = append(used, k.url())
		}
	}
	slices.Sort(used)
	return wirePool{
		Config: map[string]string{"source": s.poolDir(p.Name)}, Description: p.Description, Name: p.Name,
		Driver: "dir", UsedBy: used, Status: "Created", Locations: []string{"none"},
	}
}

func (s *Store) listPools(_ http.ResponseWriter, r *request) (reply, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := []wirePool{}
	for _, p := range s.state.Pools {
		list = append(list, s.showPool(p))
	}
	return listed(r, list, func(p wirePool) string { return apiURL("", "storage-pools", p.Name) }), nil
}

func (s *Store) getPool(_ http.ResponseWriter, r *request) (reply, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	p := s.state.pool(r.path[0])
	if p == nil {
		return reply{}, errNoPool
	}
	return reply{metadata: s.showPool(*p), etag: etag([]any{p.Name, "dir"})}, nil
}

// createPool makes a directory; that is all a pool is here.
func (s *Store) createPool(w http.ResponseWriter, r *request) (reply, error) {
	var body struct {
		Name        string            `json:"name"`
		Driver      string            `json:"driver"`
		Description string            `json:"description"`
		Config      map[string]string `json:"config"`
	}
	if err := r.decode(w, &body); err != nil {
		return reply{}, err
	}
	if err := checkRecordName("storage pool", body.Name); err != nil {
		return reply{}, err
	}
	if body.Driver != "dir" || len(body.Config) > 0 {
		return reply{}, refuse(http.StatusBadRequest, "This store has the driver dir only, without settings")
	}
	err := s.edit(func(st *state) error {
		if st.hasPool(body.Name) {
			return refuse(http.StatusConflict, "The storage pool already exists")
		}
		st.Pools = append(st.Pools, poolRecord{body.Name, body.Description})
		return s.makePool(body.Name)
	})
	return reply{location: apiURL("", "storage-pools", body.Name)}, err
}

func (s *Store) deletePool(_ http.ResponseWriter, r *request) (reply, error) {
	name := r.path[0]
	err := s.edit(func(st *state) error {
		switch {
		case !st.hasPool(name):
			return errNoPool
		case s.content(func(k key) bool { return k.pool == name }) > 0:
			return refuse(http.StatusBadRequest, "The storage pool is currently in use")
		case len(st.Pools) == 1:
			return refuse(http.StatusBadRequest, "The last storage pool of this store cannot be deleted")
		}
		st.Pools = slices.DeleteFunc(st.Pools, func(p poolRecord) bool { return p.Name == name })
		return nil
	})
	if err == nil {
		s.removeEmpty(s.poolDir(name))
	}
	return reply{}, err
}

// removeEmpty removes the directories of a pool. One in which something is left stays, and that is fine.
func (s *Store) removeEmpty(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	_ = os.Remove(dir)
}

// poolResources tells the space of the file system that the pool is on.
func (s *Store) poolResources(_ http.ResponseWriter, r *request) (reply, error) {
	if !s.knowsPool(r.path[0]) {
		return reply{}, errNoPool
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(s.poolDir(r.path[0]), &fs); err != nil {
		return reply{}, &os.PathError{Op: "statfs", Path: s.poolDir(r.path[0]), Err: err}
	}
	type usage struct {
		Used  uint64 `json:"used"`
		Total uint64 `json:"total"`
	}
	size := uint64(fs.Frsize)
	// What is kept for root counts as used: the store may run as somebody else.
	return reply{metadata: map[string]usage{
		"space":  {(fs.Blocks - fs.Bavail) * size, fs.Blocks * size},
		"inodes": {fs.Files - fs.Ffree, fs.Files},
	}}, nil
}

type wireProject struct {
	projectRecord
	UsedBy []string `json:"used_by"`
}

// showProject is called with mu held.
func (s *Store) showProject(p projectRecord) wireProject {
	used := []string{}
	for _, f := range s.state.Profiles[p.Name] {
		used = append(used, apiURL(p.Name, "profiles", f.Name))
	}
	for k := range s.volumes {
		if k.project == p.Name {
			used = append(used, k.url())
		}
	}
	slices.Sort(used)
	return wireProject{p, used}
}

func (s *Store) listProjects(_ http.ResponseWriter, r *request) (reply, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := []wireProject{}
	for _, p := range s.state.Projects {
		list = append(list, s.showProject(p))
	}
	return listed(r, list, func(p wireProject) string { return apiURL("", "projects", p.Name) }), nil
}

func (s *Store) getProject(_ http.ResponseWriter, r *request) (reply, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	p := s.state.project(r.path[0])
	if p == nil {
		return reply{}, errNoProject
	}
	return reply{metadata: s.showProject(*p), etag: etag(p)}, nil
}

// projectState tells what the volumes of a project add up to; there are no limits.
func (s *Store) projectState(_ http.ResponseWriter, r *request) (reply, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.state.hasProject(r.path[0]) {
		return reply{}, errNoProject
	}
	type resource struct{ Limit, Usage int64 } // the servers leave the names to Go, too
	disk := resource{Limit: -1}
	for k, v := range s.volumes {
		if k.project == r.path[0] {
			disk.Usage += v.Size
		}
	}
	return reply{metadata: map[string]any{"resources": map[string]resource{"disk": disk}}}, nil
}

func (s *Store) createProject(w http.ResponseWriter, r *request) (reply, error) {
	var body projectRecord
	if err := r.decode(w, &body); err != nil {
		return reply{}, err
	}
	if err := checkRecordName("project", body.Name); err != nil {
		return reply{}, err
	}
	if body.Config == nil {
		body.Config = map[string]string{}
	}
	if err := checkProjectConfig(body.Config); err != nil {
		return reply{}, err
	}
	for _, f := range []string{featureVolumes, featureProfiles} {
		if body.Config[f] == "" {
			body.Config[f] = "true"
		}
	}
	err := s.edit(func(st *state) error {
		if st.hasProject(body.Name) {
			return refuse(http.StatusConflict, "Project %q already exists", body.Name)
		}
		st.Projects = append(st.Projects, body)
		if isTrue(body.Config[featureProfiles]) {
			st.Profiles[body.Name] = []*profileRecord{emptyProfile(defaultProject)}
		}
		return nil
	})
	return reply{location: apiURL("", "projects", body.Name)}, err
}

func (s *Store) deleteProject(_ http.ResponseWriter, r *request) (reply, error) {
	name := r.path[0]
	return reply{}, s.edit(func(st *state) error {
		switch {
		case !st.hasProject(name):
			return errNoProject
		case name == defaultProject:
			return refuse(http.StatusForbidden, "The 'default' project cannot be deleted")
		case len(st.Profiles[name]) > 1 || s.content(func(k key) bool { return k.project == name }) > 0:
			return refuse(http.StatusBadRequest, "Only empty projects can be removed")
		}
		st.Projects = slices.DeleteFunc(st.Projects, func(p projectRecord) bool { return p.Name == name })
		delete(st.Profiles, name)
		return nil
	})
}

type wireProfile struct {
	profileRecord
	UsedBy  []string `json:"used_by"`
	Project string   `json:"project"`
}

func (s *Store) showProfile(project string, p *profileRecord) wireProfile {
	return wireProfile{*p, []string{}, project}
}

// profileTag is the hash over what can be changed.
func profileTag(p *profileRecord) string { return etag([]any{p.Config, p.Description, p.Devices}) }

func (s *Store) listProfiles(_ http.ResponseWriter, r *request) (reply, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := []wireProfile{}
	for project, profiles := range s.state.Profiles {
		if !r.all && project != s.state.profileProject(r.project) {
			continue
		}
		for _, p := range profiles {
			list = append(list, s.showProfile(project, p))
		}
	}
	slices.SortFunc(list, func(a, b wireProfile) int { return strings.Compare(a.Project+"/"+a.Name, b.Project+"/"+b.Name) })
	return listed(r, list, func(p wireProfile) string { return apiURL(p.Project, "profiles", p.Name) }), nil
}

func (s *Store) getProfile(_ http.ResponseWriter, r *request) (reply, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	project := s.state.profileProject(r.project)
	p := s.state.profile(project, r.path[0])
	if p == nil {
		return reply{}, errNoProfile
	}
	return reply{metadata: s.showProfile(project, p), etag: profileTag(p)}, nil
}

func (s *Store) createProfile(w http.ResponseWriter, r *request) (reply, error) {
	p := emptyProfile("")
	if err := r.decode(w, p); err != nil {
		return reply{}, err
	}
	if err := checkRecordName("profile", p.Name); err != nil {
		return reply{}, err
	}
	err := s.edit(func(st *state) error {
		project := st.profileProject(r.project)
		if st.profile(project, p.Name) != nil {
			return refuse(http.StatusConflict, "Profile %q already exists", p.Name)
		}
		if err := s.checkDevices(st.storageProject(project), p.Devices); err != nil {
			return err
		}
		st.Profiles[project] = append(st.Profiles[project], p)
		return nil
	})
	return reply{location: apiURL(r.project, "profiles", p.Name)}, err
}

// putProfile serves PUT, which replaces everything, and PATCH, which leaves what it does not name.
func (s *Store) putProfile(w http.ResponseWriter, r *request) (reply, error) {
	var body struct {
		Description *string                      `json:"description"`
		Config      map[string]string            `json:"config"`
		Devices     map[string]map[string]string `json:"devices"`
	}
	if err := r.decode(w, &body); err != nil {
		return reply{}, err
	}
	return reply{}, s.edit(func(st *state) error {
		project := st.profileProject(r.project)
		old := st.profile(project, r.path[0])
		if old == nil {
			return errNoProfile
		}
		if err := r.matches(profileTag(old)); err != nil {
			return err
		}
		p := emptyProfile(old.Name)
		if r.Method == http.MethodPatch {
			p = old.clone()
		}
		if body.Description != nil {
			p.Description = *body.Description
		}
		for k, v := range body.Config {
			p.Config[k] = v
		}
		for k, v := range body.Devices {
			p.Devices[k] = v
		}
		if err := s.checkDevices(st.storageProject(project), p.Devices); err != nil {
			return err
		}
		i := slices.Index(st.Profiles[project], old)
		st.Profiles[project][i] = p
		return nil
	})
}

// clone is a deep copy.
func (p *profileRecord) clone() *profileRecord {
	c := emptyProfile(p.Name)
	text, err := json.Marshal(p)
	if err == nil {
		_ = json.Unmarshal(text, c)
	}
	return c
}

func (s *Store) deleteProfile(_ http.ResponseWriter, r *request) (reply, error) {
	return reply{}, s.edit(func(st *state) error {
		project := st.profileProject(r.project)
		p := st.profile(project, r.path[0])
		if p == nil {
			return errNoProfile
		}
		if p.Name == defaultProject {
			return refuse(http.StatusForbidden, `The "default" profile cannot be deleted`)
		}
		st.Profiles[project] = slices.DeleteFunc(st.Profiles[project], func(q *profileRecord) bool { return q == p })
		return nil
	})
}
