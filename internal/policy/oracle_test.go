// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// oracle judges one connection straight from the rules: no classes, no sets,
// no numbers, one rule after the other.
type oracle struct {
	opts  Options
	in    *Input
	rules []*rule
}

func newOracle(opts Options, in *Input) *oracle {
	opts.setDefaults()
	o := &oracle{opts: opts, in: in}
	for _, obj := range in.Objects {
		if p := parse(obj, &opts, cmp.Or(in.References, noReferences)); p.err == nil {
			o.rules = append(o.rules, p.rules...)
		}
	}
	return o
}

// remote is who has an address.
type remote struct {
	known   bool
	id      identity.ID
	labels  label.Set
	addr    netip.Addr
	address netip.Prefix // row of the input that says so
	ports   []endpoint.Port
}

func (o *oracle) remote(addr netip.Addr) remote {
	r := remote{addr: addr, ports: o.in.Ports[addr]}
	best := -1
	for _, a := range o.in.Addresses {
		if a.Prefix.Contains(addr) && a.Prefix.Bits() > best {
			best, r.id, r.address = a.Prefix.Bits(), a.Identity, a.Prefix
		}
	}
	if best <= 0 {
		r.id = identity.WorldIPv4
		if addr.Is6() {
			r.id = identity.WorldIPv6
		}
	}
	for _, s := range o.in.Subjects {
		if s.IPv4.Prefix.IsValid() && s.IPv4.Prefix.Addr() == addr || s.IPv6.Prefix.IsValid() && s.IPv6.Prefix.Addr() == addr {
			r.ports = s.Ports
		}
	}
	r.labels, r.known = o.in.Identities[r.id]
	if !r.known {
		r.labels, r.known = identity.Reserved()[r.id]
	}
	if !r.known {
		r.ports = nil // nothing about it counts that could let it through
	}
	return r
}

// pick tells whether a selector picks the peer.
func (o *oracle) pick(s *selector, r remote) bool {
	switch {
	case s.any:
		return true
	case s.ranges != nil:
		at := placeOf(r.id, r.labels)
		if !s.k8s && at != placeWorld && !(at == placeNode && o.opts.CIDRMatchNodes) && !(at == placePod && o.opts.CIDRMatchPods) {
			return false
		}
		for _, x := range s.ranges {
			cut := slices.ContainsFunc(x.except, func(e netip.Prefix) bool { return e.Contains(r.addr) })
			if x.prefix.Contains(r.addr) && !cut {
				return true
			}
		}
		return false
	}
	return s.matches(r.labels)
}

// hits tells whether a rule speaks of the port.
func (o *oracle) hits(r *rule, own []endpoint.Port, peer remote, protocol uint8, port int) bool {
	if r.ports == nil {
		return true
	}
	for _, p := range r.ports {
		if p.name == "" {
			if p.hits(protocol, port) {
				return true
			}
			continue
		}
		holders := [][]endpoint.Port{own}
		if r.direction == Egress {
			holders = [][]endpoint.Port{peer.ports}
			if r.looseNames && placeOf(peer.id, peer.labels) != placePod || !peer.known && r.verdict == Deny {
				holders = nil
				for _, l := range o.in.Ports {
					holders = append(holders, l)
				}
				for _, s := range o.in.Subjects {
					holders = append(holders, s.Ports)
				}
			}
		}
		for _, list := range holders {
			for _, have := range list {
				if strings.EqualFold(have.Name, p.name) && (p.protocol == 0 || p.protocol == have.Protocol) && have.Protocol == protocol && int(have.Number) == port {
					return true
				}
			}
		}
	}
	return false
}

// judge gives the verdict about a connection of an endpoint with an address.
func (o *oracle) judge(s *Subject, d Direction, addr netip.Addr, protocol uint8, port int) Verdict {
	peer := o.remote(addr)
	if o.opts.Enforcement == EnforceNever {
		return Allow
	}
	selected, deny := false, o.opts.Enforcement == EnforceAlways
	best := -1
	verdict := Deny
	consider := func(r *rule, picked bool) {
		if picked && o.hits(r, s.Ports, peer, protocol, port) && rank(r.verdict) > best {
			best, verdict = rank(r.verdict), r.verdict
		}
	}
	for _, r := range o.rules {
		if r.direction != d || !r.subject.matches(s.Labels) {
			continue
		}
		selected, deny = true, deny || r.defaultDeny
		if !peer.known {
			everybody := slices.ContainsFunc(r.peers, func(p *selector) bool {
				return p.any || peer.id >= identity.MinAllocated && p.cluster
			})
			consider(r, r.verdict == Deny && len(r.peers) > 0 || everybody)
			continue
		}
		consider(r, slices.ContainsFunc(r.peers, func(p *selector) bool { return o.pick(p, peer) }))
	}
	if !selected && o.opts.Enforcement != EnforceAlways {
		return Allow
	}
	if d == Ingress && o.opts.AllowLocalhost != LocalhostPolicy && peer.known {
		if _, host := peer.labels.Get(label.SourceReserved, identity.LabelHost); host {
			consider(localhostRule, true)
		}
	}
	switch {
	case best >= 0:
		return verdict
	case deny:
		return Deny
	}
	return Allow
}
