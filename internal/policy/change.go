// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/stentor-net/stentor/internal/prefix"
)

// change finds the steps from what the kernel holds to a model. README.md says
// why they come in this order. All is decided from the old state first, then
// the steps are given out stage by stage.
type change struct {
	e    *Engine
	m    *model
	ops  []Op
	errs []error

	// slots
	slotNum       []uint16            // number of each slot of the model
	fresh         []column            // numbers that no endpoint uses yet
	parts         []slotPart          // where the endpoints that exist come from and go
	detour        map[slotPart]uint16 // slot that takes a part on its way to its own
	steady        map[int]bool        // slots of the model whose column is final already
	differ        map[[2]int32]bool   // (class, row): some part would be judged differently
	bumpEndpoints map[uint16]bool
	oldAddr       *prefix.Table[uint32]  // what the kernel holds: prefix -> peer; made when needed
	peerNum       []uint32               // number of each peer of the model; 0: none yet
	keeper        map[uint32]int32       // old peer -> peer of the model that goes on with its number
	peers         map[uint32]*movingPeer // all that are pointed to now or on the way, by number
	early         []Op                   // neutral: numbers and rows for what is about to differ
	detours       map[[2]uint32]uint32   // (old peer, peer of the model) -> number on the way
	classes       map[uint32]*movingClass
	primary       map[int32]uint32 // row -> class that holds it in the end
	bumped        map[netip.Addr]bool
	bumpAll       bool
	gone          []netip.Prefix          // rows that go
	touched       map[netip.Prefix]bool   // rows written early
	own           map[netip.Prefix]uint16 // endpoint of an address; made when needed
	ownRow        map[uint16]EndpointRow  // rows of endpoints written early
	judged        map[judgement]bool      // of peers that stay who they are
}

// judgement is how somebody is judged: by a class now, by a row in the end.
type judgement struct {
	class uint32
	row   int32
}

// column is a slot of the model with its number.
type column struct {
	slot   int
	number uint16
}

// slotPart is the endpoints of one direction that go from an old slot to one of the model.
type slotPart struct {
	old  uint16
	want int
}

// movingPeer is a peer by number, with the class it has and the row it is to have.
type movingPeer struct {
	number uint32
	class  uint32
	row    int32
	moved  bool // who is behind it changes: not a matter of policy
}

type movingClass struct {
	number uint32
	row    int32 // that it holds in the end
	peers  []*movingPeer
	steady bool // its cells are final already
}

func newChange(e *Engine, m *model) *change {
	return &change{
		e: e, m: m, detour: map[slotPart]uint16{}, steady: map[int]bool{}, differ: map[[2]int32]bool{},
		bumpEndpoints: map[uint16]bool{}, keeper: map[uint32]int32{}, peers: map[uint32]*movingPeer{}, detours: map[[2]uint32]uint32{},
		classes: map[uint32]*movingClass{}, primary: map[int32]uint32{}, bumped: map[netip.Addr]bool{}, judged: map[judgement]bool{}, touched: map[netip.Prefix]bool{}, ownRow: map[uint16]EndpointRow{},
	}
}

// run decides and gives out all steps.
func (c *change) run() []Op {
	c.planSlots()
	c.planPeers()
	c.planAddresses()
	c.planClasses()
	c.planDetours()
	c.planBumps()

	c.writeSets()
	for _, op := range c.early {
		c.emit(op)
	}
	c.splitClasses()
	c.writeFresh()
	c.moveEndpoints()
	c.moveClasses()
	c.mergeClasses()
	c.finishSlots()
	c.finishPeers()
	c.bump()
	c.collect()
	return c.ops
}

func (c *change) emit(op Op) {
	c.e.state.Apply(op)
	c.ops = append(c.ops, op)
}

func (c *change) fail(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	for _, have := range c.errs {
		if have.Error() == err.Error() {
			return
		}
	}
	c.errs = append(c.errs, err)
}

// take gives out a number; if only resting ones are left, it waits for them.
func (c *change) take(n *numbers) (uint32, bool) {
	if i, ok := n.take(); ok {
		return i, true
	}
	if n.rests == 0 {
		return 0, false
	}
	c.grace()
	return n.take()
}

func (c *change) grace() {
	c.emit(Grace{})
	c.e.peers.wake()
	c.e.classes.wake()
	c.e.slots.wake()
}

func (c *change) cell(class uint32, slot uint16) uint16 {
	if row := c.e.state.Classes[class]; row != nil {
		return row[slot]
	}
	return SetDeny
}

