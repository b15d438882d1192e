// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"strings"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// cnpParser turns the rules of one CiliumNetworkPolicy, or of a clusterwide one, into ours.
type cnpParser struct {
	out       *parsed
	object    string
	namespace string // empty: clusterwide
	opts      *Options
	refs      *References
	subject   *selector
	deny      [2]bool // default deny by direction
	denying   bool    // the section at hand denies
}

// parseCilium understands the rules of both kinds; namespace is empty for the clusterwide one.
func parseCilium(o *Object, namespace string, opts *Options, refs *References, spec *ciliumv2.Rule, specs []ciliumv2.Rule) parsed {
	if spec == nil && len(specs) == 0 {
		return parsed{err: ErrNoRule}
	}
	out := parsed{audit: o.Audit}
	one := func(path string, in *ciliumv2.Rule) error {
		p := &cnpParser{out: &out, object: o.Key(), namespace: namespace, opts: opts, refs: refs}
		return p.rule(path, in)
	}
	if spec != nil {
		if err := one("spec", spec); err != nil {
			return parsed{err: err}
		}
	}
	for i := range specs {
		if err := one(fmt.Sprintf("specs[%d]", i), &specs[i]); err != nil {
			return parsed{err: err}
		}
	}
	return out
}

func (p *cnpParser) rule(path string, in *ciliumv2.Rule) error {
	switch {
	case in.EndpointSelector == nil && in.NodeSelector == nil:
		return fmt.Errorf("%s: one of endpointSelector and nodeSelector is required", path)
	case in.EndpointSelector != nil && in.NodeSelector != nil:
		return fmt.Errorf("%s: endpointSelector and nodeSelector exclude each other", path)
	case in.NodeSelector != nil && p.namespace != "":
		return fmt.Errorf("%s.nodeSelector: only clusterwide policies select nodes", path)
	}
	if in.NodeSelector != nil {
		if _, err := selectorTerm(path+".nodeSelector", in.NodeSelector); err != nil {
			return err
		}
		p.out.remark("%s.nodeSelector: stored; enforced with the host firewall later", path)
		p.subject = labelSelector() // no endpoint; the rest of the rule is checked
	} else {
		t, err := selectorTerm(path+".endpointSelector", in.EndpointSelector)
		if err != nil {
			return err
		}
		p.subject = labelSelector(p.scopeSubject(t))
	}
	p.deny[Ingress] = len(in.Ingress)+len(in.IngressDeny) > 0
	p.deny[Egress] = len(in.Egress)+len(in.EgressDeny) > 0
	if d := in.EnableDefaultDeny; d != nil {
		if d.Ingress != nil {
			p.deny[Ingress] = *d.Ingress
		}
		if d.Egress != nil {
			p.deny[Egress] = *d.Egress
		}
	}
	return p.sections(path, in)
}

func (p *cnpParser) sections(path string, in *ciliumv2.Rule) error {
	for i := range in.Ingress {
		r := &in.Ingress[i]
		s := section{direction: Ingress, verdict: Allow, ports: r.ToPorts, icmps: r.ICMPs, auth: r.Authentication, path: fmt.Sprintf("%s.ingress[%d]", path, i)}
		s.from(&r.IngressPeers)
		if err := p.section(&s); err != nil {
			return err
		}
	}
	for i := range in.IngressDeny {
		r := &in.IngressDeny[i]
		s := section{direction: Ingress, verdict: Deny, ports: denyPorts(r.ToPorts), icmps: r.ICMPs, path: fmt.Sprintf("%s.ingressDeny[%d]", path, i)}
		s.from(&r.IngressPeers)
		if err := p.section(&s); err != nil {
			return err
		}
	}
	for i := range in.Egress {
		r := &in.Egress[i]
		s := section{direction: Egress, verdict: Allow, ports: r.ToPorts, icmps: r.ICMPs, auth: r.Authentication, fqdns: r.ToFQDNs, path: fmt.Sprintf("%s.egress[%d]", path, i)}
		s.to(&r.EgressPeers)
		if err := p.section(&s); err != nil {
			return err
		}
	}
	for i := range in.EgressDeny {
		r := &in.EgressDeny[i]
		s := section{direction: Egress, verdict: Deny, ports: denyPorts(r.ToPorts), icmps: r.ICMPs, path: fmt.Sprintf("%s.egressDeny[%d]", path, i)}
		s.to(&r.EgressPeers)
		if err := p.section(&s); err != nil {
			return err
		}
	}
	return nil
}

