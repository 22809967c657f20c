package iso

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	maxOSFile   = 4 << 20 // bytes of one file of the database that are read; its largest has 120 KiB
	maxOSErrors = 8       // that LoadOSDB reports
)

// OSDB knows what operating system an image holds, by the media that osinfo-db lists. It is never changed once loaded,
// and may be used by several goroutines. A nil one knows nothing.
type OSDB struct {
	media []medium
}

// medium is one image of the database: what its descriptors must say. A nil pattern matches anything.
type medium struct {
	name                                   string // such as "Debian 11 (Net Install)"
	variant                                string // id of the one that is on it; "" = none or several
	os                                     string // id, such as "http://debian.org/debian/11"
	released                               string // date, YYYY-MM-DD; "" = not known
	volume, system, publisher, application *pattern
	size                                   int64 // of the volume, bytes; 0 = any
}

// pattern is a regular expression that must match at the start of a text. Half of the database's are plain text.
type pattern struct {
	prefix string
	rest   *regexp.Regexp // of the whole text; nil = prefix is all
}

func (p *pattern) match(s string) bool {
	return p == nil || strings.HasPrefix(s, p.prefix) && (p.rest == nil || p.rest.MatchString(s))
}

// The part of osinfo's XML that is read (osinfo.rng).
type (
	osFile struct {
		OS []osXML `xml:"os"`
	}
	osXML struct {
		ID       string    `xml:"id,attr"`
		Name     []langXML `xml:"name"`
		Released string    `xml:"release-date"`
		Variants []struct {
			ID   string    `xml:"id,attr"`
			Name []langXML `xml:"name"`
		} `xml:"variant"`
		Media []mediaXML `xml:"media"`
	}
	mediaXML struct {
		Variants []struct {
			ID string `xml:"id,attr"`
		} `xml:"variant"`
		ISO []struct {
			Volume      string `xml:"volume-id"`
			System      string `xml:"system-id"`
			Publisher   string `xml:"publisher-id"`
			Application string `xml:"application-id"`
			Size        string `xml:"volume-size"`
		} `xml:"iso"`
	}
	langXML struct {
		Lang string `xml:"http://www.w3.org/XML/1998/namespace lang,attr"`
		Text string `xml:",chardata"`
	}
)

// LoadOSDB reads the database in dir, such as /usr/share/osinfo. Where there is none it returns one that knows nothing,
// and no error. Files that cannot be read are left out, and the error says which; the rest is usable beside it.
// Patterns that Go's regexp does not take, which lacks lookahead, are left out in silence: 1 of 5603 at the time of
// writing.
func LoadOSDB(dir string) (*OSDB, error) {
	db := &OSDB{}
	patterns := map[string]*pattern{}
	systems := map[string]*osXML{} // by id: win-8.d/*.xml adds media to the system of win-8.xml, and does not name it again
	var errs []error
	note := func(err error) {
		if err != nil && !errors.Is(err, fs.ErrNotExist) && len(errs) < maxOSErrors {
			errs = append(errs, err)
		}
	}
	note(filepath.WalkDir(filepath.Join(dir, "os"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".xml" {
			note(err)
			return nil
		}
		note(db.load(path, patterns, systems))
		return nil
	}))
	db.complete(systems)
	return db, errors.Join(errs...)
}

// load adds the media of one file.
func (db *OSDB) load(path string, patterns map[string]*pattern, systems map[string]*osXML) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	if err := db.decode(f, patterns, systems); err != nil {
		return fmt.Errorf("osinfo file %q: %w", path, err)
	}
	return nil
}

// decode adds the media of one document, and puts its systems into systems.
func (db *OSDB) decode(r io.Reader, patterns map[string]*pattern, systems map[string]*osXML) error {
	var doc osFile
	if err := xml.NewDecoder(io.LimitReader(r, maxOSFile)).Decode(&doc); err != nil {
		return err
	}
	for i := range doc.OS {
		o := &doc.OS[i]
		for j := range o.Media {
			db.add(o, &o.Media[j], patterns)
		}
		o.Media = nil
		if known := systems[o.ID]; known == nil || untranslated(known.Name) == "" {
			systems[o.ID] = o
		}
	}
	return nil
}

