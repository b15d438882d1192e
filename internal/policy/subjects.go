// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/label"
)

// subject is an endpoint with the rules that select it and the slots it is to be in.
type subject struct {
	Subject
	selected     []selection // by key of the object
	slots        [2]*slot    // by Direction
	enforcing    [2]bool
	peer4, peer6 *peer
}

// selection is an object that selects an endpoint.
type selection struct {
	key   string
	rules [2][]*rule // by Direction
}

// own is the row of an address of the endpoint.
func (s *subject) own(p netip.Prefix) Address {
	a := s.IPv4
	if s.IPv6.Prefix.IsValid() && s.IPv6.Prefix.Masked() == p {
		a = s.IPv6
	}
	a.Prefix, a.Identity = p, s.Identity
	return a
}

func (s *subject) prefixes() (out []netip.Prefix) {
	for _, a := range []Address{s.IPv4, s.IPv6} {
		if a.Prefix.IsValid() {
			out = append(out, a.Prefix.Masked())
		}
	}
	return out
}

// rules are those that select the endpoint, in order of object.
func (s *subject) rules(d Direction) (out []*rule) {
	for i := range s.selected {
		out = append(out, s.selected[i].rules[d]...)
	}
	return out
}

func (s *subject) policies() []string {
	out := make([]string, 0, len(s.selected))
	for i := range s.selected {
		out = append(out, s.selected[i].key)
	}
	return out
}

// speaksOf tells whether a rule for egress has one of the port names, by nameKey.
func (s *subject) speaksOf(names map[string]bool) bool {
	for i := range s.selected {
		for _, r := range s.selected[i].rules[Egress] {
			for _, p := range r.ports {
				for _, protocol := range p.protocols() {
					if p.name != "" && names[nameKey(p.name, protocol)] {
						return true
					}
				}
			}
		}
	}
	return false
}

func sameSubject(a, b *Subject) bool {
	return a.Endpoint == b.Endpoint && a.Incarnation == b.Incarnation && a.Identity == b.Identity && a.Audit == b.Audit &&
		a.IPv4 == b.IPv4 && a.IPv6 == b.IPv6 && sameSet(a.Labels, b.Labels) && slices.Equal(a.Ports, b.Ports)
}

// putSubject enters an endpoint, or what is new about it.
func (e *Engine) putSubject(next Subject) {
	old := e.subjects[next.Endpoint]
	if old != nil && sameSubject(&old.Subject, &next) {
		return
	}
	if old != nil {
		e.unclaim(old)
	}
	s := &subject{Subject: next}
	if old != nil {
		s.slots, s.enforcing, s.peer4, s.peer6 = old.slots, old.enforcing, old.peer4, old.peer6
	}
	e.subjects[next.Endpoint] = s
	if old != nil && sameSet(old.Labels, next.Labels) {
		s.selected = old.selected
	} else {
		s.selected = e.selecting(next.Labels)
	}
	e.ids.get(next.Identity).subjects++
	for _, p := range s.prefixes() {
		a := e.row(p)
		at, _ := slices.BinarySearch(a.claims, s.Endpoint)
		a.claims = slices.Insert(a.claims, at, s.Endpoint)
		e.now.portOwners = append(e.now.portOwners, p.Addr())
	}
	e.now.slotted[s.Endpoint], e.now.endpoints[s.Endpoint] = true, true
}

// unclaim takes back what an endpoint said about its addresses.
func (e *Engine) unclaim(s *subject) {
	i := e.ids.get(s.Identity)
	i.subjects--
	e.now.doubtful = append(e.now.doubtful, i)
	for _, p := range s.prefixes() {
		a := e.row(p)
		a.claims = slices.DeleteFunc(a.claims, func(id uint16) bool { return id == s.Endpoint })
		e.now.portOwners = append(e.now.portOwners, p.Addr())
	}
}

func (e *Engine) dropSubject(id uint16) {
	s := e.subjects[id]
	if s == nil {
		return
	}
	e.unclaim(s)
	for _, old := range s.slots {
		e.releaseSlot(old)
	}
	e.point(s.peer4, nil)
	e.point(s.peer6, nil)
	delete(e.subjects, id)
	e.now.endpoints[id] = true
	e.now.gone = append(e.now.gone, id)
}

// selecting are the objects that select labels.
func (e *Engine) selecting(labels label.Set) []selection {
	key := labels.Key()
	if have, ok := e.now.selected[key]; ok {
		return have
	}
	var out []selection
	known := map[*selector]bool{}
	for _, k := range slices.Sorted(maps.Keys(e.objects)) {
		if sel := e.objects[k].selects(k, labels, known); sel != nil {
			out = append(out, *sel)
		}
	}
	e.now.selected[key] = out
	return out
}

