// SPDX-License-Identifier: Apache-2.0

// Package prefix finds the prefixes that hold an address.
package prefix

import (
	"iter"
	"net/netip"
)

// Table maps prefixes of both families to values. The zero value is empty and ready.
type Table[V any] struct {
	rows    map[netip.Prefix]V
	lengths [2][129]int // how many rows have this length: IPv4, IPv6
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// Put stores the value of a prefix. Host bits are dropped.
func (t *Table[V]) Put(p netip.Prefix, v V) {
	p = p.Masked()
	if t.rows == nil {
		t.rows = map[netip.Prefix]V{}
	}
	if _, ok := t.rows[p]; !ok {
		t.lengths[family(p.Addr())][p.Bits()]++
	}
	t.rows[p] = v
}

// Delete removes a prefix.
func (t *Table[V]) Delete(p netip.Prefix) {
	p = p.Masked()
	if _, ok := t.rows[p]; ok {
		t.lengths[family(p.Addr())][p.Bits()]--
		delete(t.rows, p)
	}
}

// Get returns the value of exactly this prefix.
func (t *Table[V]) Get(p netip.Prefix) (V, bool) {
	v, ok := t.rows[p.Masked()]
	return v, ok
}

// Len counts the prefixes.
func (t *Table[V]) Len() int { return len(t.rows) }

// All yields every prefix, in no order.
func (t *Table[V]) All() iter.Seq2[netip.Prefix, V] {
	return func(yield func(netip.Prefix, V) bool) {
		for p, v := range t.rows {
			if !yield(p, v) {
				return
			}
		}
	}
}

// Containing yields the prefixes that hold all of p, the longest first. p itself counts.
func (t *Table[V]) Containing(p netip.Prefix) iter.Seq2[netip.Prefix, V] {
	return t.containing(p.Addr(), p.Bits())
}

func (t *Table[V]) containing(addr netip.Addr, bits int) iter.Seq2[netip.Prefix, V] {
	return func(yield func(netip.Prefix, V) bool) {
		f := family(addr)
		for ; bits >= 0; bits-- {
			if t.lengths[f][bits] == 0 {
				continue
			}
			q, err := addr.Prefix(bits)
			if err != nil {
				return
			}
			if v, ok := t.rows[q]; ok && !yield(q, v) {
				return
			}
		}
	}
}

// Lookup returns the longest prefix that holds the address.
func (t *Table[V]) Lookup(addr netip.Addr) (netip.Prefix, V, bool) {
	for p, v := range t.containing(addr, addr.BitLen()) {
		return p, v, true
	}
	var none V
	return netip.Prefix{}, none, false
}

// Enclosing returns the longest prefix that holds p and is not p itself.
func (t *Table[V]) Enclosing(p netip.Prefix) (netip.Prefix, V, bool) {
	for q, v := range t.containing(p.Addr(), p.Bits()-1) {
		return q, v, true
	}
	var none V
	return netip.Prefix{}, none, false
}