// add adds the descriptors of one medium, unless a pattern of it is unusable or it has no volume id: what is left would
// match too much.
func (db *OSDB) add(o *osXML, m *mediaXML, patterns map[string]*pattern) {
	for _, d := range m.ISO {
		entry := medium{os: o.ID}
		if len(m.Variants) == 1 {
			entry.variant = m.Variants[0].ID
		}
		if size := strings.TrimSpace(d.Size); size != "" {
			n, err := strconv.ParseInt(size, 10, 64)
			if err != nil {
				continue
			}
			entry.size = n
		}
		usable := strings.TrimSpace(d.Volume) != ""
		for _, field := range []struct {
			to   **pattern
			expr string
		}{
			{&entry.volume, d.Volume}, {&entry.system, d.System}, {&entry.publisher, d.Publisher}, {&entry.application, d.Application},
		} {
			p, err := compile(strings.TrimSpace(field.expr), patterns)
			usable = usable && err == nil
			*field.to = p
		}
		if usable {
			db.media = append(db.media, entry)
		}
	}
}

// compile returns the pattern of an expression; nil for none. Equal ones are shared.
func compile(expr string, patterns map[string]*pattern) (*pattern, error) {
	if expr == "" {
		return nil, nil
	}
	if p, ok := patterns[expr]; ok {
		return p, nil
	}
	whole, err := regexp.Compile(expr)
	if err != nil {
		return nil, err
	}
	p := &pattern{}
	prefix, complete := whole.LiteralPrefix()
	p.prefix = prefix
	if !complete || strings.ContainsAny(expr, `^$\`) { // "complete" leaves the end of the text out of account
		if p.rest, err = regexp.Compile("^(?:" + expr + ")"); err != nil {
			return nil, err
		}
	}
	patterns[expr] = p
	return p, nil
}

// complete gives each medium its name, and drops those that have none.
func (db *OSDB) complete(systems map[string]*osXML) {
	for i := range db.media {
		db.media[i].complete(systems[db.media[i].os])
	}
	db.media = slices.DeleteFunc(db.media, func(m medium) bool { return m.name == "" })
}

// complete takes over what the medium's system says: its date, and the name of the variant that is on the medium where
// there is exactly one, else its own.
func (m *medium) complete(o *osXML) {
	m.released = strings.TrimSpace(o.Released)
	m.name = untranslated(o.Name)
	for _, v := range o.Variants {
		if name := untranslated(v.Name); v.ID == m.variant && name != "" {
			m.name = name
		}
	}
}

// untranslated returns the text without a language.
func untranslated(names []langXML) string {
	for _, n := range names {
		if n.Lang == "" {
			return strings.TrimSpace(n.Text)
		}
	}
	return ""
}

// Name returns the name of the operating system on an image, such as "Debian 11 (Net Install)"; "" = not known. guess
// says that media of several systems fit equally well, and the name is the one that was released last.
//
// A medium fits if each of its patterns matches the start of the field, and the volume size is equal where it has one.
// Of those that fit, the ones that ask most of the image win.
func (db *OSDB) Name(info Info) (name string, guess bool) {
	if db == nil || info.VolumeSize == 0 {
		return "", false
	}
	var best []*medium
	most := 0
	for i := range db.media {
		m := &db.media[i]
		if !m.fits(&info) {
			continue
		}
		asks := m.asks()
		if asks > most {
			best, most = best[:0], asks
		}
		if asks == most {
			best = append(best, m)
		}
	}
	if len(best) == 0 {
		return "", false
	}
	last := slices.MaxFunc(best, func(a, b *medium) int {
		return cmp.Or(cmp.Compare(a.released, b.released), cmp.Compare(a.os, b.os), cmp.Compare(a.name, b.name))
	})
	return last.name, slices.ContainsFunc(best, func(m *medium) bool { return m.os != last.os })
}

func (m *medium) fits(info *Info) bool {
	return (m.size == 0 || m.size == info.VolumeSize) &&
		m.volume.match(info.Label) &&
		m.system.match(info.System) &&
		m.publisher.match(info.Publisher) &&
		m.application.match(info.Application)
}

// asks weighs what a medium asks of an image: the size is nearly a key, each text a little, a longer fixed start of the
// volume id least.
func (m *medium) asks() int {
	n := min(len(m.volume.prefix), 99)
	for _, p := range []*pattern{m.volume, m.system, m.publisher, m.application} {
		if p != nil {
			n += 100
		}
	}
	if m.size != 0 {
		n += 1000
	}
	return n
}
