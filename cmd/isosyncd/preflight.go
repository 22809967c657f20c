package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"isosyncd/iso"
	"isosyncd/lxd"
	isosync "isosyncd/sync"
)

// This file answers, before the first byte is sent, whether an import would succeed: the server looks at most of it only
// after the last byte (SERVER-API 1.2).

// finding is the answer of one check.
type finding struct {
	Check  string       `json:"check"` // "server", "format", "name", "clash", "use", "room", "limits", "checksum"
	OK     bool         `json:"ok"`
	Code   isosync.Code `json:"code,omitempty"` // of what is wrong
	Text   string       `json:"text"`
	Remedy string       `json:"remedy,omitempty"` // what to do; "" if OK
}

func good(check, format string, args ...any) finding {
	return finding{Check: check, OK: true, Text: fmt.Sprintf(format, args...)}
}

func bad(check string, code isosync.Code, text, remedy string) finding {
	return finding{Check: check, Code: code, Text: text, Remedy: remedy}
}

func badProblem(check string, p *isosync.Problem) finding {
	return bad(check, p.Code, p.Text, p.Remedy)
}

// candidate is what is known of a file that is to be imported.
type candidate struct {
	Path     string
	Name     string // the volume name asked for; "" = made of the file name
	Size     int64  // bytes
	Info     iso.Info
	ProbeErr error
	Sums     []isosync.Sum     // what lists beside it say
	SumsErr  error             // a list could not be read, or contradicts itself
	Digests  map[string]string // by algorithm; nil = the file was not read: nothing asks for it
	Damage   error             // what the image's own checksum says against it
}

// place is where it is to go, as seen at one moment.
type place struct {
	Err     error // why nothing else is known
	Server  lxd.Server
	Pool    string
	Driver  string
	Project string
	Volumes []lxd.Volume
	Space   lxd.Space
	Limits  lxd.Space // Total 0 = none, or the server does not tell us

	Owner   string            // whose volumes may be replaced; "" = nobody's
	Replace isosync.Replace   // how
	Taken   map[string]string // volume names that other files of the same command get -> those files
}

// limiter is a Remote that knows the limits of its project.
type limiter interface {
	Limits(ctx context.Context) (lxd.Space, error)
}

var _ limiter = (*lxd.Pool)(nil)

// lookAt asks for everything that preflight wants to know. A client that may not see limits sees none: then the server
// is asked by the import itself.
func lookAt(ctx context.Context, r isosync.Remote) place {
	p := place{Server: r.Server(), Pool: r.Name(), Driver: r.Driver(), Project: r.Project()}
	if p.Volumes, p.Err = r.Volumes(ctx); p.Err != nil {
		return p
	}
	if p.Space, p.Err = r.Space(ctx); p.Err != nil {
		return p
	}
	if l, ok := r.(limiter); ok {
		if limits, err := l.Limits(ctx); err == nil {
			p.Limits = limits
		} else if errors.Is(err, lxd.ErrAway) {
			p.Err = err
		}
	}
	return p
}

// preflight checks everything, also after something was found wrong: a person corrects all of it at once. It is pure.
func preflight(c *candidate, p *place) (volume string, list []finding) {
	list = append(list, checkFormat(c), checkSums(c))
	volume, named := checkVolumeName(c)
	list = append(list, named)
	if p.Err != nil {
		return volume, append(list, serverFinding(p.Err))
	}
	list = append(list, good("server", "%s, project %s", serverName(p.Server), showName(p.Project)))
	if named.OK {
		list = append(list, checkClash(c, p, volume))
	}
	need := needed(c, p, volume)
	return volume, append(list, checkRoom(need, p), checkLimits(need, p))
}

// needed is the room that it takes at its peak, in bytes: nothing where the volume is there already, and more than the
// size where another is replaced and the driver does not copy by reference.
func needed(c *candidate, p *place, volume string) int64 {
	if alreadyThere(c, p, volume) {
		return 0
	}
	for i := range p.Volumes {
		v := &p.Volumes[i]
		_, ours := isosync.OurMark(*v, p.Owner)
		switch {
		case v.Name != volume || !ours || p.Owner == "":
		case p.Replace == isosync.ReplaceInPlace:
			return max(0, c.Size-v.Size)
		case p.Driver != "btrfs" && p.Driver != "zfs":
			return max(c.Size, 2*c.Size-v.Size)
		}
	}
	return c.Size
}

// passed reports whether nothing speaks against the import.
func passed(list []finding) bool {
	for i := range list {
		if !list[i].OK {
			return false
		}
	}
	return true
}

