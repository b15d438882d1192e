// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/identity"
)

// Question is about a connection between an endpoint of this node and a peer.
type Question struct {
	Endpoint  uint16
	Direction Direction
	Peer      netip.Addr  // invalid: Identity is asked about
	Identity  identity.ID // of a peer whose address is not known
	Protocol  uint8       // IANA number
	Port      int         // of the destination, host byte order; ICMP: type; -1: not known, as in a fragment
}

// Answer says what becomes of a connection, and why.
type Answer struct {
	Verdict      Verdict
	PeerIdentity identity.ID
	PeerPrefix   netip.Prefix // row that says who the peer is
	Known        bool         // whether the peer's labels are known
	Closed       bool         // there was no slot left for the endpoint's policy
	// Deciding are the rules that allow or deny, if any does.
	Deciding []Origin
	// Default are the rules that put the endpoint under default deny. If
	// nothing decides, they are why it is denied.
	Default []Origin
	// Near are rules that would have allowed, but for one thing.
	Near []Near
}

// Near is an allow that does not apply.
type Near struct {
	Origin  Origin
	Missing string // "peer" or "port"
}

// Why says the answer's reason in a sentence.
func (a Answer) Why() string {
	names := func(list []Origin) string {
		parts := make([]string, len(list))
		for i, o := range list {
			parts[i] = o.String()
		}
		return strings.Join(parts, ", ")
	}
	verb := map[Verdict]string{Allow: "allowed", Deny: "denied", Redirect: "redirected to the proxy", Audit: "audited: would be denied"}[a.Verdict]
	switch {
	case len(a.Deciding) > 0:
		return verb + " by " + names(a.Deciding)
	case a.Closed:
		return "denied: there is no slot left for the endpoint's policy"
	case (a.Verdict == Deny || a.Verdict == Audit) && len(a.Default) > 0:
		return verb + " by default, because of " + names(a.Default)
	case a.Verdict == Deny || a.Verdict == Audit:
		return verb + " by default, because enable-policy is always"
	}
	return "allowed: no policy denies it"
}

// Explainer answers questions about what one Update decided. It never changes,
// and may be used by several at once, as long as the Update's input is not
// changed either.
type Explainer struct {
	opts Options
	m    *model
}

// Explain answers a question. Its verdict is that of the cells.
func (x *Explainer) Explain(q Question) (Answer, error) {
	m := x.m
	w, ok := m.endpoints[q.Endpoint]
	if !ok {
		return Answer{}, fmt.Errorf("endpoint %d is unknown", q.Endpoint)
	}
	out, peer := x.peer(q)
	if m.slots[w.slots[q.Direction]].closed {
		out.Closed = true
		return out, nil
	}
	if !w.enforcing[q.Direction] {
		out.Verdict = Allow
		return out, nil
	}
	s := x.ownSlot(&w, q.Direction)
	var items []*item
	if peer < PeerFirst {
		items = s.pessimistic(peer == PeerUnresolved)
	} else {
		matched := map[string]bool{}
		for _, u := range m.path(m.peers[peer].group) {
			matched[m.uses[u].key] = true
		}
		items = s.matching(func(k string) bool { return matched[k] })
	}
	verdict, deciding := judge(items, s.base, q.Protocol, q.Port)
	out.Verdict, out.Deciding = verdict, origins(deciding)
	for _, r := range s.rules {
		if r.defaultDeny && !slices.Contains(out.Default, r.origin) {
			out.Default = append(out.Default, r.origin)
		}
	}
	if verdict == Deny && len(deciding) == 0 {
		out.Near = near(s, items, q)
	}
	return out, nil
}

// peer finds out who the peer is.
func (x *Explainer) peer(q Question) (Answer, int32) {
	m := x.m
	out := Answer{PeerIdentity: q.Identity}
	peer := int32(PeerUnknown)
	if q.Peer.IsValid() {
		if p, a, ok := m.addresses.Lookup(q.Peer); ok {
			out.PeerPrefix, out.PeerIdentity, peer = p, a.Identity, a.peer
		}
	} else if p, ok := m.identity[q.Identity]; ok {
		peer = p
	} else if q.Identity.Scope() == identity.ScopeCluster {
		peer = PeerUnresolved
	}
	out.Known = peer >= PeerFirst
	return out, peer
}

// ownSlot is the slot of an endpoint, with the names of its own rules: one that
// it shares may have rules of equal content from elsewhere.
func (x *Explainer) ownSlot(w *wantEndpoint, d Direction) *slot {
	b := newSlotBuilder(&x.opts, x.m.names)
	i, _ := b.slotFor(d, w.rules[d], w.subject)
	return b.slots[i]
}

func origins(items []*item) []Origin {
	var out []Origin
	for _, it := range items {
		if !slices.Contains(out, it.rule.origin) {
			out = append(out, it.rule.origin)
		}
	}
	return out
}

// near finds the allows that lack only the peer or only the port.
func near(s *slot, matching []*item, q Question) []Near {
	var out []Near
	for _, it := range s.items {
		if it.rule.verdict == Deny || len(it.rule.peers) == 0 || it.rule == localhostRule {
			continue
		}
		n := Near{Origin: it.rule.origin}
		switch peer, port := slices.Contains(matching, it), it.hits(q.Protocol, q.Port); {
		case peer && !port:
			n.Missing = "port"
		case port && !peer:
			n.Missing = "peer"
		default:
			continue
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}
