package store

import (
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
)

const defaultProject = "default"

// state is what state.json holds: everything but the volumes.
type state struct {
	Format   int                         `json:"format"`
	Pools    []poolRecord                `json:"pools"`
	Projects []projectRecord             `json:"projects"`
	Profiles map[string][]*profileRecord `json:"profiles"` // by project
}

type poolRecord struct {
	Name        string `json:"name"`
	Description string `json:"description"`
}

type projectRecord struct {
	Name        string            `json:"name"`
	Description string            `json:"description"`
	Config      map[string]string `json:"config"`
}

// profileRecord is a profile of instances. There are no instances here; but a profile can refer to volumes. It is not
// changed, but exchanged.
type profileRecord struct {
	Name        string                       `json:"name"`
	Description string                       `json:"description"`
	Config      map[string]string            `json:"config"`
	Devices     map[string]map[string]string `json:"devices"`
}

// The features of a project that matter here: whether it has volumes and profiles of its own, or those of "default".
const (
	featureVolumes  = "features.storage.volumes"
	featureProfiles = "features.profiles"
)

var (
	errNoPool    = &httpError{http.StatusNotFound, "Storage pool not found"}
	errNoProject = &httpError{http.StatusNotFound, "Project not found"}
	errNoProfile = &httpError{http.StatusNotFound, "Profile not found"}
)

func newState() state {
	return state{
		Format: format,
		Projects: []projectRecord{{
			Name: defaultProject, Description: "Default project",
			Config: map[string]string{featureVolumes: "true", featureProfiles: "true"},
		}},
		Profiles: map[string][]*profileRecord{defaultProject: {emptyProfile(defaultProject)}},
	}
}

func emptyProfile(name string) *profileRecord {
	return &profileRecord{Name: name, Config: map[string]string{}, Devices: map[string]map[string]string{}}
}

// clone copies what edit may change.
func (st *state) clone() state {
	c := *st
	c.Pools = slices.Clone(st.Pools)
	c.Projects = slices.Clone(st.Projects)
	c.Profiles = maps.Clone(st.Profiles)
	for p, list := range c.Profiles {
		c.Profiles[p] = slices.Clone(list)
	}
	return c
}

func (st *state) pool(name string) *poolRecord {
	if i := slices.IndexFunc(st.Pools, func(p poolRecord) bool { return p.Name == name }); i >= 0 {
		return &st.Pools[i]
	}
	return nil
}

func (st *state) hasPool(name string) bool { return st.pool(name) != nil }

func (st *state) project(name string) *projectRecord {
	if i := slices.IndexFunc(st.Projects, func(p projectRecord) bool { return p.Name == name }); i >= 0 {
		return &st.Projects[i]
	}
	return nil
}

func (st *state) hasProject(name string) bool { return st.project(name) != nil }

// storageProject is the project that holds the volumes of a project.
func (st *state) storageProject(name string) string { return st.effective(name, featureVolumes) }

func (st *state) profileProject(name string) string { return st.effective(name, featureProfiles) }

func (st *state) effective(name, feature string) string {
	if p := st.project(name); p != nil && isTrue(p.Config[feature]) {
		return name
	}
	return defaultProject
}

func isTrue(s string) bool {
	return slices.Contains([]string{"true", "1", "yes", "on"}, strings.ToLower(s))
}

func (st *state) profile(project, name string) *profileRecord {
	list := st.Profiles[project]
	if i := slices.IndexFunc(list, func(p *profileRecord) bool { return p.Name == name }); i >= 0 {
		return list[i]
	}
	return nil
}

// users lists the profiles with a device that names a volume, sorted.
func (st *state) users(k key) []string {
	users := []string{}
	for project, list := range st.Profiles {
		if st.storageProject(project) != k.project {
			continue
		}
		for _, p := range list {
			for _, d := range p.Devices {
				if d["type"] == "disk" && d["pool"] == k.pool && d["source"] == k.name {
					users = append(users, apiURL(project, "profiles", p.Name))
					break
				}
			}
		}
	}
	slices.Sort(users)
	return users
}

// edit changes the state on disk, then in memory. f may look at everything, and changes st only.
func (s *Store) edit(f func(st *state) error) error {
	s.change.Lock()
	defer s.change.Unlock()
	if err := s.stopped(); err != nil {
		return err
	}
	st := s.state.clone()
	if err := f(&st); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(s.dir, "state.json"), st); err != nil {
		return err
	}
	s.mu.Lock()
	s.state = st
	s.mu.Unlock()
	return nil
}

// checkRecordName is for pools, projects and profiles.
func checkRecordName(what, name string) error {
	odd := strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r == 0x7F })
	// An underscore in a project's name would make PROJECT_NAME, which events hold, even more ambiguous.
	if name == "" || len(name) > 63 || name == "." || name == ".." || odd || what == "project" && strings.Contains(name, "_") {
		return refuse(http.StatusBadRequest, "Invalid %s name %q", what, name)
	}
	return nil
}

// checkDevices refuses what neither server would do with a volume of this store.
func (s *Store) checkDevices(project string, devices map[string]map[string]string) error {
	for name, d := range devices {
		if d["type"] != "disk" || d["path"] == "" || d["path"] == "/" {
			continue
		}
		if _, err := s.find(key{d["pool"], project, d["source"]}); err == nil {
			return refuse(http.StatusBadRequest, "Device validation failed for %q: Custom ISO volumes cannot have a path defined", name)
		}
	}
	return nil
}

// checkProjectConfig refuses settings that would not be kept to.
func checkProjectConfig(config map[string]string) error {
	for k := range config {
		if !strings.HasPrefix(k, "features.") && !strings.HasPrefix(k, "user.") {
			return refuse(http.StatusBadRequest, "Invalid project configuration key %q: this store knows features.* and user.* only", k)
		}
	}
	return nil
}

// content counts what keeps a pool or project from being deleted.
func (s *Store) content(match func(k key) bool) int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := 0
	for k := range s.volumes {
		if match(k) {
			n++
		}
	}
	return n
}
