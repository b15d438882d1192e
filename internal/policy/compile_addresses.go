// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// put adds a row unless its prefix has one.
func (c *compiler) put(a Address, local bool) *wantAddress {
	w := &wantAddress{Address: a, local: local}
	w.old, w.exist = c.e.state.Addresses[a.Prefix]
	c.m.addresses.Put(a.Prefix, w)
	c.m.order = append(c.m.order, w)
	return w
}

func (c *compiler) has(p netip.Prefix) bool {
	_, ok := c.m.addresses.Get(p)
	return ok
}

// prefixes takes over the addresses and adds a row for every prefix and every
// exception in use. Inside the ranges of pods and nodes there is none: there
// an address is what the cluster says or nothing.
func (c *compiler) prefixes() {
	for _, a := range c.in.Addresses {
		if !a.Prefix.IsValid() {
			continue
		}
		a.Prefix = a.Prefix.Masked()
		if have, ok := c.m.addresses.Get(a.Prefix); ok {
			have.Address = a
		} else {
			c.put(a, false)
		}
	}
	for _, s := range c.in.Subjects {
		for _, a := range []Address{s.IPv4, s.IPv6} {
			if a.Prefix.IsValid() && !c.has(a.Prefix) {
				a.Identity = s.Identity
				c.put(a, false)
			}
		}
	}
	for _, w := range c.e.worlds() {
		if !c.has(w.Prefix) {
			c.put(w, false)
		}
	}
	c.ownPrefixes()
	slices.SortFunc(c.m.order, func(a, b *wantAddress) int { return comparePrefix(a.Prefix, b.Prefix) })
}

// ownPrefixes adds the rows that policy needs beyond those of the input.
func (c *compiler) ownPrefixes() {
	wanted := map[netip.Prefix]bool{}
	for p, uses := range c.m.ranges.All() {
		wanted[p] = true
		for _, u := range uses {
			for _, x := range u.except {
				wanted[x] = true
			}
		}
	}
	var own []Address
	for p := range wanted {
		if c.has(p) {
			continue
		}
		if _, outer, ok := c.m.addresses.Enclosing(p); ok && c.isWorld(outer.Identity) {
			own = append(own, Address{Prefix: p, Node: outer.Node, Flags: outer.Flags})
		}
	}
	slices.SortFunc(own, func(a, b Address) int { return comparePrefix(a.Prefix, b.Prefix) })
	c.m.local = map[identity.ID]label.Set{}
	keep := map[netip.Prefix]bool{}
	for _, a := range own {
		a.Identity = c.e.cidrIdentity(a.Prefix)
		c.m.local[a.Identity] = c.e.cidrLabels(a.Prefix)
		c.put(a, true)
		keep[a.Prefix] = true
	}
	c.e.keepCIDRs(keep)
}

// unsaid are the reserved identities that the input leaves out.
func (c *compiler) unsaid() map[identity.ID]label.Set {
	out := identity.Reserved()
	maps.DeleteFunc(out, func(id identity.ID, _ label.Set) bool { _, said := c.in.Identities[id]; return said })
	return out
}

func (c *compiler) isWorld(id identity.ID) bool {
	return placeOf(id, c.in.Identities[id]) == placeWorld
}

func comparePrefix(a, b netip.Prefix) int {
	if n := a.Addr().Compare(b.Addr()); n != 0 {
		return n
	}
	return a.Bits() - b.Bits()
}

// addressPeers gives every address its peer.
func (c *compiler) addressPeers() {
	for _, a := range c.m.order {
		a.peer = c.addressPeer(a.Prefix, a.Identity)
	}
}

func (c *compiler) addressPeer(p netip.Prefix, id identity.ID) int32 {
	i, ok := c.e.matcher.index[id]
	if !ok {
		if id >= identity.MinAllocated && id < identity.LocalCIDR {
			return PeerUnresolved
		}
		return PeerUnknown
	}
	at := c.e.matcher.list[i].place
	uses := c.holding(p, at)
	for _, u := range c.byPort {
		if c.hasPort(p, at, c.m.uses[u].port) {
			uses = append(uses, u)
		}
	}
	if u, ok := c.m.useIndex[unplaced.key]; ok && at == placePod && !p.IsValid() {
		uses = append(uses, u)
	}
	slices.Sort(uses)
	g := c.base[i]
	for _, u := range slices.Compact(uses) {
		g = c.step(g, u)
	}
	return c.peer(id, g)
}

// hasPort tells whether a peer gives a named port this number.
func (c *compiler) hasPort(p netip.Prefix, at place, want *portName) bool {
	if want.loose && at != placePod {
		return true
	}
	return p.IsValid() && p.IsSingleIP() && slices.ContainsFunc(c.m.ports[p.Addr()], func(have endpoint.Port) bool {
		return have.Number == want.number && have.Protocol == want.protocol && strings.EqualFold(have.Name, want.name)
	})
}

// holding are the range selectors that hold all of a prefix.
func (c *compiler) holding(p netip.Prefix, at place) []int32 {
	var out []int32
	if c.m.ranges.Len() == 0 || !p.IsValid() {
		return nil
	}
	lenient := at == placeWorld || at == placeNode && c.e.opts.CIDRMatchNodes || at == placePod && c.e.opts.CIDRMatchPods
	for _, uses := range c.m.ranges.Containing(p) {
		for _, u := range uses {
			if (u.k8s || lenient) && !slices.ContainsFunc(u.except, func(x netip.Prefix) bool { return holds(x, p) }) {
				out = append(out, u.use)
			}
		}
	}
	return out
}