// section is one rule of any of the four sections.
type section struct {
	path      string
	direction Direction
	verdict   Verdict

	endpoints []ciliumv2.EndpointSelector
	requires  []ciliumv2.EndpointSelector
	cidrs     []ciliumv2.CIDR
	cidrSets  []ciliumv2.CIDRRule
	entities  []ciliumv2.Entity
	services  []ciliumv2.Service
	groups    []ciliumv2.Groups
	nodes     []ciliumv2.Selector
	fqdns     []ciliumv2.FQDNSelector

	ports []ciliumv2.PortRule
	icmps []ciliumv2.ICMPRule
	auth  *ciliumv2.Authentication
}

func (s *section) from(p *ciliumv2.IngressPeers) {
	s.endpoints, s.requires, s.cidrs, s.cidrSets = p.FromEndpoints, p.FromRequires, p.FromCIDR, p.FromCIDRSet
	s.entities, s.groups, s.nodes = p.FromEntities, p.FromGroups, p.FromNodes
}

func (s *section) to(p *ciliumv2.EgressPeers) {
	s.endpoints, s.requires, s.cidrs, s.cidrSets = p.ToEndpoints, p.ToRequires, p.ToCIDR, p.ToCIDRSet
	s.entities, s.groups, s.nodes, s.services = p.ToEntities, p.ToGroups, p.ToNodes, p.ToServices
}

func denyPorts(list []ciliumv2.PortDenyRule) []ciliumv2.PortRule {
	if list == nil {
		return nil
	}
	out := make([]ciliumv2.PortRule, len(list))
	for i := range list {
		out[i].Ports = list[i].Ports
	}
	return out
}

// noPeers tells whether no list of peers is present at all.
func (s *section) noPeers() bool {
	return s.endpoints == nil && s.requires == nil && s.cidrs == nil && s.cidrSets == nil && s.entities == nil &&
		s.services == nil && s.groups == nil && s.nodes == nil && s.fqdns == nil
}

func (p *cnpParser) section(s *section) error {
	base := rule{
		origin: Origin{p.object, s.path}, tier: tierNormal, direction: s.direction,
		subject: p.subject, verdict: s.verdict, defaultDeny: p.deny[s.direction], looseNames: true,
	}
	if len(s.requires) > 0 {
		return fmt.Errorf("%s: fromRequires and toRequires are no longer part of the language", s.path)
	}
	if s.ports != nil && s.icmps != nil {
		return fmt.Errorf("%s: toPorts and icmps exclude each other", s.path)
	}
	if len(s.fqdns) > 0 && len(s.endpoints)+len(s.cidrs)+len(s.cidrSets)+len(s.entities)+len(s.services)+len(s.groups)+len(s.nodes) > 0 {
		return fmt.Errorf("%s: toFQDNs excludes all other peers", s.path)
	}
	p.denying = s.verdict == Deny
	peers, err := p.peers(s)
	if err != nil {
		return err
	}
	base.peers = peers
	if s.auth != nil && s.auth.Mode != ciliumv2.AuthenticationDisabled && p.opts.Carry.Authentication == Refused {
		p.out.note("%s.authentication", s.path)
		base.peers = nil
	}
	switch {
	case s.icmps != nil:
		if base.ports, err = icmpPorts(s.path, s.icmps); err != nil {
			return err
		}
		if base.ports == nil { // a list without types selects nothing
			base.peers = nil
		}
		r := base
		p.out.add(&r)
	case s.ports == nil:
		r := base
		p.out.add(&r)
	default:
		return p.portRules(s, base)
	}
	return nil
}

// peers gives the peers of a section. With ports and without any list of
// peers it is every peer; with neither it is none, the idiom for default deny.
func (p *cnpParser) peers(s *section) ([]*selector, error) {
	if s.noPeers() {
		if s.ports == nil && s.icmps == nil {
			return nil, nil
		}
		return []*selector{anyPeer}, nil
	}
	var out []*selector
	for i := range s.endpoints {
		sel, err := p.endpoints(fmt.Sprintf("%s.%sEndpoints[%d]", s.path, s.side(), i), &s.endpoints[i])
		if err != nil {
			return nil, err
		}
		out = append(out, sel...)
	}
	ranges, open, err := p.ranges(s)
	if err != nil {
		return nil, err
	}
	if len(ranges) > 0 {
		out = append(out, rangeSelector(ranges, false))
	}
	for i, e := range s.entities {
		sel, err := p.entity(e)
		if err != nil {
			return nil, fmt.Errorf("%s.%sEntities[%d]: %w", s.path, s.side(), i, err)
		}
		if sel != nil {
			out = append(out, sel)
		}
	}
	services, err := p.services(s)
	if err != nil {
		return nil, err
	}
	nodes, err := p.nodes(s)
	if err != nil {
		return nil, err
	}
	out = append(append(out, services...), nodes...)
	if (p.uncarriedPeers(s) || open) && s.verdict == Deny {
		// Who is meant is not known, so everybody could be.
		return []*selector{anyPeer}, nil
	}
	return out, nil
}

