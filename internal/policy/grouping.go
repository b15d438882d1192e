// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// base is all identities that the same label selectors match.
type base struct {
	uses   []int32 // in order
	idents []*ident
	groups []*group

	mark  uint64 // of the last split that met it
	hits  []*ident
	swept bool // in touched.bases
}

// extra is a combination of selectors that an address can meet beyond those of
// its identity: prefixes and named ports. It never changes.
type extra struct {
	uses []int32 // in order
	refs int     // peers
}

// group is all peers that match the same selectors.
type group struct {
	base  *base
	extra *extra
	row   *row
	peers []*peer
	at    int    // in grouping.groups; -1: gone
	class uint32 // that its peers have in the kernel

	came  int // peers that came by the change of this stamp
	stamp uint64
}

// peer is what policy can tell apart: an identity, with what its address adds.
type peer struct {
	number   uint32 // in the kernel; 0: none yet
	identity *ident // nil: one of the two that stand for what is not known
	extra    *extra
	group    *group
	groupAt  int
	refs     int    // addresses, endpoints and the identity itself
	stamp    uint64 // of the last change that looked at it on its own
	came     uint64 // of the change that gave it its group
}

// grouping sorts identities by the label selectors that match them, and peers
// by all selectors.
type grouping struct {
	bases  map[string]*base
	extras map[string]*extra
	groups []*group
	none   *extra
	mark   uint64
}

func newGrouping() *grouping {
	none := &extra{}
	return &grouping{bases: map[string]*base{}, extras: map[string]*extra{"": none}, none: none}
}

func usesKey(uses []int32) string {
	b := make([]byte, 0, 4*len(uses))
	for _, u := range uses {
		b = binary.BigEndian.AppendUint32(b, uint32(u))
	}
	return string(b)
}

func (g *grouping) base(uses []int32) *base {
	k := usesKey(uses)
	b := g.bases[k]
	if b == nil {
		b = &base{uses: uses}
		g.bases[k] = b
	}
	return b
}

func (g *grouping) extra(uses []int32) *extra {
	if len(uses) == 0 {
		return g.none
	}
	k := usesKey(uses)
	x := g.extras[k]
	if x == nil {
		x = &extra{uses: uses}
		g.extras[k] = x
	}
	return x
}

// groupOf gives the group of a base and an extra; from is one whose row it had
// until now, but for slots that change.
func (e *Engine) groupOf(b *base, x *extra, from *group) *group {
	for _, have := range b.groups {
		if have.extra == x {
			return have
		}
	}
	g := &group{base: b, extra: x, at: len(e.groups.groups)}
	if from != nil {
		e.setRow(g, from.row)
	}
	e.groups.groups = append(e.groups.groups, g)
	b.groups = append(b.groups, g)
	e.now.newGroups = append(e.now.newGroups, g)
	return g
}

// sweepBase forgets the groups of a base, and the base, that nobody belongs to
// any more.
func (e *Engine) sweepBase(b *base) {
	b.swept = false
	for i := len(b.groups) - 1; i >= 0; i-- {
		g := b.groups[i]
		if len(g.peers) > 0 {
			continue
		}
		b.groups = swapOut(b.groups, i)
		e.groups.groups = swapOut(e.groups.groups, g.at)
		if g.at < len(e.groups.groups) {
			e.groups.groups[g.at].at = g.at
		}
		g.at = -1
		e.setRow(g, nil)
	}
	if k := usesKey(b.uses); len(b.idents) == 0 && len(b.groups) == 0 && e.groups.bases[k] == b {
		delete(e.groups.bases, k)
	}
}

// swapOut removes an element by putting the last one in its place.
func swapOut[T any](list []T, i int) []T {
	var none T
	last := len(list) - 1
	list[i] = list[last]
	list[last] = none
	return list[:last]
}

func (b *base) enter(i *ident) {
	i.base, i.baseAt = b, len(b.idents)
	b.idents = append(b.idents, i)
}

func (b *base) leave(i *ident) {
	b.idents = swapOut(b.idents, i.baseAt)
	if i.baseAt < len(b.idents) {
		b.idents[i.baseAt].baseAt = i.baseAt
	}
	i.base = nil
}

// stay counts the peers that did not come by the change with this stamp.
func (g *group) stay(stamp uint64) int {
	if g.stamp != stamp {
		return len(g.peers)
	}
	return len(g.peers) - g.came
}

func (g *group) enter(p *peer, stamp uint64) {
	if g.stamp != stamp {
		g.stamp, g.came = stamp, 0
	}
	g.came++
	p.came = stamp
	p.group, p.groupAt = g, len(g.peers)
	g.peers = append(g.peers, p)
}

func (g *group) leave(p *peer, stamp uint64) {
	if p.came == stamp {
		g.came--
	}
	g.peers = swapOut(g.peers, p.groupAt)
	if p.groupAt < len(g.peers) {
		g.peers[p.groupAt].groupAt = p.groupAt
	}
	p.group = nil
}

// moveIdent gives an identity another base, and its peers the groups of that.
// keep: their verdicts follow from those of their groups.
func (e *Engine) moveIdent(i *ident, to *base, keep bool) {
	from := i.base
	if from == to {
		return
	}
	if from != nil {
		from.leave(i)
		e.now.sweep(from)
	}
	to.enter(i)
	for _, p := range i.peers {
		old := p.group
		var hint *group
		if keep {
			hint = old
		}
		e.regroup(p, e.groupOf(to, p.extra, hint))
	}
}

