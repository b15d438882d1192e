// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"math/bits"
	"slices"

	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// place says where an identity stands in the cluster.
type place uint8

const (
	placePod place = iota
	placeNode
	placeWorld
)

// ident is an identity: known by its labels, or only named by an address.
type ident struct {
	id        identity.ID
	index     int32 // among the known ones
	known     bool
	place     place
	labels    label.Set
	base      *base // the label selectors that match it
	baseAt    int
	peers     []*peer
	named     *peer      // stands for the number in a tunnel header; nil: none does
	addresses []*address // rows that name it
	subjects  int        // endpoints of this node
	stamp     uint64     // of the last change in which its own peer was looked at
}

// idents are all identities, found by label.
type idents struct {
	byID     map[identity.ID]*ident
	list     []*ident // the known ones by index; nil: a free place
	free     []int32
	postings map[labelKey]*posting
	sources  []string // of labels
	uses     useIndex
}

// labelKey is a label, or all labels of one key.
type labelKey struct {
	source, key, value string
	any                bool // whatever the value
}

func newIdents() *idents {
	return &idents{byID: map[identity.ID]*ident{}, postings: map[labelKey]*posting{}, uses: useIndex{byKey: map[indexKey][]*use{}}}
}

// get finds an identity, or makes one that is not known yet.
func (x *idents) get(id identity.ID) *ident {
	i := x.byID[id]
	if i == nil {
		i = &ident{id: id, index: -1, place: placeOf(id, nil)}
		x.byID[id] = i
	}
	return i
}

// drop forgets an identity that nothing speaks of.
func (x *idents) drop(i *ident) {
	if !i.known && len(i.addresses) == 0 && len(i.peers) == 0 && i.subjects == 0 {
		delete(x.byID, i.id)
	}
}

// learn enters the labels of an identity.
func (x *idents) learn(i *ident, labels label.Set) {
	i.known, i.labels, i.place = true, labels, placeOf(i.id, labels)
	if n := len(x.free); n > 0 {
		i.index, x.free = x.free[n-1], x.free[:n-1]
		x.list[i.index] = i
	} else {
		i.index = int32(len(x.list))
		x.list = append(x.list, i)
	}
	for l := range labels {
		for _, k := range keysOf(&labels[l]) {
			p := x.postings[k]
			if p == nil {
				p = &posting{}
				x.postings[k] = p
			}
			p.add(i.index)
		}
		if !slices.Contains(x.sources, labels[l].Source) {
			x.sources = append(x.sources, labels[l].Source)
		}
	}
}

// forget removes the labels of an identity.
func (x *idents) forget(i *ident) {
	for l := range i.labels {
		for _, k := range keysOf(&i.labels[l]) {
			if p := x.postings[k]; p != nil {
				if p.remove(i.index); p.count == 0 {
					delete(x.postings, k)
				}
			}
		}
	}
	x.list[i.index] = nil
	x.free = append(x.free, i.index)
	i.known, i.labels, i.place, i.index = false, nil, placeOf(i.id, nil), -1
}

func keysOf(l *label.Label) [2]labelKey {
	return [2]labelKey{{source: l.Source, key: l.Key, value: l.Value}, {source: l.Source, key: l.Key, any: true}}
}

// posting is a set of indices: a list while it is short, else bits.
type posting struct {
	count int
	short []int32
	long  []uint64
}

const shortPosting = 512

func (p *posting) add(i int32) {
	if p.long == nil && len(p.short) < shortPosting {
		p.short = append(p.short, i)
		p.count++
		return
	}
	if p.long == nil {
		for _, k := range p.short {
			p.set(k)
		}
		p.short = nil
	}
	p.set(i)
	p.count++
}

func (p *posting) set(i int32) {
	for int(i>>6) >= len(p.long) {
		p.long = append(p.long, 0)
	}
	p.long[i>>6] |= 1 << (i & 63)
}

func (p *posting) remove(i int32) {
	p.count--
	if p.long != nil {
		p.long[i>>6] &^= 1 << (i & 63)
		return
	}
	if at := slices.Index(p.short, i); at >= 0 {
		p.short[at] = p.short[len(p.short)-1]
		p.short = p.short[:len(p.short)-1]
	}
}

func (p *posting) each(f func(i int32)) {
	for _, i := range p.short {
		f(i)
	}
	for w, word := range p.long {
		for ; word != 0; word &= word - 1 {
			f(int32(w<<6 + bits.TrailingZeros64(word)))
		}
	}
}

// sets are the postings that together are the identities that meet a
// requirement, or those that do not if it is a negative one.
func (x *idents) sets(r *requirement) (out []*posting, count int) {
	sources := []string{r.source}
	if r.source == label.SourceAny {
		sources = x.sources
	}
	add := func(k labelKey) {
		if p := x.postings[k]; p != nil {
			out = append(out, p)
			count += p.count
		}
	}
	for _, source := range sources {
		if r.op == opExists || r.op == opNotExists {
			add(labelKey{source: source, key: r.key, any: true})
			continue
		}
		for _, v := range r.values {
			add(labelKey{source: source, key: r.key, value: v})
		}
	}
	return out, count
}

