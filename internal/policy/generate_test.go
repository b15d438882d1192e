// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// draw makes random worlds small enough that things meet.
type draw struct{ t *rapid.T }

func (d draw) n(name string, max int) int      { return rapid.IntRange(0, max).Draw(d.t, name) }
func (d draw) chance(name string, of int) bool { return d.n(name, of-1) == 0 }

func (d draw) of(name string, list ...string) string { return rapid.SampledFrom(list).Draw(d.t, name) }

var namespaces = []string{"red", "blue"}

// pod is a pod of the drawn cluster; those with a number are on this node.
type pod struct {
	namespace, app, tier string
	addr                 netip.Addr
	local                uint16
	incarnation          uint32
	named                uint16 // number of its port "web", 0: none
	audit                bool
}

// drawn is a cluster that can change.
type drawn struct {
	pods     []pod
	policies map[string]Object
	serial   int
	numbers  map[string]identity.ID
	late     map[identity.ID]bool // labels not known yet
	ranges   bool                 // addresses of pods lie in a range that is not the world
	labelled bool                 // nodes have identities by their labels
	groups   []Group
	services []Service
}

func (d draw) cluster() *drawn {
	c := &drawn{policies: map[string]Object{}, numbers: map[string]identity.ID{}, late: map[identity.ID]bool{}, ranges: d.chance("ranges", 2), labelled: d.chance("labelled", 2)}
	d.references(c)
	for i := range 2 + d.n("pods", 5) {
		c.pods = append(c.pods, d.pod(i))
	}
	for range d.n("policies", 3) {
		d.addPolicy(c)
	}
	return c
}

func (d draw) pod(i int) pod {
	p := pod{
		namespace: d.of("namespace", namespaces...), app: d.of("app", "web", "db"), tier: d.of("tier", "front", "back", ""),
		addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}),
	}
	if i < 4 {
		p.local = uint16(i + 1)
	}
	p.named = []uint16{0, 80, 8080}[d.n("named", 2)]
	if d.chance("init", 8) {
		p.namespace = "" // its labels are not known yet
	}
	p.audit = d.chance("audited", 8)
	return p
}

// references draws what policies can name.
func (d draw) references(c *drawn) {
	c.groups, c.services = nil, nil
	for _, name := range []string{"one", "two", "three"} {
		if d.chance("no "+name, 3) {
			continue
		}
		g := Group{Name: name, Labels: map[string]string{"zone": d.of("zone", "a", "b")}}
		for range d.n("prefixes", 2) {
			g.CIDRs = append(g.CIDRs, d.of("cidr", prefixes...))
		}
		c.groups = append(c.groups, g)
	}
	for _, namespace := range namespaces {
		s := Service{Namespace: namespace, Name: "web", Labels: map[string]string{"kind": d.of("kind", "x", "y")}}
		switch d.n("service", 3) {
		case 0:
			s.Selector = map[string]string{"app": d.of("app", "web", "db")}
		case 1:
			s.Backends = []netip.Addr{netip.MustParseAddr("192.0.2.5"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("2001:db8::5")}[:1+d.n("backends", 2)]
		case 2:
			continue
		}
		c.services = append(c.services, s)
	}
}

// sixth is a pod's IPv6 address.
func sixth(a netip.Addr) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 15: a.As4()[3]})
}

