// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/prefix"
)

// change finds the steps from what the kernel holds to what the engine wants.
// README.md says why they come in this order. All is decided from the old state
// first, then the steps are given out stage by stage.
//
// A narrow change is one of peers only: no column of cells changes and no
// endpoint moves, so that just the peers that were touched are looked at. In a
// wide change all groups are.
type change struct {
	e    *Engine
	ops  []Op
	errs []error
	wide bool

	// slots
	parts         []slotPart          // where the endpoints that exist come from and go
	changed       []slotPart          // those that are judged by other cells
	fresh         []column            // numbers that no endpoint uses yet
	detour        map[slotPart]uint16 // slot that takes a part on its way to its own
	unsteady      map[*slot]bool      // slots whose column is about to change
	differ        map[judgement]bool
	bumpEndpoints map[uint16]bool

	// addresses and peers
	rows    []changedRow
	gone    []netip.Prefix // rows that go
	names   []identity.ID  // whose own peer may change
	keeper  map[uint32]*peer
	moving  map[uint32]*moving // old numbers that are nobody's, and those on the way
	detours map[wayKey]uint32
	early   []Op                   // neutral: numbers and rows for what is about to differ
	touched map[netip.Prefix]bool  // rows written early
	ownRow  map[uint16]EndpointRow // rows of endpoints written early
	bumped  map[netip.Addr]bool
	bumpAll bool
	judged  map[judgement]bool // of peers that stay who they are

	bundles []*moving
	classes map[uint32]*movingClass
	primary map[*row]uint32 // class that holds a row in the end
}

// judgement is how somebody is judged: by a class now, by a row in the end.
type judgement struct {
	class uint32
	row   *row
}

// column is a slot with a number.
type column struct {
	slot   *slot
	number uint16
}

// slotPart is the endpoints of one direction that go from an old slot to another.
type slotPart struct {
	old  uint16
	want *slot
}

// wayKey is a way from an old peer to one that is wanted.
type wayKey struct {
	old  uint32
	want *peer
}

// changedRow is a row that may change, with what the kernel holds.
type changedRow struct {
	*address
	old   Entry
	exist bool
}

// moving is peers that have one class and are to have one row: some by number,
// or all of a group that have not come to it by this change.
type moving struct {
	class   uint32
	row     *row
	moved   bool // who is behind them changes: not a matter of policy
	numbers []uint32
	group   *group
}

type movingClass struct {
	number uint32
	row    *row // that it holds in the end; nil: none
	peers  []*moving
	steady bool // its cells are final already
}

func newChange(e *Engine) *change {
	return &change{
		e: e, detour: map[slotPart]uint16{}, unsteady: map[*slot]bool{}, differ: map[judgement]bool{},
		bumpEndpoints: map[uint16]bool{}, keeper: map[uint32]*peer{}, moving: map[uint32]*moving{}, detours: map[wayKey]uint32{},
		classes: map[uint32]*movingClass{}, primary: map[*row]uint32{}, bumped: map[netip.Addr]bool{}, judged: map[judgement]bool{},
		touched: map[netip.Prefix]bool{}, ownRow: map[uint16]EndpointRow{},
	}
}

// run decides and gives out all steps; planSlots has come before.
func (c *change) run() []Op {
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
	e := c.e
	switch o := op.(type) {
	case PutAddress:
		if _, ok := e.state.Addresses[o.Prefix]; !ok {
			e.lengths[familyOf(o.Prefix)][o.Prefix.Bits()]++
		}
	case DeleteAddress:
		e.lengths[familyOf(o.Prefix)][o.Prefix.Bits()]--
	}
	e.state.Apply(op)
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
	if len(n.resting) == 0 {
		return 0, false
	}
	c.grace()
	return n.take()
}

func (c *change) grace() {
	c.emit(Grace{})
	c.e.peers.wake()
	c.e.classes.wake()
	c.e.slotNumbers.wake()
}

var noCells [SlotsMax]uint16

// cells are those that a class has now.
func (c *change) cells(class uint32) *[SlotsMax]uint16 {
	if row := c.e.state.Classes[class]; row != nil {
		return row
	}
	return &noCells
}

// differs tells whether any endpoint that exists would be judged differently if
// a peer of the class got the row.
func (c *change) differs(class uint32, r *row) bool {
	key := judgement{class, r}
	if d, ok := c.differ[key]; ok {
		return d
	}
	have := c.cells(class)
	d := slices.ContainsFunc(c.parts, func(p slotPart) bool { return have[p.old] != r.cells[p.want.number] })
	c.differ[key] = d
	return d
}

