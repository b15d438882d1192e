// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
)

// slot is what the endpoints of one direction share that the same rules
// select, with the same default deny and the same own named ports. What is in
// its key and in its rules never changes.
type slot struct {
	key       string
	direction Direction
	rules     []*rule // all that select the endpoints
	items     []*item
	base      fallback
	byRange   func(p *selector) bool // picks pods by address, which may not be known

	uses   []*selector // that tell peers apart here, in order of key
	byUse  [][]int32   // items that speak of each
	always []int32     // items for every peer

	serial  uint64
	refs    int    // endpoints
	number  uint16 // in the kernel
	inUse   bool   // has its number, and its cells are counted
	closed  bool   // one slot too many: nothing passes
	answers map[string]*set
	lacking bool // there was no set left for some cell
}

// hostPeer is the peer that allow-localhost speaks of.
var hostPeer = labelSelector(term{reserved(identity.LabelHost)})

// openSlot is the slot without policy.
func openSlot() *slot {
	return &slot{key: "open", number: SlotOpen, inUse: true, refs: 1, answers: map[string]*set{}}
}

// newSlot makes the slot of an endpoint's direction, not filled yet; rules are
// those that select it. It gives nil if the open slot is meant.
func newSlot(opts *Options, names map[string][]portName, d Direction, rules []*rule, subject *Subject) (s *slot, enforcing bool) {
	s = &slot{direction: d, rules: rules, base: fallback{audited: true, audit: opts.Audit || subject.Audit}, answers: map[string]*set{}}
	s.byRange = func(p *selector) bool { return p.ranges != nil && (p.k8s || opts.CIDRMatchPods) }
	enforcing = len(rules) > 0
	for _, r := range rules {
		s.base.normal = s.base.normal || r.defaultDeny
		s.base.audited = s.base.audited && (r.audit || !r.defaultDeny)
	}
	s.base.audited = s.base.audited && s.base.normal
	switch opts.Enforcement {
	case EnforceNever:
		return nil, false
	case EnforceAlways:
		s.base.always, enforcing = true, true
	}
	if !enforcing {
		return nil, false
	}
	s.key = s.content(names, subject.Ports)
	return s, true
}

// content is equal for slots of equal rules and named ports.
func (s *slot) content(names map[string][]portName, own []endpoint.Port) string {
	keys := make([]string, len(s.rules))
	for i, r := range s.rules {
		keys[i] = r.key
		ports := ""
		for _, p := range r.ports {
			switch {
			case p.name == "":
			case s.direction == Ingress:
				ports += fmt.Sprint(" ", p.name, p.protocol, ownNumbers(p, own))
			default:
				ports += fmt.Sprint(" ", p.name, p.protocol, numbersOf(names, p))
			}
		}
		keys[i] += ports
	}
	slices.Sort(keys)
	return fmt.Sprintf("%d %v %s", s.direction, s.base, strings.Join(slices.Compact(keys), "\n"))
}

// ownNumbers are the numbers that an endpoint gives a named port.
func ownNumbers(p portRange, own []endpoint.Port) []portRange {
	var out []portRange
	for _, o := range own {
		if strings.EqualFold(o.Name, p.name) && (p.protocol == 0 || p.protocol == o.Protocol) {
			out = append(out, portRange{protocol: o.Protocol, first: o.Number, last: o.Number})
		}
	}
	return out
}

// fill turns the slot's rules into items.
func (s *slot) fill(opts *Options, names map[string][]portName, own []endpoint.Port) {
	for _, r := range s.rules {
		plain := &item{rule: r}
		if r.ports != nil {
			plain.ports = make([]portRange, 0, len(r.ports))
		}
		for _, p := range r.ports {
			switch {
			case p.name == "":
				plain.ports = append(plain.ports, p)
			case s.direction == Ingress:
				plain.ports = append(plain.ports, ownNumbers(p, own)...)
			default:
				for _, n := range numbersOf(names, p) {
					n.loose = r.looseNames
					it := &item{rule: r, ports: []portRange{{protocol: n.protocol, first: n.number, last: n.number}}, also: portSelector(n)}
					s.items = append(s.items, it)
				}
			}
		}
		if plain.ports == nil || len(plain.ports) > 0 {
			s.items = append(s.items, plain)
		}
	}
	if s.direction == Ingress && opts.AllowLocalhost != LocalhostPolicy {
		s.items = append(s.items, &item{rule: localhostRule})
	}
	s.gatherUses()
}