// alreadyThere reports whether the volume is there with exactly these bytes, so that nothing is left to do.
func alreadyThere(c *candidate, p *place, volume string) bool {
	for i := range p.Volumes {
		v := &p.Volumes[i]
		_, m, marked := isosync.ParseMark(v.Description)
		if v.Name == volume && v.ContentType == "iso" && marked && c.Digests["sha256"] == m.SHA256 && v.Size >= c.Size {
			return true
		}
	}
	return false
}

func serverName(s lxd.Server) string {
	vendor := "LXD"
	if s.Vendor == "incus" {
		vendor = "Incus"
	}
	return strings.TrimSpace(vendor+" "+showText(s.Version)) + " at " + showText(s.Addr)
}

func checkFormat(c *candidate) finding {
	const check = "format"
	name := showName(filepath.Base(c.Path))
	var not *iso.NotISOError
	var short *iso.TruncatedError
	switch {
	case c.ProbeErr == nil:
		return good(check, "%s", describeImage(c.Info))
	case errors.As(c.ProbeErr, &not):
		return bad(check, isosync.CodeNotISO, name+" is not an ISO image: it looks like "+not.LooksLike, not.Remedy)
	case errors.As(c.ProbeErr, &short):
		if short.Soft && len(c.Sums) > 0 && c.SumsErr == nil && len(mismatches(c)) == 0 {
			return good(check, "shorter than its partition table says, but its checksum is right")
		}
		return bad(check, isosync.CodeIncomplete, name+" is "+showText(short.Error()), "copy or download it again, or wait until that is finished")
	}
	return bad(check, isosync.CodeUnreadable, name+" cannot be read: "+showText(c.ProbeErr.Error()), "make it readable for this user")
}

// mismatches are the sums that the bytes do not have. Without digests, nothing matches.
func mismatches(c *candidate) []isosync.Sum {
	var out []isosync.Sum
	for _, s := range c.Sums {
		if c.Digests[s.Algorithm] != s.Hex {
			out = append(out, s)
		}
	}
	return out
}

func checkSums(c *candidate) finding {
	const check = "checksum"
	name := showName(filepath.Base(c.Path))
	if c.SumsErr != nil {
		return bad(check, isosync.CodeChecksum, showText(c.SumsErr.Error()), "correct or remove the list; as long as it is in doubt nothing is imported")
	}
	if wrong := mismatches(c); len(wrong) > 0 {
		s := wrong[0]
		return bad(check, isosync.CodeChecksum,
			fmt.Sprintf("checksum mismatch: %s wants %s %s, %s has %s", showName(s.List), s.Algorithm, shortHex(s.Hex), name, shortHex(c.Digests[s.Algorithm])),
			"get the image again, or correct the list")
	}
	switch {
	case len(c.Sums) > 0:
		return good(check, "%s agrees with %s", c.Sums[0].Algorithm, showName(c.Sums[0].List))
	case c.Damage != nil:
		return bad(check, isosync.CodeChecksum, "the image is damaged: "+showText(c.Damage.Error()),
			"get the image again; a checksum list beside it that names it overrules this")
	case c.Info.Sum != nil && c.Digests != nil:
		return good(check, "the image's own checksum is right")
	}
	return good(check, "no list beside the file names it")
}

func shortHex(s string) string {
	if s == "" {
		return "another"
	}
	if len(s) > 12 {
		return s[:12] + "..."
	}
	return s
}

func checkVolumeName(c *candidate) (string, finding) {
	const check = "name"
	from := c.Name
	if from == "" {
		from = filepath.Base(c.Path)
	}
	name, err := isosync.VolumeName(from)
	var p *isosync.Problem
	switch {
	case errors.As(err, &p):
		return "", badProblem(check, p)
	case err != nil:
		return "", bad(check, isosync.CodeName, showText(err.Error()), "choose another name")
	case c.Name != "" && name != c.Name:
		return "", bad(check, isosync.CodeName, showName(c.Name)+" is a name that not every server and driver takes", "use "+name)
	}
	return name, good(check, "volume %s", name)
}

// checkClash looks for what has the name already: the custom volumes of all content types share their names, and on
// most drivers an ISO volume k and another volume k.iso share a path (SERVER-API 1.5).
func checkClash(c *candidate, p *place, name string) finding {
	const check = "clash"
	if other, taken := p.Taken[name]; taken {
		return bad(check, isosync.CodeClash, fmt.Sprintf("%s maps to the volume name %s too", showName(other), name), "rename one of them")
	}
	for i := range p.Volumes {
		v := &p.Volumes[i]
		switch {
		case v.Name == name+".iso" && v.ContentType != "iso":
			return bad(check, isosync.CodeForeign,
				fmt.Sprintf("a %s volume %s is there, and the server keeps both in the same place", showName(v.ContentType), showName(v.Name)),
				"choose another name")
		case v.Name != name:
		case v.ContentType != "iso":
			return bad(check, isosync.CodeForeign, fmt.Sprintf("a %s volume %s is there already", showName(v.ContentType), name), "choose another name")
		case alreadyThere(c, p, name):
			return good(check, "volume %s is there already, with the same bytes", name)
		default:
			return existing(v, p)
		}
	}
	return good(check, "the name is free")
}

