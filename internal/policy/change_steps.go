// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"net/netip"
	"slices"
)

// splitClasses moves peers that must differ in a fresh column to a copy of
// their class. The copy answers as the class does, so nothing changes.
func (c *change) splitClasses() {
	if len(c.fresh) == 0 {
		return
	}
	for _, number := range slices.Sorted(maps.Keys(c.classes)) {
		k := c.classes[number]
		stay := c.project(k.row)
		parts := map[string][]*movingPeer{}
		kept := k.peers[:0:0]
		for _, p := range k.peers {
			if key := c.project(p.row); key == stay {
				kept = append(kept, p)
			} else {
				parts[key] = append(parts[key], p)
			}
		}
		k.peers = kept
		for _, key := range slices.Sorted(maps.Keys(parts)) {
			c.splitOff(k, parts[key])
		}
	}
}

// project is a row's content in the fresh columns.
func (c *change) project(row int32) string {
	b := make([]byte, 0, 2*len(c.fresh))
	for _, f := range c.fresh {
		v := c.m.rows[row][f.slot]
		b = append(b, byte(v), byte(v>>8))
	}
	return string(b)
}

func (c *change) splitOff(from *movingClass, peers []*movingPeer) {
	n, ok := c.newClass()
	if !ok {
		c.overflow(peers)
		return
	}
	w := WriteClass{Class: n}
	if row := c.e.state.Classes[from.number]; row != nil {
		w.Row = *row
	}
	for _, f := range c.fresh {
		w.Row[f.number] = c.m.rows[peers[0].row][f.slot]
	}
	c.emit(w)
	k := c.class(n)
	for _, p := range peers {
		c.join(p, k)
	}
	c.electRow(k)
}

func (c *change) newClass() (uint32, bool) {
	n, ok := c.take(c.e.classes)
	if !ok {
		c.fail("more than %d classes: peers that do not fit are judged as unknown", ClassMax)
	}
	return n, ok
}

// overflow makes peers unknown for want of a class.
func (c *change) overflow(peers []*movingPeer) {
	for _, p := range peers {
		p.row = ClassUnknown
		c.join(p, c.class(ClassUnknown))
	}
}

// join moves a peer to a class: one store.
func (c *change) join(p *movingPeer, k *movingClass) {
	p.class = k.number
	k.peers = append(k.peers, p)
	c.emit(SetPeer{p.number, k.number})
}

// writeFresh stores the final cells of columns that no endpoint uses yet.
func (c *change) writeFresh() {
	for _, number := range slices.Sorted(maps.Keys(c.classes)) {
		k := c.classes[number]
		if k.row >= 0 {
			for _, f := range c.fresh {
				c.setCell(number, f.number, c.m.rows[k.row][f.slot])
			}
		}
	}
}

func (c *change) setCell(class uint32, slot, set uint16) {
	if c.cell(class, slot) != set {
		c.emit(SetCell{class, slot, set})
	}
}

// moveEndpoints takes the endpoints that exist to slots whose cells are final.
func (c *change) moveEndpoints() {
	at := func(old uint16, want int) uint16 {
		part := slotPart{old, want}
		if n, ok := c.detour[part]; ok {
			return n
		}
		for _, f := range c.fresh {
			if f.slot == want && f.number == c.slotNum[want] {
				return f.number
			}
		}
		if c.steady[want] {
			return c.slotNum[want]
		}
		return old
	}
	for _, id := range slices.Sorted(maps.Keys(c.m.endpoints)) {
		w := c.m.endpoints[id]
		if !c.e.holds(w.subject) {
			continue
		}
		row := c.e.state.Endpoints[id]
		next := row
		next.Egress, next.Ingress = at(row.Egress, w.slots[Egress]), at(row.Ingress, w.slots[Ingress])
		if next != row {
			c.emit(SetEndpoint{id, next})
		}
	}
}

// moveClasses makes the cells of every class final. Peers that go elsewhere
// leave before the cells of their class change; they arrive where cells are
// final already.
func (c *change) moveClasses() {
	order := slices.Sorted(maps.Keys(c.classes))
	c.choosePrimaries(order)
	var late []*movingPeer
	for _, number := range order {
		k := c.classes[number]
		kept := k.peers[:0:0]
		for _, p := range k.peers {
			if p.row == k.row {
				kept = append(kept, p)
				continue
			}
			target, exists := c.primary[p.row]
			if exists && !c.classes[target].steady {
				if k.steady {
					late = append(late, p)
					continue
				}
				exists = false
			}
			if !exists {
				if target, exists = c.classWith(p.row); !exists {
					c.overflow([]*movingPeer{p})
					continue
				}
			}
			c.join(p, c.classes[target])
		}
		k.peers = kept
	}
	for _, number := range order {
		if k := c.classes[number]; k.row >= 0 && !k.steady {
			for i, n := range c.slotNum {
				c.setCell(number, n, c.m.rows[k.row][i])
			}
			k.steady = true
		}
	}
	for _, p := range late {
		c.join(p, c.classes[c.primary[p.row]])
	}
}

// choosePrimaries finds for every row the class that peers with that row go to:
// a class whose cells are final already if there is one, then the largest.
func (c *change) choosePrimaries(order []uint32) {
	for _, number := range order {
		k := c.classes[number]
		if k.row < 0 {
			continue
		}
		k.steady = true
		for i, n := range c.slotNum {
			if c.cell(number, n) != c.m.rows[k.row][i] {
				k.steady = false
				break
			}
		}
		best, ok := c.primary[k.row]
		if ok && best < ClassFirst {
			continue
		}
		if b := c.classes[best]; !ok || k.steady && !b.steady || k.steady == b.steady && len(k.peers) > len(b.peers) {
			c.primary[k.row] = number
		}
	}
}

