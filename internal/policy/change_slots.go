// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"maps"
	"slices"
)

// planSlots numbers the slots that are new: one goes on with the number of a
// slot that is gone and that most of its endpoints come from, if it is the
// largest part of it.
func (c *change) planSlots() {
	e := c.e
	if len(e.now.slotted)+len(e.now.gone)+len(e.now.columns)+len(e.now.freedSlots) == 0 && !e.now.first {
		c.parts = e.parts
		return
	}
	for _, s := range e.now.freedSlots {
		e.bySlot[s.number] = nil
		e.now.columns = append(e.now.columns, s.number)
	}
	if e.now.first {
		e.now.columns = append(e.now.columns, SlotOpen)
	}
	votes := c.countParts()
	c.electSlots(votes)
	e.shut = slices.DeleteFunc(e.shut, func(s *slot) bool { return s.refs == 0 || slices.Contains(e.now.newSlots, s) })
	waiting := append(e.shut, e.now.newSlots...)
	e.shut, e.now.newSlots = nil, nil
	for _, s := range waiting {
		if !s.inUse {
			n, ok := c.take(e.slotNumbers)
			if !ok {
				s.closed, s.number = true, SlotClosed
				e.shut = append(e.shut, s)
				continue
			}
			c.useSlot(s, uint16(n))
			c.fresh = append(c.fresh, column{s, uint16(n)})
		}
		e.now.newSlots = append(e.now.newSlots, s)
	}
	slices.Sort(e.now.columns)
	e.now.columns = slices.Compact(e.now.columns)
	e.live = e.live[:0]
	for n, s := range e.bySlot {
		if s != nil {
			e.live = append(e.live, uint16(n))
		}
	}
	c.wide = len(e.now.columns) > 0
	for _, p := range c.parts {
		_, cells := slices.BinarySearch(e.now.columns, p.want.number)
		if p.old != p.want.number || cells {
			c.changed = append(c.changed, p)
		}
		c.wide = c.wide || p.old != p.want.number
	}
}

// countParts finds where the endpoints that exist come from and go, and how
// many go each way.
func (c *change) countParts() map[slotPart]int {
	votes := map[slotPart]int{}
	for _, s := range c.e.subjects {
		if c.e.holds(s) {
			row := c.e.state.Endpoints[s.Endpoint]
			votes[slotPart{row.Egress, s.slots[Egress]}]++
			votes[slotPart{row.Ingress, s.slots[Ingress]}]++
		}
	}
	c.parts = slices.SortedFunc(maps.Keys(votes), func(a, b slotPart) int {
		return cmp.Or(cmp.Compare(a.old, b.old), cmp.Compare(a.want.serial, b.want.serial))
	})
	return votes
}

func (c *change) electSlots(votes map[slotPart]int) {
	e := c.e
	keeper := map[uint16]slotPart{}
	for _, p := range c.parts {
		if p.old == SlotOpen || p.old >= SlotClosed || p.want.inUse || e.bySlot[p.old] != nil {
			continue
		}
		if best, ok := keeper[p.old]; !ok || votes[p] > votes[best] {
			keeper[p.old] = p
		}
	}
	most := map[*slot]slotPart{}
	for _, p := range c.parts {
		if best, ok := most[p.want]; keeper[p.old] == p && (!ok || votes[p] > votes[best]) {
			most[p.want] = p
		}
	}
	for s, p := range most {
		c.useSlot(s, p.old)
	}
}

// useSlot gives a slot its number.
func (c *change) useSlot(s *slot, n uint16) {
	s.number, s.inUse, s.closed = n, true, false
	c.e.bySlot[n] = s
	c.e.now.columns = append(c.e.now.columns, n)
}