// planSlots numbers the slots of the model: one goes on with the number of the
// slot that most of its endpoints come from, if it is the largest part of it.
func (c *change) planSlots() {
	votes := map[slotPart]int{}
	for _, w := range c.m.endpoints {
		if !c.e.holds(w.subject) {
			continue
		}
		row := c.e.state.Endpoints[w.subject.Endpoint]
		votes[slotPart{row.Egress, w.slots[Egress]}]++
		votes[slotPart{row.Ingress, w.slots[Ingress]}]++
	}
	c.parts = slices.SortedFunc(maps.Keys(votes), func(a, b slotPart) int {
		if a.old != b.old {
			return int(a.old) - int(b.old)
		}
		return a.want - b.want
	})
	keeper := map[uint16]slotPart{}
	for _, p := range c.parts {
		if p.old == SlotOpen || p.old == SlotClosed || p.want == SlotOpen || c.m.slots[p.want].closed {
			continue
		}
		if best, ok := keeper[p.old]; !ok || votes[p] > votes[best] {
			keeper[p.old] = p
		}
	}
	c.slotNum = make([]uint16, len(c.m.slots))
	most := make([]int, len(c.m.slots))
	for _, p := range c.parts {
		if keeper[p.old] == p && votes[p] > most[p.want] {
			c.slotNum[p.want], most[p.want] = p.old, votes[p]
		}
	}
	for i, s := range c.m.slots {
		if i == SlotOpen || c.slotNum[i] != 0 {
			continue
		}
		n, ok := uint32(0), false
		if !s.closed {
			if n, ok = c.take(c.e.slots); !ok {
				c.fail("no slot is free: some endpoints are closed")
			}
		}
		if ok {
			c.slotNum[i] = uint16(n)
			c.fresh = append(c.fresh, column{i, uint16(n)})
			continue
		}
		c.slotNum[i] = SlotClosed
		for _, row := range c.m.rows {
			row[i] = SetDeny
		}
	}
}

// differs tells whether any endpoint that exists would be judged differently if
// a peer of the class got the row.
func (c *change) differs(class uint32, row int32) bool {
	key := [2]int32{int32(class), row}
	if d, ok := c.differ[key]; ok {
		return d
	}
	d := slices.ContainsFunc(c.parts, func(p slotPart) bool { return c.cell(class, p.old) != c.m.rows[row][p.want] })
	c.differ[key] = d
	return d
}

// planPeers numbers the peers of the model as planSlots does the slots, and
// finds what becomes of the old ones.
func (c *change) planPeers() {
	votes := map[[2]uint32]int32{}
	vote := func(old uint32, want int32) {
		if old >= PeerFirst && want >= PeerFirst {
			votes[[2]uint32{old, uint32(want)}]++
		}
	}
	for _, w := range c.m.order {
		if w.exist && w.old.Identity == w.Identity {
			vote(w.old.Peer, w.peer)
		}
	}
	for id, want := range c.m.identity {
		if old, ok := c.e.state.IdentityPeer[id]; ok {
			vote(old, want)
		}
	}
	c.electPeers(votes)
	first := map[uint32]netip.Prefix{} // of peers that do not go on
	for p, old := range c.e.state.Addresses {
		if _, goes := c.keeper[old.Peer]; !goes && old.Peer >= PeerFirst {
			if have, ok := first[old.Peer]; !ok || comparePrefix(p, have) < 0 {
				first[old.Peer] = p
			}
		}
	}
	add := func(number uint32, p movingPeer) {
		if number >= PeerFirst && c.peers[number] == nil {
			p.number, p.class = number, c.e.state.Peers[number]
			c.peers[number] = &p
		}
	}
	for number, want := range c.keeper {
		add(number, movingPeer{row: c.m.peers[want].row})
	}
	for number, p := range first { // gone: it goes the way of its first address
		row := int32(ClassUnknown)
		if _, w, ok := c.m.addresses.Lookup(p.Addr()); ok {
			row = c.m.peers[w.peer].row
		}
		add(number, movingPeer{row: row, moved: !isLocalCIDR(c.e.state.Addresses[p].Identity)})
	}
	for _, number := range c.e.state.IdentityPeer {
		add(number, movingPeer{row: ClassUnknown, moved: true})
	}
}

// electPeers lets the largest part of an old peer go on with its number.
func (c *change) electPeers(votes map[[2]uint32]int32) {
	c.peerNum = make([]uint32, len(c.m.peers))
	c.peerNum[PeerUnresolved] = PeerUnresolved
	most := map[uint32]int32{}
	for k, n := range votes {
		want, ok := c.keeper[k[0]]
		if !ok || n > most[k[0]] || n == most[k[0]] && int32(k[1]) < want {
			c.keeper[k[0]], most[k[0]] = int32(k[1]), n
		}
	}
	for old, want := range c.keeper {
		have := c.peerNum[want]
		if have == 0 || most[old] > most[have] || most[old] == most[have] && old < have {
			c.peerNum[want] = old
		}
	}
}

