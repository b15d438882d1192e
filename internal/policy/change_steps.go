// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"maps"
	"slices"
)

// planClasses sorts the peers by the class they have.
func (c *change) planClasses() {
	c.bundle()
	c.class(ClassUnknown)
	c.class(ClassUnresolved)
	for _, p := range c.bundles {
		k := c.class(p.class)
		k.peers = append(k.peers, p)
	}
	if c.wide {
		for _, k := range c.classes {
			c.electRow(k)
		}
	}
}

// bundle gathers the peers that may change their class, or whose class may change.
func (c *change) bundle() {
	e := c.e
	for _, n := range slices.Sorted(maps.Keys(c.moving)) {
		c.bundles = append(c.bundles, c.moving[n])
	}
	together := map[judgement]*moving{}
	slices.SortFunc(e.now.regrouped, func(a, b *peer) int { return cmp.Compare(a.number, b.number) })
	for _, p := range e.now.regrouped {
		if p.group == nil || c.moving[p.number] != nil {
			continue
		}
		j := judgement{e.state.Peers[p.number], p.group.row}
		if together[j] == nil {
			together[j] = &moving{class: j.class, row: j.row}
			c.bundles = append(c.bundles, together[j])
		}
		together[j].numbers = append(together[j].numbers, p.number)
	}
	retry := len(e.homeless) > 0 && e.classes.any()
	if !c.wide && !retry {
		return
	}
	for _, g := range e.groups.groups {
		if g.stay(e.stamp) > 0 && (c.wide || e.homeless[g.row]) {
			c.bundles = append(c.bundles, &moving{class: g.class, row: g.row, group: g})
		}
	}
}

// weight is how many peers there are.
func (m *moving) weight(stamp uint64) int {
	if m.group != nil {
		return m.group.stay(stamp)
	}
	return len(m.numbers)
}

// each calls f for every peer, in order of number.
func (m *moving) each(stamp uint64, f func(number uint32)) {
	list := m.numbers
	if m.group != nil {
		list = nil
		for _, p := range m.group.peers {
			if p.number != 0 && p.stamp != stamp {
				list = append(list, p.number)
			}
		}
		slices.Sort(list)
	}
	for _, n := range list {
		f(n)
	}
}

func (c *change) class(number uint32) *movingClass {
	k := c.classes[number]
	if k == nil {
		k = &movingClass{number: number}
		if r := c.e.byClass[number]; r != nil && !r.dead && (!c.wide || number < ClassFirst) {
			k.row, k.steady = r, !c.wide
		}
		c.classes[number] = k
	}
	return k
}

// electRow lets a class take on the row that most of its peers are to have; of
// equals, the one that it has.
func (c *change) electRow(k *movingClass) {
	if k.number < ClassFirst {
		return
	}
	count := map[*row]int{}
	for _, p := range k.peers {
		count[p.row] += p.weight(c.e.stamp)
	}
	k.row = nil
	for r, n := range count {
		if k.row == nil || n > count[k.row] {
			k.row = r
			continue
		}
		if n == count[k.row] {
			was, is := c.differs(k.number, k.row), c.differs(k.number, r)
			if was && !is || was == is && r.serial < k.row.serial {
				k.row = r
			}
		}
	}
}

// writeSets stores the sets that no cell points to yet.
func (c *change) writeSets() {
	for _, s := range c.e.sets.fresh {
		if s.refs > 0 {
			c.emit(WriteSet{uint32(s.number), s.rows})
		} else {
			c.e.sets.free(s)
		}
	}
	c.e.sets.fresh = c.e.sets.fresh[:0]
}

