// SPDX-License-Identifier: Apache-2.0

package prefix

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// random gives prefixes that often nest.
func random(r *rand.Rand) netip.Prefix {
	if r.IntN(2) == 0 {
		a := netip.AddrFrom4([4]byte{10, byte(r.IntN(4)) << 6, byte(r.IntN(2)) << 7, byte(r.IntN(4))})
		return netip.PrefixFrom(a, r.IntN(33)).Masked()
	}
	b := [16]byte{0: 0xfd, 5: byte(r.IntN(4)), 15: byte(r.IntN(4))}
	return netip.PrefixFrom(netip.AddrFrom16(b), r.IntN(129)).Masked()
}

func TestLookupsAgreeWithALookAtEveryRow(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var table Table[int]
	rows := map[netip.Prefix]int{}
	longest := func(p netip.Prefix, max int) (best netip.Prefix) {
		for q := range rows {
			if q.Bits() <= max && q.Contains(p.Addr()) && (!best.IsValid() || q.Bits() > best.Bits()) {
				best = q
			}
		}
		return best
	}
	for i := range 3000 {
		p := random(r)
		if r.IntN(3) == 0 {
			table.Delete(p)
			delete(rows, p)
		} else {
			table.Put(p, i)
			rows[p] = i
		}
		if table.Len() != len(rows) {
			t.Fatalf("%d rows, want %d", table.Len(), len(rows))
		}
		probe := random(r)
		if v, ok := table.Get(probe); ok != (rows[probe] != 0 || ok && v == 0) || ok && v != rows[probe] {
			t.Fatalf("%v: got %d, %t; want %d", probe, v, ok, rows[probe])
		}
		if q, v, ok := table.Lookup(probe.Addr()); q != longest(probe, 128) || ok && v != rows[q] {
			t.Fatalf("%v is held by %v, got %v", probe.Addr(), longest(probe, 128), q)
		}
		if q, _, _ := table.Enclosing(probe); q != longest(probe, probe.Bits()-1) {
			t.Fatalf("%v is inside %v, got %v", probe, longest(probe, probe.Bits()-1), q)
		}
		inside := map[netip.Prefix]bool{}
		for q, v := range table.Inside(probe) {
			if inside[q] = true; rows[q] != v || q.Bits() < probe.Bits() || !probe.Contains(q.Addr()) {
				t.Fatalf("%v with %d is not in %v", q, v, probe)
			}
		}
		all := 0
		for q, v := range table.All() {
			if all++; rows[q] != v || !inside[q] && q.Bits() >= probe.Bits() && probe.Contains(q.Addr()) {
				t.Fatalf("%v with %d: want %d; inside %v: %t", q, v, rows[q], probe, inside[q])
			}
		}
		if all != len(rows) {
			t.Fatalf("%d rows are shown, want %d", all, len(rows))
		}
		last := 129
		for q := range table.Containing(probe) {
			if q.Bits() >= last || !q.Contains(probe.Addr()) || q.Bits() > probe.Bits() {
				t.Fatalf("%v: %v comes after length %d", probe, q, last)
			}
			last = q.Bits()
		}
	}
}

func FuzzTable(f *testing.F) {
	f.Add([]byte{10, 0, 0, 0, 8, 10, 1, 0, 0, 16, 10, 1, 2, 3, 32})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var table Table[int]
		rows := map[netip.Prefix]int{}
		for i := 0; i+5 <= len(raw); i += 5 {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte(raw[i:i+4])), int(raw[i+4])%33).Masked()
			if raw[i+4]&0x40 != 0 {
				table.Delete(p)
				delete(rows, p)
			} else {
				table.Put(p, i)
				rows[p] = i
			}
			probe := netip.AddrFrom4([4]byte(raw[i : i+4]))
			best := netip.Prefix{}
			for q := range rows {
				if q.Contains(probe) && (!best.IsValid() || q.Bits() > best.Bits()) {
					best = q
				}
			}
			if q, v, ok := table.Lookup(probe); q != best || ok && v != rows[q] || table.Len() != len(rows) {
				t.Fatalf("%v is in %v (%d rows), got %v %d %t", probe, best, len(rows), q, v, ok)
			}
		}
	})
}
