// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// ClusterOptions describe the ranges that a cluster cuts into node ranges. At
// least one family has ranges.
type ClusterOptions struct {
	// IPv4 and IPv6 are the cluster's ranges. They do not overlap.
	IPv4, IPv6 []netip.Prefix
	// IPv4Mask and IPv6Mask are the prefix lengths of the node ranges.
	// Optional: 24 and 120.
	IPv4Mask, IPv6Mask int
}

// ClusterPool gives every node one range per family. It holds no state: what
// the nodes have is told with every question, so a restart forgets nothing.
type ClusterPool struct{ families []family }

// family is the cluster's ranges of one address family, cut into node ranges
// that are numbered through.
type family struct {
	name   string
	v4     bool
	mask   int
	ranges []netip.Prefix
}

// maxIndexBits bounds how many node ranges a cluster range may hold.
const maxIndexBits = 24

// NewClusterPool checks the options.
func NewClusterPool(o ClusterOptions) (*ClusterPool, error) {
	if o.IPv4Mask == 0 {
		o.IPv4Mask = 24
	}
	if o.IPv6Mask == 0 {
		o.IPv6Mask = 120
	}
	p := &ClusterPool{}
	for _, f := range []family{{"IPv4", true, o.IPv4Mask, o.IPv4}, {"IPv6", false, o.IPv6Mask, o.IPv6}} {
		if len(f.ranges) == 0 {
			continue
		}
		if err := f.validate(); err != nil {
			return nil, err
		}
		p.families = append(p.families, f)
	}
	if len(p.families) == 0 {
		return nil, errors.New("cluster pool: no range")
	}
	return p, nil
}

func (f *family) validate() error {
	f.ranges = slices.Clone(f.ranges)
	for i, r := range f.ranges {
		switch {
		case !r.IsValid() || r.Addr().Is4() != f.v4:
			return fmt.Errorf("cluster pool: %s is no %s range", r, f.name)
		case f.mask < r.Bits() || f.mask > r.Addr().BitLen()-2:
			return fmt.Errorf("cluster pool: no /%d fits for nodes into %s", f.mask, r)
		case f.mask-r.Bits() > maxIndexBits:
			return fmt.Errorf("cluster pool: %s holds too many /%d, the limit is 2^%d", r, f.mask, maxIndexBits)
		}
		f.ranges[i] = r.Masked()
		for _, other := range f.ranges[:i] {
			if other.Overlaps(r) {
				return fmt.Errorf("cluster pool: %s and %s overlap", other, r)
			}
		}
	}
	return nil
}

// Claim is what a node has.
type Claim struct {
	Node    string
	Created time.Time // the older node keeps a range that two have
	Ranges  []netip.Prefix
}

// Assignment is what a node gets: all that it had, and what it lacked.
type Assignment struct {
	Node   string
	Ranges []netip.Prefix
	// Error says what is wrong with the ranges, or what could not be given.
	Error string
}

// Assign answers all claims at once, in the order of the nodes' age. Nothing
// is ever taken away: pods use it. A range that became free is given out again
// as late as possible.
func (p *ClusterPool) Assign(claims []Claim) []Assignment {
	claims = slices.Clone(claims)
	slices.SortFunc(claims, func(a, b Claim) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.Node, b.Node)
	})
	out := make([]Assignment, len(claims))
	problems := make([][]string, len(claims))
	for i, c := range claims {
		out[i] = Assignment{Node: c.Node, Ranges: slices.Clone(c.Ranges)}
		problems[i] = overlaps(c, claims[:i])
	}
	for _, f := range p.families {
		used, next := f.used(claims)
		for i, c := range claims {
			if slices.ContainsFunc(c.Ranges, func(r netip.Prefix) bool { return r.Addr().Is4() == f.v4 }) {
				continue
			}
			index, ok := f.free(used, next)
			if !ok {
				problems[i] = append(problems[i], fmt.Sprintf("no free %s range", f.name))
				continue
			}
			used[index], next = true, index+1
			out[i].Ranges = append(out[i].Ranges, f.at(index))
		}
	}
	for i := range out {
		out[i].Error = strings.Join(problems[i], "; ")
	}
	return out
}

func overlaps(c Claim, older []Claim) []string {
	var out []string
	for _, o := range older {
		for _, a := range c.Ranges {
			for _, b := range o.Ranges {
				if a.Overlaps(b) {
					out = append(out, fmt.Sprintf("range %s overlaps %s of node %s", a, b, o.Node))
				}
			}
		}
	}
	return out
}

// size is the number of node ranges in the cluster range i.
func (f *family) size(i int) uint64 { return 1 << (f.mask - f.ranges[i].Bits()) }

// used returns the numbers of the node ranges that are not free, and the number
// after the highest of them.
func (f *family) used(claims []Claim) (used map[uint64]bool, next uint64) {
	used = map[uint64]bool{}
	for _, c := range claims {
		for _, r := range c.Ranges {
			first, count := f.indexes(r)
			for n := range count {
				used[first+n] = true
				next = max(next, first+n+1)
			}
		}
	}
	return used, next
}

// indexes returns the numbers of the node ranges that a range touches. The
// range may be of another size than ours: the pool's options may have changed.
func (f *family) indexes(r netip.Prefix) (first, count uint64) {
	var base uint64
	for i, own := range f.ranges {
		if own.Overlaps(r) {
			if r.Bits() <= own.Bits() {
				return base, f.size(i)
			}
			offset := new(big.Int).Sub(number(r.Masked().Addr()), number(own.Addr()))
			offset.Rsh(offset, uint(own.Addr().BitLen()-f.mask))
			count := uint64(1)
			if r.Bits() < f.mask {
				count = 1 << (f.mask - r.Bits())
			}
			return base + offset.Uint64(), count
		}
		base += f.size(i)
	}
	return 0, 0
}

// free finds a free number at or after next, then from the start.
func (f *family) free(used map[uint64]bool, next uint64) (uint64, bool) {
	var total uint64
	for i := range f.ranges {
		total += f.size(i)
	}
	if uint64(len(used)) >= total {
		return 0, false
	}
	for n := range total {
		if index := (next + n) % total; !used[index] {
			return index, true
		}
	}
	return 0, false
}

// at returns the node range with the number.
func (f *family) at(index uint64) netip.Prefix {
	for i, own := range f.ranges {
		if index >= f.size(i) {
			index -= f.size(i)
			continue
		}
		bits := own.Addr().BitLen()
		offset := new(big.Int).Lsh(new(big.Int).SetUint64(index), uint(bits-f.mask))
		sum := new(big.Int).Add(number(own.Addr()), offset)
		raw := sum.FillBytes(make([]byte, bits/8))
		addr, _ := netip.AddrFromSlice(raw)
		return netip.PrefixFrom(addr, f.mask)
	}
	return netip.Prefix{}
}

func number(a netip.Addr) *big.Int { return new(big.Int).SetBytes(a.AsSlice()) }
