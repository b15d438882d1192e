// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/bits"
	"slices"
	"strings"
)

// item is a rule as one slot and one kind of peer sees it: named ports are numbers.
type item struct {
	rule  *rule
	ports []portRange // nil: everything
	also  *selector   // peers must match this, too: they give the named port this number
	maybe bool        // of a pass: whether it matches is not known

	folded string
}

// key is equal for items that fold alike.
func (it *item) key() string {
	if it.folded == "" {
		r := it.rule
		it.folded = fmt.Sprint(r.tier, r.priority, r.verdict, r.audit, it.maybe, it.ports == nil, it.ports)
		if r.l7 != nil {
			it.folded += r.l7.key
		}
	}
	return it.folded
}

func (it *item) hits(protocol uint8, port int) bool {
	if it.ports == nil {
		return true
	}
	for i := range it.ports {
		if it.ports[i].hits(protocol, port) {
			return true
		}
	}
	return false
}

// answer is a verdict with the L7 rules that a redirect is to obey.
type answer struct {
	verdict Verdict
	l7      uint32
}

// rank orders verdicts of equal tier and priority.
func rank(v Verdict) int {
	switch v {
	case Deny:
		return 3
	case Redirect:
		return 2
	case Allow:
		return 1
	}
	return 0 // pass
}

// fallback is the answer where no rule decides.
type fallback struct {
	normal  bool // rules of tierNormal put the endpoints under default deny: later tiers are not asked
	always  bool // deny after the last tier (enable-policy)
	audited bool // normal, but only by rules that are audited
	audit   bool // the endpoint or the agent is audited: no deny counts
}

// judge gives the answer of a slot's items for a protocol and a port (-1: no
// port known), and the items that decided; without any it is the fallback's. A
// deny that would be none without what is audited is an audit. What audited
// rules allow counts, so that an audit never denies more.
func judge(items []*item, base fallback, protocol uint8, port int) (Verdict, []*item) {
	v, by := decide(items, base, protocol, port)
	if v != Deny {
		return v, by
	}
	lenient := base
	lenient.normal = base.normal && !base.audited && !base.audit
	lenient.always = base.always && !base.audit
	kept := slices.DeleteFunc(slices.Clone(items), func(it *item) bool {
		return it.rule.verdict == Deny && (it.rule.audit || base.audit)
	})
	if lenient == base && len(kept) == len(items) {
		return Deny, by
	}
	switch w, redirecting := decide(kept, lenient, protocol, port); w {
	case Deny:
		return Deny, by
	case Redirect:
		return Redirect, redirecting
	}
	return Audit, by
}

// decide judges tier by tier. Where a pass may or may not count, the worse of
// both answers holds.
func decide(items []*item, base fallback, protocol uint8, port int) (Verdict, []*item) {
	from := uint8(0)
	for {
		best := first(items, from, protocol, port)
		if base.normal && from <= tierNormal && (best == nil || best.rule.tier > tierNormal) {
			return Deny, nil
		}
		switch {
		case best == nil && base.always:
			return Deny, nil
		case best == nil:
			return Allow, nil
		case best.rule.verdict != pass:
			return best.rule.verdict, deciding(items, best, protocol, port)
		}
		if best.maybe {
			rest := slices.DeleteFunc(slices.Clone(items), func(it *item) bool { return it == best })
			if v, by := decide(rest, base, protocol, port); v == Deny {
				return v, by
			}
		}
		from = best.rule.tier + 1
	}
}

// first is the item that counts first, in a tier not before the given one.
func first(items []*item, from uint8, protocol uint8, port int) *item {
	var best *item
	for _, it := range items {
		t := it.rule.tier
		if t < from || best != nil && t > best.rule.tier || !it.hits(protocol, port) {
			continue
		}
		if best == nil || t < best.rule.tier || wins(it, best) {
			best = it
		}
	}
	return best
}

func wins(a, b *item) bool {
	if a.rule.priority != b.rule.priority {
		return a.rule.priority < b.rule.priority
	}
	return rank(a.rule.verdict) > rank(b.rule.verdict)
}

// deciding are the items that agree with the best. A plain allow beside a
// redirect decides, too: the proxy must let through what it allows.
func deciding(items []*item, best *item, protocol uint8, port int) []*item {
	var out []*item
	for _, it := range items {
		same := it.rule.verdict == best.rule.verdict || best.rule.verdict == Redirect && it.rule.verdict == Allow
		if same && it.rule.tier == best.rule.tier && it.rule.priority == best.rule.priority && it.hits(protocol, port) {
			out = append(out, it)
		}
	}
	return out
}

// l7Table numbers combinations of L7 rules: by a hash of their content, so that
// a restart finds the same numbers.
type l7Table struct {
	numbers map[string]uint32
	lines   map[uint32][]string
}

// number gives the combination of the items; 0 is never given. The hash has 32
// bits: two combinations that share one are told apart by order of coming, which
// a restart may change, but nobody will see it.
func (t *l7Table) number(items []*item) uint32 {
	lines := make([]string, 0, len(items))
	for _, it := range items {
		if it.rule.l7 != nil {
			lines = append(lines, it.rule.l7.key)
		} else {
			lines = append(lines, "*")
		}
	}
	slices.Sort(lines)
	lines = slices.Compact(lines)
	all := strings.Join(lines, "\n")
	if n, ok := t.numbers[all]; ok {
		return n
	}
	if t.numbers == nil {
		t.numbers, t.lines = map[string]uint32{}, map[uint32][]string{}
	}
	h := fnv.New32a()
	h.Write([]byte(all))
	n := h.Sum32()
	for n == 0 || t.lines[n] != nil {
		n++
	}
	t.numbers[all], t.lines[n] = n, lines
	return n
}

