package main

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/text"
)

// showName makes a name of a file, volume or server fit for a terminal: as it is if it is plain, else quoted, with
// everything escaped that could move a cursor, turn the direction of text, or not be seen (I11). Names are any bytes.
func showName(name string) string {
	if name != "" && name == strings.TrimSpace(name) && !strings.ContainsAny(name, `"\`) && plainText(name) {
		return name
	}
	q := strconv.Quote(name)
	if !plainText(q) { // Quote keeps runes that count as printable and leave no ink
		q = strconv.QuoteToASCII(name)
	}
	return q
}

// plainText reports whether every rune is seen where it stands.
func plainText(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, hidden) < 0
}

// hidden reports runes that a terminal does not show as themselves.
func hidden(r rune) bool {
	switch r {
	case '\u115f', '\u1160', '\u2800', '\u3164', '\uffa0': // blank "letters"
		return true
	}
	return !unicode.IsPrint(r) || unicode.Is(unicode.Variation_Selector, r)
}

// showText makes a sentence fit for a terminal: one line, and nothing hidden. Sentences quote the names in them.
func showText(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case hidden(r):
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, string(utf8.RuneError)))
	return strings.TrimSpace(s)
}

// showUser makes an API path such as /1.0/profiles/default?project=p readable: profile default (project p).
func showUser(path string) string {
	path, query, _ := strings.Cut(path, "?")
	parts := strings.Split(strings.Trim(path, "/"), "/")
	name := func(s string) string {
		if u, err := url.PathUnescape(s); err == nil {
			s = u
		}
		return showName(s)
	}
	out := showName(strings.TrimPrefix(path, "/1.0/"))
	if len(parts) == 3 {
		out = showName(strings.TrimSuffix(parts[1], "s")) + " " + name(parts[2])
	}
	if q, err := url.ParseQuery(query); err == nil && q.Get("project") != "" {
		out += " (project " + showName(q.Get("project")) + ")"
	}
	return out
}

// showUsers lists at most a few.
func showUsers(paths []string) string {
	const most = 3
	out := make([]string, 0, most+1)
	for _, p := range paths {
		out = append(out, showUser(p))
	}
	slices.Sort(out)
	if len(out) > most {
		out = append(out[:most], fmt.Sprintf("%d more", len(out)-most))
	}
	return strings.Join(out, ", ")
}

// showBytes is a size for people; "-" where it is not known.
func showBytes(n int64) string {
	if n < 0 {
		return "-"
	}
	return humanize.IBytes(uint64(n))
}

// showDuration is a duration for people, in its largest unit, rounded down; the clock may have been set back.
func showDuration(d time.Duration) string {
	switch d = max(0, d); {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}

// width is in cells of a terminal.
func width(s string) int { return text.StringWidthWithoutEscSequences(s) }

// pad fills s up with blanks, or cuts it with an ellipsis, to n cells; n < 0 = as it is. s has no escape sequences.
func pad(s string, n int) string {
	if n < 0 {
		return s
	}
	s = cut(s, n)
	return s + strings.Repeat(" ", n-width(s))
}

// cut shortens s to n cells, with an ellipsis.
func cut(s string, n int) string {
	if width(s) <= n {
		return s
	}
	if n < 1 {
		return ""
	}
	used := 0
	for i, r := range s {
		w := text.RuneWidth(r)
		if used+w > n-1 {
			return s[:i] + "…"
		}
		used += w
	}
	return s
}

// wrapText breaks s at blanks into lines of at most n cells; a word that is longer than a line is broken anywhere.
// n <= 0 = one line.
func wrapText(s string, n int) []string {
	if n <= 0 || width(s) <= n {
		return []string{s}
	}
	var lines []string
	line := ""
	flush := func() {
		if line != "" {
			lines = append(lines, line)
			line = ""
		}
	}
	for _, word := range strings.Fields(s) {
		if line != "" && width(line)+1+width(word) <= n {
			line += " " + word
			continue
		}
		flush()
		for width(word) > n {
			head := hardCut(word, n)
			lines = append(lines, head)
			word = word[len(head):]
		}
		line = word
	}
	flush()
	return lines
}

// hardCut gives as much of s as fits into n cells, at least one rune.
func hardCut(s string, n int) string {
	used := 0
	for i, r := range s {
		w := text.RuneWidth(r)
		if i > 0 && used+w > n {
			return s[:i]
		}
		used += w
	}
	return s
}

// bar draws how much is done in n cells, at least 3; part is 0 to 1, less than 0 = nobody can tell.
func bar(part float64, n int) string {
	inner := max(1, n-2)
	if part < 0 {
		return "[" + strings.Repeat("-", inner) + "]"
	}
	done := int(min(1, part) * float64(inner))
	b := strings.Repeat("=", done)
	if done < inner {
		b += ">" + strings.Repeat(".", inner-done-1)
	}
	return "[" + b + "]"
}
