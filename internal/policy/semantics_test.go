// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	npa "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// evaluator is a second opinion about the whole language: it reads the API
// objects as the documents describe them, one connection at a time, and shares
// nothing with the parser, the selectors or the fold. It has an answer only
// about peers whose labels are known.
type evaluator struct {
	opts Options
	in   *Input
}

// party is the other end of a connection.
type party struct {
	addr   netip.Addr
	labels label.Set
	ports  []endpoint.Port
	place  string // world, node or pod
}

// statement is what one rule says about the connection.
type statement struct {
	tier     int // 0 Admin, 1 Normal, 2 Baseline
	order    int // within Admin and Baseline, lower first
	verdict  string
	isolates bool // default deny
	audit    bool
	matches  bool
}

// judge gives the verdict; false where the labels of the peer are not known.
func (v *evaluator) judge(s *Subject, d Direction, addr netip.Addr, protocol uint8, port int) (Verdict, bool) {
	p, known := v.party(addr)
	if !known {
		return Deny, false
	}
	if v.opts.Enforcement == EnforceNever {
		return Allow, true
	}
	q := &query{v: v, s: s, d: d, p: p, protocol: protocol, port: port}
	var all []statement
	for i := range v.in.Objects {
		all = append(all, q.object(&v.in.Objects[i])...)
	}
	if len(all) == 0 && v.opts.Enforcement != EnforceAlways {
		return Allow, true
	}
	if d == Ingress && v.opts.AllowLocalhost != LocalhostPolicy && hasReserved(p.labels, "host") {
		all = append(all, statement{tier: 1, verdict: "allow", matches: true})
	}
	audit := v.opts.Audit || s.Audit
	switch v.decide(all, false, audit) {
	case "allow":
		return Allow, true
	case "redirect":
		return Redirect, true
	}
	switch v.decide(all, true, audit) {
	case "deny":
		return Deny, true
	case "redirect":
		return Redirect, true
	}
	return Audit, true
}

// decide resolves statements; lenient: what is audited denies nothing.
func (v *evaluator) decide(all []statement, lenient, audit bool) string {
	forgiven := func(s statement) bool { return lenient && (audit || s.audit) }
	ordered := func(tier int) string {
		best := -1
		for i, s := range all {
			if s.tier != tier || !s.matches || s.verdict == "deny" && forgiven(s) {
				continue
			}
			severity := map[string]int{"deny": 0, "allow": 1, "pass": 2}
			if best < 0 || s.order < all[best].order || s.order == all[best].order && severity[s.verdict] < severity[all[best].verdict] {
				best = i
			}
		}
		if best < 0 || all[best].verdict == "pass" {
			return ""
		}
		return all[best].verdict
	}
	if a := ordered(0); a != "" {
		return a
	}
	isolated, said := false, map[string]bool{}
	for _, s := range all {
		if s.tier != 1 {
			continue
		}
		isolated = isolated || s.isolates && !forgiven(s)
		if s.matches && !(s.verdict == "deny" && forgiven(s)) {
			said[s.verdict] = true
		}
	}
	for _, word := range []string{"deny", "redirect", "allow"} {
		if said[word] {
			return word
		}
	}
	if isolated {
		return "deny"
	}
	if b := ordered(2); b != "" {
		return b
	}
	if v.opts.Enforcement == EnforceAlways && !(lenient && audit) {
		return "deny"
	}
	return "allow"
}

func (v *evaluator) party(addr netip.Addr) (party, bool) {
	p := party{addr: addr, ports: v.in.Ports[addr]}
	id, best := identity.WorldIPv4, 0
	if addr.Is6() {
		id = identity.WorldIPv6
	}
	for _, a := range v.in.Addresses {
		if a.Prefix.Contains(addr) && a.Prefix.Bits() > best {
			id, best = a.Identity, a.Prefix.Bits()
		}
	}
	for _, s := range v.in.Subjects {
		if s.IPv4.Prefix.IsValid() && s.IPv4.Prefix.Addr() == addr || s.IPv6.Prefix.IsValid() && s.IPv6.Prefix.Addr() == addr {
			p.ports = s.Ports
		}
	}
	var known bool
	if p.labels, known = v.in.Identities[id]; !known {
		p.labels, known = identity.Reserved()[id]
	}
	switch {
	case hasReserved(p.labels, "world", "world-ipv4", "world-ipv6"):
		p.place = "world"
	case hasReserved(p.labels, "host", "remote-node", "kube-apiserver", "ingress", "health"):
		p.place = "node"
	default:
		p.place = "pod"
	}
	return p, known && id != identity.Unknown
}

func hasReserved(set label.Set, names ...string) bool {
	for _, l := range set {
		if l.Source == "reserved" && slices.Contains(names, l.Key) {
			return true
		}
	}
	return false
}

// query is one connection, asked of every object.
type query struct {
	v        *evaluator
	s        *Subject
	d        Direction
	p        party
	protocol uint8
	port     int
}