// planDetours finds the endpoints that go to a slot whose own cells are about
// to change: they wait in a slot of their own until that is done.
func (c *change) planDetours() {
	if !c.wide {
		return
	}
	e := c.e
	var columns []uint16
	for _, n := range e.now.columns {
		if e.bySlot[n] != nil {
			columns = append(columns, n)
		}
	}
	seen := map[judgement]bool{}
	look := func(class uint32, r *row, numbers []uint16) {
		if r == nil || seen[judgement{class, r}] {
			return
		}
		seen[judgement{class, r}] = true
		have := c.cells(class)
		for _, n := range numbers {
			if have[n] != r.cells[n] {
				c.unsteady[e.bySlot[n]] = true
			}
		}
	}
	for _, p := range c.bundles {
		if p.group == nil {
			look(p.class, p.row, e.live)
		}
	}
	look(ClassUnknown, e.unknown.group.row, columns)
	look(ClassUnresolved, e.unresolved.group.row, columns)
	for _, p := range c.bundles {
		look(p.class, p.row, columns)
	}
	fresh := map[*slot]bool{}
	for _, f := range c.fresh {
		fresh[f.slot] = true
	}
	for _, p := range c.parts {
		if p.want.number == p.old || fresh[p.want] || !c.unsteady[p.want] {
			continue
		}
		if n, ok := c.take(e.slotNumbers); ok {
			c.detour[p] = uint16(n)
			c.fresh = append(c.fresh, column{p.want, uint16(n)})
		}
	}
}

// planBumps finds the endpoints whose verdicts about somebody change because policy does.
func (c *change) planBumps() {
	e := c.e
	c.judged[judgement{ClassUnknown, e.unknown.group.row}] = true
	c.judged[judgement{ClassUnresolved, e.unresolved.group.row}] = true
	grouped := map[judgement]bool{}
	for _, p := range c.bundles {
		switch {
		case p.group != nil:
			grouped[judgement{p.class, p.row}] = true
		case !p.moved:
			c.judged[judgement{p.class, p.row}] = true
		}
	}
	changed := map[slotPart]bool{}
	look := func(parts []slotPart, pairs map[judgement]bool) {
		for j := range pairs {
			have := c.cells(j.class)
			for _, part := range parts {
				if have[part.old] != j.row.cells[part.want.number] {
					changed[part] = true
				}
			}
		}
	}
	look(c.parts, c.judged)
	look(c.changed, grouped)
	if len(changed) == 0 {
		return
	}
	for id, s := range e.subjects {
		if e.holds(s) {
			row := e.state.Endpoints[id]
			if changed[slotPart{row.Egress, s.slots[Egress]}] || changed[slotPart{row.Ingress, s.slots[Ingress]}] {
				c.bumpEndpoints[id] = true
			}
		}
	}
}

// moveEndpoints takes the endpoints that exist to slots whose cells are final.
func (c *change) moveEndpoints() {
	if !c.wide {
		return
	}
	fresh := map[*slot]uint16{}
	for _, f := range c.fresh {
		if f.slot.number == f.number {
			fresh[f.slot] = f.number
		}
	}
	at := func(old uint16, want *slot) uint16 {
		if n, ok := c.detour[slotPart{old, want}]; ok {
			return n
		}
		if n, ok := fresh[want]; ok {
			return n
		}
		if !c.unsteady[want] {
			return want.number
		}
		return old
	}
	c.eachHeld(func(id uint16, s *subject) {
		row := c.e.state.Endpoints[id]
		next := row
		next.Egress, next.Ingress = at(row.Egress, s.slots[Egress]), at(row.Ingress, s.slots[Ingress])
		if next != row {
			c.emit(SetEndpoint{id, next})
		}
	})
}

// finishSlots takes the endpoints that waited to their own slots, whose cells
// are the same by now.
func (c *change) finishSlots() {
	if !c.wide {
		return
	}
	c.eachHeld(func(id uint16, s *subject) {
		row := c.e.state.Endpoints[id]
		next := row
		next.Egress, next.Ingress = s.slots[Egress].number, s.slots[Ingress].number
		if next != row {
			c.emit(SetEndpoint{id, next})
		}
	})
}

// eachHeld calls f for the endpoints that the kernel holds.
func (c *change) eachHeld(f func(id uint16, s *subject)) {
	for _, id := range slices.Sorted(maps.Keys(c.e.subjects)) {
		if s := c.e.subjects[id]; c.e.holds(s) {
			f(id, s)
		}
	}
}