// fold runs the items over every interval of (protocol, port) and gives the
// rows of the set: the answer for everything, then what differs by protocol,
// then what differs by port.
func fold(items []*item, base fallback, l7 *l7Table) []SetRow {
	f := folder{items: items, base: base, l7: l7}
	f.cut()
	all := f.at(unknownProtocol, -1)
	f.row(0, 0, 0, all)
	for _, c := range f.cuts {
		any := f.at(c.protocol, -1)
		if any != all {
			f.row(c.protocol, 0, 0, any)
		}
		f.ports(c, any)
	}
	for i := range f.rows {
		f.rows[i].Row = uint16(i)
	}
	return f.rows
}

// unknownProtocol stands for every protocol that no rule names.
const unknownProtocol = 255

type folder struct {
	items []*item
	base  fallback
	l7    *l7Table
	cuts  []protocolCuts
	rows  []SetRow
}

// protocolCuts are the ports of a protocol at which the answer may change.
type protocolCuts struct {
	protocol uint8
	starts   []int
}

func (f *folder) cut() {
	starts := map[uint8][]int{}
	for _, it := range f.items {
		for _, p := range it.ports {
			list := []uint8{p.protocol}
			if p.protocol == 0 {
				if p.all {
					continue
				}
				list = []uint8{protoTCP, protoUDP, protoSCTP}
			}
			for _, protocol := range list {
				if p.all {
					starts[protocol] = append(starts[protocol], 0)
				} else {
					starts[protocol] = append(starts[protocol], int(p.first), int(p.last)+1)
				}
			}
		}
	}
	for protocol, list := range starts {
		list = append(list, 0)
		slices.Sort(list)
		list = slices.Compact(list)
		if list[len(list)-1] > 65535 {
			list = list[:len(list)-1]
		}
		f.cuts = append(f.cuts, protocolCuts{protocol, list})
	}
	slices.SortFunc(f.cuts, func(a, b protocolCuts) int { return int(a.protocol) - int(b.protocol) })
}

// cover sorts the items by the intervals that they speak of, so that each
// interval is judged by those alone.
func (f *folder) cover(c protocolCuts) [][]*item {
	var wide []*item
	for _, it := range f.items {
		if it.hits(c.protocol, -1) {
			wide = append(wide, it)
		}
	}
	out := make([][]*item, len(c.starts))
	for i := range out {
		out[i] = wide[:len(wide):len(wide)]
	}
	for _, it := range f.items {
		for _, p := range it.ports {
			if p.all || !p.hits(c.protocol, int(p.first)) {
				continue
			}
			i, _ := slices.BinarySearch(c.starts, int(p.first))
			for ; i < len(out) && c.starts[i] <= int(p.last); i++ {
				out[i] = append(out[i], it)
			}
		}
	}
	return out
}

func (f *folder) at(protocol uint8, port int) answer { return f.answer(f.items, protocol, port) }

func (f *folder) answer(items []*item, protocol uint8, port int) answer {
	v, items := judge(items, f.base, protocol, port)
	a := answer{verdict: v}
	if v == Redirect {
		a.l7 = f.l7.number(items)
	}
	return a
}

// ports adds the rows of the ports at which the answer is not that of the protocol.
func (f *folder) ports(c protocolCuts, any answer) {
	first, current := 0, any
	cover := f.cover(c)
	for i, start := range c.starts {
		a := f.answer(cover[i], c.protocol, start)
		if a == current {
			continue
		}
		if current != any {
			f.interval(c.protocol, first, start, current)
		}
		first, current = start, a
	}
	if current != any {
		f.interval(c.protocol, first, 65536, current)
	}
}

func (f *folder) row(protocol uint8, port uint16, portBits uint8, a answer) {
	f.rows = append(f.rows, SetRow{Protocol: protocol, Port: port, PortBits: portBits, Verdict: a.verdict, L7: a.l7})
}

// interval adds the port prefixes that together are first..end-1.
func (f *folder) interval(protocol uint8, first, end int, a answer) {
	for first < end {
		size := bits.TrailingZeros32(uint32(first) | 1<<15) // never all ports: that is the protocol's row
		for first+1<<size > end {
			size--
		}
		f.row(protocol, uint16(first), uint8(16-size), a)
		first += 1 << size
	}
}

// special gives the number of a set that ends the lookup at the cell.
func special(rows []SetRow) (uint16, bool) {
	if len(rows) > 1 {
		return 0, false
	}
	if len(rows) == 0 || rows[0].Verdict == Deny {
		return SetDeny, true
	}
	return SetAllow, rows[0].Verdict == Allow
}

// content is equal for sets of equal rows.
func content(rows []SetRow) string {
	b := make([]byte, 0, 11*len(rows))
	for _, r := range rows {
		b = append(b, r.Protocol, r.PortBits, byte(r.Verdict))
		b = binary.BigEndian.AppendUint16(b, r.Port)
		b = binary.BigEndian.AppendUint32(b, r.L7)
		b = binary.BigEndian.AppendUint16(b, r.Row)
	}
	return string(b)
}