// enclosing is the peer that the kernel gives the addresses of a prefix it has no row for.
func (c *change) enclosing(p netip.Prefix) (uint32, bool) {
	if c.oldAddr == nil {
		c.oldAddr = &prefix.Table[uint32]{}
		for q, e := range c.e.state.Addresses {
			c.oldAddr.Put(q, e.Peer)
		}
	}
	_, peer, ok := c.oldAddr.Enclosing(p)
	return peer, ok
}

// changes tells whether the verdicts about an old peer are about to change, and its class.
func (c *change) changes(number uint32) (bool, uint32) {
	if number < PeerFirst {
		return c.differs(number, int32(number)), number
	}
	p := c.peers[number]
	return c.differs(p.class, p.row), p.class
}

// rowOf is the row that an old peer is to have.
func (c *change) rowOf(number uint32) int32 {
	if number < PeerFirst {
		return int32(number)
	}
	return c.peers[number].row
}

// planAddresses finds the addresses that must leave their peer before its
// verdicts change, and those whose own verdicts change.
func (c *change) planAddresses() {
	added := prefix.Table[bool]{} // rows that come before the verdicts change, and so do those inside
	for _, w := range c.m.order {
		old, exists := w.old, w.exist
		source, known := old.Peer, exists
		if !exists {
			source, known = c.enclosing(w.Prefix)
		}
		changing, class := c.changes(source)
		row := c.m.peers[w.peer].row
		moved := !w.local && (!exists || old.Identity != w.Identity)
		if moved || !w.local && old.Peer < PeerFirst && old.Peer != uint32(w.peer) {
			c.bumpAddress(w.Prefix, class, row)
		}
		if exists && c.stays(source, w.peer) || !known {
			continue
		}
		if !moved {
			c.judged[judgement{class, row}] = true
		}
		if !changing || exists && c.rowOf(source) == row {
			if _, _, inside := added.Enclosing(w.Prefix); exists || !inside {
				continue
			}
		}
		added.Put(w.Prefix, true)
		c.touched[w.Prefix] = true
		n := c.numberOnTheWay(source, class, w.peer, moved)
		c.early = append(c.early, PutAddress{w.Prefix, Entry{Identity: w.Identity, Peer: n, Node: w.Node, Flags: w.Flags}})
		c.planOwn(w.Prefix, source, n)
	}
	c.planRemovals()
}

// planOwn does for the row of an endpoint what was done for the row of its
// address: the kernel asks the endpoint's first.
func (c *change) planOwn(p netip.Prefix, source, n uint32) {
	if c.own == nil {
		c.own = map[netip.Prefix]uint16{}
		for id, w := range c.m.endpoints {
			if c.e.holds(w.subject) {
				c.own[w.subject.IPv4.Prefix], c.own[w.subject.IPv6.Prefix] = id, id
			}
		}
	}
	id, ok := c.own[p]
	if !ok {
		return
	}
	row, ok := c.ownRow[id]
	if !ok {
		row = c.e.state.Endpoints[id]
	}
	if p.Addr().Is4() && row.Peer4 == source {
		row.Peer4 = n
	} else if p.Addr().Is6() && row.Peer6 == source {
		row.Peer6 = n
	} else {
		return
	}
	c.ownRow[id] = row
	c.early = append(c.early, SetEndpoint{id, row})
}

// stays tells whether an old peer goes on as a peer of the model.
func (c *change) stays(old uint32, want int32) bool {
	if old < PeerFirst {
		return old == uint32(want)
	}
	return c.keeper[old] == want
}

// planRemovals does for rows that go what planAddresses does for those that come:
// their addresses become those of the enclosing row.
func (c *change) planRemovals() {
	stay := 0
	for _, w := range c.m.order {
		if w.exist {
			stay++
		}
	}
	if stay == len(c.e.state.Addresses) {
		return
	}
	for p := range c.e.state.Addresses {
		if _, ok := c.m.addresses.Get(p); !ok {
			c.gone = append(c.gone, p)
		}
	}
	slices.SortFunc(c.gone, comparePrefix)
	for _, p := range c.gone {
		old := c.e.state.Addresses[p]
		want := int32(PeerUnknown)
		if _, w, ok := c.m.addresses.Enclosing(p); ok {
			want = w.peer
		}
		row, local := c.m.peers[want].row, isLocalCIDR(old.Identity)
		changing, class := c.changes(old.Peer)
		if local {
			c.judged[judgement{class, row}] = true
		} else {
			c.bumpAddress(p, class, row)
		}
		if changing && c.rowOf(old.Peer) != row {
			entry := old
			entry.Peer = c.numberOnTheWay(old.Peer, class, want, !local)
			c.early = append(c.early, PutAddress{p, entry})
		}
	}
}

