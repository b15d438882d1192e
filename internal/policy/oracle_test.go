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
			if r.looseNames && placeOf(peer.id, peer.labels) != placePod || !peer.known && (r.verdict == Deny || r.verdict == pass) {
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

// heard is a rule that speaks of a connection, or may.
type heard struct {
	*rule
	maybe bool // of a pass: nobody knows
}

// judge gives the verdict about a connection of an endpoint with an address.
func (o *oracle) judge(s *Subject, d Direction, addr netip.Addr, protocol uint8, port int) Verdict {
	peer := o.remote(addr)
	if o.opts.Enforcement == EnforceNever {
		return Allow
	}
	var selecting []*rule
	var rules []heard
	for _, r := range o.rules {
		if r.direction != d || !r.subject.matches(s.Labels) {
			continue
		}
		selecting = append(selecting, r)
		if !o.hits(r, s.Ports, peer, protocol, port) {
			continue
		}
		if peer.known {
			if slices.ContainsFunc(r.peers, func(p *selector) bool { return o.pick(p, peer) }) {
				rules = append(rules, heard{r, false})
			}
			continue
		}
		everybody := slices.ContainsFunc(r.peers, func(p *selector) bool { return p.any || peer.id >= identity.MinAllocated && p.cluster })
		named := d == Egress && slices.ContainsFunc(r.ports, func(p portRange) bool { return p.name != "" })
		switch {
		case r.verdict == Deny && len(r.peers) > 0 || r.verdict != Deny && r.verdict != pass && everybody:
			rules = append(rules, heard{r, false})
		case r.verdict == pass && len(r.peers) > 0:
			plain := slices.ContainsFunc(r.ports, func(p portRange) bool { return p.name == "" && p.hits(protocol, port) })
			rules = append(rules, heard{r, !everybody || named && !plain})
		}
	}
	if len(selecting) == 0 && o.opts.Enforcement != EnforceAlways {
		return Allow
	}
	if d == Ingress && o.opts.AllowLocalhost != LocalhostPolicy && peer.known {
		if _, host := peer.labels.Get(label.SourceReserved, identity.LabelHost); host {
			rules = append(rules, heard{localhostRule, false})
		}
	}
	if v := o.worst(rules, selecting, func(*rule) bool { return false }, false); v != Deny {
		return v
	}
	everything := o.opts.Audit || s.Audit
	v := o.worst(rules, selecting, func(r *rule) bool { return everything || r.audit }, everything)
	if v == Allow {
		return Audit
	}
	return v
}

// worst resolves with every choice of passes that may or may not count: denied
// if one of them denies.
func (o *oracle) worst(rules []heard, selecting []*rule, forgiven func(*rule) bool, everything bool) Verdict {
	for i, h := range rules {
		if !h.maybe {
			continue
		}
		without := slices.Delete(slices.Clone(rules), i, i+1)
		if o.worst(without, selecting, forgiven, everything) == Deny {
			return Deny
		}
		with := slices.Clone(rules)
		with[i].maybe = false
		return o.worst(with, selecting, forgiven, everything)
	}
	isolated := slices.ContainsFunc(selecting, func(r *rule) bool { return r.defaultDeny && !forgiven(r) })
	for _, tier := range []uint8{tierAdmin, tierNormal, tierBaseline} {
		var best *rule
		for _, h := range rules {
			if h.tier != tier || h.verdict == Deny && forgiven(h.rule) {
				continue
			}
			if best == nil || h.priority < best.priority || h.priority == best.priority && rank(h.verdict) > rank(best.verdict) {
				best = h.rule
			}
		}
		switch {
		case best != nil && best.verdict != pass:
			return best.verdict
		case best == nil && tier == tierNormal && isolated:
			return Deny
		}
	}
	if o.opts.Enforcement == EnforceAlways && !everything {
		return Deny
	}
	return Allow
}
