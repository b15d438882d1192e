// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// entity gives the selector of an entity; nil for the one that selects nobody.
func (p *cnpParser) entity(e ciliumv2.Entity) (*selector, error) {
	one := func(names ...string) (*selector, error) {
		terms := make([]term, len(names))
		for i, n := range names {
			terms[i] = term{reserved(n)}
		}
		return labelSelector(terms...), nil
	}
	switch e {
	case ciliumv2.EntityAll:
		return anyPeer, nil
	case ciliumv2.EntityNone:
		return nil, nil
	case ciliumv2.EntityWorld:
		return one(identity.LabelWorld, identity.LabelWorldIPv4, identity.LabelWorldIPv6)
	case identity.LabelWorldIPv4:
		return one(identity.LabelWorldIPv4)
	case identity.LabelWorldIPv6:
		return one(identity.LabelWorldIPv6)
	case ciliumv2.EntityHost, ciliumv2.EntityInit, ciliumv2.EntityIngress, ciliumv2.EntityUnmanaged,
		ciliumv2.EntityRemoteNode, ciliumv2.EntityHealth, ciliumv2.EntityKubeAPIServer:
		return one(string(e))
	case ciliumv2.EntityCluster:
		return clusterSelector(k8sIs(label.KeyCluster, p.opts.Cluster)), nil
	case ciliumv2.EntityClusterMesh:
		return clusterSelector(requirement{source: label.SourceK8s, key: label.KeyCluster, op: opExists}), nil
	}
	return nil, fmt.Errorf("entity %q is unknown", e)
}

// clusterSelector matches all that is in the cluster: pods with the label, and
// what has only reserved labels.
func clusterSelector(pods requirement) *selector {
	terms := []term{{pods}}
	for _, n := range []string{identity.LabelHost, identity.LabelRemoteNode, identity.LabelInit, identity.LabelIngress, identity.LabelHealth, identity.LabelUnmanaged, identity.LabelKubeAPIServer} {
		terms = append(terms, term{reserved(n)})
	}
	s := labelSelector(terms...)
	s.cluster = true
	return s
}

// endpoints gives who a selector of endpoints picks. One that asks for labels
// of CIDR groups picks prefixes instead.
func (p *cnpParser) endpoints(at string, in *ciliumv2.EndpointSelector) ([]*selector, error) {
	t, err := selectorTerm(at, in)
	if err != nil {
		return nil, err
	}
	if !t.asks(label.SourceCIDRGroup) {
		return []*selector{labelSelector(p.scopePeer(t))}, nil
	}
	p.out.refers = true
	ranges, open := p.rangesOf(p.refs.selected(t), nil)
	switch {
	case open && p.denying:
		return []*selector{anyPeer}, nil
	case len(ranges) == 0:
		p.out.remark("%s: no CiliumCIDRGroup matches yet, it selects nobody", at)
		return nil, nil
	}
	return []*selector{rangeSelector(ranges, false)}, nil
}

// nodes are the nodes with the labels: this one, which is the host, and others.
func (p *cnpParser) nodes(s *section) ([]*selector, error) {
	var out []*selector
	for i := range s.nodes {
		t, err := nodeTerm(fmt.Sprintf("%s.%sNodes[%d]", s.path, s.side(), i), &s.nodes[i])
		if err != nil {
			return nil, err
		}
		if p.opts.NodeLabels {
			out = append(out, nodeSelector(t))
		}
	}
	return out, nil
}

// nodeTerm makes requirements on the labels of nodes.
func nodeTerm(at string, s *ciliumv2.Selector) (term, error) {
	t, err := selectorTerm(at, s)
	for i := range t {
		if t[i].source == label.SourceAny || t[i].source == label.SourceK8s {
			t[i].source = label.SourceNode
		}
	}
	return t, err
}

func nodeSelector(t term) *selector {
	var terms []term
	for _, n := range []string{identity.LabelHost, identity.LabelRemoteNode} {
		terms = append(terms, append(term{reserved(n)}, t...))
	}
	return labelSelector(terms...)
}

// ranges gathers the prefixes of a section with what is cut out of them. open:
// a group is not understood.
func (p *cnpParser) ranges(s *section) (out []cidrRange, open bool, err error) {
	for i, c := range s.cidrs {
		prefix, err := parseCIDR(string(c))
		if err != nil {
			return nil, false, fmt.Errorf("%s.%sCIDR[%d]: %w", s.path, s.side(), i, err)
		}
		out = append(out, cidrRange{prefix: prefix})
	}
	for i := range s.cidrSets {
		c := &s.cidrSets[i]
		more, unclear, err := p.cidrSet(fmt.Sprintf("%s.%sCIDRSet[%d]", s.path, s.side(), i), c)
		if err != nil {
			return nil, false, err
		}
		out, open = append(out, more...), open || unclear
	}
	return out, open, nil
}

// cidrSet is one element: a prefix or groups, without the exceptions.
func (p *cnpParser) cidrSet(at string, c *ciliumv2.CIDRRule) ([]cidrRange, bool, error) {
	given := 0
	for _, have := range []bool{c.Cidr != "", c.CIDRGroupRef != "", c.CIDRGroupSelector != nil} {
		if have {
			given++
		}
	}
	if given != 1 {
		return nil, false, fmt.Errorf("%s: exactly one of cidr, cidrGroupRef and cidrGroupSelector is required", at)
	}
	except := make([]netip.Prefix, len(c.Except))
	for i, text := range c.Except {
		var err error
		if except[i], err = parseCIDR(string(text)); err != nil {
			return nil, false, fmt.Errorf("%s.except[%d]: %w", at, i, err)
		}
	}
	if c.Cidr == "" {
		return p.groups(at, c, except)
	}
	prefix, err := parseCIDR(string(c.Cidr))
	if err != nil {
		return nil, false, fmt.Errorf("%s.cidr: %w", at, err)
	}
	for i, e := range except {
		if !holds(prefix, e) {
			return nil, false, fmt.Errorf("%s.except[%d]: %s is not inside %s", at, i, e, prefix)
		}
	}
	if r, some := cut(prefix, except); some {
		return []cidrRange{r}, false, nil
	}
	return nil, false, nil // all of it is cut out
}

// parseCIDR reads a prefix; an address alone is a prefix of its full length.
func parseCIDR(text string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is no prefix", text)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}
