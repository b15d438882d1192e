// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/label"
)

// nearMax is how many rules an answer names that would have allowed.
const nearMax = 5

// near finds the allows that a connection misses, those first that lack least.
func (x *Explainer) near(s *slot, own *Subject, p *peerFacts, q *Question, names map[string][]portName) []Near {
	type candidate struct {
		Near
		cost int
	}
	var list []candidate
	for _, r := range s.rules {
		if r.verdict == Deny || r.verdict == pass || len(r.peers) == 0 {
			continue
		}
		missing := x.peerMisses(r, p)
		port, far := portMisses(r, own, p, q, names)
		if port != "" {
			missing = append(missing, port)
		}
		if len(missing) == 0 {
			continue // a tier before it hands on to none that allows
		}
		cost := len(missing)
		if far {
			cost++
		}
		list = append(list, candidate{Near{Origin: r.origin, Missing: missing}, cost})
	}
	slices.SortStableFunc(list, func(a, b candidate) int { return a.cost - b.cost })
	var out []Near
	for _, c := range list[:min(len(list), nearMax)] {
		out = append(out, c.Near)
	}
	return out
}

// peerMisses says what the peer lacks to be one of the rule's: of the selectors
// the one that it comes closest to.
func (x *Explainer) peerMisses(r *rule, p *peerFacts) []string {
	var best []string
	for _, s := range r.peers {
		if p.known() && x.picks(s, p) || s.any {
			return nil
		}
		if m := x.selectorMisses(s, p); best == nil || len(m) < len(best) {
			best = m
		}
	}
	return best
}

func (x *Explainer) selectorMisses(s *selector, p *peerFacts) []string {
	switch {
	case p.stranger == StrangerUnresolved:
		if s.cluster {
			return nil
		}
		return []string{fmt.Sprintf("the labels of identity %d are not known here yet", p.identity)}
	case p.stranger == StrangerUnknown:
		return []string{fmt.Sprintf("nobody is known behind %s", x.nameOf(p))}
	case s.ranges != nil:
		return []string{x.rangeMisses(s, p)}
	}
	var best []string
	for _, t := range s.terms {
		if p.place != placePod && t.has(label.KeyCluster) {
			best = []string{x.outside(p)} // no label of it would help
			continue
		}
		if m := t.misses(p.labels); best == nil || len(m) < len(best) {
			best = m
		}
	}
	return best
}

func (x *Explainer) nameOf(p *peerFacts) string {
	if p.addr.IsValid() {
		return p.addr.String()
	}
	return fmt.Sprintf("identity %d", p.identity)
}

// outside says why a peer is no pod.
func (x *Explainer) outside(p *peerFacts) string {
	if p.place == placeNode {
		return x.nameOf(p) + " is a node, and the rule is for pods"
	}
	return x.nameOf(p) + " is outside the cluster, and the rule is for pods"
}

func (x *Explainer) rangeMisses(s *selector, p *peerFacts) string {
	var list []string
	for _, r := range s.ranges {
		list = append(list, r.prefix.String())
		if !p.addr.IsValid() || !r.prefix.Contains(p.addr) {
			continue
		}
		for _, e := range r.except {
			if e.Contains(p.addr) {
				return fmt.Sprintf("%s is excepted from %s by %s", p.addr, r.prefix, e)
			}
		}
		if !s.k8s && !x.placedByRange(p) {
			who := map[place]string{placePod: "a pod", placeNode: "a node"}[p.place]
			return fmt.Sprintf("%s is %s, and CIDR rules match only what is outside the cluster", p.addr, who)
		}
	}
	const shown = 3
	if n := len(list); n > shown {
		list = append(list[:shown], fmt.Sprintf("%d more", n-shown))
	}
	return fmt.Sprintf("%s is not in %s", x.nameOf(p), orList(list))
}

// misses says which requirements the labels do not meet.
func (t term) misses(set label.Set) []string {
	out := []string{}
	for i := range t {
		if !t[i].matches(set) {
			out = append(out, t[i].missing(set))
		}
	}
	return out
}