func (q *query) object(o *Object) []statement {
	var out []statement
	switch spec := o.Spec.(type) {
	case *networkingv1.NetworkPolicy:
		out = q.networkPolicy(o.Namespace, &spec.Spec)
	case *ciliumv2.CiliumNetworkPolicy:
		out = q.cilium(o.Namespace, spec.Spec, spec.Specs)
	case *ciliumv2.CiliumClusterwideNetworkPolicy:
		out = q.cilium("", spec.Spec, spec.Specs)
	case *npa.ClusterNetworkPolicy:
		out = q.cluster(&spec.Spec)
	}
	for i := range out {
		out[i].audit = o.Audit
	}
	return out
}

// labelIs tells whether one condition on labels holds. sources that count are
// those for which from is true.
func labelIs(set label.Set, from func(string) bool, key string, op metav1.LabelSelectorOperator, values []string) bool {
	var have []string
	for _, l := range set {
		if l.Key == key && from(l.Source) {
			have = append(have, l.Value)
		}
	}
	any := slices.ContainsFunc(have, func(h string) bool { return slices.Contains(values, h) })
	switch op {
	case metav1.LabelSelectorOpIn:
		return any
	case metav1.LabelSelectorOpNotIn:
		return !any
	case metav1.LabelSelectorOpExists:
		return len(have) > 0
	}
	return len(have) == 0
}

// only is one source of labels.
func only(source string) func(string) bool { return func(s string) bool { return s == source } }

// k8sMatches matches a Kubernetes selector against labels of a source whose
// keys begin with a prefix.
func k8sMatches(s *metav1.LabelSelector, set label.Set, source, prefix string) bool {
	for k, want := range s.MatchLabels {
		if !labelIs(set, only(source), prefix+k, metav1.LabelSelectorOpIn, []string{want}) {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		if !labelIs(set, only(source), prefix+e.Key, e.Operator, e.Values) {
			return false
		}
	}
	return true
}

const namespacePrefix = "io.cilium.k8s.namespace.labels."

// inNamespace tells whether labels are those of a pod of a namespace; "": of any.
func inNamespace(set label.Set, namespace string) bool {
	have, ok := set.Get("k8s", "io.kubernetes.pod.namespace")
	return ok && (namespace == "" || have == namespace)
}

func (q *query) ownCluster(set label.Set) bool {
	have, ok := set.Get("k8s", "io.cilium.k8s.policy.cluster")
	return ok && have == q.v.opts.Cluster
}

func (q *query) networkPolicy(namespace string, spec *networkingv1.NetworkPolicySpec) []statement {
	if !inNamespace(q.s.Labels, namespace) || !k8sMatches(&spec.PodSelector, q.s.Labels, "k8s", "") {
		return nil
	}
	types := spec.PolicyTypes
	if types == nil {
		types = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(spec.Egress) > 0 {
			types = append(types, networkingv1.PolicyTypeEgress)
		}
	}
	mine := networkingv1.PolicyTypeIngress
	if q.d == Egress {
		mine = networkingv1.PolicyTypeEgress
	}
	if !slices.Contains(types, mine) {
		return nil
	}
	out := []statement{{tier: 1, isolates: true}}
	say := func(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
		match := (len(peers) == 0 || slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool { return q.plainPeer(namespace, &p) })) &&
			(len(ports) == 0 || slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool { return q.plainPort(&p) }))
		out = append(out, statement{tier: 1, verdict: "allow", isolates: true, matches: match})
	}
	if q.d == Ingress {
		for _, r := range spec.Ingress {
			say(r.From, r.Ports)
		}
	} else {
		for _, r := range spec.Egress {
			say(r.To, r.Ports)
		}
	}
	return out
}

func (q *query) plainPeer(namespace string, p *networkingv1.NetworkPolicyPeer) bool {
	if p.IPBlock != nil {
		return q.within(p.IPBlock.CIDR, p.IPBlock.Except)
	}
	if !q.ownCluster(q.p.labels) {
		return false
	}
	if p.NamespaceSelector == nil {
		if !inNamespace(q.p.labels, namespace) {
			return false
		}
	} else if !inNamespace(q.p.labels, "") || !k8sMatches(p.NamespaceSelector, q.p.labels, "k8s", namespacePrefix) {
		return false
	}
	return p.PodSelector == nil || k8sMatches(p.PodSelector, q.p.labels, "k8s", "")
}

// within tells whether the peer's address is in a prefix and in no exception.
func (q *query) within(cidr string, except []string) bool {
	if !netip.MustParsePrefix(cidr).Contains(q.p.addr) {
		return false
	}
	return !slices.ContainsFunc(except, func(x string) bool { return netip.MustParsePrefix(x).Contains(q.p.addr) })
}

func (q *query) plainPort(p *networkingv1.NetworkPolicyPort) bool {
	protocol := "TCP"
	if p.Protocol != nil {
		protocol = string(*p.Protocol)
	}
	switch {
	case p.Port == nil:
		return q.speaks(protocol)
	case p.Port.StrVal != "":
		return q.named(p.Port.StrVal, protocol, false)
	}
	last := p.Port.IntVal
	if p.EndPort != nil {
		last = *p.EndPort
	}
	return q.speaks(protocol) && q.port >= int(p.Port.IntVal) && q.port <= int(last)
}

