// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// Question is about a connection between a subject of policy and a peer.
type Question struct {
	Endpoint  uint16   // of this node; ignored if Subject is set
	Subject   *Subject // somebody else that policy would judge for. Optional
	Direction Direction

	Peer       netip.Addr      // invalid: Identity or PeerLabels are asked about
	Identity   identity.ID     // of a peer whose address is not known
	PeerLabels label.Set       // of a peer that nobody may have seen yet. Optional
	PeerPorts  []endpoint.Port // its named ports
	Stranger   Stranger        // what the kernel took the peer for, if it did not know it

	Protocol uint8 // IANA number
	Port     int   // of the destination, host byte order; ICMP: type; -1: not known, as in a fragment
}

// Stranger says how the kernel sees a peer that it does not know.
type Stranger uint8

// Strangers.
const (
	NoStranger         Stranger = iota
	StrangerUnknown             // PeerUnknown
	StrangerUnresolved          // PeerUnresolved
)

// Answer says what becomes of a connection, and why.
type Answer struct {
	Verdict      Verdict
	Enforcing    bool // a policy or the mode limits the direction of the subject
	PeerIdentity identity.ID
	PeerLabels   label.Set
	PeerPrefix   netip.Prefix // row that says who the peer is
	Known        bool         // whether the peer's labels are known
	Closed       bool         // there was no slot left for the endpoint's policy
	// Deciding are the rules that allow or deny, if any does.
	Deciding []Origin
	// Matching are all rules that speak of this peer and this port, the
	// deciding ones among them.
	Matching []Match
	// Default are the rules that put the subject under default deny. If
	// nothing decides, they are why it is denied.
	Default []Origin
	// Near are rules that would have allowed, the nearest first, if nothing
	// decides and the connection is denied.
	Near []Near
}

// Match is a rule with what it says.
type Match struct {
	Origin  Origin
	Verdict string // allow, deny, redirect or pass
	Tier    string // admin, normal or baseline
}

// Near is an allow that does not apply.
type Near struct {
	Origin  Origin
	Missing []string // such as "label app=frontend is missing", "port 8080 is not 80"
}

// Word names a verdict.
func (v Verdict) Word() string {
	switch v {
	case Allow:
		return "allow"
	case Redirect:
		return "redirect"
	case Audit:
		return "audit"
	case pass:
		return "pass"
	}
	return "deny"
}

