package config

import (
	"fmt"
	"strconv"
	"strings"
)

// Example is the commented configuration file: every setting with its default.
func Example() string {
	var b strings.Builder
	b.WriteString(`# Configuration of isosyncd: /etc/isosyncd/config.yaml, or /etc/isosyncd/NAME.yaml for isosyncd@NAME.
#
# Every setting is here, with its default. A setting NAME can also be given as the environment variable ISOSYNCD_NAME,
# and as the flag --NAME (with - for _); a flag wins over the environment, and the environment over this file.
# "isosyncd config" shows what is in effect, and where each value came from.
`)
	for _, s := range sections() {
		fmt.Fprintf(&b, "\n# --- %s ---\n", s.title)
		for _, k := range s.keys {
			doc := k.Doc
			if doc == "" {
				doc = upperFirst(k.Usage) + "."
			}
			b.WriteByte('\n')
			for line := range strings.SplitSeq(doc, "\n") {
				fmt.Fprintf(&b, "# %s\n", line)
			}
			fmt.Fprintf(&b, "%s: %s\n", k.Name, k.yaml())
		}
	}
	return b.String()
}

// yaml writes the default as a YAML value.
func (k Key) yaml() string {
	if k.Default == "" {
		return `""`
	}
	return k.Default
}

// Markdown is the table of all settings for the README.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| setting | default | what it says |\n|---|---|---|\n")
	for _, k := range Keys() {
		def := "(empty)"
		switch {
		case k.Name == "folder":
			def = "must be set"
		case k.Default != "":
			def = "`" + k.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", k.Name, def, k.Usage)
	}
	return b.String()
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// Quote makes a setting's text fit for a line of people: quoted if it is empty or has anything but plain characters.
func Quote(text string) string {
	if text != "" && strconv.Quote(text) == `"`+text+`"` && !strings.ContainsAny(text, " #") {
		return text
	}
	return strconv.Quote(text)
}