// side is how the section's lists of peers begin.
func (s *section) side() string {
	if s.direction == Ingress {
		return "from"
	}
	return "to"
}

// uncarriedPeers notes the lists of peers that are not carried out. They select nobody.
func (p *cnpParser) uncarriedPeers(s *section) bool {
	some := false
	note := func(have bool, name string) {
		if have {
			p.out.note("%s.%s%s", s.path, s.side(), name)
			some = true
		}
	}
	note(len(s.groups) > 0, "Groups")
	note(len(s.nodes) > 0 && !p.opts.NodeLabels, "Nodes")
	note(len(s.fqdns) > 0, "FQDNs")
	if len(s.groups) > 0 {
		p.out.remark("%s.%sGroups: groups of a cloud provider are not supported", s.path, s.side())
	}
	if len(s.nodes) > 0 && !p.opts.NodeLabels {
		p.out.remark("%s.%sNodes: needs the option enable-node-selector-labels", s.path, s.side())
	}
	return some
}

// scopeSubject confines a subject to the namespace of the policy.
func (p *cnpParser) scopeSubject(t term) term {
	if p.namespace == "" || t.wants(label.SourceReserved, identity.LabelInit) {
		return t // a pod without labels has no namespace either
	}
	kept := t[:0:0]
	for _, r := range t { // a subject is never in another namespace, whatever the policy says
		if r.key != label.KeyNamespace {
			kept = append(kept, r)
		}
	}
	return append(kept, k8sIs(label.KeyNamespace, p.namespace))
}

// scopePeer confines peers to the policy's namespace, or to pods of any
// namespace for a clusterwide policy, unless they name one or are reserved;
// and to this cluster unless they name one.
func (p *cnpParser) scopePeer(t term) term {
	if t.hasSource(label.SourceReserved) {
		return t
	}
	t = t[:len(t):len(t)]
	if !t.has(label.KeyNamespace) && !t.hasPrefix(label.PrefixNamespaceKey) {
		if p.namespace == "" {
			t = append(t, requirement{source: label.SourceK8s, key: label.KeyNamespace, op: opExists})
		} else {
			t = append(t, k8sIs(label.KeyNamespace, p.namespace))
		}
	}
	if !t.has(label.KeyCluster) {
		t = append(t, k8sIs(label.KeyCluster, p.opts.Cluster))
	}
	return t
}

// selectorTerm turns a selector, whose keys may carry a source, into requirements.
func selectorTerm(at string, s *ciliumv2.Selector) (term, error) {
	var t term
	for k, v := range s.MatchLabels {
		l := label.Parse(k)
		if err := checkKey(l); err != nil {
			return nil, fmt.Errorf("%s.matchLabels: %w", at, err)
		}
		r := requirement{source: l.Source, key: l.Key, op: opIn, values: []string{v}}
		if l.Source == label.SourceReserved {
			r.op, r.values = opExists, nil
		}
		t = append(t, r)
	}
	for i, e := range s.MatchExpressions {
		l := label.Parse(e.Key)
		if err := checkKey(l); err != nil {
			return nil, fmt.Errorf("%s.matchExpressions[%d]: %w", at, i, err)
		}
		r := requirement{source: l.Source, key: l.Key}
		if err := r.setOperator(string(e.Operator), e.Values); err != nil {
			return nil, fmt.Errorf("%s.matchExpressions[%d]: %w", at, i, err)
		}
		t = append(t, r)
	}
	return t, nil
}

// checkKey refuses keys that no label of Kubernetes can have: a rule with one
// would select nobody and look as if it were in force.
func checkKey(l label.Label) error {
	if l.Key == "" {
		return errors.New("empty key")
	}
	if l.Source != label.SourceAny && l.Source != label.SourceK8s {
		return nil
	}
	bad := strings.IndexFunc(l.Key, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-/", r))
	})
	if bad >= 0 || strings.Count(l.Key, "/") > 1 {
		return fmt.Errorf("key %q is not that of a label", l.Key)
	}
	return nil
}