// regroup moves a peer to another group.
func (e *Engine) regroup(p *peer, to *group) {
	if p.group == to {
		return
	}
	if p.group != nil {
		e.now.sweep(p.group.base)
		p.group.leave(p, e.stamp)
	}
	to.enter(p, e.stamp)
	if p.number != 0 && p.stamp != e.stamp {
		p.stamp = e.stamp
		e.now.regrouped = append(e.now.regrouped, p)
	}
}

// split sorts the identities by one more label selector. Of the identities of a
// base the smaller part moves.
func (e *Engine) split(u *use) {
	e.ids.file(u)
	e.groups.mark++
	var met []*base
	for _, i := range e.ids.match(u.sel) {
		b := i.base
		if b.mark != e.groups.mark {
			b.mark, b.hits = e.groups.mark, b.hits[:0]
			met = append(met, b)
		}
		b.hits = append(b.hits, i)
	}
	for _, b := range met {
		hits := b.hits
		b.hits = nil
		with := withUse(b.uses, u.id)
		if len(hits) == len(b.idents) {
			e.groups.rename(b, with)
			continue
		}
		if 2*len(hits) <= len(b.idents) {
			other := e.groups.base(with)
			for _, i := range hits {
				e.moveIdent(i, other, true)
			}
			continue
		}
		in := make(map[*ident]bool, len(hits))
		for _, i := range hits {
			in[i] = true
		}
		without := b.uses
		e.groups.rename(b, with)
		other := e.groups.base(without)
		for k := len(b.idents) - 1; k >= 0; k-- {
			if i := b.idents[k]; !in[i] {
				e.moveIdent(i, other, true)
			}
		}
	}
}

// rename changes the selectors of a base that no other base has.
func (g *grouping) rename(b *base, uses []int32) {
	if k := usesKey(b.uses); g.bases[k] == b {
		delete(g.bases, k)
	}
	b.uses = uses
	g.bases[usesKey(uses)] = b
}

func withUse(uses []int32, u int32) []int32 {
	at, _ := slices.BinarySearch(uses, u)
	return slices.Insert(slices.Clone(uses), at, u)
}

// join forgets label selectors: bases that differed by them alone become one,
// and the smaller ones move.
func (e *Engine) join(gone []*use) {
	drop := map[int32]bool{}
	for _, u := range gone {
		e.ids.unfile(u)
		drop[u.id] = true
	}
	var met []*base
	for _, b := range e.groups.bases {
		if slices.ContainsFunc(b.uses, func(u int32) bool { return drop[u] }) {
			met = append(met, b)
		}
	}
	slices.SortFunc(met, func(a, b *base) int {
		return cmp.Or(len(b.idents)-len(a.idents), slices.Compare(a.uses, b.uses))
	})
	for _, b := range met {
		uses := slices.DeleteFunc(slices.Clone(b.uses), func(u int32) bool { return drop[u] })
		other := e.groups.bases[usesKey(uses)]
		switch {
		case other == nil:
			e.groups.rename(b, uses)
			continue
		case len(other.idents) < len(b.idents):
			e.groups.rename(b, uses) // takes the place of other
			b, other = other, b
		default:
			delete(e.groups.bases, usesKey(b.uses))
		}
		for k := len(b.idents) - 1; k >= 0; k-- {
			e.moveIdent(b.idents[k], other, true)
		}
		e.now.sweep(b)
	}
}

// peerOf finds or makes the peer of an identity with an extra.
func (e *Engine) peerOf(i *ident, x *extra) *peer {
	for _, p := range i.peers {
		if p.extra == x {
			return p
		}
	}
	p := &peer{identity: i, extra: x}
	x.refs++
	i.peers = append(i.peers, p)
	e.groupOf(i.base, x, nil).enter(p, e.stamp)
	e.now.newborn = append(e.now.newborn, p)
	return p
}

// point makes a reference go from one peer to another; either may be nil.
func (e *Engine) point(from, to *peer) {
	if to != nil {
		to.refs++
	}
	if from != nil {
		if from.refs--; from.refs == 0 {
			e.now.left = append(e.now.left, from)
		}
	}
}

// bury removes the peers that nothing points to any more. Those that the kernel
// holds are kept by number until the change is over.
func (e *Engine) bury() {
	for _, p := range e.now.left {
		if p.refs > 0 || p.identity == nil || p.group == nil {
			continue
		}
		i := p.identity
		i.peers = swapOut(i.peers, slices.Index(i.peers, p))
		e.now.sweep(p.group.base)
		p.group.leave(p, e.stamp)
		if p.extra.refs--; p.extra.refs == 0 && p.extra != e.groups.none {
			delete(e.groups.extras, usesKey(p.extra.uses))
		}
		if p.number != 0 {
			e.byNumber[p.number] = nil
			e.now.dead = append(e.now.dead, p.number)
		}
		delete(e.unnumbered, p)
		e.ids.drop(i)
	}
	for _, b := range e.now.bases {
		e.sweepBase(b)
	}
	e.now.bases = e.now.bases[:0]
}
