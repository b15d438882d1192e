// SPDX-License-Identifier: Apache-2.0

// Package prefix finds the prefixes that hold an address.
package prefix

import (
	"encoding/binary"
	"iter"
	"math/bits"
	"net/netip"
)

// Table maps prefixes of both families to values. The zero value is empty and ready.
//
// It is a binary tree in which a node has all that lies inside its prefix below
// it; nodes without a value are there only to hold two others.
type Table[V any] struct {
	roots [2]*node[V] // IPv4, IPv6
	count int
}

type node[V any] struct {
	key   key
	kids  [2]*node[V] // by the bit that follows the prefix
	value V
	set   bool
}

// key is a prefix as bits, left-aligned.
type key struct {
	hi, lo uint64
	bits   uint8
}

func keyOf(p netip.Prefix) (key, int) {
	if p.Addr().Is4() {
		a := p.Addr().As4()
		return key{hi: uint64(binary.BigEndian.Uint32(a[:])) << 32, bits: uint8(p.Bits())}.cut(uint8(p.Bits())), 0
	}
	a := p.Addr().As16()
	return key{binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:]), uint8(p.Bits())}.cut(uint8(p.Bits())), 1
}

func (k key) prefix(family int) netip.Prefix {
	if family == 0 {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], uint32(k.hi>>32))
		return netip.PrefixFrom(netip.AddrFrom4(a), int(k.bits))
	}
	var a [16]byte
	binary.BigEndian.PutUint64(a[:8], k.hi)
	binary.BigEndian.PutUint64(a[8:], k.lo)
	return netip.PrefixFrom(netip.AddrFrom16(a), int(k.bits))
}

// cut keeps the first n bits.
func (k key) cut(n uint8) key {
	switch {
	case n == 0:
		k.hi, k.lo = 0, 0
	case n <= 64:
		k.hi, k.lo = k.hi&(^uint64(0)<<(64-n)), 0
	case n < 128:
		k.lo &= ^uint64(0) << (128 - n)
	}
	k.bits = n
	return k
}

func (k key) bit(n uint8) int {
	if n < 64 {
		return int(k.hi >> (63 - n) & 1)
	}
	return int(k.lo >> (127 - n) & 1)
}

// common is how many bits two prefixes begin with alike.
func (k key) common(o key) uint8 {
	n := bits.LeadingZeros64(k.hi ^ o.hi)
	if n == 64 {
		n += bits.LeadingZeros64(k.lo ^ o.lo)
	}
	return min(uint8(n), k.bits, o.bits)
}

// holds tells whether all of o is inside k.
func (k key) holds(o key) bool { return k.bits <= o.bits && k.common(o) == k.bits }

// Put stores the value of a prefix. Host bits are dropped.
func (t *Table[V]) Put(p netip.Prefix, v V) {
	k, f := keyOf(p)
	at := &t.roots[f]
	for *at != nil && (*at).key.holds(k) && (*at).key.bits < k.bits {
		at = &(*at).kids[k.bit((*at).key.bits)]
	}
	n := *at
	switch {
	case n == nil:
		*at = &node[V]{key: k, value: v, set: true}
	case n.key == k:
		n.value = v
		if n.set {
			return
		}
		n.set = true
	case k.holds(n.key):
		fresh := &node[V]{key: k, value: v, set: true}
		fresh.kids[n.key.bit(k.bits)] = n
		*at = fresh
	default:
		fork := &node[V]{key: k.cut(k.common(n.key))}
		fork.kids[n.key.bit(fork.key.bits)] = n
		fork.kids[k.bit(fork.key.bits)] = &node[V]{key: k, value: v, set: true}
		*at = fork
	}
	t.count++
}

// Delete removes a prefix.
func (t *Table[V]) Delete(p netip.Prefix) {
	k, f := keyOf(p)
	var above **node[V]
	at := &t.roots[f]
	for *at != nil && (*at).key.bits < k.bits && (*at).key.holds(k) {
		above, at = at, &(*at).kids[k.bit((*at).key.bits)]
	}
	n := *at
	if n == nil || n.key != k || !n.set {
		return
	}
	var none V
	n.value, n.set = none, false
	t.count--
	shrink(at)
	if above != nil {
		shrink(above)
	}
}

