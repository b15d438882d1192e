// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"net/netip"
	"slices"
)

// finishPeers gives new peers their class, then points to all peers: identities,
// addresses, endpoints. Rows that are no longer wanted go last.
func (c *change) finishPeers() {
	e := c.e
	if !has(e.state.Peers, PeerUnresolved, ClassUnresolved) {
		c.emit(SetPeer{PeerUnresolved, ClassUnresolved})
	}
	for _, p := range e.now.newborn {
		if p.group != nil && p.number == 0 {
			c.newPeer(p)
		}
	}
	var gone []SetIdentityPeer
	for _, id := range c.names {
		i := e.ids.byID[id]
		if i == nil || i.named == nil {
			if _, ok := e.state.IdentityPeer[id]; ok {
				gone = append(gone, SetIdentityPeer{Identity: id})
			}
		} else if !has(e.state.IdentityPeer, id, i.named.number) {
			c.emit(SetIdentityPeer{id, i.named.number})
		}
	}
	c.finishAddresses()
	for _, id := range slices.Sorted(maps.Keys(e.now.endpoints)) {
		s := e.subjects[id]
		if s == nil {
			continue
		}
		row := EndpointRow{
			Identity: s.Identity, Peer4: s.peer4.number, Peer6: s.peer6.number, Egress: s.slots[Egress].number, Ingress: s.slots[Ingress].number,
		}
		if !e.holds(s) || e.state.Endpoints[id] != row {
			c.emit(SetEndpoint{id, row})
		}
	}
	for _, g := range gone {
		c.emit(DeleteIdentityPeer{g.Identity})
	}
}

// finishAddresses puts the longest prefixes first and removes the shortest
// first, so that an address never falls to a row that is not its own.
func (c *change) finishAddresses() {
	var put []PutAddress
	for _, w := range c.rows {
		entry := Entry{Identity: w.Identity, Peer: w.peer.number, Node: w.Node, Flags: w.Flags}
		if w.exist && w.old == entry && !c.touched[w.Prefix] {
			continue
		}
		if !has(c.e.state.Addresses, w.Prefix, entry) {
			put = append(put, PutAddress{w.Prefix, entry})
		}
	}
	slices.SortFunc(put, func(a, b PutAddress) int { return longestFirst(a.Prefix, b.Prefix) })
	for _, op := range put {
		c.emit(op)
	}
	slices.SortFunc(c.gone, func(a, b netip.Prefix) int { return longestFirst(b, a) })
	for _, p := range c.gone {
		c.emit(DeleteAddress{p})
	}
}

func has[K comparable, V comparable](m map[K]V, k K, want V) bool {
	v, ok := m[k]
	return ok && v == want
}

func longestFirst(a, b netip.Prefix) int {
	if a.Bits() != b.Bits() {
		return b.Bits() - a.Bits()
	}
	return comparePrefix(a, b)
}

// newPeer numbers a peer that nothing points to yet.
func (c *change) newPeer(p *peer) {
	e := c.e
	class := uint32(ClassUnknown)
	k := c.target(p.group.row)
	if k == nil {
		k = c.classWith(p.group.row)
	}
	if k != nil {
		class = k.number
	} else {
		e.homeless[p.group.row] = true
	}
	n, ok := c.take(e.peers)
	if !ok {
		e.unnumbered[p] = true
		return
	}
	p.number = n
	e.byNumber[n] = p
	delete(e.unnumbered, p)
	if !has(e.state.Peers, n, class) {
		c.emit(SetPeer{n, class})
	}
}

// bump ends the verdicts that flows keep, after everything they were made from is final.
func (c *change) bump() {
	for _, id := range slices.Sorted(maps.Keys(c.bumpEndpoints)) {
		c.emit(BumpEndpoint{id})
	}
	if c.bumpAll {
		c.emit(BumpPeers{})
		return
	}
	for _, a := range slices.SortedFunc(maps.Keys(c.bumped), netip.Addr.Compare) {
		c.emit(BumpPeer{a})
	}
}

// collect writes down which class holds which row, lets rest what nothing
// points to any more, and removes sets without a cell.
func (c *change) collect() {
	c.settleClasses()
	c.releaseNumbers()
	c.settleParts()
	e := c.e
	dead := e.sets.dead()
	if len(dead) == 0 {
		return
	}
	c.grace()
	for _, s := range dead {
		n := s.number
		e.sets.free(s)
		c.emit(DeleteSet{uint32(n)})
	}
}