// who gives the class of a peer of the kernel, and the row it is to have.
func (c *change) who(number uint32) (uint32, *row) {
	if m := c.moving[number]; m != nil {
		return m.class, m.row
	}
	class, r := c.e.state.Peers[number], c.e.unknown.group.row
	if number < PeerFirst {
		class = number
	}
	if p := c.e.byNumber[number]; p != nil {
		r = p.group.row
	}
	return class, r
}

// planPeers gathers what may change about peers. One that is new goes on with
// the number of one that is gone, if it is the largest part of it.
func (c *change) planPeers() {
	e := c.e
	slices.SortFunc(e.now.rows, comparePrefix)
	for _, p := range slices.Compact(e.now.rows) {
		old, exist := e.state.Addresses[p]
		if a, ok := e.addr.rows.Get(p); ok {
			c.rows = append(c.rows, changedRow{a, old, exist})
		} else if exist {
			c.gone = append(c.gone, p)
		}
	}
	for _, i := range e.now.idents {
		c.names = append(c.names, i.id)
	}
	if e.now.first {
		c.names = slices.AppendSeq(c.names, maps.Keys(e.state.IdentityPeer))
		slices.Sort(c.names)
		c.names = slices.Compact(c.names)
	}
	votes := map[wayKey]int{}
	vote := func(old uint32, want *peer) {
		if old >= PeerFirst && want != nil && want.identity != nil && e.byNumber[old] == nil {
			votes[wayKey{old, want}]++
		}
	}
	for i := range c.rows {
		if w := &c.rows[i]; w.exist && w.old.Identity == w.Identity {
			vote(w.old.Peer, w.peer)
		}
	}
	for _, id := range c.names {
		if old, ok := e.state.IdentityPeer[id]; ok && e.ids.byID[id] != nil {
			vote(old, e.ids.byID[id].named)
		}
	}
	c.electPeers(votes)
	c.planDeparted()
}

// electPeers lets the largest part of an old peer go on with its number.
func (c *change) electPeers(votes map[wayKey]int) {
	if len(votes) == 0 {
		return
	}
	order := make(map[*peer]int, len(c.e.now.newborn))
	for i, p := range c.e.now.newborn {
		order[p] = i
	}
	ways := slices.SortedFunc(maps.Keys(votes), func(a, b wayKey) int {
		return cmp.Or(cmp.Compare(a.old, b.old), votes[b]-votes[a], cmp.Compare(order[a.want], order[b.want]))
	})
	best := map[*peer]wayKey{}
	for _, w := range ways { // the first of each old one has the most votes
		if c.keeper[w.old] != nil {
			continue
		}
		c.keeper[w.old] = w.want
		c.move(w.old, w.want.group.row, false)
		if have, ok := best[w.want]; !ok || votes[w] > votes[have] {
			best[w.want] = w
		}
	}
	for p, w := range best {
		if p.number == 0 {
			c.assign(p, w.old)
		}
	}
}

// assign gives a peer a number that the kernel knows already.
func (c *change) assign(p *peer, number uint32) {
	p.number, p.stamp = number, c.e.stamp
	c.e.byNumber[number] = p
	delete(c.e.unnumbered, p)
}

func (c *change) move(number uint32, r *row, moved bool) *moving {
	m := &moving{class: c.e.state.Peers[number], row: r, moved: moved, numbers: []uint32{number}}
	c.moving[number] = m
	return m
}

// planDeparted finds what becomes of old peers that do not go on: they go the
// way of their first address.
func (c *change) planDeparted() {
	e := c.e
	departed := func(number uint32) bool {
		return number >= PeerFirst && e.byNumber[number] == nil && c.moving[number] == nil
	}
	first := func(p netip.Prefix, old Entry) {
		if departed(old.Peer) {
			r := e.unknown.group.row
			if _, a, ok := e.addr.rows.Lookup(p.Addr()); ok {
				r = a.peer.group.row
			}
			c.move(old.Peer, r, !isLocalCIDR(old.Identity))
		}
	}
	gone := c.gone
	for i := range c.rows {
		for len(gone) > 0 && comparePrefix(gone[0], c.rows[i].Prefix) < 0 {
			first(gone[0], e.state.Addresses[gone[0]])
			gone = gone[1:]
		}
		if c.rows[i].exist {
			first(c.rows[i].Prefix, c.rows[i].old)
		}
	}
	for _, p := range gone {
		first(p, e.state.Addresses[p])
	}
	for _, id := range c.names {
		if old, ok := e.state.IdentityPeer[id]; ok && departed(old) {
			c.move(old, e.unknown.group.row, true)
		}
	}
}

