// SPDX-License-Identifier: Apache-2.0

package dnsname

import "strings"

// Matcher is many names and patterns. The zero value matches nothing. What most
// rules hold, names and "*." or "**." before a name, is found by look-ups that
// do not grow with their number.
type Matcher struct {
	all   bool
	exact map[string]struct{}
	child map[string]struct{} // names whose direct children match
	below map[string]struct{} // names whose children of all depths match
	globs []Pattern
}

// Add adds a pattern. Not to be called while others match.
func (m *Matcher) Add(p Pattern) {
	put := func(set *map[string]struct{}) {
		if *set == nil {
			*set = map[string]struct{}{}
		}
		(*set)[p.rest] = struct{}{}
	}
	switch p.kind {
	case matchAll:
		m.all = true
	case matchExact:
		put(&m.exact)
	case matchChild:
		put(&m.child)
	case matchBelow:
		put(&m.below)
	case matchGlob, matchDeep:
		m.globs = append(m.globs, p)
	}
}

// All tells whether every name matches.
func (m *Matcher) All() bool { return m.all }

// Match tells whether a canonical name matches one of the patterns. It does not
// allocate.
func (m *Matcher) Match(name string) bool {
	if m.all {
		return true
	}
	if _, ok := m.exact[name]; ok {
		return true
	}
	if len(m.child)+len(m.below) > 0 && m.matchParent(name) {
		return true
	}
	for i := range m.globs {
		if m.globs[i].Match(name) {
			return true
		}
	}
	return false
}

// matchParent looks at the names above, as long as wildcards may stand for what
// is left of them. A name of many labels costs a look-up each.
func (m *Matcher) matchParent(name string) bool {
	for start, first := 0, true; ; first = false {
		i := strings.IndexByte(name[start:], '.')
		if i <= 0 || !wild(name[start:start+i], false) {
			return false
		}
		start += i + 1
		if start == len(name) {
			return false // the root is not in rules
		}
		if first {
			if _, ok := m.child[name[start:]]; ok {
				return true
			}
		}
		if _, ok := m.below[name[start:]]; ok {
			return true
		}
		if len(m.below) == 0 {
			return false
		}
	}
}
