package store

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strconv"
	"time"
)

// extensions lists, by their names in both servers, what this store does. A name is added with what it stands for.
func extensions(vendor string) []string {
	both := []string{
		// Programs ask for "resources" before they ask for the space of a pool, for "storage_api_volume_snapshots" and
		// "custom_volume_backup" before they list none, and for "api_filtering" before they list instances.
		"resources", "storage_api_volume_snapshots", "custom_volume_backup", "api_filtering",
		"storage", "storage_api_volume_rename", "storage_api_local_volume_handling", "storage_api_project",
		"storage_volume_state", "storage_volume_state_total", "storage_volume_api_filtering", "storage_volumes_all_projects",
		"storage_volumes_created_at", "server_supported_storage_drivers", "custom_volume_iso",
		"projects", "project_usage", "profile_usedby", "profiles_all_projects",
		"operation_description", "operation_wait", "operations_get_query_all_projects",
		"event_lifecycle", "event_location", "event_project", "event_lifecycle_requestor_address",
	}
	if vendor == vendorIncus {
		return append(both, "backup_iso", "direct_backup")
	}
	return append(both, "storage_volatile_uuid", "storage_volumes_all", "storage_and_profile_operations", "bulk_operations",
		"operation_metadata_entity_url")
}

// getServer serves GET /1.0.
func (s *Store) getServer(_ http.ResponseWriter, _ *request) (reply, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "store"
	}
	version := "6.9"
	if s.vendor == vendorIncus {
		version = "6.23"
	}
	return reply{metadata: map[string]any{
		"config":           map[string]string{},
		"api_extensions":   extensions(s.vendor),
		"api_status":       "stable",
		"api_version":      "1.0",
		"auth":             "trusted",
		"public":           false,
		"auth_methods":     []string{"tls"},
		"auth_user_name":   "",
		"auth_user_method": "unix",
		"environment": map[string]any{
			"addresses":        []string{},
			"architectures":    []string{},
			"driver":           "",
			"kernel":           "Linux",
			"project":          defaultProject,
			"server":           s.vendor,
			"server_name":      host,
			"server_pid":       os.Getpid(),
			"server_version":   version,
			"server_clustered": false,
			"storage":          "dir",
			"storage_version":  "1",
			"storage_supported_drivers": []map[string]any{
				{"Name": "dir", "Version": "1", "Remote": false},
			},
		},
	}}, nil
}

func (s *Store) listOperations(_ http.ResponseWriter, r *request) (reply, error) {
	project := r.project
	if r.all {
		project = ""
	}
	groups := s.ops.all(project)
	if r.recursive() {
		return reply{metadata: groups}, nil
	}
	urls := map[string][]string{}
	for status, list := range groups {
		for _, o := range list {
			urls[status] = append(urls[status], o.url())
		}
	}
	return reply{metadata: urls}, nil
}

func (s *Store) getOperation(_ http.ResponseWriter, r *request) (reply, error) {
	o, err := s.ops.get(r.path[0])
	return reply{metadata: o}, err
}

func (s *Store) cancelOperation(_ http.ResponseWriter, r *request) (reply, error) {
	if _, err := s.ops.get(r.path[0]); err != nil {
		return reply{}, err
	}
	return reply{}, refuse(http.StatusBadRequest, "This operation can't be cancelled")
}

// waitOperation serves GET .../wait. The status is out before the end is known, as on the servers, so that it is 200
// whatever comes; and the two dialects say different things of failures and timeouts (SERVER-API 6).
func (s *Store) waitOperation(w http.ResponseWriter, r *request) (reply, error) {
	o, err := s.ops.get(r.path[0])
	if err != nil {
		return reply{}, err
	}
	ctx := r.Context()
	if t := r.query.Get("timeout"); t != "" {
		seconds, err := strconv.Atoi(t)
		if err != nil {
			return reply{}, refuse(http.StatusBadRequest, "Bad timeout %q", t)
		}
		if seconds >= 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
			defer cancel()
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	var late error
	select {
	case <-o.ending.done:
		o = o.ending.last
	case <-ctx.Done():
		late = ctx.Err()
	case <-s.stop:
		panic(http.ErrAbortHandler)
	}
	switch {
	case s.vendor == vendorLXD && o.StatusCode == codeFailure:
		write(w, 0, errorEnvelope(&httpError{o.ErrCode, o.Err}))
	case s.vendor == vendorLXD && late != nil && o.StatusCode == codeRunning:
		write(w, 0, errorEnvelope(errors.New("context deadline exceeded")))
	default:
		write(w, 0, envelope{Type: "sync", Status: "Success", StatusCode: http.StatusOK, Metadata: o})
	}
	return reply{}, errAnswered
}
