package store

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
)

// key is the volume that a request is about. Other types than "custom" have no volumes.
func (s *Store) key(r *request) (key, error) {
	if !s.knowsPool(r.path[0]) {
		return key{}, errNoPool
	}
	if r.path[1] != "custom" {
		return key{}, errNoVolume
	}
	return key{r.path[0], r.owner, r.path[2]}, nil
}

// volume is key, for a volume that is there.
func (s *Store) volume(r *request) (*volume, error) {
	k, err := s.key(r)
	if err != nil {
		return nil, err
	}
	return s.find(k)
}

func (s *Store) getVolume(_ http.ResponseWriter, r *request) (reply, error) {
	v, err := s.volume(r)
	if err != nil {
		return reply{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return reply{metadata: s.show(v), etag: s.etag(v)}, nil
}

// listVolumes serves GET .../volumes[/TYPE].
func (s *Store) listVolumes(_ http.ResponseWriter, r *request) (reply, error) {
	if !s.knowsPool(r.path[0]) {
		return reply{}, errNoPool
	}
	kind := ""
	if len(r.path) > 1 {
		kind = r.path[1]
	}
	return s.list(r, r.path[0], kind)
}

// listAllVolumes serves GET /1.0/storage-volumes[/TYPE], which Incus does not have.
func (s *Store) listAllVolumes(_ http.ResponseWriter, r *request) (reply, error) {
	if s.vendor != vendorLXD {
		return reply{}, refuse(http.StatusNotFound, "not found")
	}
	kind := ""
	if len(r.path) > 0 {
		kind = r.path[0]
	}
	return s.list(r, "", kind)
}

// list shows the volumes of a pool, "" = of all; sorted by name.
func (s *Store) list(r *request, pool, kind string) (reply, error) {
	keep, err := parseFilter(r.query.Get("filter"))
	if err != nil {
		return reply{}, err
	}
	if kind != "" && !slices.Contains([]string{"custom", "container", "virtual-machine", "image"}, kind) {
		return reply{}, refuse(http.StatusBadRequest, "Invalid storage volume type %q", kind)
	}
	list := []wireVolume{}
	urls := []string{}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var found []*volume
	for k, v := range s.volumes {
		if (pool == "" || k.pool == pool) && (r.all || k.project == r.owner) && (kind == "" || kind == "custom") {
			found = append(found, v)
		}
	}
	slices.SortFunc(found, func(a, b *volume) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Project, b.Project), strings.Compare(a.pool, b.pool))
	})
	for _, v := range found {
		if w := s.show(v); keep(w) {
			list = append(list, w)
			urls = append(urls, v.key().url())
		}
	}
	if r.recursive() {
		return reply{metadata: list}, nil
	}
	return reply{metadata: urls}, nil
}

// recursive reports whether objects are wanted instead of their addresses. 2 is the same as 1 here.
func (r *request) recursive() bool {
	n := r.query.Get("recursion")
	return n == "1" || n == "2"
}

// putVolume serves PUT and PATCH. Only the description can change; a PATCH without one clears it, as on the servers
// (SERVER-API 3.1).
func (s *Store) putVolume(w http.ResponseWriter, r *request) (reply, error) {
	v, err := s.volume(r)
	if err != nil {
		return reply{}, err
	}
	var body struct {
		Description string            `json:"description"`
		Config      map[string]string `json:"config"`
	}
	if err := r.matches(s.etag(v)); err != nil {
		return reply{}, err
	}
	if err := r.decode(w, &body); err != nil {
		return reply{}, err
	}
	k, have := v.key(), s.config(v)
	same := r.Method == http.MethodPatch || len(body.Config) == len(have)
	for name, value := range body.Config {
		same = same && have[name] == value
	}
	if !same {
		return reply{}, refuse(http.StatusBadRequest, "Custom ISO volume config cannot be changed")
	}
	return s.perform(w, r, "Updating storage volume", k, func() error {
		err := s.describe(k, body.Description)
		if err == nil {
			s.lifecycle("updated", k, nil)
		}
		return err
	})
}

// renameVolume serves POST.
func (s *Store) renameVolume(w http.ResponseWriter, r *request) (reply, error) {
	v, err := s.volume(r)
	if err != nil {
		return reply{}, err
	}
	var body struct {
		Name    string `json:"name"`
		Pool    string `json:"pool"`
		Project string `json:"project"`
	}
	if err := r.decode(w, &body); err != nil {
		return reply{}, err
	}
	k := v.key()
	if body.Pool != "" && body.Pool != k.pool || body.Project != "" && body.Project != k.project {
		return reply{}, refuse(http.StatusBadRequest, "This store does not move volumes between pools and projects; copy it and delete the old one")
	}
	if err := checkName(s.vendor, body.Name); err != nil {
		return reply{}, err
	}
	to := key{k.pool, k.project, body.Name}
	if _, err := s.find(to); err == nil {
		return reply{}, refuse(http.StatusConflict, "Volume by that name already exists")
	}
	if err := s.unused(k); err != nil {
		return reply{}, err
	}
	answer, err := s.perform(w, r, "Renaming storage volume", k, func() error {
		err := s.rename(k, body.Name)
		if err == nil {
			s.lifecycle("renamed", to, map[string]any{"old_name": k.name})
		}
		return err
	})
	answer.location = to.url()
	return answer, err
}

func (s *Store) deleteVolume(w http.ResponseWriter, r *request) (reply, error) {
	k, err := s.key(r)
	if err == nil {
		err = s.unused(k)
	}
	if err != nil {
		return reply{}, err
	}
	return s.perform(w, r, "Deleting storage volume", k, func() error {
		err := s.remove(k)
		if err == nil {
			s.lifecycle("deleted", k, nil)
		}
		return err
	})
}

func (s *Store) volumeState(_ http.ResponseWriter, r *request) (reply, error) {
	v, err := s.volume(r)
	if err != nil {
		return reply{}, err
	}
	return reply{metadata: map[string]any{"usage": map[string]int64{"used": v.Size, "total": v.Size}}}, nil
}

func (s *Store) listSnapshots(_ http.ResponseWriter, r *request) (reply, error) {
	if _, err := s.volume(r); err != nil {
		return reply{}, err
	}
	return reply{metadata: []any{}}, nil
}

// refuseSnapshot fails as an operation, like on the servers.
func (s *Store) refuseSnapshot(w http.ResponseWriter, r *request) (reply, error) {
	v, err := s.volume(r)
	if err != nil {
		return reply{}, err
	}
	return reply{}, s.start(w, r, "Creating storage volume snapshot", v.key(), func() error {
		return refuse(http.StatusBadRequest, `Volume of content type "iso" does not support snapshots`)
	})
}
