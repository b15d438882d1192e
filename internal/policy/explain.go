// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/endpoint"
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
	verb := map[Verdict]string{Allow: "allowed", Deny: "denied", Redirect: "redirected to the proxy"}[a.Verdict]
	switch {
	case len(a.Deciding) > 0:
		return verb + " by " + names(a.Deciding)
	case a.Closed:
		return "denied: there is no slot left for the endpoint's policy"
	case a.Verdict == Deny && len(a.Default) > 0:
		return "denied by default, because of " + names(a.Default)
	case a.Verdict == Deny:
		return "denied by default, because enable-policy is always"
	}
	return "allowed: no policy denies it"
}

// Explainer answers questions about what one change decided: the endpoints and
// their rules are those of then, who the peer is is asked of the engine as it is
// when the question comes. It may be used by several at once.
type Explainer struct {
	opts      Options
	engine    *Engine
	endpoints map[uint16]*explained
	names     map[string][]portName
}

// explained is what was decided about an endpoint.
type explained struct {
	ports     []endpoint.Port
	selected  []selection
	enforcing [2]bool // by Direction
	closed    [2]bool
}

func (w *explained) rules(d Direction) (out []*rule) {
	for i := range w.selected {
		out = append(out, w.selected[i].rules[d]...)
	}
	return out
}

// Explain answers a question. Its verdict is that of the cells.
func (x *Explainer) Explain(q Question) (Answer, error) {
	w, ok := x.endpoints[q.Endpoint]
	if !ok {
		return Answer{}, fmt.Errorf("endpoint %d is unknown", q.Endpoint)
	}
	out, peer := x.engine.whoIs(q)
	if w.closed[q.Direction] {
		out.Closed = true
		return out, nil
	}
	if !w.enforcing[q.Direction] {
		out.Verdict = Allow
		return out, nil
	}
	s := x.ownSlot(w, q.Direction)
	var items []*item
	if out.Known {
		items = s.matching(func(k string) bool { return peer.has[k] })
	} else {
		items = s.pessimistic(peer.cluster)
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

// ownSlot is the slot of an endpoint, with the names of its own rules: one that
// it shares may have rules of equal content from elsewhere.
func (x *Explainer) ownSlot(w *explained, d Direction) *slot {
	s, _ := newSlot(&x.opts, x.names, d, w.rules(d), w.ports)
	s.fill(&x.opts, x.names, w.ports)
	return s
}

// found is what the engine knows about a peer: the selectors in use that match it.
type found struct {
	has     map[string]bool // by key
	cluster bool            // not known, but some pod of the cluster
}

// whoIs finds out who a peer is.
func (e *Engine) whoIs(q Question) (Answer, found) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	out := Answer{PeerIdentity: q.Identity}
	p := e.unknown
	if q.Peer.IsValid() {
		if prefix, a, ok := e.addr.rows.Lookup(q.Peer); ok {
			out.PeerPrefix, out.PeerIdentity, p = prefix, a.Identity, a.peer
		}
	} else if i := e.ids.byID[q.Identity]; i != nil && i.named != nil {
		p = i.named
	} else if q.Identity.Scope() == identity.ScopeCluster {
		p = e.unresolved
	}
	out.Known = p.identity != nil
	f := found{cluster: p == e.unresolved, has: map[string]bool{}}
	for _, uses := range [][]int32{p.group.base.uses, p.extra.uses} {
		for _, id := range uses {
			f.has[e.uses[id].sel.key] = true
		}
	}
	return out, f
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