// enclosing is the peer that the kernel gives the addresses of a prefix it has no row for.
func (c *change) enclosing(p netip.Prefix) (uint32, bool) {
	lengths := &c.e.lengths[familyOf(p)]
	for n := p.Bits() - 1; n >= 0; n-- {
		if lengths[n] > 0 {
			if q, err := p.Addr().Prefix(n); err == nil {
				if old, ok := c.e.state.Addresses[q]; ok {
					return old.Peer, true
				}
			}
		}
	}
	return 0, false
}

// planAddresses finds the addresses that must leave their peer before its
// verdicts change, and those whose own verdicts change.
func (c *change) planAddresses() {
	added := prefix.Table[bool]{} // rows that come before the verdicts change, and so do those inside
	for _, w := range c.rows {
		source, known := w.old.Peer, w.exist
		if !w.exist {
			source, known = c.enclosing(w.Prefix)
		}
		class, was := c.who(source)
		r := w.peer.group.row
		moved := !w.local && (!w.exist || w.old.Identity != w.Identity)
		if moved || !w.local && w.old.Peer < PeerFirst && c.e.byNumber[w.old.Peer] != w.peer {
			c.bumpAddress(w.Prefix, class, r)
		}
		if w.exist && c.stays(source, w.peer) || !known {
			continue
		}
		if !moved {
			c.judged[judgement{class, r}] = true
		}
		if !c.differs(class, was) || w.exist && was == r {
			if _, _, inside := added.Enclosing(w.Prefix); w.exist || !inside {
				continue
			}
		}
		added.Put(w.Prefix, true)
		c.touched[w.Prefix] = true
		n := c.numberOnTheWay(source, class, w.peer, moved)
		c.early = append(c.early, PutAddress{w.Prefix, Entry{Identity: w.Identity, Peer: n, Node: w.Node, Flags: w.Flags}})
		c.planOwn(w.address, source, n)
	}
	c.planRemovals()
}

// planOwn does for the rows of endpoints what was done for the row of their
// address: the kernel asks the endpoint's first.
func (c *change) planOwn(a *address, source, n uint32) {
	for _, id := range a.claims {
		if !c.e.holds(c.e.subjects[id]) {
			continue
		}
		row, ok := c.ownRow[id]
		if !ok {
			row = c.e.state.Endpoints[id]
		}
		if a.Prefix.Addr().Is4() && row.Peer4 == source {
			row.Peer4 = n
		} else if a.Prefix.Addr().Is6() && row.Peer6 == source {
			row.Peer6 = n
		} else {
			continue
		}
		c.ownRow[id] = row
		c.early = append(c.early, SetEndpoint{id, row})
	}
}

// stays tells whether an old peer goes on as the one that is wanted.
func (c *change) stays(old uint32, want *peer) bool {
	if p := c.e.byNumber[old]; p != nil {
		return p == want
	}
	return c.keeper[old] == want
}

// planRemovals does for rows that go what planAddresses does for those that come:
// their addresses become those of the enclosing row.
func (c *change) planRemovals() {
	for _, p := range c.gone {
		old := c.e.state.Addresses[p]
		want := c.e.unknown
		if _, w, ok := c.e.addr.rows.Enclosing(p); ok {
			want = w.peer
		}
		r, local := want.group.row, isLocalCIDR(old.Identity)
		class, was := c.who(old.Peer)
		if local {
			c.judged[judgement{class, r}] = true
		} else {
			c.bumpAddress(p, class, r)
		}
		if c.differs(class, was) && was != r {
			entry := old
			entry.Peer = c.numberOnTheWay(old.Peer, class, want, !local)
			c.early = append(c.early, PutAddress{p, entry})
		}
	}
}

func (c *change) bumpAddress(p netip.Prefix, class uint32, r *row) {
	if !c.differs(class, r) {
		return
	}
	if p.IsSingleIP() {
		c.bumped[p.Addr()] = true
	} else {
		c.bumpAll = true
	}
}

// numberOnTheWay gives addresses that leave an old peer for another a number of
// their own, still of the old class.
func (c *change) numberOnTheWay(old, class uint32, want *peer, moved bool) uint32 {
	key := wayKey{old, want}
	if n, ok := c.detours[key]; ok {
		return n
	}
	n, ok := c.take(c.e.peers)
	if !ok {
		c.fail("more than %d peers: those that do not fit are unknown", len(c.e.peers.state))
		return PeerUnknown
	}
	c.detours[key] = n
	if want.identity != nil && want.number == 0 {
		c.assign(want, n)
	}
	c.moving[n] = &moving{class: class, row: want.group.row, moved: moved, numbers: []uint32{n}}
	c.early = append(c.early, SetPeer{n, class})
	return n
}
