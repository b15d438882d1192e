// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// Selected is a selector of the rules in force with the identities it picks.
type Selected struct {
	Selector   string
	Identities []identity.ID // in order
	Objects    []string      // whose rules use it, in order
}

// Selectors lists what picks peers (subjects: what picks the endpoints that
// rules are for), in order of their text. Prefixes pick the identities of
// prefixes that have a row of their own.
func (x *Explainer) Selectors(subjects bool) []Selected {
	type use struct {
		selector *selector
		objects  map[string]bool
	}
	all := map[string]*use{}
	add := func(s *selector, object string) {
		if all[s.key] == nil {
			all[s.key] = &use{s, map[string]bool{}}
		}
		all[s.key].objects[object] = true
	}
	for _, r := range x.rules {
		if subjects {
			add(r.subject, r.origin.Object)
			continue
		}
		for _, s := range r.peers {
			add(s, r.origin.Object)
		}
	}
	known := x.Known()
	order := slices.Sorted(maps.Keys(known))
	var out []Selected
	for _, u := range all {
		s := Selected{Selector: u.selector.String(), Objects: slices.Sorted(maps.Keys(u.objects))}
		for _, id := range order {
			if x.selects(u.selector, id, known[id]) {
				s.Identities = append(s.Identities, id)
			}
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Selected) int { return strings.Compare(a.Selector, b.Selector) })
	return out
}

// selects tells whether all that an identity stands for is picked.
func (x *Explainer) selects(s *selector, id identity.ID, labels label.Set) bool {
	p := peerFacts{identity: id, labels: labels, place: placeOf(id, labels)}
	if row, ok := prefixOf(labels); ok {
		p.row = row
	}
	return x.picks(s, &p)
}

// String writes a selector for people.
func (s *selector) String() string {
	switch {
	case s.any:
		return "everybody"
	case s.port != nil:
		return fmt.Sprintf("port %s=%d/%s", s.port.name, s.port.number, protocolWord(s.port.protocol))
	case s.unplaced:
		return "unplaced"
	}
	var parts []string
	for _, r := range s.ranges {
		text := r.prefix.String()
		for i, e := range r.except {
			text += map[bool]string{true: " except ", false: ", "}[i == 0] + e.String()
		}
		parts = append(parts, text)
	}
	for _, t := range s.terms {
		parts = append(parts, t.text())
	}
	if len(parts) == 0 {
		return "nobody"
	}
	return strings.Join(parts, " or ")
}

// text writes a conjunction for people, as in a label selector.
func (t term) text() string {
	if len(t) == 0 {
		return "all"
	}
	parts := make([]string, len(t))
	for i := range t {
		parts[i] = t[i].text()
	}
	slices.Sort(parts)
	return strings.Join(slices.Compact(parts), ", ")
}

func (r *requirement) text() string {
	name := r.source + ":" + r.key
	switch {
	case r.op == opIn && len(r.values) == 1:
		return name + "=" + r.values[0]
	case r.op == opIn:
		return name + " in (" + strings.Join(r.values, ",") + ")"
	case r.op == opNotIn:
		return name + " notin (" + strings.Join(r.values, ",") + ")"
	case r.op == opNotExists:
		return "!" + name
	}
	return name
}
