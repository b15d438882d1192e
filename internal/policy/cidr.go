// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// worldsOf are the rows that hold every address.
func worldsOf(o *Options) []Address {
	four, six := identity.WorldIPv4, identity.WorldIPv6
	if !o.IPv4 || !o.IPv6 {
		four, six = identity.World, identity.World
	}
	var out []Address
	if o.IPv4 {
		out = append(out, Address{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Identity: four})
	}
	if o.IPv6 {
		out = append(out, Address{Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0), Identity: six})
	}
	return out
}

// cidrIdentity is the node-local number of a prefix; it stays as long as the prefix is in use.
func (e *Engine) cidrIdentity(p netip.Prefix) identity.ID {
	if id, ok := e.cidrs[p]; ok {
		e.learnCIDR(p, id)
		return id
	}
	for {
		if e.lastCIDR++; e.lastCIDR >= identity.LocalNode {
			e.lastCIDR = identity.LocalCIDR + 1
		}
		if !e.cidrTaken[e.lastCIDR] {
			break
		}
	}
	e.cidrs[p], e.cidrTaken[e.lastCIDR] = e.lastCIDR, true
	e.learnCIDR(p, e.lastCIDR)
	return e.lastCIDR
}

func (e *Engine) learnCIDR(p netip.Prefix, id identity.ID) {
	if i := e.ids.byID[id]; i == nil || !i.known {
		labels := e.cidrLabels(p)
		e.putIdent(id, labels)
		e.now.local.New[id] = labels
	}
}

// dropCIDR forgets the number of a prefix.
func (e *Engine) dropCIDR(p netip.Prefix) {
	id, ok := e.cidrs[p]
	if !ok {
		return
	}
	delete(e.cidrs, p)
	delete(e.cidrTaken, id)
	if i := e.ids.byID[id]; i != nil && i.known {
		e.dropIdent(id)
		e.now.local.Gone = append(e.now.local.Gone, id)
	}
}

// world is the row of a prefix if it holds every address of a family in use.
func (e *Engine) world(p netip.Prefix) (Address, bool) {
	if p.Bits() > 0 {
		return Address{}, false
	}
	for _, w := range worldsOf(&e.opts) {
		if w.Prefix == p {
			return w, true
		}
	}
	return Address{}, false
}

// cidrLabels are the labels of a prefix outside the cluster.
func (e *Engine) cidrLabels(p netip.Prefix) label.Set {
	world := identity.LabelWorld
	if e.opts.IPv4 && e.opts.IPv6 {
		if world = identity.LabelWorldIPv6; p.Addr().Is4() {
			world = identity.LabelWorldIPv4
		}
	}
	return label.NewSet(label.Label{Source: label.SourceReserved, Key: world}, label.Label{Source: label.SourceCIDR, Key: cidrKey(p)})
}

// cidrKey writes a prefix without colons, which would end the source of a label.
func cidrKey(p netip.Prefix) string {
	addr := p.Addr().String()
	if p.Addr().Is6() {
		if strings.HasPrefix(addr, "::") {
			addr = "0" + addr
		}
		if strings.HasSuffix(addr, "::") {
			addr += "0"
		}
		addr = strings.ReplaceAll(addr, ":", "-")
	}
	return fmt.Sprintf("%s/%d", addr, p.Bits())
}