// speaks tells whether the connection has the protocol; ANY has three.
func (q *query) speaks(protocol string) bool {
	numbers := map[string][]uint8{"TCP": {6}, "UDP": {17}, "SCTP": {132}, "ANY": {6, 17, 132}, "": {6, 17, 132}}
	return slices.Contains(numbers[protocol], q.protocol)
}

// named tells whether the connection's port has a name: the subject's own for
// ingress, the peer's for egress. loose: peers that are not pods have all names.
func (q *query) named(name, protocol string, loose bool) bool {
	lists := [][]endpoint.Port{q.s.Ports}
	if q.d == Egress {
		lists = [][]endpoint.Port{q.p.ports}
		if loose && q.p.place != "pod" {
			for _, l := range q.v.in.Ports {
				lists = append(lists, l)
			}
			for _, s := range q.v.in.Subjects {
				lists = append(lists, s.Ports)
			}
		}
	}
	for _, l := range lists {
		for _, have := range l {
			if strings.EqualFold(have.Name, name) && have.Protocol == q.protocol && int(have.Number) == q.port && q.speaks(protocol) {
				return true
			}
		}
	}
	return false
}

func (q *query) cluster(spec *npa.ClusterNetworkPolicySpec) []statement {
	if !q.pods(q.s.Labels, spec.Subject.Namespaces, spec.Subject.Pods) {
		return nil
	}
	tier := 0
	if spec.Tier == npa.BaselineTier {
		tier = 2
	}
	var out []statement
	say := func(i int, action npa.ClusterNetworkPolicyRuleAction, peer bool, protocols []npa.ClusterNetworkPolicyProtocol) {
		word := map[npa.ClusterNetworkPolicyRuleAction]string{"Accept": "allow", "Deny": "deny", "Pass": "pass"}[action]
		match := peer && (protocols == nil || slices.ContainsFunc(protocols, func(p npa.ClusterNetworkPolicyProtocol) bool { return q.clusterPort(&p) }))
		out = append(out, statement{tier: tier, order: int(spec.Priority)*1000 + i, verdict: word, matches: match})
	}
	if q.d == Ingress {
		for i, r := range spec.Ingress {
			say(i, r.Action, slices.ContainsFunc(r.From, func(p npa.ClusterNetworkPolicyIngressPeer) bool { return q.pods(q.p.labels, p.Namespaces, p.Pods) }), r.Protocols)
		}
		return out
	}
	for i, r := range spec.Egress {
		unclear := !q.v.opts.NodeLabels && slices.ContainsFunc(r.To, func(p npa.ClusterNetworkPolicyEgressPeer) bool { return p.Nodes != nil })
		if unclear && r.Action != "Accept" { // what is not carried out denies everything
			say(i, "Deny", true, nil)
			continue
		}
		say(i, r.Action, slices.ContainsFunc(r.To, func(p npa.ClusterNetworkPolicyEgressPeer) bool { return q.clusterPeer(&p) }), r.Protocols)
	}
	return out
}

func (q *query) pods(set label.Set, namespaces *metav1.LabelSelector, pods *npa.NamespacedPod) bool {
	if !inNamespace(set, "") || !q.ownCluster(set) {
		return false
	}
	if namespaces != nil {
		return k8sMatches(namespaces, set, "k8s", namespacePrefix)
	}
	return pods != nil && k8sMatches(&pods.NamespaceSelector, set, "k8s", namespacePrefix) && k8sMatches(&pods.PodSelector, set, "k8s", "")
}

func (q *query) clusterPeer(p *npa.ClusterNetworkPolicyEgressPeer) bool {
	switch {
	case p.Nodes != nil:
		return q.v.opts.NodeLabels && hasReserved(q.p.labels, "host", "remote-node") && k8sMatches(p.Nodes, q.p.labels, "node", "")
	case p.Networks != nil:
		return slices.ContainsFunc(p.Networks, func(c npa.CIDR) bool { return q.within(string(c), nil) })
	}
	return q.pods(q.p.labels, p.Namespaces, p.Pods)
}

func (q *query) clusterPort(p *npa.ClusterNetworkPolicyProtocol) bool {
	in := func(protocol string, port *npa.Port) bool {
		switch {
		case !q.speaks(protocol):
			return false
		case port == nil:
			return true
		case port.Range != nil:
			return q.port >= int(port.Range.Start) && q.port <= int(port.Range.End)
		}
		return q.port == int(port.Number)
	}
	switch {
	case p.TCP != nil:
		return in("TCP", p.TCP.DestinationPort)
	case p.UDP != nil:
		return in("UDP", p.UDP.DestinationPort)
	case p.SCTP != nil:
		return in("SCTP", p.SCTP.DestinationPort)
	}
	return q.named(p.DestinationNamedPort, "", false)
}