func (c *drawn) input() Input {
	in := Input{Identities: map[identity.ID]label.Set{}, Ports: map[netip.Addr][]endpoint.Port{}}
	for id, l := range identity.Reserved() {
		in.Identities[id] = l
	}
	if c.ranges {
		in.Addresses = append(in.Addresses, Address{Prefix: netip.MustParsePrefix("10.0.0.0/16"), Flags: AddressLocalPods},
			Address{Prefix: netip.MustParsePrefix("fd00::/64"), Flags: AddressLocalPods})
	}
	in.Addresses = append(in.Addresses,
		Address{Prefix: netip.MustParsePrefix("172.16.0.1/32"), Identity: identity.Host, Flags: AddressHost},
		Address{Prefix: netip.MustParsePrefix("172.16.0.2/32"), Identity: identity.RemoteNode, Flags: AddressNode},
		Address{Prefix: netip.MustParsePrefix("172.16.0.3/32"), Identity: identity.KubeAPIServer, Flags: AddressNode})
	if c.labelled {
		set := func(id identity.ID, labels ...string) { in.Identities[id] = label.ParseSet(labels) }
		set(identity.Host, "reserved:host", "node:zone=a")
		set(identity.LocalNode+5, "reserved:remote-node", "node:zone=b")
		set(identity.LocalNode+6, "reserved:remote-node", "reserved:kube-apiserver", "node:zone=a")
		for i := range in.Addresses {
			switch in.Addresses[i].Identity {
			case identity.RemoteNode:
				in.Addresses[i].Identity = identity.LocalNode + 5
			case identity.KubeAPIServer:
				in.Addresses[i].Identity = identity.LocalNode + 6
			}
		}
	}
	in.References = NewReferences(c.groups, c.services)
	for _, p := range c.pods {
		own := map[string]string{"app": p.app}
		if p.tier != "" {
			own["tier"] = p.tier
		}
		labels := podLabels(p.namespace, own, map[string]string{"color": p.namespace})
		id, ok := c.numbers[labels.Key()]
		if p.namespace == "" {
			id, labels = identity.Init, identity.Reserved()[identity.Init]
		} else if !ok {
			id = identity.MinAllocated + identity.ID(len(c.numbers))
			c.numbers[labels.Key()] = id
		}
		if !c.late[id] || p.local != 0 {
			in.Identities[id] = labels
		}
		row := Address{Prefix: netip.PrefixFrom(p.addr, 32), Identity: id, Flags: AddressPod}
		six := Address{Prefix: netip.PrefixFrom(sixth(p.addr), 128), Identity: id, Flags: AddressPod}
		in.Addresses = append(in.Addresses, row, six)
		var ports []endpoint.Port
		if p.named != 0 {
			ports = []endpoint.Port{{Name: "web", Number: p.named, Protocol: protoTCP}}
		}
		if p.local != 0 {
			in.Subjects = append(in.Subjects, Subject{Endpoint: p.local, Incarnation: p.incarnation, Identity: id, Labels: labels, IPv4: row, IPv6: six, Ports: ports, Audit: p.audit})
		} else if ports != nil {
			in.Ports[p.addr], in.Ports[sixth(p.addr)] = ports, ports
		}
	}
	for _, k := range sortedKeys(c.policies) {
		in.Objects = append(in.Objects, c.policies[k])
	}
	return in
}

func (d draw) addPolicy(c *drawn) {
	c.serial++
	o := d.policy(fmt.Sprintf("p%d", d.n("name", 3)))
	o.ResourceVersion = fmt.Sprint(c.serial)
	c.policies[o.Key()] = o
}

func (d draw) policy(name string) Object {
	o := d.object(name)
	o.Audit = d.chance("audit", 6)
	return o
}

func (d draw) object(name string) Object {
	namespace := d.of("namespace", namespaces...)
	switch d.n("kind", 3) {
	case 0:
		return Object{Kind: KindNetworkPolicy, Namespace: namespace, Name: name, Spec: d.networkPolicy()}
	case 1:
		r := d.rule()
		return Object{Kind: KindCiliumNetworkPolicy, Namespace: namespace, Name: name, Spec: &ciliumv2.CiliumNetworkPolicy{Spec: &r}}
	case 2:
		return Object{Kind: KindClusterNetworkPolicy, Name: name, Spec: d.clusterPolicy()}
	}
	spec := &ciliumv2.CiliumClusterwideNetworkPolicy{}
	for range 1 + d.n("specs", 1) {
		spec.Specs = append(spec.Specs, d.rule())
	}
	return Object{Kind: KindCiliumClusterwideNetworkPolicy, Name: name, Spec: spec}
}

