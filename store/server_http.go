package store

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strconv"
	"time"
)

// Extensions that both dialects claim, and that are kept to.
var commonExtensions = []string{
	"storage", "projects", "resources", "profile_update_patch", "storage_api_volume_rename", "storage_api_local_volume_handling",
	"storage_api_project", "storage_volume_state", "storage_custom_volume_unix_uid", "api_filtering",
	"custom_volume_iso", "storage_volumes_all_projects", "storage_volumes_created_at", "event_project", "operation_wait",
	"event_lifecycle", "event_lifecycle_requestor",
}

// getServer serves GET /1.0.
func (s *Store) getServer(_ http.ResponseWriter, _ *request) (reply, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "store"
	}
	extensions, version := append([]string{}, commonExtensions...), "6.9"
	if s.vendor == vendorLXD {
		extensions = append(extensions, "storage_volatile_uuid", "storage_volumes_all", "storage_and_profile_operations",
			"bulk_operations", "operation_metadata_entity_url")
	} else {
		extensions, version = append(extensions, "custom_volume_backup", "backup_iso", "direct_backup"), "6.23"
	}
	return reply{metadata: map[string]any{
		"config":           map[string]string{},
		"api_extensions":   extensions,
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
