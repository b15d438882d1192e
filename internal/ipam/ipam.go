// SPDX-License-Identifier: Apache-2.0

// Package ipam gives out the addresses of the node's pod ranges.
package ipam

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"
)

// ErrExhausted says that no address of the family is free.
var ErrExhausted = errors.New("pod addresses are used up")

// ErrTaken says that an address belongs to another owner.
var ErrTaken = errors.New("address is taken")

// Owner of the addresses that the node keeps for itself.
const OwnerRouter = "router"

// Options of a pool.
type Options struct {
	// Ranges to give out, all of one family. Required.
	Ranges []netip.Prefix
	// Rest is how long a released address is kept back: connections and
	// caches elsewhere may still name its last owner. Default 30 s.
	Rest time.Duration
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// Pool gives out the addresses of one family, in turn, so that an address comes
// back as late as possible. It is not safe for use by several goroutines.
type Pool struct {
	opts    Options
	taken   map[netip.Addr]string    // owner
	resting map[netip.Addr]time.Time // since
	next    netip.Addr               // where the next search starts
}

// New makes a pool; the router addresses of its ranges are taken.
func New(o Options) (*Pool, error) {
	if len(o.Ranges) == 0 {
		return nil, errors.New("no pod range")
	}
	if o.Rest == 0 {
		o.Rest = 30 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Pool{opts: o, taken: map[netip.Addr]string{}, resting: map[netip.Addr]time.Time{}}
	for i, r := range o.Ranges {
		first, last := usable(r)
		if !first.IsValid() || first.Compare(last) >= 0 {
			return nil, fmt.Errorf("pod range %s has no room for pods", r)
		}
		p.opts.Ranges[i] = r.Masked()
	}
	p.taken[Router(o.Ranges[0])] = OwnerRouter
	p.next = Router(o.Ranges[0])
	return p, nil
}

// Router is the address that the node keeps for itself: the first of a range
// after the network's own.
func Router(r netip.Prefix) netip.Addr { return r.Masked().Addr().Next() }

// usable gives the first and the last address of a range that may be given
// out: without the network's address (IPv6: the subnet routers' anycast
// address) and, IPv4, the broadcast address.
func usable(r netip.Prefix) (first, last netip.Addr) {
	r = r.Masked()
	b := r.Addr().AsSlice()
	for i := r.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	last, _ = netip.AddrFromSlice(b)
	if last.Is4() {
		last = last.Prev()
	}
	return r.Addr().Next(), last
}

// Size is how many addresses the ranges have for owners, the router included.
func (p *Pool) Size() float64 {
	n := 0.0
	for _, r := range p.opts.Ranges {
		without := 1.0 // the network's address
		if r.Addr().Is4() {
			without++ // the broadcast address
		}
		n += math.Exp2(float64(r.Addr().BitLen()-r.Bits())) - without
	}
	return n
}

// Allocate gives a free address to the owner.
func (p *Pool) Allocate(owner string) (netip.Addr, error) {
	p.wake()
	a := p.next
	// One more step than addresses are in use finds a free one, if there is one.
	for range len(p.taken) + len(p.resting) + len(p.opts.Ranges) + 1 {
		if a = p.after(a); p.free(a) {
			p.taken[a], p.next = owner, a
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%w: %d in use in %v, %d released less than %s ago",
		ErrExhausted, len(p.taken), p.opts.Ranges, len(p.resting), p.opts.Rest)
}

func (p *Pool) free(a netip.Addr) bool {
	_, taken := p.taken[a]
	_, resting := p.resting[a]
	return !taken && !resting
}

// after is the address that follows a, round and round through the ranges.
func (p *Pool) after(a netip.Addr) netip.Addr {
	for i, r := range p.opts.Ranges {
		if !r.Contains(a) {
			continue
		}
		first, last := usable(r)
		if n := a.Next(); n.Compare(last) <= 0 && n.Compare(first) >= 0 {
			return n
		}
		first, _ = usable(p.opts.Ranges[(i+1)%len(p.opts.Ranges)])
		return first
	}
	first, _ := usable(p.opts.Ranges[0])
	return first
}

// Reserve takes a certain address, such as that of a pod found after a restart.
// It may lie outside the ranges, which may have changed since. The search goes on
// behind the highest: which addresses rested before the restart is not known.
func (p *Pool) Reserve(a netip.Addr, owner string) error {
	if old, ok := p.taken[a]; ok && old != owner {
		return fmt.Errorf("%w: %s by %s", ErrTaken, a, old)
	}
	delete(p.resting, a)
	p.taken[a] = owner
	if a.Compare(p.next) > 0 && slices.ContainsFunc(p.opts.Ranges, func(r netip.Prefix) bool { return r.Contains(a) }) {
		p.next = a
	}
	return nil
}

// Release takes an address back if it belongs to the owner. It rests before it
// is given out again.
func (p *Pool) Release(a netip.Addr, owner string) {
	if p.taken[a] != owner || owner == OwnerRouter {
		return
	}
	delete(p.taken, a)
	p.resting[a] = p.opts.Now()
}

// wake forgets the addresses that have rested for long enough.
func (p *Pool) wake() {
	now := p.opts.Now()
	for a, since := range p.resting {
		if now.Sub(since) >= p.opts.Rest {
			delete(p.resting, a)
		}
	}
}

// Taken returns a copy of all addresses in use with their owners.
func (p *Pool) Taken() map[netip.Addr]string {
	out := make(map[netip.Addr]string, len(p.taken))
	for a, owner := range p.taken {
		out[a] = owner
	}
	return out
}

// Ranges that the pool gives out.
func (p *Pool) Ranges() []netip.Prefix { return p.opts.Ranges }
