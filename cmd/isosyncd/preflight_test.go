package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"isosyncd/iso"
	"isosyncd/lxd"
	isosync "isosyncd/sync"
)

func TestPreflight(t *testing.T) {
	mark := func(owner, digest string) string {
		return isosync.Mark{Owner: owner, SHA256: digest, File: "win.iso"}.Describe("Windows")
	}
	other := strings.Repeat("0", 64)
	sum := isosync.Sum{Algorithm: "sha256", Hex: someDigest, List: "SHA256SUMS"}
	volume := func(v lxd.Volume) func(*candidate, *place) {
		return func(_ *candidate, p *place) { p.Volumes = append(p.Volumes, v) }
	}
	for _, c := range []struct {
		name   string
		change func(*candidate, *place)
		check  string // that must fail; "" = none
		code   isosync.Code
		say    string // in its text or remedy, or of the good one with prefix "+check:"
	}{
		{"all well", func(*candidate, *place) {}, "", "", "+name:volume win"},
		{"free name", func(*candidate, *place) {}, "", "", "+clash:free"},
		{"not an ISO", func(c *candidate, _ *place) {
			c.ProbeErr = &iso.NotISOError{LooksLike: "an HTML page", Remedy: "the download failed"}
		}, "format", isosync.CodeNotISO, "looks like an HTML page"},
		{"truncated", func(c *candidate, _ *place) {
			c.ProbeErr = &iso.TruncatedError{Declared: 200, Actual: 100, Reason: "ISO 9660 volume size"}
		}, "format", isosync.CodeIncomplete, "has 100 of 200 bytes"},
		{"truncated in spite of a checksum", func(c *candidate, _ *place) {
			c.ProbeErr = &iso.TruncatedError{Declared: 200, Actual: 100, Reason: "ISO 9660 volume size"}
			c.Sums, c.Digests = []isosync.Sum{sum}, map[string]string{"sha256": someDigest}
		}, "format", isosync.CodeIncomplete, ""},
		{"a partition table claims more", func(c *candidate, _ *place) {
			c.ProbeErr = &iso.TruncatedError{Declared: 200, Actual: 100, Reason: "MBR", Soft: true}
		}, "format", isosync.CodeIncomplete, "MBR"},
		{"but a list vouches for it", func(c *candidate, _ *place) {
			c.ProbeErr = &iso.TruncatedError{Declared: 200, Actual: 100, Reason: "MBR", Soft: true}
			c.Sums, c.Digests = []isosync.Sum{sum}, map[string]string{"sha256": someDigest}
		}, "", "", "+format:checksum is right"},
		{"unreadable", func(c *candidate, _ *place) { c.ProbeErr = errors.New("input/output error") }, "format", isosync.CodeUnreadable, "input/output"},
		{"checksum right", func(c *candidate, _ *place) {
			c.Sums, c.Digests = []isosync.Sum{sum}, map[string]string{"sha256": someDigest}
		}, "", "", "+checksum:sha256 agrees with SHA256SUMS"},
		{"checksum wrong", func(c *candidate, _ *place) {
			c.Sums, c.Digests = []isosync.Sum{sum}, map[string]string{"sha256": other}
		}, "checksum", isosync.CodeChecksum, "SHA256SUMS wants sha256 9f86d081884c..., win.iso has 000000000000..."},
		{"one of two lists is wrong", func(c *candidate, _ *place) {
			c.Sums = []isosync.Sum{sum, {Algorithm: "md5", Hex: "aa", List: "MD5SUMS"}}
			c.Digests = map[string]string{"sha256": someDigest, "md5": "bb"}
		}, "checksum", isosync.CodeChecksum, "MD5SUMS"},
		{"listed, and not read", func(c *candidate, _ *place) { c.Sums = []isosync.Sum{sum} }, "checksum", isosync.CodeChecksum, ""},
		{"list contradicts itself", func(c *candidate, _ *place) { c.SumsErr = errors.New("it names win.iso twice") }, "checksum", isosync.CodeChecksum, "twice"},
		{"damaged by its own sum", func(c *candidate, _ *place) { c.Damage = errors.New("fragment 3 differs") }, "checksum", isosync.CodeChecksum, "fragment 3"},
		{"damaged by its own sum, but a list vouches", func(c *candidate, _ *place) {
			c.Damage = errors.New("fragment 3 differs")
			c.Sums, c.Digests = []isosync.Sum{sum}, map[string]string{"sha256": someDigest}
		}, "", "", ""},
		{"no name can be made", func(c *candidate, _ *place) { c.Path = "/x/日本.iso" }, "name", isosync.CodeName, "Latin"},
		{"name asked for", func(c *candidate, _ *place) { c.Name = "other" }, "", "", "+name:volume other"},
		{"bad name asked for", func(c *candidate, _ *place) { c.Name = "a b" }, "name", isosync.CodeName, "use a-b"},
		{"foreign", volume(lxd.Volume{Name: "win", ContentType: "iso", Size: 100}), "clash", isosync.CodeForeign, "isosyncd did not make it"},
		{"foreign, in use", volume(lxd.Volume{Name: "win", ContentType: "iso", UsedBy: []string{"/1.0/instances/vm"}}), "clash", isosync.CodeForeign, "used by instance vm"},
		{"ours with other bytes", volume(lxd.Volume{Name: "win", ContentType: "iso", Size: 100, Description: mark("host", other)}), "clash", isosync.CodeForeign, "owner host"},
		{"ours with the same bytes", func(c *candidate, p *place) {
			c.Digests = map[string]string{"sha256": someDigest}
			p.Volumes = []lxd.Volume{{Name: "win", ContentType: "iso", Size: 100, Description: mark("host", someDigest)}}
		}, "", "", "+clash:there already, with the same bytes"},
		{"ours, bytes not known", volume(lxd.Volume{Name: "win", ContentType: "iso", Size: 100, Description: mark("host", someDigest)}), "clash", isosync.CodeForeign, ""},
		{"the daemon's own, free", func(_ *candidate, p *place) {
			p.Owner = "host"
			p.Volumes = []lxd.Volume{{Name: "win", ContentType: "iso", Size: 100, Description: mark("host", other)}}
		}, "", "", "+clash:would be replaced"},
		{"the daemon's own, in use", func(_ *candidate, p *place) {
			p.Owner = "host"
			p.Volumes = []lxd.Volume{{Name: "win", ContentType: "iso", Size: 100, Description: mark("host", other), UsedBy: []string{"/1.0/profiles/default"}}}
		}, "use", isosync.CodeInUse, "profile default"},
		{"the daemon's own, replace never", func(_ *candidate, p *place) {
			p.Owner, p.Replace = "host", isosync.ReplaceNever
			p.Volumes = []lxd.Volume{{Name: "win", ContentType: "iso", Size: 100, Description: mark("host", other)}}
		}, "clash", isosync.CodeReplaceOff, "never"},
		{"no room for both", func(_ *candidate, p *place) {
			p.Owner, p.Space = "host", lxd.Space{Used: 850, Total: 1000}
			p.Volumes = []lxd.Volume{{Name: "win", ContentType: "iso", Size: 10, Description: mark("host", other)}}
		}, "room", isosync.CodeNoSpace, "190 B are needed"},
		{"room for one is enough in place", func(_ *candidate, p *place) {
			p.Owner, p.Space, p.Replace = "host", lxd.Space{Used: 850, Total: 1000}, isosync.ReplaceInPlace
			p.Volumes = []lxd.Volume{{Name: "win", ContentType: "iso", Size: 10, Description: mark("host", other)}}
		}, "", "", "+room:90 B are needed"},
		{"another file of the command", func(_ *candidate, p *place) { p.Taken = map[string]string{"win": "WIN.ISO"} }, "clash", isosync.CodeClash, "WIN.ISO maps to"},
		{"another content type", volume(lxd.Volume{Name: "win", ContentType: "block"}), "clash", isosync.CodeForeign, "block volume"},
		{"the same path", volume(lxd.Volume{Name: "win.iso", ContentType: "filesystem"}), "clash", isosync.CodeForeign, "same place"},
		{"an ISO volume k.iso is another one", volume(lxd.Volume{Name: "win.iso", ContentType: "iso"}), "", "", ""},
		{"pool full", func(_ *candidate, p *place) { p.Space = lxd.Space{Used: 950, Total: 1000} }, "room", isosync.CodeNoSpace, "100 B are needed, 50 B are free"},
		{"space not told", func(_ *candidate, p *place) { p.Space = lxd.Space{} }, "", "", "+room:does not tell"},
		{"just enough", func(_ *candidate, p *place) { p.Space = lxd.Space{Used: 900, Total: 1000} }, "", "", ""},
		{"limit", func(_ *candidate, p *place) { p.Limits = lxd.Space{Used: 1000, Total: 1050} }, "limits", isosync.CodeLimit, "limits.disk"},
		{"within the limit", func(_ *candidate, p *place) { p.Limits = lxd.Space{Used: 900, Total: 1000} }, "", "", "+limits:100 B more"},
		{"server away", func(_ *candidate, p *place) { p.Err = fmt.Errorf("x: %w", lxd.ErrAway) }, "server", isosync.CodeAway, "runs"},
		{"certificate changed", func(_ *candidate, p *place) { p.Err = fmt.Errorf("x: %w", lxd.ErrIdentity) }, "server", isosync.CodeDenied, "set up anew"},
		{"denied", func(_ *candidate, p *place) { p.Err = &lxd.Error{Op: "list", Status: 403, Message: "no"} }, "server", isosync.CodeDenied, "trust"},
		{"no such pool", func(_ *candidate, p *place) { p.Err = &lxd.Error{Op: "open", Status: 404, Message: "no"} }, "server", isosync.CodeRefused, "--pool"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := candidate{Path: "/x/win.iso", Size: 100}
			where := place{
				Server: lxd.Server{Vendor: "incus", Version: "6.0.4", Addr: "unix:/s"}, Pool: "default", Driver: "dir", Project: "default",
				Space: lxd.Space{Used: 0, Total: 1000},
			}
			c.change(&file, &where)
			_, list := preflight(&file, &where)
			if passed(list) != (c.check == "") {
				t.Errorf("%+v", list)
			}
			want, wantGood := strings.CutPrefix(c.say, "+")
			said := false
			for _, f := range list {
				if !f.OK && (f.Check != c.check || f.Code != c.code || f.Remedy == "") {
					t.Errorf("unexpected: %+v", f)
				}
				if wantGood {
					check, text, _ := strings.Cut(want, ":")
					said = said || f.Check == check && f.OK && strings.Contains(f.Text, text)
				} else {
					said = said || !f.OK && strings.Contains(f.Text+"\n"+f.Remedy, want)
				}
			}
			if !said && c.say != "" {
				t.Errorf("%q is not said: %+v", c.say, list)
			}
		})
	}
}

// Whatever is wrong, everything is looked at: a person corrects it all at once.
func TestPreflightTellsEverything(t *testing.T) {
	file := candidate{
		Path: "/x/win.iso", Size: 100, ProbeErr: &iso.NotISOError{LooksLike: "x", Remedy: "y"},
		Sums: []isosync.Sum{{Algorithm: "md5", Hex: "aa", List: "l"}}, Digests: map[string]string{},
	}
	where := place{
		Volumes: []lxd.Volume{{Name: "win", ContentType: "block"}}, Space: lxd.Space{Used: 1, Total: 1}, Limits: lxd.Space{Used: 1, Total: 1},
	}
	_, list := preflight(&file, &where)
	failed := 0
	for _, f := range list {
		if !f.OK {
			failed++
		}
	}
	if failed != 5 {
		t.Errorf("%d of %+v", failed, list)
	}
}