func (d draw) k8sSelector(name string) *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	switch d.n(name, 4) {
	case 1:
		s.MatchLabels = map[string]string{"app": d.of("app", "web", "db")}
	case 2:
		s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "tier", Operator: metav1.LabelSelectorOpNotIn, Values: []string{d.of("tier", "front", "back")}}}
	case 3:
		s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "tier", Operator: metav1.LabelSelectorOpExists}}
	case 4:
		s.MatchLabels = map[string]string{"tier": d.of("tier", "front", "back")}
	}
	return s
}

var prefixes = []string{"0.0.0.0/0", "192.0.2.0/24", "192.0.2.0/28", "192.0.2.5/32", "10.0.0.0/8", "10.0.0.0/30", "198.51.100.0/24", "172.16.0.0/31", "::/0", "2001:db8::/64", "2001:db8::5/128", "fd00::/125"}

func (d draw) networkPolicy() *networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{}
	np.Spec.PodSelector = *d.k8sSelector("subject")
	peers := func() (out []networkingv1.NetworkPolicyPeer) {
		for range d.n("peers", 2) {
			switch d.n("peer", 3) {
			case 0:
				out = append(out, networkingv1.NetworkPolicyPeer{PodSelector: d.k8sSelector("pods")})
			case 1:
				out = append(out, networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"color": d.of("color", namespaces...)}}})
			case 2:
				out = append(out, networkingv1.NetworkPolicyPeer{PodSelector: d.k8sSelector("pods"), NamespaceSelector: &metav1.LabelSelector{}})
			case 3:
				b := &networkingv1.IPBlock{CIDR: d.of("cidr", prefixes...)}
				if b.CIDR == "192.0.2.0/24" || b.CIDR == "0.0.0.0/0" {
					b.Except = []string{"192.0.2.0/28"}
				}
				out = append(out, networkingv1.NetworkPolicyPeer{IPBlock: b})
			}
		}
		return out
	}
	ports := func() (out []networkingv1.NetworkPolicyPort) {
		for range d.n("ports", 2) {
			p := networkingv1.NetworkPolicyPort{}
			switch d.n("port", 3) {
			case 1:
				v := intstr.FromInt32(80)
				p.Port = &v
			case 2:
				v, end := intstr.FromInt32(70), int32(90)
				p.Port, p.EndPort = &v, &end
			case 3:
				v := intstr.FromString("web")
				p.Port = &v
			}
			out = append(out, p)
		}
		return out
	}
	for range d.n("ingress", 2) {
		np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: peers(), Ports: ports()})
	}
	for range d.n("egress", 2) {
		np.Spec.Egress = append(np.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: peers(), Ports: ports()})
	}
	return np
}

func (d draw) selector(name string) ciliumv2.Selector {
	switch d.n(name, 8) {
	case 6:
		return ciliumv2.Selector{MatchLabels: map[string]string{"reserved:" + d.of("reserved", "init", "host", "remote-node"): ""}}
	case 7:
		return ciliumv2.Selector{MatchLabels: map[string]string{"cidrgroup:zone": d.of("zone", "a", "b")}}
	case 8:
		return ciliumv2.Selector{MatchExpressions: []ciliumv2.Requirement{{Key: "k8s:app", Operator: metav1.LabelSelectorOpIn, Values: []string{"web", "db"}}, {Key: "any:tier", Operator: metav1.LabelSelectorOpDoesNotExist}}}
	case 1:
		return ciliumv2.Selector{MatchLabels: map[string]string{"app": d.of("app", "web", "db")}}
	case 2:
		return ciliumv2.Selector{MatchLabels: map[string]string{"k8s:io.kubernetes.pod.namespace": d.of("ns", namespaces...)}}
	case 3:
		return ciliumv2.Selector{MatchExpressions: []ciliumv2.Requirement{{Key: "tier", Operator: metav1.LabelSelectorOpNotIn, Values: []string{d.of("tier", "front", "back")}}}}
	case 4:
		return ciliumv2.Selector{MatchLabels: map[string]string{"any:io.cilium.k8s.namespace.labels.color": d.of("color", namespaces...)}}
	case 5:
		return ciliumv2.Selector{MatchExpressions: []ciliumv2.Requirement{{Key: "tier", Operator: metav1.LabelSelectorOpExists}}}
	}
	return ciliumv2.Selector{}
}