func (c *change) settleClasses() {
	e := c.e
	for _, r := range e.now.deadRows {
		if r.class >= ClassFirst && e.byClass[r.class] == r {
			e.byClass[r.class] = nil
			c.class(r.class)
		}
		delete(e.homeless, r)
	}
	if c.wide {
		for n, r := range e.byClass { // also those that nobody was in any more
			if n >= ClassFirst && r != nil {
				r.class, e.byClass[n] = 0, nil
				c.class(uint32(n))
			}
		}
	}
	for r, n := range c.primary {
		// A class made for peers on their way to be unknown is of no use after it.
		if n >= ClassFirst && !r.dead && r != e.unknown.group.row && r != e.unresolved.group.row {
			r.class, e.byClass[n] = n, r
			delete(e.homeless, r)
		}
	}
	// In order, since numbers are given out again in the order in which they came back.
	for _, n := range slices.Sorted(maps.Keys(c.classes)) {
		if n >= ClassFirst && e.byClass[n] == nil {
			e.classes.release(n)
		}
	}
	list := e.now.newGroups
	if c.wide || len(c.primary) > 0 {
		list = e.groups.groups
	}
	for _, g := range list {
		if g.row != nil {
			g.class = g.row.class
		}
	}
}

func (c *change) releaseNumbers() {
	e := c.e
	for n := range c.moving {
		if e.byNumber[n] == nil {
			e.now.dead = append(e.now.dead, n)
		}
	}
	slices.Sort(e.now.dead)
	for _, n := range e.now.dead {
		if e.byNumber[n] == nil {
			e.peers.release(n)
		}
	}
	if e.now.first {
		for n := range e.peers.state {
			if e.byNumber[n] == nil {
				e.peers.release(uint32(n))
			}
		}
		for n := range e.classes.state {
			if e.byClass[n] == nil {
				e.classes.release(uint32(n))
			}
		}
		for id := range e.state.Endpoints {
			if e.subjects[id] == nil {
				delete(e.state.Endpoints, id)
			}
		}
	}
	for n, s := range e.bySlot {
		if s == nil {
			e.slotNumbers.release(uint32(n))
		}
	}
	for _, id := range e.now.gone {
		if e.subjects[id] == nil {
			delete(e.state.Endpoints, id)
			delete(e.incarnations, id)
		}
	}
	for id := range e.now.endpoints {
		if s := e.subjects[id]; s != nil {
			e.incarnations[id] = s.Incarnation
		}
	}
}

// settleParts remembers which slots have endpoints.
func (c *change) settleParts() {
	e := c.e
	if !c.wide && len(e.now.endpoints) == 0 {
		return
	}
	e.parts = e.parts[:0]
	seen := map[*slot]bool{}
	for _, id := range slices.Sorted(maps.Keys(e.subjects)) {
		for _, s := range e.subjects[id].slots {
			if !seen[s] {
				seen[s] = true
				e.parts = append(e.parts, slotPart{s.number, s})
			}
		}
	}
}

// retry looks again at what there was no number for, if there is one now.
func (e *Engine) retry() {
	if e.sets.lacking && e.sets.freed {
		e.sets.lacking, e.sets.short = false, nil
		for _, n := range e.live {
			if s := e.bySlot[n]; s.lacking {
				s.lacking = false
				e.now.columns = append(e.now.columns, n)
			}
		}
	}
	e.sets.freed = false
	if len(e.unnumbered) > 0 && e.peers.any() {
		for _, i := range e.ids.list {
			if i == nil {
				continue
			}
			for _, p := range i.peers {
				if e.unnumbered[p] {
					e.retryPeer(p)
				}
			}
		}
	}
}

func (e *Engine) retryPeer(p *peer) {
	e.now.newborn = append(e.now.newborn, p)
	e.now.lookAtIdent(e, p.identity)
	for _, a := range p.identity.addresses {
		e.now.changeRow(a.Prefix)
	}
	for id, s := range e.subjects {
		if s.Identity == p.identity.id {
			e.now.endpoints[id] = true
		}
	}
}

// clean forgets what the change has made useless.
func (e *Engine) clean() {
	for _, u := range e.now.leftUses {
		e.uses[u.id] = nil
		e.freeUses = append(e.freeUses, u.id)
	}
	for _, i := range e.now.doubtful {
		e.ids.drop(i)
	}
	if e.sets.crowded() {
		e.sets.forget()
		for _, s := range e.slots {
			clear(s.answers)
		}
		clear(e.open.answers)
		for _, n := range e.live {
			e.grid.blank[n] = e.answer(e.bySlot[n], nil)
		}
	}
}
