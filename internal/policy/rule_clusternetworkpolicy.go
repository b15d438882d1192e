// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	npa "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/stentor-net/stentor/internal/label"
)

// clusterParser turns one ClusterNetworkPolicy into rules. Its rules stand in
// an order: the first that speaks of a connection decides, within its tier.
type clusterParser struct {
	out    *parsed
	opts   *Options
	object string
	base   rule
}

// maxOrdered is how many rules of a direction have a place in the order.
const maxOrdered = 1 << 16

func parseClusterPolicy(o *Object, opts *Options, spec *npa.ClusterNetworkPolicySpec) parsed {
	out := parsed{audit: o.Audit}
	p := &clusterParser{out: &out, opts: opts, object: o.Key()}
	if err := p.policy(spec); err != nil {
		return parsed{err: err}
	}
	return out
}

func (p *clusterParser) policy(spec *npa.ClusterNetworkPolicySpec) error {
	switch spec.Tier {
	case npa.AdminTier:
		p.base.tier = tierAdmin
	case npa.BaselineTier:
		p.base.tier = tierBaseline
	default:
		return fmt.Errorf("spec.tier: %q is neither Admin nor Baseline", spec.Tier)
	}
	if spec.Priority < 0 || spec.Priority > 1000 {
		return fmt.Errorf("spec.priority: %d is not within 0..1000", spec.Priority)
	}
	p.base.priority = uint32(spec.Priority) << 16
	subject, err := p.pods("spec.subject", spec.Subject.Namespaces, spec.Subject.Pods)
	if err != nil {
		return err
	}
	if subject == nil {
		return errors.New("spec.subject: exactly one of namespaces and pods is required")
	}
	p.base.subject = labelSelector(subject)
	if len(spec.Ingress) > maxOrdered || len(spec.Egress) > maxOrdered {
		return fmt.Errorf("spec: more than %d rules", maxOrdered)
	}
	for i := range spec.Ingress {
		in := &spec.Ingress[i]
		r := clusterRule{path: fmt.Sprintf("spec.ingress[%d]", i), index: i, direction: Ingress, action: in.Action, protocols: in.Protocols, list: "from", peers: len(in.From)}
		for j := range in.From {
			r.picks(p.ingressPeer(fmt.Sprintf("%s.from[%d]", r.path, j), &in.From[j]))
		}
		if err := p.rule(&r); err != nil {
			return err
		}
	}
	for i := range spec.Egress {
		in := &spec.Egress[i]
		r := clusterRule{path: fmt.Sprintf("spec.egress[%d]", i), index: i, direction: Egress, action: in.Action, protocols: in.Protocols, list: "to", peers: len(in.To)}
		for j := range in.To {
			r.nameless = r.nameless || in.To[j].Nodes != nil || in.To[j].Networks != nil || in.To[j].DomainNames != nil
			r.picks(p.egressPeer(fmt.Sprintf("%s.to[%d]", r.path, j), in.Action, &in.To[j]))
		}
		if err := p.rule(&r); err != nil {
			return err
		}
	}
	return nil
}

// clusterRule is a rule of either direction.
type clusterRule struct {
	path      string
	index     int
	direction Direction
	action    npa.ClusterNetworkPolicyRuleAction
	protocols []npa.ClusterNetworkPolicyProtocol
	list      string // how its list of peers is called
	peers     int    // how many it names

	picked   []*selector
	unclear  bool // a part is not carried out, or comes from a later version of the API
	nameless bool // a peer has no port names
	err      error
}

// picks takes over what a peer means; nothing and no error: it is not clear.
func (r *clusterRule) picks(s *selector, err error) {
	if r.err == nil {
		r.err = err
	}
	if s == nil {
		r.unclear = true
		return
	}
	r.picked = append(r.picked, s)
}

// rule adds a rule. What is not clear accepts nothing, and makes a deny or a
// pass a deny of everything.
func (p *clusterParser) rule(in *clusterRule) error {
	r := p.base
	r.origin, r.direction, r.peers = Origin{p.object, in.path}, in.direction, in.picked
	r.priority |= uint32(in.index)
	switch {
	case in.err != nil:
		return in.err
	case in.peers == 0:
		return fmt.Errorf("%s.%s: at least one peer is required", in.path, in.list)
	}
	var err error
	if r.ports, err = p.protocols(in); err != nil {
		return err
	}
	switch in.action {
	case npa.ClusterNetworkPolicyRuleActionAccept:
		r.verdict = Allow
		if in.protocols != nil && len(r.ports) == 0 {
			r.peers = nil
		}
		p.out.add(&r)
		return nil
	case npa.ClusterNetworkPolicyRuleActionDeny:
		r.verdict = Deny
	case npa.ClusterNetworkPolicyRuleActionPass:
		r.verdict = pass
	default:
		return fmt.Errorf("%s.action: %q is none of Accept, Deny and Pass", in.path, in.action)
	}
	if in.unclear {
		r.verdict, r.peers, r.ports = Deny, []*selector{anyPeer}, nil
	}
	p.out.add(&r)
	return nil
}

func (p *clusterParser) ingressPeer(at string, in *npa.ClusterNetworkPolicyIngressPeer) (*selector, error) {
	t, err := p.pods(at, in.Namespaces, in.Pods)
	if err != nil || t != nil {
		return labelSelector(t), err
	}
	p.out.note("%s: its only field is not known", at)
	return nil, nil
}