// cnpPeers are the peers of a section.
type cnpPeers struct {
	endpoints []ciliumv2.EndpointSelector
	cidrs     []ciliumv2.CIDR
	sets      []ciliumv2.CIDRRule
	entities  []ciliumv2.Entity
	services  []ciliumv2.Service
	nodes     []ciliumv2.Selector
}

func (d draw) cnpPeers() (p cnpPeers) {
	switch d.n("peers", 10) {
	case 6:
		set := ciliumv2.CIDRRule{CIDRGroupRef: d.of("group", "one", "two", "none")}
		if d.chance("select", 2) {
			set = ciliumv2.CIDRRule{CIDRGroupSelector: &ciliumv2.Selector{MatchLabels: map[string]string{"zone": d.of("zone", "a", "b")}}}
		}
		if d.chance("but", 2) {
			set.Except = []ciliumv2.CIDR{ciliumv2.CIDR(d.of("except", prefixes...))}
		}
		p.sets = []ciliumv2.CIDRRule{set}
	case 7, 8:
		p.services = []ciliumv2.Service{{K8sService: &ciliumv2.K8sService{ServiceName: "web", Namespace: d.of("ns", namespaces...)}}}
		if d.chance("select", 2) {
			p.services = []ciliumv2.Service{{K8sServiceSelector: &ciliumv2.K8sServiceSelector{Selector: ciliumv2.Selector{MatchLabels: map[string]string{"kind": d.of("kind", "x", "y")}}, Namespace: d.of("in", "", "red")}}}
		}
	case 9:
		p.nodes = []ciliumv2.Selector{{MatchLabels: map[string]string{"zone": d.of("zone", "a", "b")}}, {MatchExpressions: []ciliumv2.Requirement{{Key: "zone", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"a"}}}}}[:1+d.n("nodes", 1)]
	case 0:
		for range 1 + d.n("more", 1) {
			p.endpoints = append(p.endpoints, d.selector("peer"))
		}
	case 1:
		p.cidrs = []ciliumv2.CIDR{ciliumv2.CIDR(d.of("cidr", prefixes...))}
	case 2:
		p.sets = []ciliumv2.CIDRRule{{Cidr: "192.0.2.0/24", Except: []ciliumv2.CIDR{ciliumv2.CIDR(d.of("except", "192.0.2.0/28", "192.0.2.5/32"))}}}
	case 3:
		p.entities = []ciliumv2.Entity{ciliumv2.Entity(d.of("entity", "all", "world", "cluster", "host", "remote-node", "kube-apiserver", "none", "init", "health", "ingress", "unmanaged", "cluster-mesh"))}
	case 4:
		p.endpoints = []ciliumv2.EndpointSelector{}
	case 5:
		p.endpoints, p.entities = []ciliumv2.EndpointSelector{d.selector("peer")}, []ciliumv2.Entity{"host"}
	}
	return p
}

