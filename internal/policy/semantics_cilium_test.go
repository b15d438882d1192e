// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/label"
)

// condition is one requirement of a selector of the Cilium kinds.
type condition struct {
	source, key string
	op          metav1.LabelSelectorOperator
	values      []string
}

// conditions spells a selector out; otherwise is the source of keys without one.
func conditions(s *ciliumv2.Selector, otherwise string) []condition {
	split := func(key string) (string, string) {
		if source, rest, ok := strings.Cut(key, ":"); ok {
			return source, rest
		}
		return otherwise, key
	}
	var out []condition
	for k, v := range s.MatchLabels {
		source, key := split(k)
		c := condition{source, key, metav1.LabelSelectorOpIn, []string{v}}
		if source == "reserved" {
			c.op, c.values = metav1.LabelSelectorOpExists, nil
		}
		out = append(out, c)
	}
	for _, e := range s.MatchExpressions {
		source, key := split(e.Key)
		out = append(out, condition{source, key, e.Operator, e.Values})
	}
	return out
}

func meets(set label.Set, list []condition) bool {
	return !slices.ContainsFunc(list, func(c condition) bool {
		from := func(s string) bool { return c.source == "any" || s == c.source }
		return !labelIs(set, from, c.key, c.op, c.values)
	})
}

func (q *query) cilium(namespace string, one *ciliumv2.Rule, more []ciliumv2.Rule) []statement {
	rules := slices.Clone(more)
	if one != nil {
		rules = append(rules, *one)
	}
	var out []statement
	for i := range rules {
		r := &rules[i]
		if r.EndpointSelector == nil { // nodes are nobody's endpoints
			continue
		}
		if q.subject(namespace, conditions(r.EndpointSelector, "any")) {
			out = append(out, q.ciliumRule(namespace, r)...)
		}
	}
	return out
}

func (q *query) subject(namespace string, list []condition) bool {
	init := slices.ContainsFunc(list, func(c condition) bool {
		return c.source == "reserved" && c.key == "init" && (c.op == metav1.LabelSelectorOpExists || c.op == metav1.LabelSelectorOpIn)
	})
	if namespace == "" || init {
		return meets(q.s.Labels, list)
	}
	list = slices.DeleteFunc(list, func(c condition) bool { return c.key == "io.kubernetes.pod.namespace" })
	return inNamespace(q.s.Labels, namespace) && meets(q.s.Labels, list)
}

// peersOf are all lists of peers of a section.
type peersOf struct {
	namespace string
	endpoints []ciliumv2.EndpointSelector
	cidrs     []ciliumv2.CIDR
	sets      []ciliumv2.CIDRRule
	entities  []ciliumv2.Entity
	services  []ciliumv2.Service
	nodes     []ciliumv2.Selector
}

func fromPeers(namespace string, p *ciliumv2.IngressPeers) peersOf {
	return peersOf{namespace, p.FromEndpoints, p.FromCIDR, p.FromCIDRSet, p.FromEntities, nil, p.FromNodes}
}

func toPeers(namespace string, p *ciliumv2.EgressPeers) peersOf {
	return peersOf{namespace, p.ToEndpoints, p.ToCIDR, p.ToCIDRSet, p.ToEntities, p.ToServices, p.ToNodes}
}

