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

// ranges gathers the prefixes of a section with what is cut out of them.
func (p *cnpParser) ranges(s *section) ([]cidrRange, error) {
	var out []cidrRange
	for i, c := range s.cidrs {
		prefix, err := parseCIDR(c)
		if err != nil {
			return nil, fmt.Errorf("%s.%sCIDR[%d]: %w", s.path, s.side(), i, err)
		}
		out = append(out, cidrRange{prefix: prefix})
	}
	for i, c := range s.cidrSets {
		at := fmt.Sprintf("%s.%sCIDRSet[%d]", s.path, s.side(), i)
		given := 0
		for _, have := range []bool{c.Cidr != "", c.CIDRGroupRef != "", c.CIDRGroupSelector != nil} {
			if have {
				given++
			}
		}
		if given != 1 {
			return nil, fmt.Errorf("%s: exactly one of cidr, cidrGroupRef and cidrGroupSelector is required", at)
		}
		if c.Cidr == "" {
			continue // noted by uncarriedPeers
		}
		prefix, err := parseCIDR(c.Cidr)
		if err != nil {
			return nil, fmt.Errorf("%s.cidr: %w", at, err)
		}
		r := cidrRange{prefix: prefix}
		for j, text := range c.Except {
			e, err := parseCIDR(text)
			if err != nil {
				return nil, fmt.Errorf("%s.except[%d]: %w", at, j, err)
			}
			if !holds(prefix, e) {
				return nil, fmt.Errorf("%s.except[%d]: %s is not inside %s", at, j, e, prefix)
			}
			r.except = append(r.except, e)
		}
		out = append(out, r)
	}
	return out, nil
}

// parseCIDR reads a prefix; an address alone is a prefix of its full length.
func parseCIDR(text ciliumv2.CIDR) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(string(text)); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(string(text))
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is no prefix", text)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}