// existing decides about a volume with other bytes. The daemon replaces its own, without ever being left without the
// image; a command that may be interrupted at any moment does not.
func existing(v *lxd.Volume, p *place) finding {
	const check = "clash"
	if _, ours := isosync.OurMark(*v, p.Owner); ours && p.Owner != "" {
		switch {
		case p.Replace == isosync.ReplaceNever:
			return bad(check, isosync.CodeReplaceOff, fmt.Sprintf("volume %s has other bytes, and replace is never", v.Name),
				"delete the volume on the server, or change the setting")
		case len(v.UsedBy) > 0:
			return bad("use", isosync.CodeInUse, fmt.Sprintf("volume %s would be replaced, and is in use by %s", v.Name, showUsers(v.UsedBy)),
				"detach it there")
		}
		return good(check, "volume %s, which nobody uses, would be replaced", v.Name)
	}
	used := ""
	if len(v.UsedBy) > 0 {
		used = ", used by " + showUsers(v.UsedBy)
	}
	if _, m, marked := isosync.ParseMark(v.Description); marked {
		remedy := "to replace it, copy the file into the folder of that isosyncd; or choose another name"
		if strings.HasPrefix(m.Owner, importPrefix) {
			remedy = "choose another name, or delete the volume if nobody needs it"
		}
		return bad(check, isosync.CodeForeign,
			fmt.Sprintf("a volume %s with other bytes is there already%s (made by isosyncd, owner %s)", v.Name, used, showName(m.Owner)),
			remedy)
	}
	return bad(check, isosync.CodeForeign, fmt.Sprintf("a volume %s is there already%s, and isosyncd did not make it", v.Name, used),
		"choose another name, or delete the volume if nobody needs it")
}

func checkRoom(need int64, p *place) finding {
	const check = "room"
	pool := showName(p.Pool)
	if p.Driver != "" {
		pool += " (" + showText(p.Driver) + ")"
	}
	switch free := p.Space.Free(); {
	case free < 0:
		return good(check, "the driver of pool %s does not tell its space", pool)
	case need > free:
		return bad(check, isosync.CodeNoSpace,
			fmt.Sprintf("pool %s lacks room: %s are needed, %s are free", pool, showBytes(need), showBytes(free)), "free some, or use another pool")
	default:
		return good(check, "%s are needed, pool %s has %s free", showBytes(need), pool, showBytes(free))
	}
}

func checkLimits(need int64, p *place) finding {
	const check = "limits"
	switch free := p.Limits.Free(); {
	case free < 0:
		return good(check, "project %s has no limit that we know of", showName(p.Project))
	case need > free:
		return bad(check, isosync.CodeLimit,
			fmt.Sprintf("project %s may store %s, and %s are left", showName(p.Project), showBytes(p.Limits.Total), showBytes(free)),
			"raise limits.disk of the project, or delete volumes of it")
	default:
		return good(check, "project %s may store %s more", showName(p.Project), showBytes(free))
	}
}

// serverFinding says what to do about a server that cannot be asked.
func serverFinding(err error) finding {
	f := bad("server", isosync.CodeAway, showText(err.Error()), "see that it runs and can be reached")
	switch {
	case errors.Is(err, lxd.ErrIdentity):
		f.Code = isosync.CodeDenied
		f.Remedy = "if the server was set up anew, remove the remote and add it again; else somebody is in between"
	case errors.Is(err, lxd.ErrUntrusted), errors.Is(err, lxd.ErrDenied):
		f.Code, f.Remedy = isosync.CodeDenied, "let the server trust this client for the project, or use another --remote"
	case errors.Is(err, lxd.ErrNoISO):
		f.Code, f.Remedy = isosync.CodeRefused, "use a newer server"
	case errors.Is(err, lxd.ErrNotFound):
		f.Code, f.Remedy = isosync.CodeRefused, "correct --pool or --project"
	case errors.Is(err, lxd.ErrNoServer):
		f.Remedy = "start LXD or Incus on this host, or name a server with --remote"
	}
	return f
}

// describeImage is never empty.
func describeImage(info iso.Info) string {
	if d := iso.Describe(info); d != "" {
		return d
	}
	return "ISO image"
}
