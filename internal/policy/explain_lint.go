// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"

	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// Finding is something about an object that is allowed and hardly meant.
type Finding struct {
	Path string // of the rule
	Text string
}

// Lint says what became of an object if it were stored, and what in it can
// hardly be meant: what never matches, and, as far as pods are known, what
// matches nothing now.
func (x *Explainer) Lint(o Object) (ObjectStatus, []Finding) {
	c := cached{object: o, parsed: parse(o, &x.opts, x.facts.references())}
	l := &linter{x: x, known: x.Known()}
	for id, labels := range l.known {
		if placeOf(id, labels) == placePod && id.IsAllocated() {
			l.pods = append(l.pods, labels)
		}
	}
	for _, r := range c.parsed.rules {
		l.rule(r)
	}
	return c.status(o.Key()), l.out
}

type linter struct {
	x     *Explainer
	known map[identity.ID]label.Set
	pods  []label.Set
	out   []Finding
}

func (l *linter) warn(r *rule, format string, args ...any) {
	f := Finding{r.origin.Path, fmt.Sprintf(format, args...)}
	if !slices.Contains(l.out, f) {
		l.out = append(l.out, f)
	}
}

func (l *linter) rule(r *rule) {
	if why, never := neverMatches(r.subject); never {
		l.warn(r, "it can never select a pod: %s", why)
	} else if len(l.pods) > 0 && !slices.ContainsFunc(l.pods, r.subject.matches) {
		l.warn(r, "no pod is selected now: none has %s", r.subject)
	}
	for _, s := range r.peers {
		l.peer(r, s)
	}
	l.ports(r)
}

func (l *linter) peer(r *rule, s *selector) {
	if s.any || s.port != nil {
		return
	}
	if why, never := neverMatches(s); never {
		l.warn(r, "it can never match a peer: %s", why)
		return
	}
	for _, c := range s.ranges {
		if s.k8s || l.x.opts.CIDRMatchPods || c.prefix.Bits() == 0 {
			continue
		}
		if at, covers := l.podsIn(c); covers {
			l.warn(r, "%s covers pods (%s), and CIDR rules match only what is outside the cluster", c.prefix, at)
		}
	}
	if s.ranges != nil || len(s.terms) == 0 || len(l.pods) == 0 {
		return
	}
	for _, labels := range l.known {
		if s.matches(labels) {
			return
		}
	}
	l.warn(r, "no peer matches now: nobody has %s", s)
}

// podsIn finds a range of pods, or a pod, that a prefix holds.
func (l *linter) podsIn(c cidrRange) (string, bool) {
	for _, p := range l.x.facts.podPrefixes() {
		if holds(c.prefix, p) && inRange(c, &peerFacts{row: p}) {
			return p.String(), true
		}
	}
	return "", false
}

func (l *linter) ports(r *rule) {
	if !r.namesPorts() || len(l.pods) == 0 {
		return
	}
	names := l.x.facts.portNames()
	for _, p := range r.ports {
		if p.name == "" {
			continue
		}
		if p.protocol != 0 && len(names[nameKey(p.name, p.protocol)]) > 0 {
			continue
		}
		if p.protocol == 0 && slices.ContainsFunc([]uint8{protoTCP, protoUDP, protoSCTP}, func(n uint8) bool { return len(names[nameKey(p.name, n)]) > 0 }) {
			continue
		}
		l.warn(r, "no pod has a port named %q (%s)", p.name, protocolWord(p.protocol))
	}
}

// neverMatches tells whether no labels can meet a selector, and why.
func neverMatches(s *selector) (string, bool) {
	if s.any || s.ranges != nil || s.port != nil || len(s.terms) == 0 {
		return "", false
	}
	why := ""
	for _, t := range s.terms {
		text, never := t.contradiction()
		if !never {
			return "", false
		}
		why = text
	}
	return why, true
}

// contradiction finds two requirements that no label meets together.
func (t term) contradiction() (string, bool) {
	for i := range t {
		for j := range t[:i] {
			a, b := &t[i], &t[j]
			if a.key != b.key || a.source != b.source && a.source != label.SourceAny && b.source != label.SourceAny {
				continue
			}
			if a.excludes(b) || b.excludes(a) {
				return a.text() + " and " + b.text() + " exclude each other", true
			}
		}
	}
	return "", false
}

// excludes tells whether a label that meets r never meets o.
func (r *requirement) excludes(o *requirement) bool {
	switch {
	case r.op == opNotExists:
		return o.op == opIn || o.op == opExists
	case r.op == opIn && o.op == opIn:
		return !slices.ContainsFunc(r.values, func(v string) bool { return slices.Contains(o.values, v) })
	case r.op == opIn && o.op == opNotIn:
		return !slices.ContainsFunc(r.values, func(v string) bool { return !slices.Contains(o.values, v) })
	}
	return false
}
