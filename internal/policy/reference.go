// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/table"
)

// References are the objects that rules name. They never change: whoever has
// other ones makes a new References, and the rules that name any are made anew.
type References struct {
	groups   []Group
	services []Service
	byName   map[string]*Service // by namespace/name
}

// Group is a CiliumCIDRGroup.
type Group struct {
	Name   string
	Labels map[string]string
	CIDRs  []string // as written
}

// NewGroupTable makes the raw table `cidrgroups`.
func NewGroupTable() (*table.Table[Group], *table.Writer[Group]) {
	return table.New(table.Options[Group]{
		Name: "cidrgroups",
		Key:  func(g Group) string { return g.Name },
		Columns: []table.Column[Group]{
			{Name: "NAME", Value: func(g Group) string { return g.Name }},
			{Name: "LABELS", Value: func(g Group) string { return strings.Join(g.labels().Strings(), " ") }},
			{Name: "PREFIXES", Value: func(g Group) string { return strings.Join(g.CIDRs, ",") }},
		},
	})
}

// Service is what rules can want of a Kubernetes Service.
type Service struct {
	Namespace, Name string
	Labels          map[string]string
	// Selector picks the pods behind it. Empty: Backends are written by hand.
	Selector map[string]string
	Backends []netip.Addr
}

// noReferences is nothing that rules could name.
var noReferences = NewReferences(nil, nil)

// NewReferences takes groups and services in any order, and keeps them.
func NewReferences(groups []Group, services []Service) *References {
	r := &References{groups: slices.Clone(groups), services: slices.Clone(services), byName: map[string]*Service{}}
	slices.SortFunc(r.groups, func(a, b Group) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(r.services, func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for i := range r.services {
		r.byName[r.services[i].Namespace+"/"+r.services[i].Name] = &r.services[i]
	}
	return r
}

// Same tells whether both have the same content.
func (r *References) Same(other *References) bool {
	groups := slices.EqualFunc(r.groups, other.groups, func(a, b Group) bool {
		return a.Name == b.Name && maps.Equal(a.Labels, b.Labels) && slices.Equal(a.CIDRs, b.CIDRs)
	})
	return groups && slices.EqualFunc(r.services, other.services, Service.Same)
}

// Same tells whether both have the same content.
func (s Service) Same(other Service) bool {
	return s.Namespace == other.Namespace && s.Name == other.Name && maps.Equal(s.Labels, other.Labels) &&
		maps.Equal(s.Selector, other.Selector) && slices.Equal(s.Backends, other.Backends)
}

// labels are those by which selectors see what is in the group.
func (g *Group) labels() label.Set {
	set := []label.Label{{Source: label.SourceCIDRGroup, Key: g.Name}}
	for k, v := range g.Labels {
		set = append(set, label.Label{Source: label.SourceCIDRGroup, Key: k, Value: v})
	}
	return label.NewSet(set...)
}

// group finds a group by name.
func (r *References) group(name string) (*Group, bool) {
	i, ok := slices.BinarySearchFunc(r.groups, name, func(g Group, name string) int { return cmp.Compare(g.Name, name) })
	if !ok {
		return nil, false
	}
	return &r.groups[i], true
}

// selected are the groups whose labels match.
func (r *References) selected(t term) []*Group {
	var out []*Group
	for i := range r.groups {
		if t.matches(r.groups[i].labels()) {
			out = append(out, &r.groups[i])
		}
	}
	return out
}

// ranges are the group's prefixes without what is cut out of them, and what is
// wrong with one of them.
func (g *Group) ranges(except []netip.Prefix) ([]cidrRange, error) {
	var out []cidrRange
	var bad error
	for i, text := range g.CIDRs {
		p, err := parseCIDR(text)
		if err != nil {
			bad = cmp.Or(bad, fmt.Errorf("CiliumCIDRGroup %s: spec.externalCIDRs[%d]: %w", g.Name, i, err))
			continue
		}
		if r, some := cut(p, except); some {
			out = append(out, r)
		}
	}
	return out, bad
}

// cut makes a range of a prefix; false if nothing is left of it. Exceptions
// elsewhere are of no concern.
func cut(p netip.Prefix, except []netip.Prefix) (cidrRange, bool) {
	r := cidrRange{prefix: p}
	for _, x := range except {
		switch {
		case holds(x, p):
			return cidrRange{}, false
		case holds(p, x):
			r.except = append(r.except, x)
		}
	}
	return r, true
}

// behind gives who is behind a service: the pods it selects, or the addresses
// that somebody wrote into its EndpointSlices.
func (s *Service) behind(cluster string) (*selector, bool) {
	if len(s.Selector) > 0 {
		t := term{k8sIs(label.KeyNamespace, s.Namespace), k8sIs(label.KeyCluster, cluster)}
		for _, k := range slices.Sorted(maps.Keys(s.Selector)) {
			t = append(t, k8sIs(k, s.Selector[k]))
		}
		return labelSelector(t), true
	}
	if len(s.Backends) == 0 {
		return nil, false
	}
	ranges := make([]cidrRange, len(s.Backends))
	for i, a := range s.Backends {
		ranges[i] = cidrRange{prefix: netip.PrefixFrom(a, a.BitLen())}
	}
	return rangeSelector(ranges, false), true
}
