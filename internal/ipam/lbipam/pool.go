// SPDX-License-Identifier: Apache-2.0

// Package lbipam gives addresses of pools to Services of type LoadBalancer.
//
// Who has which address follows from the objects alone: from what Services have
// in their status, from pools and from what is asked for. So an operator that
// starts changes nothing, and there is nothing that it could lose.
package lbipam

import (
	"cmp"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
)

// Range is addresses of one family, both ends included.
type Range struct{ First, Last netip.Addr }

// Contains tells whether an address is in the range.
func (r Range) Contains(a netip.Addr) bool {
	return a.Is4() == r.First.Is4() && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
}

func (r Range) overlaps(o Range) bool { return r.Contains(o.First) || o.Contains(r.First) }

func (r Range) String() string { return r.First.String() + "-" + r.Last.String() }

// size is the number of addresses.
func (r Range) size() *big.Int {
	first, last := r.First.As16(), r.Last.As16()
	n := new(big.Int).Sub(new(big.Int).SetBytes(last[:]), new(big.Int).SetBytes(first[:]))
	return n.Add(n, big.NewInt(1))
}

// Pool is a CiliumLoadBalancerIPPool.
type Pool struct {
	Name, UID  string
	Generation int64
	Created    time.Time
	Ranges     []Range
	Selector   labels.Selector // of Services
	Disabled   bool            // gives out no more; what it gave stays
	Err        string          // a part that cannot be read: nothing is given out
	Conditions []metav1.Condition
}

// ReadPool reads a pool.
func ReadPool(o *ciliumv2.CiliumLoadBalancerIPPool) Pool {
	p := Pool{Name: o.Name, UID: string(o.UID), Generation: o.Generation, Created: o.CreationTimestamp.Time, Disabled: o.Spec.Disabled,
		Selector: labels.Everything(), Conditions: o.Status.Conditions}
	for _, b := range o.Spec.Blocks {
		r, err := readBlock(b, o.Spec.AllowFirstLastIPs != "No")
		if err != nil {
			p.Err = err.Error()
			return p
		}
		p.Ranges = append(p.Ranges, r)
	}
	if s := o.Spec.ServiceSelector; s != nil {
		selector := metav1.LabelSelector{MatchLabels: s.MatchLabels}
		for _, e := range s.MatchExpressions {
			selector.MatchExpressions = append(selector.MatchExpressions, metav1.LabelSelectorRequirement{Key: e.Key, Operator: e.Operator, Values: e.Values})
		}
		var err error
		if p.Selector, err = metav1.LabelSelectorAsSelector(&selector); err != nil {
			p.Err, p.Selector = "serviceSelector: "+err.Error(), labels.Nothing()
		}
	}
	return p
}

func readBlock(b ciliumv2.LoadBalancerIPBlock, all bool) (Range, error) {
	if b.CIDR != "" {
		p, err := netip.ParsePrefix(b.CIDR)
		switch {
		case err != nil:
			return Range{}, fmt.Errorf("block: %q is not a prefix such as 192.0.2.0/24", b.CIDR)
		case b.Start != "" || b.Stop != "":
			return Range{}, fmt.Errorf("block: it has both cidr %s and start or stop", b.CIDR)
		}
		r := Range{p.Masked().Addr(), last(p)}
		if bits := r.First.BitLen() - p.Bits(); !all && bits > 1 {
			r = Range{r.First.Next(), r.Last.Prev()}
		}
		return r, nil
	}
	first, err := netip.ParseAddr(b.Start)
	if err != nil {
		return Range{}, fmt.Errorf("block: start %q is no address", b.Start)
	}
	stop, err := netip.ParseAddr(cmp.Or(b.Stop, b.Start))
	if err != nil {
		return Range{}, fmt.Errorf("block: stop %q is no address", b.Stop)
	}
	r := Range{first.Unmap(), stop.Unmap()}
	if r.First.Is4() != r.Last.Is4() || r.Last.Less(r.First) {
		return Range{}, fmt.Errorf("block: %s is no range", r)
	}
	return r, nil
}

// last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	bytes := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(bytes)*8; i++ {
		bytes[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(bytes)
	return a
}

// Contains tells whether an address is in the pool.
func (p *Pool) Contains(a netip.Addr) bool {
	return slices.ContainsFunc(p.Ranges, func(r Range) bool { return r.Contains(a) })
}

// PoolState is what is told of a pool.
type PoolState struct {
	Conflict               string // why it gives out nothing; empty: it may
	Total, Available, Used *big.Int
}

// judge finds out which pools may give out addresses: of two that overlap the
// older one.
func judge(pools []Pool) (sorted []Pool, states map[string]*PoolState) {
	sorted = slices.Clone(pools)
	slices.SortFunc(sorted, func(a, b Pool) int { return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.Name, b.Name)) })
	states = map[string]*PoolState{}
	for i, p := range sorted {
		s := &PoolState{Conflict: p.Err, Total: new(big.Int), Used: new(big.Int)}
		states[p.Name] = s
		for j, r := range p.Ranges {
			s.Total.Add(s.Total, r.size())
			for _, other := range p.Ranges[:j] {
				if s.Conflict == "" && r.overlaps(other) {
					s.Conflict = fmt.Sprintf("blocks %s and %s overlap", other, r)
				}
			}
		}
		for _, older := range sorted[:i] {
			if s.Conflict == "" && states[older.Name].Conflict == "" {
				s.Conflict = conflict(&p, &older)
			}
		}
	}
	return sorted, states
}

func conflict(p, older *Pool) string {
	for _, r := range p.Ranges {
		for _, o := range older.Ranges {
			if r.overlaps(o) {
				return fmt.Sprintf("%s overlaps %s of pool %s", r, o, older.Name)
			}
		}
	}
	return ""
}