func (d draw) cnpPorts() (ports []ciliumv2.PortProtocol, icmps []ciliumv2.ICMPRule) {
	switch d.n("ports", 9) {
	case 9:
		echo, exceeded := intstr.FromString("EchoRequest"), intstr.FromString("TimeExceeded")
		icmps = []ciliumv2.ICMPRule{{Fields: []ciliumv2.ICMPField{{Type: &echo}, {Type: &exceeded, Family: "IPv6"}}}}
	case 0:
		ports = []ciliumv2.PortProtocol{{Port: "80", Protocol: "TCP"}}
	case 1:
		ports = []ciliumv2.PortProtocol{{Port: "64", EndPort: 127, Protocol: "TCP"}}
	case 2:
		ports = []ciliumv2.PortProtocol{{Port: "53", Protocol: "ANY"}, {Port: "80", Protocol: "UDP"}}
	case 3:
		ports = []ciliumv2.PortProtocol{{Port: "0", Protocol: "TCP"}}
	case 4:
		ports = []ciliumv2.PortProtocol{{Port: "web", Protocol: "TCP"}}
	case 5:
		ports = []ciliumv2.PortProtocol{{Port: "0", Protocol: "ANY"}}
	case 6:
		echo := intstr.FromInt32(8)
		icmps = []ciliumv2.ICMPRule{{Fields: []ciliumv2.ICMPField{{Type: &echo}}}}
	}
	return ports, icmps
}

func (d draw) rule() ciliumv2.Rule {
	subject := d.selector("subject")
	r := ciliumv2.Rule{EndpointSelector: &subject}
	for range d.n("ingress", 2) {
		p := d.cnpPeers()
		ports, icmps := d.cnpPorts()
		in := ciliumv2.IngressRule{IngressPeers: ciliumv2.IngressPeers{FromEndpoints: p.endpoints, FromCIDR: p.cidrs, FromCIDRSet: p.sets, FromEntities: p.entities, FromNodes: p.nodes}, ICMPs: icmps}
		if ports != nil {
			in.ToPorts = []ciliumv2.PortRule{{Ports: ports}}
			if d.chance("l7", 5) && ports[0].Protocol == "TCP" {
				in.ToPorts[0].Rules = &ciliumv2.L7Rules{HTTP: []ciliumv2.HTTPRule{{Path: d.of("path", "/a", "/b")}}}
			}
		}
		r.Ingress = append(r.Ingress, in)
	}
	for range d.n("egress", 2) {
		p := d.cnpPeers()
		ports, icmps := d.cnpPorts()
		out := ciliumv2.EgressRule{EgressPeers: ciliumv2.EgressPeers{ToEndpoints: p.endpoints, ToCIDR: p.cidrs, ToCIDRSet: p.sets, ToEntities: p.entities, ToServices: p.services, ToNodes: p.nodes}, ICMPs: icmps}
		if ports != nil {
			out.ToPorts = []ciliumv2.PortRule{{Ports: ports}}
		}
		r.Egress = append(r.Egress, out)
	}
	if d.chance("ingressDeny", 3) {
		p := d.cnpPeers()
		ports, icmps := d.cnpPorts()
		in := ciliumv2.IngressDenyRule{IngressPeers: ciliumv2.IngressPeers{FromEndpoints: p.endpoints, FromCIDR: p.cidrs, FromCIDRSet: p.sets, FromEntities: p.entities, FromNodes: p.nodes}, ICMPs: icmps}
		if ports != nil {
			in.ToPorts = []ciliumv2.PortDenyRule{{Ports: ports}}
		}
		r.IngressDeny = append(r.IngressDeny, in)
	}
	if d.chance("egressDeny", 3) {
		p := d.cnpPeers()
		ports, icmps := d.cnpPorts()
		out := ciliumv2.EgressDenyRule{EgressPeers: ciliumv2.EgressPeers{ToEndpoints: p.endpoints, ToCIDR: p.cidrs, ToCIDRSet: p.sets, ToEntities: p.entities, ToServices: p.services, ToNodes: p.nodes}, ICMPs: icmps}
		if ports != nil {
			out.ToPorts = []ciliumv2.PortDenyRule{{Ports: ports}}
		}
		r.EgressDeny = append(r.EgressDeny, out)
	}
	if d.chance("enable", 4) {
		v, w := d.chance("in", 2), d.chance("out", 2)
		r.EnableDefaultDeny = &ciliumv2.DefaultDeny{Ingress: &v, Egress: &w}
	}
	return r
}
