// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"net/netip"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/label"
)

// groups are the prefixes of the groups that an element of a CIDRSet means.
// open: one of them is not understood, so who is meant is not known.
func (p *cnpParser) groups(at string, c *ciliumv2.CIDRRule, except []netip.Prefix) (out []cidrRange, open bool, err error) {
	p.out.refers = true
	var list []*Group
	if c.CIDRGroupRef != "" {
		g, ok := p.refs.group(c.CIDRGroupRef)
		if !ok {
			p.out.remark("%s.cidrGroupRef: there is no CiliumCIDRGroup %s yet, it selects nobody", at, c.CIDRGroupRef)
			return nil, false, nil
		}
		list = []*Group{g}
	} else {
		t, err := groupTerm(at+".cidrGroupSelector", c.CIDRGroupSelector)
		if err != nil {
			return nil, false, err
		}
		if list = p.refs.selected(t); len(list) == 0 {
			p.out.remark("%s.cidrGroupSelector: no CiliumCIDRGroup matches yet, it selects nobody", at)
		}
	}
	out, open = p.rangesOf(list, except)
	return out, open, nil
}

// rangesOf gathers the prefixes of groups and names what is wrong with them.
func (p *cnpParser) rangesOf(list []*Group, except []netip.Prefix) (out []cidrRange, open bool) {
	for _, g := range list {
		ranges, bad := g.ranges(except)
		if bad != nil {
			p.out.note("%v", bad)
			open = true
		}
		out = append(out, ranges...)
	}
	return out, open
}

// groupTerm makes requirements on the labels of groups: whatever source is
// written, they are those of groups.
func groupTerm(at string, s *ciliumv2.Selector) (term, error) {
	t, err := selectorTerm(at, s)
	for i := range t {
		if t[i].source == label.SourceAny || t[i].source == label.SourceK8s {
			t[i].source = label.SourceCIDRGroup
		}
	}
	return t, err
}

// services are those behind the services of a section.
func (p *cnpParser) services(s *section) ([]*selector, error) {
	var out []*selector
	for i := range s.services {
		at := fmt.Sprintf("%s.toServices[%d]", s.path, i)
		in := &s.services[i]
		found, err := p.service(at, in)
		if err != nil {
			return nil, err
		}
		p.out.refers = true
		for _, svc := range found {
			if sel, some := svc.behind(p.opts.Cluster); some {
				out = append(out, sel)
			}
		}
	}
	return out, nil
}

// service finds the services that one element means: by name, or by labels.
func (p *cnpParser) service(at string, in *ciliumv2.Service) ([]*Service, error) {
	switch {
	case (in.K8sService == nil) == (in.K8sServiceSelector == nil):
		return nil, fmt.Errorf("%s: exactly one of k8sService and k8sServiceSelector is required", at)
	case in.K8sService != nil:
		return p.serviceByName(at+".k8sService", in.K8sService)
	}
	sel := in.K8sServiceSelector
	t, err := serviceTerm(at+".k8sServiceSelector.selector", &sel.Selector)
	if err != nil {
		return nil, err
	}
	var out []*Service
	for i := range p.refs.services {
		svc := &p.refs.services[i]
		if (sel.Namespace == "" || sel.Namespace == svc.Namespace) && t.matches(k8sLabels(svc.Labels)) {
			out = append(out, svc)
		}
	}
	if len(out) == 0 {
		p.out.remark("%s.k8sServiceSelector: no Service matches yet, it selects nobody", at)
	}
	return out, nil
}

func (p *cnpParser) serviceByName(at string, in *ciliumv2.K8sService) ([]*Service, error) {
	namespace := in.Namespace
	if namespace == "" {
		namespace = p.namespace
	}
	switch {
	case in.ServiceName == "":
		return nil, errors.New(at + ".serviceName: empty")
	case namespace == "":
		return nil, errors.New(at + ".namespace: empty; a clusterwide policy has no namespace of its own")
	}
	svc, ok := p.refs.byName[namespace+"/"+in.ServiceName]
	if !ok {
		p.out.remark("%s: there is no Service %s/%s yet, it selects nobody", at, namespace, in.ServiceName)
		return nil, nil
	}
	return []*Service{svc}, nil
}

// serviceTerm makes requirements on the labels of Services.
func serviceTerm(at string, s *ciliumv2.Selector) (term, error) {
	t, err := selectorTerm(at, s)
	for i := range t {
		if t[i].source == label.SourceAny {
			t[i].source = label.SourceK8s
		}
	}
	return t, err
}

// k8sLabels are the labels of an object.
func k8sLabels(labels map[string]string) label.Set {
	set := make([]label.Label, 0, len(labels))
	for k, v := range labels {
		set = append(set, label.Label{Source: label.SourceK8s, Key: k, Value: v})
	}
	return label.NewSet(set...)
}
