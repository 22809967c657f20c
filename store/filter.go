package store

import (
	"net/http"
	"strings"
)

// parseFilter reads the servers' filter language, as far as volumes need it: clauses "FIELD eq VALUE" or "FIELD ne
// VALUE", perhaps after "not", joined by "and" and "or", which bind alike and to the left. A value may be quoted.
// An empty filter keeps everything.
func parseFilter(text string) (keep func(wireVolume) bool, err error) {
	keep = func(wireVolume) bool { return true }
	words, ok := filterWords(text)
	if !ok {
		return nil, refuse(http.StatusBadRequest, "Invalid filter: a quotation mark is missing")
	}
	for join := "and"; len(words) > 0; {
		not := false
		if words[0] == "not" {
			not, words = true, words[1:]
		}
		if len(words) < 2 {
			return nil, refuse(http.StatusBadRequest, "Invalid filter: clause has no operator")
		}
		if len(words) < 3 {
			return nil, refuse(http.StatusBadRequest, "Invalid filter: clause has no value")
		}
		field, op, value := words[0], words[1], words[2]
		words = words[3:]
		if op != "eq" && op != "ne" {
			return nil, refuse(http.StatusBadRequest, "Invalid filter: unknown operator %q", op)
		}
		want := (op == "eq") != not
		before, or := keep, join == "or"
		clause := func(v wireVolume) bool { return strings.EqualFold(filterField(v, field), value) == want }
		keep = func(v wireVolume) bool {
			if or {
				return before(v) || clause(v)
			}
			return before(v) && clause(v)
		}
		if len(words) == 0 {
			break
		}
		join, words = words[0], words[1:]
		if join != "and" && join != "or" {
			return nil, refuse(http.StatusBadRequest, "Invalid filter: unknown logical operator %q", join)
		}
		if len(words) == 0 {
			return nil, refuse(http.StatusBadRequest, "Invalid filter: unterminated expression")
		}
	}
	return keep, nil
}

// filterWords splits at blanks; false = a quotation mark is missing.
func filterWords(text string) (words []string, ok bool) {
	var b strings.Builder
	quote, word := rune(0), false
	end := func() {
		if word {
			words = append(words, b.String())
		}
		b.Reset()
		word = false
	}
	for _, r := range text {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			b.WriteRune(r)
		case r == '"' || r == '\'':
			quote, word = r, true
		case r == ' ' || r == '\t':
			end()
		default:
			b.WriteRune(r)
			word = true
		}
	}
	end()
	return words, quote == 0
}

func filterField(v wireVolume, field string) string {
	if k, ok := strings.CutPrefix(field, "config."); ok {
		return v.Config[k]
	}
	switch field {
	case "name":
		return v.Name
	case "type":
		return v.Type
	case "content_type":
		return v.ContentType
	case "description":
		return v.Description
	case "project":
		return v.Project
	case "location":
		return v.Location
	case "pool":
		return v.Pool
	}
	return ""
}