func (c *change) bumpAddress(p netip.Prefix, class uint32, row int32) {
	if !c.differs(class, row) {
		return
	}
	if p.IsSingleIP() {
		c.bumped[p.Addr()] = true
	} else {
		c.bumpAll = true
	}
}

// numberOnTheWay gives addresses that leave an old peer for one of the model a
// number of their own, still of the old class.
func (c *change) numberOnTheWay(old, class uint32, want int32, moved bool) uint32 {
	key := [2]uint32{old, uint32(want)}
	if n, ok := c.detours[key]; ok {
		return n
	}
	n, ok := c.take(c.e.peers)
	if !ok {
		c.fail("more than %d peers: those that do not fit are unknown", PeersMax)
		return PeerUnknown
	}
	c.detours[key] = n
	if want >= PeerFirst && c.peerNum[want] == 0 {
		c.peerNum[want] = n
	}
	c.peers[n] = &movingPeer{number: n, class: class, row: c.m.peers[want].row, moved: moved}
	c.early = append(c.early, SetPeer{n, class})
	return n
}

// planClasses sorts the peers by the class they have.
func (c *change) planClasses() {
	c.class(ClassUnknown)
	c.class(ClassUnresolved)
	for _, n := range slices.Sorted(maps.Keys(c.peers)) {
		p := c.peers[n]
		k := c.class(p.class)
		k.peers = append(k.peers, p)
	}
	for _, k := range c.classes {
		c.electRow(k)
	}
}

func (c *change) class(number uint32) *movingClass {
	k := c.classes[number]
	if k == nil {
		k = &movingClass{number: number, row: -1}
		c.classes[number] = k
		if number < ClassFirst {
			k.row = int32(number)
		}
	}
	return k
}

// electRow lets a class take on the row that most of its peers are to have; of
// equals, the one that it has.
func (c *change) electRow(k *movingClass) {
	if k.number < ClassFirst {
		return
	}
	count := map[int32]int{}
	for _, p := range k.peers {
		count[p.row]++
	}
	k.row = -1
	for row, n := range count {
		if k.row < 0 || n > count[k.row] {
			k.row = row
			continue
		}
		was, is := c.differs(k.number, k.row), c.differs(k.number, row)
		if n == count[k.row] && (was && !is || was == is && row < k.row) {
			k.row = row
		}
	}
}

// planDetours finds the endpoints that go to a slot whose own cells are about
// to change: they wait in a slot of their own until that is done.
func (c *change) planDetours() {
	for i := range c.m.slots {
		c.steady[i] = true
	}
	for _, k := range c.classes {
		rows := []int32{k.row}
		for _, p := range k.peers {
			if p.row != k.row && !slices.Contains(rows, p.row) {
				rows = append(rows, p.row)
			}
		}
		for i := range c.m.slots {
			have := c.cell(k.number, c.slotNum[i])
			for _, r := range rows {
				if have != c.m.rows[r][i] {
					c.steady[i] = false
				}
			}
		}
	}
	fresh := map[int]bool{}
	for _, f := range c.fresh {
		fresh[f.slot] = true
	}
	for _, p := range c.parts {
		if c.slotNum[p.want] == p.old || fresh[p.want] || c.steady[p.want] {
			continue
		}
		if n, ok := c.take(c.e.slots); ok {
			c.detour[p] = uint16(n)
			c.fresh = append(c.fresh, column{p.want, uint16(n)})
		}
	}
}

// planBumps finds the endpoints whose verdicts about somebody change because policy does.
func (c *change) planBumps() {
	pairs := c.judged
	pairs[judgement{ClassUnknown, ClassUnknown}], pairs[judgement{ClassUnresolved, ClassUnresolved}] = true, true
	for _, p := range c.peers {
		if !p.moved {
			pairs[judgement{p.class, p.row}] = true
		}
	}
	changed := map[slotPart]bool{}
	for _, part := range c.parts {
		for p := range pairs {
			if c.cell(p.class, part.old) != c.m.rows[p.row][part.want] {
				changed[part] = true
				break
			}
		}
	}
	for id, w := range c.m.endpoints {
		if c.e.holds(w.subject) {
			row := c.e.state.Endpoints[id]
			c.bumpEndpoints[id] = changed[slotPart{row.Egress, w.slots[Egress]}] || changed[slotPart{row.Ingress, w.slots[Ingress]}]
		}
	}
	maps.DeleteFunc(c.bumpEndpoints, func(_ uint16, bump bool) bool { return !bump })
}

// writeSets stores the sets that no cell points to yet.
func (c *change) writeSets() {
	for _, n := range c.e.newSets {
		c.emit(WriteSet{n, c.e.state.Sets[n]})
	}
}
