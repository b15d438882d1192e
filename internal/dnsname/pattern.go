// SPDX-License-Identifier: Apache-2.0

package dnsname

import (
	"errors"
	"fmt"
	"strings"
)

// maxPattern is the longest name or pattern of a rule, in characters.
const maxPattern = 255

// everything is the pattern that every name matches.
const everything = "*"

// deep begins a pattern that holds for all depths below a name, but not for the
// name itself.
const deep = "**."

var (
	errNoLabel   = errors.New("it is empty, or a label of it is")
	errLong      = fmt.Errorf("it is longer than %d characters", maxPattern)
	errCharacter = errors.New("letters, digits, '-' and '_' are allowed, and '*' in patterns")
)

// ParseName reads a matchName, the pattern of one name: letters, digits, - and _
// in labels, with or without the last dot.
func ParseName(text string) (Pattern, error) {
	if err := check(text, false); err != nil {
		return Pattern{}, fmt.Errorf("matchName %q: %w", text, err)
	}
	name, err := Canonical(text)
	if err != nil {
		return Pattern{}, fmt.Errorf("matchName %w", err)
	}
	return Pattern{text: name, kind: matchExact, rest: name}, nil
}

// Pattern is a rule's matchPattern. "*" stands for any number of letters,
// digits, - and _ of one label; a leading "**." for one label or more; "*"
// alone is every name. The zero value matches nothing.
type Pattern struct {
	text string // lower case; with the last dot, unless it is everything
	kind patternKind
	rest string // what the name ends with, or the pattern that its end matches
	dots int    // labels of rest
}

type patternKind uint8

const (
	matchNone patternKind = iota
	matchAll
	matchExact // rest is the name
	matchChild // one label, then rest
	matchBelow // labels, then rest
	matchGlob  // rest with wildcards
	matchDeep  // labels, then rest with wildcards
)

// ParsePattern reads a matchPattern. One without "*" is a name.
func ParsePattern(text string) (Pattern, error) {
	if text == everything {
		return Pattern{text: text, kind: matchAll}, nil
	}
	if err := check(text, true); err != nil {
		return Pattern{}, fmt.Errorf("matchPattern %q: %w", text, err)
	}
	text = strings.ToLower(strings.TrimSuffix(text, ".")) + "."
	p := Pattern{text: text, kind: matchGlob, rest: text}
	if rest, ok := strings.CutPrefix(text, deep); ok && rest != "" {
		p.kind, p.rest = matchDeep, rest
	} else if rest, ok := strings.CutPrefix(text, "*."); ok && rest != "" && !strings.Contains(rest, "*") {
		p.kind, p.rest = matchChild, rest
	}
	p.dots = strings.Count(p.rest, ".")
	if !strings.Contains(p.rest, "*") {
		switch p.kind {
		case matchGlob:
			p.kind = matchExact
		case matchDeep:
			p.kind = matchBelow
		}
	}
	return p, nil
}

// check holds what the CRD says about names and patterns.
func check(text string, wildcard bool) error {
	if len(text) > maxPattern {
		return errLong
	}
	label := 0
	for i := range len(text) {
		switch c := text[i]; {
		case c == '.' && label > 0:
			label = 0
		case c == '.':
			return errNoLabel
		case class[c] || c >= 'A' && c <= 'Z' || c == '*' && wildcard:
			label++
		default:
			return errCharacter
		}
	}
	if text == "" {
		return errNoLabel
	}
	return nil
}

// class is what a wildcard stands for, in canonical names.
var class = func() (t [256]bool) {
	for _, c := range "abcdefghijklmnopqrstuvwxyz0123456789-_" {
		t[c] = true
	}
	return t
}()

// String is the pattern in lower case, with the last dot.
func (p Pattern) String() string { return p.text }

// Match tells whether a canonical name matches. It does not allocate.
func (p Pattern) Match(name string) bool {
	switch p.kind {
	case matchAll:
		return true
	case matchExact:
		return name == p.rest
	case matchChild:
		head, ok := strings.CutSuffix(name, p.rest)
		return ok && len(head) > 1 && head[len(head)-1] == '.' && wild(head[:len(head)-1], false)
	case matchBelow:
		head, ok := strings.CutSuffix(name, p.rest)
		return ok && len(head) > 1 && head[len(head)-1] == '.' && wild(head, true)
	case matchGlob:
		return name != "." && glob(p.rest, name)
	case matchDeep:
		i := len(name)
		for range p.dots + 1 { // the dot before the last labels
			if i = strings.LastIndexByte(name[:i], '.'); i < 0 {
				return false
			}
		}
		return i > 0 && wild(name[:i+1], true) && glob(p.rest, name[i+1:])
	}
	return false
}

// wild tells whether s is made of what a wildcard stands for, and of dots if
// they are allowed.
func wild(s string, dots bool) bool {
	for i := range len(s) {
		if c := s[i]; !class[c] && (c != '.' || !dots) {
			return false
		}
	}
	return true
}

// glob compares a name with a pattern whose wildcards pass no dot. As the dots
// of both must meet, only the last wildcard is ever tried again.
func glob(pattern, name string) bool {
	p, n, star, mark := 0, 0, -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star >= 0 && class[name[mark]]:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