// classWith makes a class that holds a row from the start.
func (c *change) classWith(row int32) (uint32, bool) {
	n, ok := c.newClass()
	if !ok {
		return 0, false
	}
	w := WriteClass{Class: n}
	for i, s := range c.slotNum {
		w.Row[s] = c.m.rows[row][i]
	}
	for _, f := range c.fresh { // detours, too: endpoints are there now
		w.Row[f.number] = c.m.rows[row][f.slot]
	}
	c.emit(w)
	k := c.class(n)
	k.row, k.steady = row, true
	c.primary[row] = n
	return n, true
}

// mergeClasses brings peers of equal rows together. Nothing changes by it.
func (c *change) mergeClasses() {
	best := map[int32]*movingClass{}
	order := slices.Sorted(maps.Keys(c.classes))
	for _, number := range order {
		k := c.classes[number]
		if number < ClassFirst || k.row < ClassFirst || len(k.peers) == 0 {
			continue
		}
		if b := best[k.row]; b == nil || len(k.peers) > len(b.peers) {
			best[k.row] = k
		}
	}
	for row, k := range best {
		c.primary[row] = k.number
	}
	for _, number := range order {
		k := c.classes[number]
		b := best[k.row]
		if b == nil || b == k || number < ClassFirst {
			continue
		}
		for _, p := range k.peers {
			c.join(p, b)
		}
		k.peers = nil
	}
}

// finishSlots takes the endpoints that waited to their own slots, whose cells
// are the same by now.
func (c *change) finishSlots() {
	for _, id := range slices.Sorted(maps.Keys(c.m.endpoints)) {
		w := c.m.endpoints[id]
		if !c.e.holds(w.subject) {
			continue
		}
		row := c.e.state.Endpoints[id]
		next := row
		next.Egress, next.Ingress = c.slotNum[w.slots[Egress]], c.slotNum[w.slots[Ingress]]
		if next != row {
			c.emit(SetEndpoint{id, next})
		}
	}
}

// finishPeers gives new peers their class, then points to all peers: identities,
// addresses, endpoints. Rows that are no longer wanted go last.
func (c *change) finishPeers() {
	if !has(c.e.state.Peers, PeerUnresolved, ClassUnresolved) {
		c.emit(SetPeer{PeerUnresolved, ClassUnresolved})
	}
	for i := PeerFirst; i < len(c.m.peers); i++ {
		if c.peerNum[i] == 0 {
			c.newPeer(i)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.m.identity)) {
		if n := c.peerNum[c.m.identity[id]]; !has(c.e.state.IdentityPeer, id, n) {
			c.emit(SetIdentityPeer{id, n})
		}
	}
	c.finishAddresses()
	for _, id := range slices.Sorted(maps.Keys(c.m.endpoints)) {
		w := c.m.endpoints[id]
		row := EndpointRow{
			Identity: w.subject.Identity, Peer4: c.peerNum[w.peer4], Peer6: c.peerNum[w.peer6],
			Egress: c.slotNum[w.slots[Egress]], Ingress: c.slotNum[w.slots[Ingress]],
		}
		if !c.e.holds(w.subject) || c.e.state.Endpoints[id] != row {
			c.emit(SetEndpoint{id, row})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.e.state.IdentityPeer)) {
		if _, ok := c.m.identity[id]; !ok {
			c.emit(DeleteIdentityPeer{id})
		}
	}
}

// finishAddresses puts the longest prefixes first and removes the shortest
// first, so that an address never falls to a row that is not its own.
func (c *change) finishAddresses() {
	var put []PutAddress
	for _, w := range c.m.order {
		entry := Entry{Identity: w.Identity, Peer: c.peerNum[w.peer], Node: w.Node, Flags: w.Flags}
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
func (c *change) newPeer(i int) {
	row := c.m.peers[i].row
	class, ok := c.primary[row]
	if !ok {
		if class, ok = c.classWith(row); !ok {
			class = ClassUnknown
		}
	}
	n, ok := c.take(c.e.peers)
	if !ok {
		c.fail("more than %d peers: those that do not fit are unknown", PeersMax)
		return
	}
	c.peerNum[i] = n
	if !has(c.e.state.Peers, n, class) {
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

// collect lets rest what nothing points to any more and removes sets without a cell.
func (c *change) collect() {
	e := c.e
	peers, classes, slots := make([]bool, PeersMax), make([]bool, ClassMax), make([]bool, SlotsMax)
	use := func(n uint32) {
		peers[n] = true
		classes[e.state.Peers[n]] = true
	}
	for _, n := range c.peerNum {
		use(n)
	}
	for id := range e.state.Endpoints {
		if _, ok := c.m.endpoints[id]; !ok {
			delete(e.state.Endpoints, id)
		}
	}
	for _, row := range e.state.Endpoints {
		slots[row.Egress], slots[row.Ingress] = true, true
	}
	e.peers.keepOnly(peers)
	e.classes.keepOnly(classes)
	e.slots.keepOnly(slots)
	c.deleteSets()
}

func (c *change) deleteSets() {
	e := c.e
	live := map[uint32]bool{}
	for _, row := range c.m.rows {
		for _, n := range row {
			live[uint32(n)] = true
		}
	}
	var dead []uint32
	for n := range e.state.Sets {
		if !live[n] {
			dead = append(dead, n)
		}
	}
	if len(dead) == 0 {
		return
	}
	slices.Sort(dead)
	c.grace()
	for _, n := range dead {
		rows := e.state.Sets[n]
		e.setRows -= len(rows)
		if key := content(rows); e.byContent[key] == uint16(n) {
			delete(e.byContent, key)
		}
		c.emit(DeleteSet{n})
	}
}