// missing says what is wrong with the labels, in a sentence.
func (r *requirement) missing(set label.Set) string {
	have, found := set.Get(r.source, r.key)
	what, name := "label ", r.key
	switch {
	case r.source == label.SourceReserved:
		return "the peer is not " + r.key
	case r.key == label.KeyNamespace:
		what, name = "", "namespace"
	case r.key == label.KeyCluster:
		what, name = "", "cluster"
	case r.key == label.KeyServiceAccount:
		what, name = "", "service account"
	default:
		if rest, ok := strings.CutPrefix(r.key, label.PrefixNamespaceKey); ok {
			what, name = "namespace label ", rest
		} else if r.source != label.SourceK8s && r.source != label.SourceAny {
			name = r.source + ":" + name
		}
	}
	switch {
	case r.op == opIn && found:
		return fmt.Sprintf("%s%s is %q, not %s", what, name, have, orList(quoted(r.values)))
	case r.op == opIn && len(r.values) == 1:
		return fmt.Sprintf("%s%s=%s is missing", what, name, r.values[0])
	case r.op == opNotIn, r.op == opNotExists:
		return fmt.Sprintf("%s%s=%s is excluded", what, name, have)
	}
	return fmt.Sprintf("%s%s is missing", what, name)
}

func quoted(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = fmt.Sprintf("%q", s)
	}
	return out
}

func orList(list []string) string {
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	return strings.Join(list[:len(list)-1], ", ") + " or " + list[len(list)-1]
}

// portMisses says why the rule does not speak of the port, "" if it does; far:
// not even of the protocol.
func portMisses(r *rule, own *Subject, p *peerFacts, q *Question, names map[string][]portName) (text string, far bool) {
	if r.ports == nil {
		return "", false
	}
	var ports, others, unnamed []string
	for _, want := range r.ports {
		numbers := []portRange{want}
		if want.name != "" {
			numbers = namedNumbers(r, want, own, p, names)
			if len(numbers) == 0 {
				unnamed = append(unnamed, fmt.Sprintf("%q", want.name))
				continue
			}
		}
		for _, n := range numbers {
			switch {
			case n.hits(q.Protocol, q.Port):
				return "", false
			case n.protocol == q.Protocol || n.protocol == 0:
				ports = append(ports, n.text(want.name))
			default:
				others = append(others, protocolWord(n.protocol))
			}
		}
	}
	switch {
	case len(ports) > 0 && q.Port < 0:
		return "the port is not known, and the rule is for " + orList(compact(ports)), false
	case len(ports) > 0 && (q.Protocol == protoICMP || q.Protocol == protoICMPv6):
		return fmt.Sprintf("ICMP type %d is not %s", q.Port, orList(compact(ports))), false
	case len(ports) > 0:
		return fmt.Sprintf("port %d is not %s", q.Port, orList(compact(ports))), false
	case len(others) > 0:
		return fmt.Sprintf("protocol %s is not %s", protocolWord(q.Protocol), orList(compact(others))), true
	case len(unnamed) > 0 && r.direction == Ingress:
		return "the pod has no port named " + orList(compact(unnamed)), false
	case len(unnamed) > 0:
		return "the peer has no port named " + orList(compact(unnamed)), false
	}
	return "the rule names no port", false
}

// namedNumbers are the numbers that a named port of a rule stands for here.
func namedNumbers(r *rule, want portRange, own *Subject, p *peerFacts, names map[string][]portName) []portRange {
	if r.direction == Ingress {
		return ownNumbers(want, own.Ports)
	}
	if r.looseNames && p.place != placePod && p.known() {
		var all []endpoint.Port
		for _, list := range names {
			for _, n := range list {
				all = append(all, endpoint.Port{Name: n.name, Number: n.number, Protocol: n.protocol})
			}
		}
		return ownNumbers(want, all)
	}
	return ownNumbers(want, p.ports)
}

func compact(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	const shown = 4
	if n := len(out); n > shown {
		out = append(out[:shown], fmt.Sprintf("%d more", n-shown))
	}
	return out
}

// text names the ports, with the name that stands for them.
func (p portRange) text(name string) string {
	s := fmt.Sprintf("%d-%d", p.first, p.last)
	switch {
	case p.all:
		s = "any"
	case p.first == p.last:
		s = fmt.Sprint(p.first)
	}
	if name != "" {
		s += " (" + name + ")"
	}
	return s
}

// protocolWord names a protocol.
func protocolWord(n uint8) string {
	switch n {
	case protoTCP:
		return "TCP"
	case protoUDP:
		return "UDP"
	case protoSCTP:
		return "SCTP"
	case protoICMP:
		return "ICMP"
	case protoICMPv6:
		return "ICMPv6"
	}
	return fmt.Sprint(n)
}