// shrink removes a node that holds neither a value nor two others.
func shrink[V any](at **node[V]) {
	n := *at
	if n.set || n.kids[0] != nil && n.kids[1] != nil {
		return
	}
	if *at = n.kids[0]; *at == nil {
		*at = n.kids[1]
	}
}

// Get returns the value of exactly this prefix.
func (t *Table[V]) Get(p netip.Prefix) (V, bool) {
	k, f := keyOf(p)
	n := t.roots[f]
	for n != nil && n.key.bits < k.bits {
		n = n.kids[k.bit(n.key.bits)]
	}
	if n != nil && n.key == k && n.set {
		return n.value, true
	}
	var none V
	return none, false
}

// Len counts the prefixes.
func (t *Table[V]) Len() int { return t.count }

// All yields every prefix, in order of address, then of length.
func (t *Table[V]) All() iter.Seq2[netip.Prefix, V] {
	return func(yield func(netip.Prefix, V) bool) {
		for f, n := range t.roots {
			if !n.walk(f, yield) {
				return
			}
		}
	}
}

func (n *node[V]) walk(family int, yield func(netip.Prefix, V) bool) bool {
	if n == nil {
		return true
	}
	if n.set && !yield(n.key.prefix(family), n.value) {
		return false
	}
	return n.kids[0].walk(family, yield) && n.kids[1].walk(family, yield)
}

// Inside yields the prefixes that lie in p, p itself included, in order. The
// table must not change meanwhile.
func (t *Table[V]) Inside(p netip.Prefix) iter.Seq2[netip.Prefix, V] {
	k, f := keyOf(p)
	n := t.roots[f]
	for n != nil && !k.holds(n.key) {
		if !n.key.holds(k) {
			n = nil
			break
		}
		n = n.kids[k.bit(n.key.bits)]
	}
	return func(yield func(netip.Prefix, V) bool) { n.walk(f, yield) }
}

// Containing yields the prefixes that hold all of p, the longest first. p itself counts.
func (t *Table[V]) Containing(p netip.Prefix) iter.Seq2[netip.Prefix, V] {
	return t.containing(p, p.Bits())
}

// containing yields the prefixes of at most this many bits that hold p.
func (t *Table[V]) containing(p netip.Prefix, most int) iter.Seq2[netip.Prefix, V] {
	return func(yield func(netip.Prefix, V) bool) {
		k, f := keyOf(p)
		var path [129]*node[V]
		depth := 0
		for n := t.roots[f]; n != nil && int(n.key.bits) <= most && n.key.holds(k); n = n.kids[k.bit(n.key.bits)] {
			if n.set {
				path[depth] = n
				depth++
			}
			if n.key.bits == k.bits {
				break
			}
		}
		for depth--; depth >= 0; depth-- {
			if !yield(path[depth].key.prefix(f), path[depth].value) {
				return
			}
		}
	}
}

// Lookup returns the longest prefix that holds the address.
func (t *Table[V]) Lookup(addr netip.Addr) (netip.Prefix, V, bool) {
	return t.longest(netip.PrefixFrom(addr, addr.BitLen()), addr.BitLen())
}

// Enclosing returns the longest prefix that holds p and is not p itself.
func (t *Table[V]) Enclosing(p netip.Prefix) (netip.Prefix, V, bool) {
	return t.longest(p, p.Bits()-1)
}

func (t *Table[V]) longest(p netip.Prefix, most int) (netip.Prefix, V, bool) {
	k, f := keyOf(p)
	var best *node[V]
	for n := t.roots[f]; n != nil && int(n.key.bits) <= most && n.key.holds(k); n = n.kids[k.bit(n.key.bits)] {
		if n.set {
			best = n
		}
		if n.key.bits == k.bits {
			break
		}
	}
	if best == nil {
		var none V
		return netip.Prefix{}, none, false
	}
	return best.key.prefix(f), best.value, true
}