// selects gives the rules of an object that select labels; nil: none does.
func (c *cached) selects(key string, labels label.Set, known map[*selector]bool) *selection {
	if c == nil || c.good == nil {
		return nil
	}
	var out *selection
	for _, r := range c.good.rules {
		hit, ok := known[r.subject]
		if !ok {
			hit = r.subject.matches(labels)
			known[r.subject] = hit
		}
		if hit {
			if out == nil {
				out = &selection{key: key}
			}
			out.rules[r.direction] = append(out.rules[r.direction], r)
		}
	}
	return out
}

// reselect finds the endpoints that an object selects now; nil: it is gone.
func (e *Engine) reselect(key string, c *cached) {
	clear(e.now.selected)
	for id, s := range e.subjects {
		at, had := slices.BinarySearchFunc(s.selected, key, func(x selection, k string) int { return strings.Compare(x.key, k) })
		sel := c.selects(key, s.Labels, map[*selector]bool{})
		if !had && sel == nil {
			continue
		}
		next := slices.Clone(s.selected)
		switch {
		case sel == nil:
			next = slices.Delete(next, at, at+1)
		case had:
			next[at] = *sel
		default:
			next = slices.Insert(next, at, *sel)
		}
		s.selected = next
		e.now.slotted[id] = true
	}
}

// settleSlots gives every endpoint that was marked its slots.
func (e *Engine) settleSlots() {
	order := slices.SortedFunc(maps.Keys(e.now.slotted), func(a, b uint16) int {
		return cmp.Or(e.age(a)-e.age(b), cmp.Compare(a, b))
	})
	for _, id := range order {
		s := e.subjects[id]
		if s == nil {
			continue
		}
		for _, d := range []Direction{Egress, Ingress} {
			next, enforcing := e.slotFor(d, s.rules(d), &s.Subject)
			old := s.slots[d]
			s.slots[d], s.enforcing[d] = next, enforcing
			next.refs++
			e.releaseSlot(old)
		}
		e.now.endpoints[id] = true
	}
}

// slotFor finds or makes the slot of an endpoint's direction.
func (e *Engine) slotFor(d Direction, rules []*rule, subject *Subject) (*slot, bool) {
	s, enforcing := newSlot(&e.opts, e.addr.names, d, rules, subject)
	if s == nil {
		return e.open, enforcing
	}
	if have := e.slots[s.key]; have != nil {
		return have, enforcing
	}
	s.fill(&e.opts, e.addr.names, subject.Ports)
	e.slotSerial++
	s.serial = e.slotSerial
	e.slots[s.key] = s
	e.now.newSlots = append(e.now.newSlots, s)
	return s, enforcing
}

func (e *Engine) releaseSlot(s *slot) {
	if s == nil {
		return
	}
	if s.refs--; s.refs == 0 && s != e.open {
		e.now.leftSlots = append(e.now.leftSlots, s)
	}
}

// sortSlots tells the slots that are new and numbered nowhere yet from those
// that nobody is in any more.
func (e *Engine) sortSlots() {
	e.now.newSlots = slices.DeleteFunc(e.now.newSlots, func(s *slot) bool { return s.refs == 0 })
	for _, s := range e.now.leftSlots {
		if s.refs > 0 || e.slots[s.key] != s {
			continue
		}
		delete(e.slots, s.key)
		if s.inUse {
			e.now.freedSlots = append(e.now.freedSlots, s)
		}
	}
}

// settleEndpoints finds the peers of the endpoints that were marked.
func (e *Engine) settleEndpoints() {
	for _, id := range slices.Sorted(maps.Keys(e.now.endpoints)) {
		s := e.subjects[id]
		if s == nil {
			continue
		}
		for _, x := range []struct {
			address Address
			peer    **peer
		}{{s.IPv4, &s.peer4}, {s.IPv6, &s.peer6}} {
			p := e.subjectPeer(s, x.address)
			e.point(*x.peer, p)
			*x.peer = p
		}
	}
}

func (e *Engine) subjectPeer(s *subject, a Address) *peer {
	if a.Prefix.IsValid() {
		if row, ok := e.addr.rows.Get(a.Prefix); ok && row.Identity == s.Identity && row.peer != nil {
			return row.peer
		}
	}
	i := e.ids.get(s.Identity)
	if i.named != nil {
		return i.named
	}
	return e.peerAt(netip.Prefix{}, i)
}

// age is 0 for endpoints that the kernel holds already, 1 for new ones.
func (e *Engine) age(id uint16) int {
	if s := e.subjects[id]; s != nil && e.holds(s) {
		return 0
	}
	return 1
}

// holds tells whether the kernel's row of an endpoint is that of this incarnation.
func (e *Engine) holds(s *subject) bool {
	if incarnation, known := e.incarnations[s.Endpoint]; known && incarnation != s.Incarnation {
		return false
	}
	_, ok := e.state.Endpoints[s.Endpoint]
	return ok
}
