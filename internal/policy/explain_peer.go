// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// peerFacts are what is known about the peer of a question.
type peerFacts struct {
	stranger Stranger
	identity identity.ID
	labels   label.Set
	place    place
	addr     netip.Addr   // invalid: known by identity or labels alone
	row      netip.Prefix // that says who it is
	ports    []endpoint.Port
	thought  bool // a pod that nobody may have seen
}

func (p *peerFacts) known() bool { return p.stranger == NoStranger }

// unplaced tells whether a pod is known without its address.
func (p *peerFacts) unplaced() bool { return p.place == placePod && !p.row.IsValid() }

// peerOf finds out who the peer is.
func (x *Explainer) peerOf(q *Question) peerFacts {
	p := peerFacts{identity: q.Identity, stranger: q.Stranger, addr: q.Peer, ports: q.PeerPorts}
	switch {
	case q.PeerLabels != nil:
		p.labels, p.addr, p.thought = q.PeerLabels, netip.Addr{}, true
	case q.Peer.IsValid():
		p.row, p.identity = x.facts.rowOf(q.Peer)
		if !p.row.IsValid() {
			p.stranger = StrangerUnknown
		}
		if p.ports == nil && p.row.IsValid() && p.row.IsSingleIP() {
			p.ports = x.facts.portsOf(q.Peer)
		}
	}
	if q.Stranger != NoStranger {
		p.stranger = q.Stranger
		return p
	}
	if q.PeerLabels == nil && p.known() {
		var ok bool
		if p.labels, ok = x.facts.labelsOf(p.identity); !ok {
			p.stranger = StrangerUnknown
			if p.identity.Scope() == identity.ScopeCluster {
				p.stranger = StrangerUnresolved
			}
		}
	}
	p.place = placeOf(p.identity, p.labels)
	return p
}

// prefixOf reads the prefix back from the labels that cidrLabels made.
func prefixOf(labels label.Set) (netip.Prefix, bool) {
	for _, l := range labels {
		if l.Source == label.SourceCIDR {
			p, err := netip.ParsePrefix(strings.ReplaceAll(l.Key, "-", ":"))
			return p, err == nil
		}
	}
	return netip.Prefix{}, false
}

// picked tells by key which of the slot's selectors match the peer.
func (x *Explainer) picked(s *slot, p *peerFacts) func(key string) bool {
	hit := map[string]bool{}
	for _, u := range s.uses {
		hit[u.key] = x.picks(u, p)
	}
	return func(key string) bool { return hit[key] }
}

func (x *Explainer) picks(s *selector, p *peerFacts) bool {
	switch {
	case s.any:
		return true
	case s.unplaced:
		return p.unplaced()
	case s.port != nil:
		return x.givesPort(s.port, p)
	case s.ranges != nil:
		return (s.k8s || x.placedByRange(p)) && slices.ContainsFunc(s.ranges, func(r cidrRange) bool { return inRange(r, p) })
	}
	return s.matches(p.labels)
}

func (x *Explainer) givesPort(want *portName, p *peerFacts) bool {
	if want.loose && p.place != placePod {
		return true
	}
	return (p.row.IsValid() || p.thought) && slices.ContainsFunc(p.ports, func(have endpoint.Port) bool {
		return have.Number == want.number && have.Protocol == want.protocol && strings.EqualFold(have.Name, want.name)
	})
}

// placedByRange tells whether the CIDR rules of the Cilium kinds speak of the peer.
func (x *Explainer) placedByRange(p *peerFacts) bool {
	switch p.place {
	case placeWorld:
		return true
	case placeNode:
		return x.opts.CIDRMatchNodes
	}
	return x.opts.CIDRMatchPods
}

// inRange tells whether all of the peer's row is in the range. Of the world only
// the address counts: each prefix in use has a row there.
func inRange(r cidrRange, p *peerFacts) bool {
	at := p.row
	if p.place == placeWorld && p.addr.IsValid() {
		at = netip.PrefixFrom(p.addr, p.addr.BitLen())
	}
	return at.IsValid() && holds(r.prefix, at) && !slices.ContainsFunc(r.except, func(x netip.Prefix) bool { return holds(x, at) })
}

// Known are all identities with their labels, those of the input and those that
// the engine made.
func (x *Explainer) Known() map[identity.ID]label.Set { return x.facts.known() }

// Who tells who has an address: the identity and its labels, as far as known.
func (x *Explainer) Who(a netip.Addr) (identity.ID, label.Set) {
	_, id := x.facts.rowOf(a)
	labels, _ := x.facts.labelsOf(id)
	return id, labels
}
