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
// select, with the same default deny and the same own named ports.
type slot struct {
	key       string
	direction Direction
	rules     []*rule // all that select the endpoints
	items     []*item
	base      fallback
	byRange   func(p *selector) bool // picks pods by address, which may not be known
	closed    bool                   // one slot too many: nothing passes

	uses []*selector // that tell peers apart here, in order of key
}

// slotBuilder makes slots from rules, one for each different key.
type slotBuilder struct {
	opts  *Options
	names map[string][]portName // named ports that pods have, by "name/protocol"
	slots []*slot
	byKey map[string]int
}

func newSlotBuilder(opts *Options, names map[string][]portName) *slotBuilder {
	b := &slotBuilder{opts: opts, names: names, byKey: map[string]int{}}
	b.slots = append(b.slots, &slot{key: "open"})
	b.byKey["open"] = SlotOpen
	return b
}

// hostPeer is the peer that allow-localhost speaks of.
var hostPeer = labelSelector(term{reserved(identity.LabelHost)})

// slotFor gives the slot of a direction of a subject: rules are those that select it.
func (b *slotBuilder) slotFor(d Direction, rules []*rule, subject *Subject) (int, bool) {
	own := subject.Ports
	s := &slot{direction: d, rules: rules, base: fallback{audited: true, audit: b.opts.Audit || subject.Audit}}
	s.byRange = func(p *selector) bool { return p.ranges != nil && (p.k8s || b.opts.CIDRMatchPods) }
	enforcing := len(rules) > 0
	for _, r := range rules {
		s.base.normal = s.base.normal || r.defaultDeny
		s.base.audited = s.base.audited && (r.audit || !r.defaultDeny)
	}
	s.base.audited = s.base.audited && s.base.normal
	switch b.opts.Enforcement {
	case EnforceNever:
		return SlotOpen, false
	case EnforceAlways:
		s.base.always, enforcing = true, true
	}
	if !enforcing {
		return SlotOpen, false
	}
	s.key = b.key(s, own)
	if i, ok := b.byKey[s.key]; ok {
		return i, true
	}
	i := len(b.slots)
	b.byKey[s.key] = i
	b.slots = append(b.slots, s)
	b.fill(s, own)
	return i, true
}

func (b *slotBuilder) key(s *slot, own []endpoint.Port) string {
	keys := make([]string, len(s.rules))
	ports := ""
	for i, r := range s.rules {
		keys[i] = r.key
		if s.direction == Ingress {
			for _, p := range r.ports {
				if p.name != "" {
					ports += fmt.Sprint(p.name, p.protocol, ownNumbers(p, own))
				}
			}
		}
	}
	slices.Sort(keys)
	return fmt.Sprintf("%d %v %s\n%s", s.direction, s.base, strings.Join(slices.Compact(keys), "\n"), ports)
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
func (b *slotBuilder) fill(s *slot, own []endpoint.Port) {
	uses := map[string]*selector{}
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
				for _, n := range b.numbers(p) {
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
	if s.direction == Ingress && b.opts.AllowLocalhost != LocalhostPolicy {
		s.items = append(s.items, &item{rule: localhostRule})
	}
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
	for _, k := range slices.Sorted(maps.Keys(uses)) {
		s.uses = append(s.uses, uses[k])
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

// numbers are all that pods give a named port.
func (b *slotBuilder) numbers(p portRange) []portName {
	if p.protocol != 0 {
		return b.names[nameKey(p.name, p.protocol)]
	}
	var out []portName
	for _, protocol := range []uint8{protoTCP, protoUDP, protoSCTP} {
		out = append(out, b.names[nameKey(p.name, protocol)]...)
	}
	return out
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