// splitClasses moves peers that must differ in a fresh column to a copy of
// their class. The copy answers as the class does, so nothing changes.
func (c *change) splitClasses() {
	if len(c.fresh) == 0 {
		return
	}
	for _, number := range slices.Sorted(maps.Keys(c.classes)) {
		k := c.classes[number]
		parts := map[string][]*moving{}
		kept := k.peers[:0:0]
		var stay string
		for _, p := range k.peers {
			if p.row == k.row {
				kept = append(kept, p)
				continue
			}
			if stay == "" && k.row != nil {
				stay = c.project(k.row)
			}
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
func (c *change) project(r *row) string {
	b := make([]byte, 0, 2*len(c.fresh))
	for _, f := range c.fresh {
		v := r.cells[f.slot.number]
		b = append(b, byte(v), byte(v>>8))
	}
	return string(b)
}

func (c *change) splitOff(from *movingClass, peers []*moving) {
	n, ok := c.newClass()
	if !ok {
		c.overflow(peers)
		return
	}
	w := WriteClass{Class: n, Row: *c.cells(from.number)}
	for _, f := range c.fresh {
		w.Row[f.number] = peers[0].row.cells[f.slot.number]
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
	if ok {
		c.e.byClass[n] = nil
	}
	return n, ok
}

// overflow makes peers unknown for want of a class.
func (c *change) overflow(peers []*moving) {
	for _, p := range peers {
		c.e.homeless[p.row] = true
		p.row = c.e.unknown.group.row
		c.join(p, c.class(ClassUnknown))
	}
}

// join moves peers to a class: one store each.
func (c *change) join(p *moving, k *movingClass) {
	p.class = k.number
	k.peers = append(k.peers, p)
	p.each(c.e.stamp, func(n uint32) {
		if !has(c.e.state.Peers, n, k.number) {
			c.emit(SetPeer{n, k.number})
		}
	})
}

// writeFresh stores the final cells of columns that no endpoint uses yet.
func (c *change) writeFresh() {
	if len(c.fresh) == 0 {
		return
	}
	for _, number := range slices.Sorted(maps.Keys(c.classes)) {
		if k := c.classes[number]; k.row != nil {
			for _, f := range c.fresh {
				c.setCell(number, f.number, k.row.cells[f.slot.number])
			}
		}
	}
}

func (c *change) setCell(class uint32, slot, set uint16) {
	if c.cells(class)[slot] != set {
		c.emit(SetCell{class, slot, set})
	}
}

// moveClasses makes the cells of every class final. Peers that go elsewhere
// leave before the cells of their class change; they arrive where cells are
// final already.
func (c *change) moveClasses() {
	order := slices.Sorted(maps.Keys(c.classes))
	c.choosePrimaries(order)
	var late []*moving
	for _, number := range order {
		k := c.classes[number]
		kept := k.peers[:0:0]
		for _, p := range k.peers {
			if p.row == k.row {
				kept = append(kept, p)
				continue
			}
			target := c.target(p.row)
			if target != nil && !target.steady {
				if k.steady {
					late = append(late, p)
					continue
				}
				target = nil
			}
			if target == nil {
				if target = c.classWith(p.row); target == nil {
					c.overflow([]*moving{p})
					continue
				}
			}
			c.join(p, target)
		}
		k.peers = kept
	}
	for _, number := range order {
		if k := c.classes[number]; k.row != nil && !k.steady {
			for _, n := range c.e.live {
				c.setCell(number, n, k.row.cells[n])
			}
			k.steady = true
		}
	}
	for _, p := range late {
		c.join(p, c.target(p.row))
	}
}

// target is the class that peers with a row go to; nil: there is none yet.
func (c *change) target(r *row) *movingClass {
	if n, ok := c.primary[r]; ok {
		return c.classes[n]
	}
	if !c.wide && r.class != 0 {
		c.primary[r] = r.class
		return c.class(r.class)
	}
	return nil
}

// choosePrimaries finds for every row the class that peers with that row go to:
// a class whose cells are final already if there is one, then the largest.
func (c *change) choosePrimaries(order []uint32) {
	for _, number := range order {
		k := c.classes[number]
		if k.row == nil {
			continue
		}
		if c.wide {
			have := c.cells(number)
			k.steady = !slices.ContainsFunc(c.e.live, func(n uint16) bool { return have[n] != k.row.cells[n] })
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

// classWith makes a class that holds a row from the start; nil: there is no number.
func (c *change) classWith(r *row) *movingClass {
	n, ok := c.newClass()
	if !ok {
		return nil
	}
	w := WriteClass{Class: n}
	for _, s := range c.e.live {
		w.Row[s] = r.cells[s]
	}
	for _, f := range c.fresh { // detours, too: endpoints are there now
		w.Row[f.number] = r.cells[f.slot.number]
	}
	c.emit(w)
	k := c.class(n)
	k.row, k.steady = r, true
	c.primary[r] = n
	return k
}

// mergeClasses brings peers of equal rows together. Nothing changes by it.
func (c *change) mergeClasses() {
	if !c.wide {
		return
	}
	best := map[*row]*movingClass{}
	order := slices.Sorted(maps.Keys(c.classes))
	for _, number := range order {
		k := c.classes[number]
		if number < ClassFirst || k.row == nil || len(k.peers) == 0 {
			continue
		}
		if b := best[k.row]; b == nil || c.heavier(k, b) {
			best[k.row] = k
		}
	}
	for r, k := range best {
		if n, ok := c.primary[r]; !ok || n >= ClassFirst {
			c.primary[r] = k.number
		}
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

func (c *change) heavier(a, b *movingClass) bool {
	sum := func(k *movingClass) (n int) {
		for _, p := range k.peers {
			n += p.weight(c.e.stamp)
		}
		return n
	}
	return sum(a) > sum(b)
}