func (q *query) ciliumRule(namespace string, r *ciliumv2.Rule) []statement {
	var out []statement
	isolates := true
	if e := r.EnableDefaultDeny; e != nil {
		choice := e.Egress
		if q.d == Ingress {
			choice = e.Ingress
		}
		isolates = choice == nil || *choice
	}
	say := func(deny bool, peers peersOf, ports []ciliumv2.PortRule, icmps []ciliumv2.ICMPRule) {
		some, clear := q.ciliumPeers(&peers, ports != nil || icmps != nil)
		if deny {
			out = append(out, statement{tier: 1, verdict: "deny", isolates: isolates, matches: (some || !clear) && q.ciliumPorts(ports, icmps, nil)})
			return
		}
		open := func(p *ciliumv2.PortRule) bool { return p.Rules == nil }
		closed := func(p *ciliumv2.PortRule) bool { return p.Rules != nil }
		out = append(out, statement{tier: 1, verdict: "allow", isolates: isolates, matches: some && q.ciliumPorts(ports, icmps, open)},
			statement{tier: 1, verdict: "redirect", isolates: isolates, matches: some && ports != nil && q.ciliumPorts(ports, nil, closed)})
	}
	if q.d == Ingress {
		for _, s := range r.Ingress {
			say(false, fromPeers(namespace, &s.IngressPeers), s.ToPorts, s.ICMPs)
		}
		for _, s := range r.IngressDeny {
			say(true, fromPeers(namespace, &s.IngressPeers), plain(s.ToPorts), s.ICMPs)
		}
		return out
	}
	for _, s := range r.Egress {
		say(false, toPeers(namespace, &s.EgressPeers), s.ToPorts, s.ICMPs)
	}
	for _, s := range r.EgressDeny {
		say(true, toPeers(namespace, &s.EgressPeers), plain(s.ToPorts), s.ICMPs)
	}
	return out
}

func plain(list []ciliumv2.PortDenyRule) []ciliumv2.PortRule {
	var out []ciliumv2.PortRule
	for _, p := range list {
		out = append(out, ciliumv2.PortRule{Ports: p.Ports})
	}
	return out
}

// ciliumPorts: only the elements that count are asked; nil counts all.
func (q *query) ciliumPorts(ports []ciliumv2.PortRule, icmps []ciliumv2.ICMPRule, counts func(*ciliumv2.PortRule) bool) bool {
	if icmps != nil {
		return slices.ContainsFunc(icmps, func(r ciliumv2.ICMPRule) bool { return slices.ContainsFunc(r.Fields, q.icmp) })
	}
	if ports == nil {
		return true
	}
	for i := range ports {
		if counts != nil && !counts(&ports[i]) {
			continue
		}
		if len(ports[i].Ports) == 0 || slices.ContainsFunc(ports[i].Ports, q.ciliumPort) {
			return true
		}
	}
	return false
}

func (q *query) icmp(f ciliumv2.ICMPField) bool {
	protocol, names := uint8(1), map[string]int{"EchoRequest": 8, "EchoReply": 0, "TimeExceeded": 11}
	if f.Family == "IPv6" {
		protocol, names = 58, map[string]int{"EchoRequest": 128, "EchoReply": 129, "TimeExceeded": 3}
	}
	number := int(f.Type.IntVal)
	if f.Type.StrVal != "" {
		number = names[f.Type.StrVal]
	}
	return q.protocol == protocol && q.port == number
}

func (q *query) ciliumPort(p ciliumv2.PortProtocol) bool {
	number, err := strconv.Atoi(p.Port)
	switch {
	case p.Port != "" && err != nil:
		return q.named(p.Port, string(p.Protocol), true)
	case !q.speaks(string(p.Protocol)):
		return false
	case number == 0:
		return true
	}
	return q.port >= number && q.port <= max(number, int(p.EndPort))
}

// ciliumPeers tells whether the peer is meant, and whether it is clear who is.
func (q *query) ciliumPeers(p *peersOf, restricted bool) (some, clear bool) {
	if p.endpoints == nil && p.cidrs == nil && p.sets == nil && p.entities == nil && p.services == nil && p.nodes == nil {
		return restricted, true
	}
	clear = len(p.nodes) == 0 || q.v.opts.NodeLabels
	some = slices.ContainsFunc(p.endpoints, func(s ciliumv2.EndpointSelector) bool { return q.ciliumEndpoint(p.namespace, &s) }) ||
		slices.ContainsFunc(p.cidrs, func(c ciliumv2.CIDR) bool { return q.outside(string(c), nil) }) ||
		slices.ContainsFunc(p.sets, q.cidrSet) ||
		slices.ContainsFunc(p.entities, q.entity) ||
		slices.ContainsFunc(p.services, func(s ciliumv2.Service) bool { return q.service(p.namespace, &s) }) ||
		clear && slices.ContainsFunc(p.nodes, func(s ciliumv2.Selector) bool {
			return hasReserved(q.p.labels, "host", "remote-node") && meets(q.p.labels, conditions(&s, "node"))
		})
	return some, clear
}