// match gives the known identities that a label selector matches, in order of index.
func (x *idents) match(s *selector) []*ident {
	hit := make([]uint64, (len(x.list)+63)/64)
	for _, t := range s.terms {
		x.matchTerm(t, hit)
	}
	if s.any {
		for i := range hit {
			hit[i] = ^uint64(0)
		}
	}
	var out []*ident
	for w, word := range hit {
		for ; word != 0; word &= word - 1 {
			if at := w<<6 + bits.TrailingZeros64(word); at < len(x.list) && x.list[at] != nil {
				out = append(out, x.list[at])
			}
		}
	}
	return out
}

func (x *idents) matchTerm(t term, hit []uint64) {
	best, found := -1, 0
	for i := range t {
		if t[i].op == opIn || t[i].op == opExists {
			if _, n := x.sets(&t[i]); best < 0 || n < found {
				best, found = i, n
			}
		}
	}
	if best >= 0 {
		sets, _ := x.sets(&t[best])
		for _, p := range sets {
			p.each(func(i int32) {
				if t.matches(x.list[i].labels) {
					hit[i>>6] |= 1 << (i & 63)
				}
			})
		}
		return
	}
	left := make([]uint64, len(hit)) // all but those that a requirement excludes
	for i := range left {
		left[i] = ^uint64(0)
	}
	for i := range t {
		sets, _ := x.sets(&t[i])
		for _, p := range sets {
			p.each(func(i int32) { left[i>>6] &^= 1 << (i & 63) })
		}
	}
	for i := range hit {
		hit[i] |= left[i]
	}
}

// use is a selector that tells peers apart in some slot.
type use struct {
	id    int32
	sel   *selector
	slots []slotUse
	mark  uint64 // of the last question that met it
}

// slotUse is a slot with the place of the selector in it.
type slotUse struct {
	slot *slot
	at   int32
}

// useIndex finds the label selectors that can match a set of labels: each term
// is filed under one requirement that must be met.
type useIndex struct {
	byKey   map[indexKey][]*use
	general []*use // with a term that asks for no label
	mark    uint64
}

type indexKey struct {
	key, value string
	any        bool
}

// places are where a selector is filed, decided once: see file.
func (x *idents) places(s *selector) (keys []indexKey, general bool) {
	for _, t := range s.terms {
		best, found := -1, 0
		for i := range t {
			if t[i].op == opIn || t[i].op == opExists {
				if _, n := x.sets(&t[i]); best < 0 || n < found {
					best, found = i, n
				}
			}
		}
		switch {
		case best < 0:
			general = true
		case t[best].op == opExists:
			keys = append(keys, indexKey{key: t[best].key, any: true})
		default:
			for _, v := range t[best].values {
				keys = append(keys, indexKey{key: t[best].key, value: v})
			}
		}
	}
	return keys, general
}

func (x *idents) file(u *use) {
	keys, general := x.places(u.sel)
	for _, k := range keys {
		if list := x.uses.byKey[k]; !slices.Contains(list, u) {
			x.uses.byKey[k] = append(list, u)
		}
	}
	if general {
		x.uses.general = append(x.uses.general, u)
	}
}

// unfile looks in all places that file may have chosen.
func (x *idents) unfile(u *use) {
	drop := func(list []*use) []*use {
		if at := slices.Index(list, u); at >= 0 {
			list[at] = list[len(list)-1]
			list = list[:len(list)-1]
		}
		return list
	}
	for _, t := range u.sel.terms {
		for i := range t {
			for _, v := range t[i].values {
				x.uses.drop(indexKey{key: t[i].key, value: v}, drop)
			}
			x.uses.drop(indexKey{key: t[i].key, any: true}, drop)
		}
	}
	x.uses.general = drop(x.uses.general)
}

func (x *useIndex) drop(k indexKey, drop func([]*use) []*use) {
	if list, ok := x.byKey[k]; ok {
		if list = drop(list); len(list) == 0 {
			delete(x.byKey, k)
		} else {
			x.byKey[k] = list
		}
	}
}

// usesOf are the numbers of the label selectors that match labels, in order.
func (x *idents) usesOf(labels label.Set) []int32 {
	x.uses.mark++
	var out []int32
	try := func(list []*use) {
		for _, u := range list {
			if u.mark == x.uses.mark {
				continue
			}
			u.mark = x.uses.mark
			if u.sel.matches(labels) {
				out = append(out, u.id)
			}
		}
	}
	for i := range labels {
		try(x.uses.byKey[indexKey{key: labels[i].Key, value: labels[i].Value}])
		try(x.uses.byKey[indexKey{key: labels[i].Key, any: true}])
	}
	try(x.uses.general)
	slices.Sort(out)
	return out
}

func sameSet(a, b label.Set) bool {
	if len(a) != len(b) {
		return false
	}
	return len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b)
}

// placeOf tells pods, nodes and the world apart.
func placeOf(id identity.ID, labels label.Set) place {
	node := false
	for _, l := range labels {
		if l.Source != label.SourceReserved {
			continue
		}
		switch l.Key {
		case identity.LabelWorld, identity.LabelWorldIPv4, identity.LabelWorldIPv6:
			return placeWorld
		case identity.LabelHost, identity.LabelRemoteNode, identity.LabelKubeAPIServer, identity.LabelIngress, identity.LabelHealth:
			node = true
		}
	}
	switch {
	case node:
		return placeNode
	case id == identity.World || id == identity.WorldIPv4 || id == identity.WorldIPv6:
		return placeWorld
	}
	return placePod
}
