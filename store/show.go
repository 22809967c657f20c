package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// wireVolume is a volume as the servers show it (SERVER-API 2.1).
type wireVolume struct {
	Config      map[string]string `json:"config"`
	Description string            `json:"description"`
	Name        string            `json:"name"`
	Type        string            `json:"type"`
	UsedBy      []string          `json:"used_by"`
	Location    string            `json:"location"`
	ContentType string            `json:"content_type"`
	Project     string            `json:"project"`
	CreatedAt   time.Time         `json:"created_at"`
	Pool        string            `json:"pool,omitempty"` // LXD only
}

// config is what is fixed.
func (s *Store) config(v *volume) map[string]string {
	c := map[string]string{"size": strconv.FormatInt(v.Size, 10)}
	if s.vendor == vendorLXD {
		c["volatile.uuid"] = v.UUID
	}
	return c
}

// show is called with mu held.
func (s *Store) show(v *volume) wireVolume {
	w := wireVolume{
		Config:      s.config(v),
		Description: v.Description,
		Name:        v.Name,
		Type:        "custom",
		UsedBy:      s.state.users(v.key()),
		Location:    "none",
		ContentType: "iso",
		Project:     v.Project,
		CreatedAt:   v.CreatedAt,
	}
	if s.vendor == vendorLXD {
		w.Pool = v.pool
	}
	return w
}

// url is the volume's address, with the project unless that is the default one.
func (k key) url() string {
	return apiURL(k.project, "storage-pools", k.pool, "volumes", "custom", k.name)
}

// apiURL joins escaped segments, and names the project.
func apiURL(project string, segments ...string) string {
	var b strings.Builder
	b.WriteString("/1.0")
	for _, seg := range segments {
		b.WriteString("/" + url.PathEscape(seg))
	}
	if project != "" && project != defaultProject {
		b.WriteString("?project=" + url.QueryEscape(project))
	}
	return b.String()
}

// etag is the hash over what cannot be changed, as on the servers: not over the description (SERVER-API 2.1).
func (s *Store) etag(v *volume) string { return etag([]any{v.Name, "custom", s.config(v)}) }

func etag(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