func tierName(tier uint8) string {
	switch {
	case tier <= tierAdmin:
		return "admin"
	case tier <= tierNormal:
		return "normal"
	}
	return "baseline"
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

// Ruling is the policy that one Update put in force. It never changes.
type Ruling struct {
	opts     Options
	rules    []*rule // in order of the objects' keys
	revision uint64
	closed   map[uint16][2]bool // endpoints that no slot was left for, by Direction
}

// Revision counts changes of the policy set.
func (r *Ruling) Revision() uint64 { return r.revision }

// Explainer answers questions, straight from the rules and from what is known
// about the peers: it knows nothing of cells and so is a second opinion about
// them. The rules are those of its Ruling; who is who is asked when the question
// comes. It may be used by several at once.
type Explainer struct {
	*Ruling
	facts facts
}

// Explain answers a question. Its verdict is that of the cells.
func (x *Explainer) Explain(q Question) (Answer, error) {
	s, err := x.subject(&q)
	if err != nil {
		return Answer{}, err
	}
	p := x.peerOf(&q)
	out := Answer{PeerIdentity: p.identity, PeerLabels: p.labels, PeerPrefix: p.row, Known: p.known()}
	if q.Subject == nil && x.closed[q.Endpoint][q.Direction] {
		out.Closed, out.Enforcing = true, true
		return out, nil
	}
	slot, names := x.slotOf(s, q.Direction, p.ports)
	if slot == nil {
		out.Verdict = Allow
		return out, nil
	}
	out.Enforcing = true
	var items []*item
	if p.known() {
		items = slot.matching(x.picked(slot, &p))
	} else {
		items = slot.pessimistic(p.stranger == StrangerUnresolved)
	}
	verdict, deciding := judge(items, slot.base, q.Protocol, q.Port)
	out.Verdict, out.Deciding = verdict, origins(deciding)
	out.Matching = matches(items, &q)
	for _, r := range slot.rules {
		if r.defaultDeny && !slices.Contains(out.Default, r.origin) {
			out.Default = append(out.Default, r.origin)
		}
	}
	if verdict == Deny && len(deciding) == 0 {
		out.Near = x.near(slot, s, &p, &q, names)
	}
	return out, nil
}

// Selecting names the objects that select a subject in a direction.
func (x *Explainer) Selecting(s *Subject, d Direction) []string {
	var out []string
	for _, r := range selecting(x.rules, s.Labels)[d] {
		if !slices.Contains(out, r.origin.Object) {
			out = append(out, r.origin.Object)
		}
	}
	return out
}

func (x *Explainer) subject(q *Question) (*Subject, error) {
	if q.Subject != nil {
		return q.Subject, nil
	}
	if s, ok := x.facts.subject(q.Endpoint); ok {
		return &s, nil
	}
	return nil, fmt.Errorf("endpoint %d is unknown", q.Endpoint)
}

// slotOf is the slot of a subject, with the names of its own rules: one that
// endpoints share may have rules of equal content from elsewhere. It is nil
// where nothing is enforced.
func (x *Explainer) slotOf(s *Subject, d Direction, peer []endpoint.Port) (*slot, map[string][]portName) {
	rules := selecting(x.rules, s.Labels)[d]
	var names map[string][]portName
	if d == Egress && slices.ContainsFunc(rules, (*rule).namesPorts) {
		names = withNames(x.facts.portNames(), peer)
	}
	slot, enforcing := newSlot(&x.opts, names, d, rules, s)
	if !enforcing {
		return nil, nil
	}
	slot.fill(&x.opts, names, s.Ports)
	return slot, names
}

// withNames adds the port names of a peer, which count also if it has no address.
func withNames(names map[string][]portName, ports []endpoint.Port) map[string][]portName {
	if len(ports) == 0 {
		return names
	}
	out := maps.Clone(names)
	if out == nil {
		out = map[string][]portName{}
	}
	for _, n := range portNames(ports) {
		if k := nameKey(n.name, n.protocol); !slices.Contains(out[k], n) {
			out[k] = append(slices.Clone(out[k]), n)
			slices.SortFunc(out[k], func(a, b portName) int { return int(a.number) - int(b.number) })
		}
	}
	return out
}

// selecting are the rules, by direction, that select labels.
func selecting(rules []*rule, labels label.Set) (out [2][]*rule) {
	known := map[*selector]bool{}
	for _, r := range rules {
		hit, ok := known[r.subject]
		if !ok {
			hit = r.subject.matches(labels)
			known[r.subject] = hit
		}
		if hit {
			out[r.direction] = append(out[r.direction], r)
		}
	}
	return out
}

func (r *rule) namesPorts() bool {
	return slices.ContainsFunc(r.ports, func(p portRange) bool { return p.name != "" })
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

func matches(items []*item, q *Question) []Match {
	var out []Match
	for _, it := range items {
		m := Match{Origin: it.rule.origin, Verdict: it.rule.verdict.Word(), Tier: tierName(it.rule.tier)}
		if it.hits(q.Protocol, q.Port) && !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}

// With is the explainer that holds if the objects were stored: each takes the
// place of the one with its key, if there is one.
func (x *Explainer) With(objects []Object) (*Explainer, []ObjectStatus) {
	next := *x
	r := *x.Ruling
	next.Ruling, r.rules, r.closed = &r, nil, nil
	fresh := map[string]bool{}
	var status []ObjectStatus
	for _, o := range objects {
		key := o.Key()
		fresh[key] = true
		c := cached{object: o, parsed: parse(o, &x.opts, x.facts.references())}
		status = append(status, c.status(key))
		r.rules = append(r.rules, c.parsed.rules...)
	}
	for _, old := range x.rules {
		if !fresh[old.origin.Object] {
			r.rules = append(r.rules, old)
		}
	}
	slices.SortStableFunc(r.rules, func(a, b *rule) int { return strings.Compare(a.origin.Object, b.origin.Object) })
	return &next, status
}

// Under is the explainer with the policy of another moment.
func (x *Explainer) Under(r *Ruling) *Explainer {
	next := *x
	next.Ruling = r
	return &next
}

// NewExplainer judges input that no engine has seen.
func NewExplainer(opts Options, in *Input) (*Explainer, []ObjectStatus, error) {
	opts.setDefaults()
	if err := opts.validate(); err != nil {
		return nil, nil, err
	}
	empty := &Explainer{Ruling: &Ruling{opts: opts}, facts: &inputFacts{opts: &opts, in: in}}
	x, status := empty.With(in.Objects)
	return x, status, nil
}

// Same tells whether two rulings say the same about every packet. Revisions
// count within one agent, and the rules of one revision are the same.
func (r *Ruling) Same(o *Ruling) bool { return r.revision == o.revision && r.opts == o.opts }
