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

// known is an identity whose labels are known, at a fixed index.
type known struct {
	id     identity.ID
	labels label.Set
	place  place
	used   bool
}

// matcher caches which identities match which label selectors, so that a new
// identity costs one look at each selector, and a new selector one look at
// each identity that can match.
type matcher struct {
	list      []known
	index     map[identity.ID]int32
	free      []int32
	postings  map[string][]int32 // key=value -> indices, in order; some may be stale
	selectors map[string]*matched
}

// matched is a label selector with the indices of the identities that match it.
type matched struct {
	selector *selector
	bits     []uint64
	stamp    uint64 // of the last Update that used it
}

func (m *matched) set(i int32) {
	for int(i>>6) >= len(m.bits) {
		m.bits = append(m.bits, 0)
	}
	m.bits[i>>6] |= 1 << (i & 63)
}

func (m *matched) clear(i int32) {
	if int(i>>6) < len(m.bits) {
		m.bits[i>>6] &^= 1 << (i & 63)
	}
}

// each calls f for every index, in order.
func (m *matched) each(f func(int32)) {
	for w, word := range m.bits {
		for word != 0 {
			f(int32(w<<6 + bits.TrailingZeros64(word)))
			word &= word - 1
		}
	}
}

func newMatcher() *matcher {
	return &matcher{index: map[identity.ID]int32{}, postings: map[string][]int32{}, selectors: map[string]*matched{}}
}

// update takes over the identities.
func (m *matcher) update(sets ...map[identity.ID]label.Set) {
	count := 0
	for _, set := range sets {
		count += len(set)
		var changed []identity.ID
		for id, labels := range set {
			if i, ok := m.index[id]; !ok || !sameSet(m.list[i].labels, labels) {
				changed = append(changed, id)
			}
		}
		slices.Sort(changed) // so that equal input gives equal numbers
		for _, id := range changed {
			if i, ok := m.index[id]; ok {
				m.remove(i)
			}
			m.add(id, set[id])
		}
	}
	if count == len(m.index) {
		return
	}
	var gone []identity.ID
	for id := range m.index {
		if !slices.ContainsFunc(sets, func(s map[identity.ID]label.Set) bool { _, ok := s[id]; return ok }) {
			gone = append(gone, id)
		}
	}
	slices.Sort(gone)
	for _, id := range gone {
		m.remove(m.index[id])
	}
}

func sameSet(a, b label.Set) bool {
	if len(a) != len(b) {
		return false
	}
	return len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b)
}

func (m *matcher) add(id identity.ID, labels label.Set) {
	var i int32
	if n := len(m.free); n > 0 {
		i, m.free = m.free[n-1], m.free[:n-1]
	} else {
		i = int32(len(m.list))
		m.list = append(m.list, known{})
	}
	m.list[i] = known{id: id, labels: labels, place: placeOf(id, labels), used: true}
	m.index[id] = i
	for _, l := range labels {
		k := l.Key + "\x00" + l.Value
		m.postings[k] = append(m.postings[k], i)
	}
	for _, s := range m.selectors {
		if s.selector.matches(labels) {
			s.set(i)
		}
	}
}

func (m *matcher) remove(i int32) {
	k := &m.list[i]
	for _, l := range k.labels {
		key := l.Key + "\x00" + l.Value
		if p := m.postings[key]; len(p) == 1 {
			delete(m.postings, key)
		} else if at := slices.Index(p, i); at >= 0 {
			m.postings[key] = slices.Delete(p, at, at+1)
		}
	}
	for _, s := range m.selectors {
		s.clear(i)
	}
	delete(m.index, k.id)
	*k = known{}
	m.free = append(m.free, i)
}

// match gives the identities that match a label selector.
func (m *matcher) match(s *selector) *matched {
	if have, ok := m.selectors[s.key]; ok {
		return have
	}
	out := &matched{selector: s, bits: make([]uint64, (len(m.list)+63)/64)}
	m.selectors[s.key] = out
	for _, t := range s.terms {
		m.matchTerm(t, out)
	}
	return out
}

func (m *matcher) matchTerm(t term, out *matched) {
	var best []int32
	found := false
	for i := range t {
		if t[i].op != opIn || len(t[i].values) != 1 {
			continue
		}
		if p := m.postings[t[i].key+"\x00"+t[i].values[0]]; !found || len(p) < len(best) {
			best, found = p, true
		}
	}
	if found {
		for _, i := range best {
			if t.matches(m.list[i].labels) {
				out.set(i)
			}
		}
		return
	}
	for i := range m.list {
		if m.list[i].used && t.matches(m.list[i].labels) {
			out.set(int32(i))
		}
	}
}

// forget drops selectors that no Update since the stamp used.
func (m *matcher) forget(stamp uint64) {
	for k, s := range m.selectors {
		if s.stamp < stamp {
			delete(m.selectors, k)
		}
	}
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