// gatherUses lists what tells peers apart here.
func (s *slot) gatherUses() {
	uses := map[string]*selector{}
	for _, it := range s.items {
		if it.also != nil {
			uses[it.also.key] = it.also
		}
		doubtful := it.rule.verdict == Deny || it.rule.verdict == pass
		if doubtful && (it.also != nil || slices.ContainsFunc(it.rule.peers, s.byRange)) {
			uses[unplaced.key] = unplaced
		}
		for _, p := range it.rule.peers {
			if !p.any {
				uses[p.key] = p
			}
		}
	}
	at := make(map[string]int32, len(uses))
	for _, k := range slices.Sorted(maps.Keys(uses)) {
		at[k] = int32(len(s.uses))
		s.uses = append(s.uses, uses[k])
	}
	s.byUse = make([][]int32, len(s.uses))
	for i, it := range s.items {
		for _, p := range it.rule.peers {
			if p.any {
				s.always = append(s.always, int32(i))
			} else {
				s.byUse[at[p.key]] = append(s.byUse[at[p.key]], int32(i))
			}
		}
	}
}

// matching are the items that count for a peer that matches exactly these selectors.
func (s *slot) matching(has func(key string) bool) []*item {
	var out []*item
	unplaced := has(unplaced.key)
	for _, it := range s.items {
		picked := func(p *selector) bool { return p.any || has(p.key) }
		if (it.also == nil || has(it.also.key)) && slices.ContainsFunc(it.rule.peers, picked) {
			out = append(out, it)
			continue
		}
		perhaps := func(p *selector) bool { return picked(p) || s.byRange(p) }
		if unplaced && slices.ContainsFunc(it.rule.peers, perhaps) {
			out = append(out, it.assumed()...)
		}
	}
	return out
}

// assumed is what an item counts for about a peer that it may or may not speak
// of: a deny counts, an allow does not, a pass leaves both open.
func (it *item) assumed() []*item {
	switch it.rule.verdict {
	case Deny:
		return []*item{it}
	case pass:
		return []*item{{rule: it.rule, ports: it.ports, also: it.also, maybe: true}}
	}
	return nil
}

// matchingAt is matching for selectors by their places in the slot.
func (s *slot) matchingAt(places []int32) []*item {
	has := make(map[string]bool, len(places))
	for _, at := range places {
		has[s.uses[at].key] = true
	}
	if has[unplaced.key] {
		return s.matching(func(k string) bool { return has[k] })
	}
	found := slices.Clone(s.always)
	for _, at := range places {
		found = append(found, s.byUse[at]...)
	}
	slices.Sort(found)
	var out []*item
	for _, i := range slices.Compact(found) {
		if it := s.items[i]; it.also == nil || has[it.also.key] {
			out = append(out, it)
		}
	}
	return out
}

// numbersOf are all that pods give a named port.
func numbersOf(names map[string][]portName, p portRange) []portName {
	var out []portName
	for _, protocol := range p.protocols() {
		out = append(out, names[nameKey(p.name, protocol)]...)
	}
	return out
}

// protocols that a range with ports speaks of.
func (p portRange) protocols() []uint8 {
	if p.protocol != 0 {
		return []uint8{p.protocol}
	}
	return []uint8{protoTCP, protoUDP, protoSCTP}
}

func nameKey(name string, protocol uint8) string { return fmt.Sprintf("%s/%d", name, protocol) }

// localhostRule lets the host reach its pods, whatever the policy.
var localhostRule = (&rule{
	origin: Origin{Object: "allow-localhost"}, tier: tierNormal, direction: Ingress,
	peers: []*selector{hostPeer}, verdict: Allow,
}).seal()

// pessimistic are the items that count for a peer nobody knows: denies that
// could match, and allows for everybody. cluster: it is some pod of this cluster.
func (s *slot) pessimistic(cluster bool) []*item {
	var out []*item
	for _, it := range s.items {
		surely := it.also == nil && slices.ContainsFunc(it.rule.peers, func(p *selector) bool { return p.any || cluster && p.cluster })
		switch {
		case surely:
			out = append(out, it)
		case len(it.rule.peers) > 0:
			out = append(out, it.assumed()...)
		}
	}
	return out
}