func (p *clusterParser) egressPeer(at string, action npa.ClusterNetworkPolicyRuleAction, in *npa.ClusterNetworkPolicyEgressPeer) (*selector, error) {
	given := 0
	for _, have := range []bool{in.Namespaces != nil, in.Pods != nil, in.Nodes != nil, in.Networks != nil, in.DomainNames != nil} {
		if have {
			given++
		}
	}
	if given > 1 {
		return nil, fmt.Errorf("%s: its fields exclude each other", at)
	}
	switch {
	case in.Nodes != nil:
		t, err := k8sTerm(at+".nodes", in.Nodes, "")
		if err != nil || !p.opts.NodeLabels {
			p.out.note("%s.nodes", at)
			p.out.remark("%s.nodes: needs the option enable-node-selector-labels", at)
			return nil, err
		}
		for i := range t {
			t[i].source = label.SourceNode
		}
		return nodeSelector(t), nil
	case in.Networks != nil:
		return networks(at+".networks", in.Networks)
	case in.DomainNames != nil:
		if action != npa.ClusterNetworkPolicyRuleActionAccept {
			return nil, fmt.Errorf("%s.domainNames: only rules that accept can name domains", at)
		}
		p.out.note("%s.domainNames", at)
		return nil, nil
	}
	t, err := p.pods(at, in.Namespaces, in.Pods)
	if err != nil || t != nil {
		return labelSelector(t), err
	}
	p.out.note("%s: its only field is not known", at)
	return nil, nil
}

// networks are prefixes, whoever is in them: pods and nodes, too.
func networks(at string, list []npa.CIDR) (*selector, error) {
	var ranges []cidrRange
	for i, text := range list {
		prefix, err := netip.ParsePrefix(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %q is no prefix", at, i, text)
		}
		ranges = append(ranges, cidrRange{prefix: prefix.Masked()})
	}
	if len(ranges) == 0 {
		return nil, fmt.Errorf("%s: at least one prefix is required", at)
	}
	return rangeSelector(ranges, true), nil
}

// pods are the pods of namespaces, or some of them; nil if neither is given.
func (p *clusterParser) pods(at string, namespaces *metav1.LabelSelector, pods *npa.NamespacedPod) (term, error) {
	var t term
	switch {
	case namespaces == nil && pods == nil:
		return nil, nil
	case namespaces != nil && pods != nil:
		return nil, fmt.Errorf("%s: namespaces and pods exclude each other", at)
	case pods != nil:
		own, err := k8sTerm(at+".pods.podSelector", &pods.PodSelector, "")
		if err != nil {
			return nil, err
		}
		t, namespaces, at = own, &pods.NamespaceSelector, at+".pods.namespaceSelector"
	default:
		at += ".namespaces"
	}
	names, err := k8sTerm(at, namespaces, label.PrefixNamespaceKey)
	if err != nil {
		return nil, err
	}
	t = append(t, names...)
	t = append(t, requirement{source: label.SourceK8s, key: label.KeyNamespace, op: opExists})
	return append(t, k8sIs(label.KeyCluster, p.opts.Cluster)), nil
}

// protocols are the ports of a rule; nil is everything.
func (p *clusterParser) protocols(in *clusterRule) ([]portRange, error) {
	if in.protocols != nil && len(in.protocols) == 0 {
		return nil, fmt.Errorf("%s.protocols: at least one is required", in.path)
	}
	var out []portRange
	for i := range in.protocols {
		at := fmt.Sprintf("%s.protocols[%d]", in.path, i)
		r, err := clusterPort(&in.protocols[i])
		switch {
		case errors.Is(err, errNoProtocol):
			p.out.note("%s: its only field is not known", at)
			in.unclear = true
			continue
		case err != nil:
			return nil, fmt.Errorf("%s: %w", at, err)
		case r.name != "" && in.nameless:
			return nil, fmt.Errorf("%s.destinationNamedPort: nodes, networks and domains have no named ports", at)
		}
		out = append(out, r)
	}
	return out, nil
}

// errNoProtocol says that an element has no field that is known.
var errNoProtocol = errors.New("none of tcp, udp, sctp and destinationNamedPort is given")

func clusterPort(in *npa.ClusterNetworkPolicyProtocol) (portRange, error) {
	var ports []*npa.Port
	var r portRange
	if in.TCP != nil {
		ports, r.protocol = append(ports, in.TCP.DestinationPort), protoTCP
	}
	if in.UDP != nil {
		ports, r.protocol = append(ports, in.UDP.DestinationPort), protoUDP
	}
	if in.SCTP != nil {
		ports, r.protocol = append(ports, in.SCTP.DestinationPort), protoSCTP
	}
	switch named := in.DestinationNamedPort != ""; {
	case len(ports) > 1 || len(ports) == 1 && named:
		return r, errors.New("tcp, udp, sctp and destinationNamedPort exclude each other")
	case named:
		r.name = strings.ToLower(in.DestinationNamedPort)
		return r, nil
	case len(ports) == 0:
		return r, errNoProtocol
	}
	port := ports[0]
	switch {
	case port == nil:
		r.all = true
		return r, nil
	case port.Number != 0 && port.Range != nil:
		return r, errors.New("destinationPort: number and range exclude each other")
	case port.Range != nil:
		return r, r.setNumbers(int64(port.Range.Start), &port.Range.End)
	}
	return r, r.setNumbers(int64(port.Number), nil)
}
