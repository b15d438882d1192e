// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/binary"
	"slices"
)

// row is the content of a class: a set for each slot, by the slot's number in
// the kernel. Groups of equal content share one; numbers without a slot are 0.
type row struct {
	cells  [SlotsMax]uint16
	hash   uint64
	serial uint64
	groups int
	class  uint32 // that holds it in the kernel; 0: none yet
	dead   bool
}

// mix spreads a cell over 64 bits; rows are found by the sum of their cells.
func mix(slot, set uint16) uint64 {
	if set == SetDeny {
		return 0
	}
	x := uint64(slot)<<16 | uint64(set)
	x = (x + 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (r *row) put(slot, set uint16) {
	if r.cells[slot] != set {
		r.hash += mix(slot, set) - mix(slot, r.cells[slot])
		r.cells[slot] = set
	}
}

// cell is a set in a slot.
type cell struct {
	slot uint16
	set  *set
}

// grid is all rows, found by content.
type grid struct {
	byHash map[uint64][]*row
	serial uint64
	blank  [SlotsMax]*set // for peers that match nothing, by slot
	acc    [SlotsMax][]int32
	cells  []cell
}

// like finds a row of equal content.
func (g *grid) like(r *row) *row {
	for _, have := range g.byHash[r.hash] {
		if have.cells == r.cells {
			return have
		}
	}
	return nil
}

func (g *grid) file(r *row) { g.byHash[r.hash] = append(g.byHash[r.hash], r) }

func (g *grid) unfile(r *row) {
	list := g.byHash[r.hash]
	if at := slices.Index(list, r); at >= 0 {
		if list = swapOut(list, at); len(list) == 0 {
			delete(g.byHash, r.hash)
		} else {
			g.byHash[r.hash] = list
		}
	}
}

// overrides are the cells of a group that differ from those of peers that match
// nothing, in order; only says which slots are asked for. They hold until the
// next call.
func (e *Engine) overrides(g *group, only *[SlotsMax]bool) []cell {
	touched := e.grid.cells[:0]
	for _, uses := range [][]int32{g.base.uses, g.extra.uses} {
		for _, id := range uses {
			for _, su := range e.uses[id].slots {
				n := su.slot.number
				if !only[n] {
					continue
				}
				if len(e.grid.acc[n]) == 0 {
					touched = append(touched, cell{slot: n})
				}
				e.grid.acc[n] = append(e.grid.acc[n], su.at)
			}
		}
	}
	e.grid.cells = touched
	slices.SortFunc(touched, func(a, b cell) int { return int(a.slot) - int(b.slot) })
	out := touched[:0]
	for _, c := range touched {
		places := e.grid.acc[c.slot]
		c.set = e.answer(e.bySlot[c.slot], places)
		e.grid.acc[c.slot] = places[:0]
		if c.set != e.grid.blank[c.slot] {
			out = append(out, c)
		}
	}
	return out
}

// answer gives the set of a slot for peers that match the selectors at these places.
func (e *Engine) answer(s *slot, places []int32) *set {
	var buf [64]byte
	key := buf[:0]
	for _, at := range places {
		key = binary.AppendUvarint(key, uint64(at))
	}
	have := s.answers[string(key)]
	if have == nil {
		have = e.sets.fold(s, s.matchingAt(places))
		s.answers[string(key)] = have
	}
	return have
}

// settleCells finds the rows of all groups. now.columns are the slots that are
// new or gone: if there are any, every group is looked at.
func (e *Engine) settleCells() {
	if len(e.now.columns) == 0 {
		for _, g := range e.now.newGroups {
			if g.at >= 0 && g.row == nil {
				e.placeNew(g)
			}
		}
	} else {
		var only [SlotsMax]bool
		for _, n := range e.now.columns {
			only[n] = true
			e.settleColumn(n)
		}
		e.replace(&only)
	}
	for _, r := range e.now.leftRows {
		if r.groups == 0 && !r.dead {
			r.dead = true
			e.grid.unfile(r)
			e.sets.count(r, -1)
			e.now.deadRows = append(e.now.deadRows, r)
		}
	}
}

// settleColumn finds what a slot answers about peers that match nothing, or
// that nobody knows.
func (e *Engine) settleColumn(n uint16) {
	var unknown, unresolved uint16
	e.grid.blank[n] = nil
	if s := e.bySlot[n]; s != nil {
		e.grid.blank[n] = e.answer(s, nil)
		unknown = e.sets.number(s, e.sets.fold(s, s.pessimistic(false)))
		unresolved = e.sets.number(s, e.sets.fold(s, s.pessimistic(true)))
	}
	e.sets.put(e.unknown.group.row, n, unknown)
	e.sets.put(e.unresolved.group.row, n, unresolved)
}

// placeNew gives a group its row; all its cells are asked for.
func (e *Engine) placeNew(g *group) {
	var r row
	for _, n := range e.live {
		r.put(n, e.sets.number(e.bySlot[n], e.grid.blank[n]))
	}
	for _, c := range e.overrides(g, &everySlot) {
		r.put(c.slot, e.sets.number(e.bySlot[c.slot], c.set))
	}
	e.enterRow(g, &r)
}

var everySlot = func() (all [SlotsMax]bool) {
	for i := range all {
		all[i] = true
	}
	return all
}()

// enterRow makes a group one of those of a content.
func (e *Engine) enterRow(g *group, content *row) {
	r := e.grid.like(content)
	if r == nil {
		e.grid.serial++
		r = &row{cells: content.cells, hash: content.hash, serial: e.grid.serial}
		e.sets.count(r, 1)
		e.grid.file(r)
	}
	e.setRow(g, r)
}

// setRow gives a group its row; nil: none.
func (e *Engine) setRow(g *group, r *row) {
	if g.row == r {
		return
	}
	if r != nil {
		r.groups++
	}
	if g.row != nil {
		e.leaveRow(g.row)
	}
	g.row = r
}

func (e *Engine) leaveRow(r *row) {
	if r.groups--; r.groups == 0 {
		e.now.leftRows = append(e.now.leftRows, r)
	}
}

// part is the groups of one row that stay together.
type part struct {
	from    *row
	cells   []cell // overrides in the columns that change
	groups  []*group
	peers   int
	content *row
}

// replace finds the rows of all groups anew where some columns change. The
// largest part of a row goes on with it; the others are made from what it was
// before that changes.
func (e *Engine) replace(only *[SlotsMax]bool) {
	parts, fresh := e.partition(only)
	largest := map[*row]*part{}
	for _, p := range parts {
		if best := largest[p.from]; best == nil || p.peers > best.peers {
			largest[p.from] = p
		}
	}
	for _, p := range parts {
		if largest[p.from] != p {
			p.content = &row{cells: p.from.cells, hash: p.from.hash}
			e.putColumns(p, p.content.put)
		}
	}
	clear(e.grid.byHash)
	for _, p := range parts {
		if r := p.from; largest[r] == p {
			e.putColumns(p, func(slot, set uint16) { e.sets.put(r, slot, set) })
			if have := e.grid.like(r); have == nil {
				e.grid.file(r)
			} else {
				for _, g := range p.groups {
					e.setRow(g, have)
				}
			}
		}
	}
	for _, p := range parts {
		if p.content != nil {
			for _, g := range p.groups {
				e.enterRow(g, p.content)
			}
		}
	}
	for _, g := range fresh {
		e.placeNew(g)
	}
}

// putColumns stores the cells of a part in the columns that change.
func (e *Engine) putColumns(p *part, put func(slot, set uint16)) {
	next := 0
	for _, n := range e.now.columns {
		s := e.bySlot[n]
		if s == nil {
			put(n, SetDeny)
			continue
		}
		want := e.grid.blank[n]
		if next < len(p.cells) && p.cells[next].slot == n {
			want = p.cells[next].set
			next++
		}
		put(n, e.sets.number(s, want))
	}
}

// partition sorts the groups of every row by their cells in the columns that
// change. fresh are groups without a row.
func (e *Engine) partition(only *[SlotsMax]bool) (parts []*part, fresh []*group) {
	type partKey struct {
		from *row
		kind int32
	}
	index := map[partKey]*part{}
	kinds := map[string]int32{}
	var key []byte
	for _, g := range e.groups.groups {
		if g.row == nil {
			fresh = append(fresh, g)
			continue
		}
		cells := e.overrides(g, only)
		key = key[:0]
		for _, c := range cells {
			key = binary.BigEndian.AppendUint16(key, c.slot)
			key = binary.BigEndian.AppendUint32(key, c.set.serial)
		}
		kind, ok := kinds[string(key)]
		if !ok {
			kind = int32(len(kinds))
			kinds[string(key)] = kind
		}
		k := partKey{g.row, kind}
		p := index[k]
		if p == nil {
			p = &part{from: g.row, cells: slices.Clone(cells)}
			index[k] = p
			parts = append(parts, p)
		}
		p.groups = append(p.groups, g)
		p.peers += len(g.peers)
	}
	return parts, fresh
}