func (q *query) ciliumEndpoint(namespace string, s *ciliumv2.EndpointSelector) bool {
	list := conditions(s, "any")
	if slices.ContainsFunc(list, func(c condition) bool { return c.source == "cidrgroup" && c.op == metav1.LabelSelectorOpIn }) {
		return slices.ContainsFunc(q.v.in.References.groups, func(g Group) bool { return meets(groupLabels(&g), list) && q.inGroup(&g, nil) })
	}
	if !meets(q.p.labels, list) {
		return false
	}
	if slices.ContainsFunc(list, func(c condition) bool { return c.source == "reserved" }) {
		return true
	}
	has := func(key string) bool {
		return slices.ContainsFunc(list, func(c condition) bool { return strings.HasPrefix(c.key, key) })
	}
	if !has("io.kubernetes.pod.namespace") && !has(namespacePrefix) && !inNamespace(q.p.labels, namespace) {
		return false
	}
	return has("io.cilium.k8s.policy.cluster") || q.ownCluster(q.p.labels)
}

// outside is a prefix of the Cilium kinds: the world, and others as the options say.
func (q *query) outside(cidr string, except []string) bool {
	switch q.p.place {
	case "node":
		if !q.v.opts.CIDRMatchNodes {
			return false
		}
	case "pod":
		if !q.v.opts.CIDRMatchPods {
			return false
		}
	}
	return q.within(cidr, except)
}

func (q *query) cidrSet(c ciliumv2.CIDRRule) bool {
	var except []string
	for _, x := range c.Except {
		except = append(except, string(x))
	}
	if c.Cidr != "" {
		return q.outside(string(c.Cidr), except)
	}
	return slices.ContainsFunc(q.v.in.References.groups, func(g Group) bool {
		if c.CIDRGroupRef != "" {
			return g.Name == c.CIDRGroupRef && q.inGroup(&g, except)
		}
		return meets(groupLabels(&g), conditions(c.CIDRGroupSelector, "cidrgroup")) && q.inGroup(&g, except)
	})
}

func groupLabels(g *Group) label.Set {
	out := []label.Label{{Source: "cidrgroup", Key: g.Name}}
	for k, v := range g.Labels {
		out = append(out, label.Label{Source: "cidrgroup", Key: k, Value: v})
	}
	return label.NewSet(out...)
}

func (q *query) inGroup(g *Group, except []string) bool {
	return slices.ContainsFunc(g.CIDRs, func(c string) bool { return q.outside(c, except) })
}

func (q *query) entity(e ciliumv2.Entity) bool {
	_, inSome := q.p.labels.Get("k8s", "io.cilium.k8s.policy.cluster")
	near := hasReserved(q.p.labels, "host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver")
	switch e {
	case "all":
		return true
	case "none":
		return false
	case "world":
		return q.p.place == "world"
	case "cluster":
		return q.ownCluster(q.p.labels) || near
	case "cluster-mesh":
		return inSome || near
	}
	return hasReserved(q.p.labels, string(e))
}

func (q *query) service(namespace string, s *ciliumv2.Service) bool {
	return slices.ContainsFunc(q.v.in.References.services, func(have Service) bool {
		if n := s.K8sService; n != nil {
			in := n.Namespace
			if in == "" {
				in = namespace
			}
			return have.Namespace == in && have.Name == n.ServiceName && q.behind(&have)
		}
		sel := s.K8sServiceSelector
		set := label.Set{}
		for k, v := range have.Labels {
			set = append(set, label.Label{Source: "k8s", Key: k, Value: v})
		}
		return (sel.Namespace == "" || sel.Namespace == have.Namespace) && meets(set, conditions(&sel.Selector, "k8s")) && q.behind(&have)
	})
}

func (q *query) behind(s *Service) bool {
	if len(s.Selector) == 0 {
		return slices.Contains(s.Backends, q.p.addr) && q.outside(q.p.addr.String()+"/"+strconv.Itoa(q.p.addr.BitLen()), nil)
	}
	return inNamespace(q.p.labels, s.Namespace) && q.ownCluster(q.p.labels) &&
		k8sMatches(&metav1.LabelSelector{MatchLabels: s.Selector}, q.p.labels, "k8s", "")
}
