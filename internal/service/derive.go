// SPDX-License-Identifier: Apache-2.0

package service

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/stentor-net/stentor/internal/table"
)

const (
	protocolTCP = 6
	protocolUDP = 17
)

// Derived is what follows from one object.
type Derived struct {
	Frontends []Frontend
	Backends  []Backend
	Problems  []string // in the object, for people
}

// Of derives the frontends and backends of one Service on this node. It depends
// on the content of the tables alone, not on the order in which it came.
func Of(s Service, all table.Snapshot[Slice], at Place) Derived {
	d := deriver{service: s, slices: all, at: at, have: map[FrontendKey]bool{}}
	for _, slice := range all.Index("service", s.Key()) {
		if slice.Weight != "" && fmt.Sprint(slice.weight()) != slice.Weight {
			d.problem("EndpointSlice %s: annotation %s: %q is not a number within 0..65535; %d is used", slice.Name, AnnotationWeight, slice.Weight, DefaultWeight)
		}
		d.several("EndpointSlice "+slice.Name+": left out: ", slice.Problems)
	}
	d.unknown()
	served := d.selected()
	for _, p := range s.Ports {
		list, shared := candidates(s, p, all)
		d.several("two endpoints have one address: ", shared)
		for _, c := range list {
			d.Backends = append(d.Backends, c.Backend)
		}
		if served {
			d.port(p, list)
		}
	}
	if served {
		d.rests()
	}
	slices.Sort(d.Problems)
	return d.Derived
}

type deriver struct {
	Derived
	service Service
	slices  table.Snapshot[Slice]
	at      Place
	have    map[FrontendKey]bool
}

func (d *deriver) problem(format string, args ...any) {
	d.Problems = append(d.Problems, fmt.Sprintf(format, args...))
}

// selected tells whether this node carries the Service out at all.
func (d *deriver) selected() bool {
	s := d.service
	if s.Headless || s.Type == "ExternalName" || s.Labels[LabelProxyName] != d.at.ProxyName {
		return false
	}
	if _, ok := s.Labels[labelHeadless]; ok {
		return false
	}
	if text, ok := s.Annotations[AnnotationNodeSelector]; ok {
		selector, err := labels.Parse(text)
		if err != nil {
			d.problem("annotation %s: %v; the Service is served on no node", AnnotationNodeSelector, err)
			return false
		}
		return selector.Matches(labels.Set(d.at.Labels))
	}
	if want, ok := s.Annotations[AnnotationNode]; ok {
		return d.at.Labels[AnnotationNode] == want
	}
	return true
}

// unknown tells of annotations that are not carried out as they stand.
func (d *deriver) unknown() {
	if v := d.service.Annotations[AnnotationDelegation]; v != "" && v != "none" {
		d.problem("annotation %s: %q is not carried out: packets for this node's own backends are translated as all others", AnnotationDelegation, v)
	}
	if text, ok := d.service.Annotations[AnnotationType]; ok {
		for _, one := range strings.Split(text, ",") {
			if kind := Kind(strings.TrimSpace(one)); !slices.Contains([]Kind{ClusterIP, NodePort, LoadBalancer, ExternalIP}, kind) {
				d.problem("annotation %s: %q is none of ClusterIP, NodePort, LoadBalancer, ExternalIP", AnnotationType, kind)
			}
		}
	}
}

// exposed tells whether the Service's annotation leaves a kind.
func (d *deriver) exposed(k Kind) bool {
	text, ok := d.service.Annotations[AnnotationType]
	if !ok {
		return true
	}
	return slices.ContainsFunc(strings.Split(text, ","), func(one string) bool { return strings.TrimSpace(one) == string(k) })
}

// port adds the frontends of one port of the Service.
func (d *deriver) port(p Port, list []candidate) {
	s := d.service
	everywhere := near(list, d.distribution(), d.at)
	here := onNode(list, d.at)
	inside := choice{list: everywhere}
	if s.InternalLocal {
		inside = choice{list: here, local: true}
	}
	outside := choice{list: everywhere}
	if s.ExternalLocal {
		outside = choice{list: here, local: true}
	}
	add := func(kind Kind, a netip.Addr, port uint16, scope Scope, c choice) {
		d.add(p, kind, a, port, scope, c, list, here)
	}
	if d.exposed(ClusterIP) {
		for _, a := range s.ClusterIPs {
			add(ClusterIP, a, p.Port, Internal, inside)
			if d.at.ExternalClusterIP && d.at.AllKinds {
				add(ClusterIP, a, p.Port, External, inside)
			}
		}
	}
	if !d.at.AllKinds {
		return
	}
	both := func(kind Kind, a netip.Addr, port uint16) {
		if kind != NodePort && d.takes(kind, a, port, p.Protocol) {
			return
		}
		add(kind, a, port, Internal, choice{list: everywhere})
		add(kind, a, port, External, outside)
	}
	if s.Type == string(LoadBalancer) && d.exposed(LoadBalancer) {
		for _, in := range s.Ingress {
			if !in.Proxy {
				both(LoadBalancer, in.Addr, p.Port)
			}
		}
	}
	if d.exposed(ExternalIP) {
		for _, a := range s.ExternalIPs {
			both(ExternalIP, a, p.Port)
		}
	}
	if p.NodePort != 0 && (s.Type == string(NodePort) || s.Type == string(LoadBalancer)) && d.exposed(NodePort) {
		for _, a := range d.at.NodePort {
			if d.serves(a) {
				both(NodePort, a, p.NodePort)
			}
		}
		// With policy Local another node's address is left to that node, which knows
		// its own backends; the row is for the loopback, and so that nobody binds the port.
		for _, a := range d.unspecified() {
			add(NodePort, a, p.NodePort, Internal, choice{list: everywhere, local: s.ExternalLocal})
		}
	}
}

// choice is which endpoints a frontend sends to.
type choice struct {
	list  []candidate
	local bool
}

// takes tells whether an address that somebody wrote into a Service would take
// the traffic of others: of pods, of the API server, of what every node answers
// itself. Such a frontend is not made.
func (d *deriver) takes(kind Kind, a netip.Addr, port uint16, protocol uint8) bool {
	around := d.at.Around
	if !a.IsGlobalUnicast() {
		d.once("%s %s is no address that can be served", kind, a)
		return true
	}
	for _, r := range around.PodRanges {
		if r.Contains(a) {
			d.once("%s %s is an address of pods (%s): it is not served, so that it takes no pod's traffic", kind, a, r)
			return true
		}
	}
	node := d.at.isNode(a)
	if protocol == protocolTCP && (slices.Contains(around.APIServers, netip.AddrPortFrom(a, port)) || node && slices.Contains(around.NodePorts, port)) {
		d.once("%s %s is an address of the cluster itself: port %d is not served, so that it takes no traffic of the API server or a node", kind, a, port)
		return true
	}
	if node && kind == ExternalIP && port >= around.PortMin && port <= around.PortMax {
		d.once("%s %s is an address of a node: port %d is not served, so that it takes no NodePort's traffic", kind, a, port)
		return true
	}
	if node && kind == ExternalIP {
		d.once("%s %s is an address of a node: what comes for port %d goes to this Service, not to programs of the node", kind, a, port)
	}
	return false
}

// several adds problems of the same sort, the first of them only.
func (d *deriver) several(what string, list []string) {
	const shown = 3
	for i, text := range list {
		if i == shown {
			d.once("%s%d more", what, len(list)-shown)
			return
		}
		d.once("%s%s", what, text)
	}
}

func (d *deriver) distribution() string {
	if !d.at.Topology {
		return ""
	}
	for _, key := range []string{annotationTopology, annotationHints} {
		if v := strings.ToLower(d.service.Annotations[key]); v == "auto" {
			return PreferSameZone
		}
	}
	switch v := d.service.Distribution; v {
	case preferClose:
		return PreferSameZone
	case PreferSameZone, PreferSameNode, "":
		return v
	default:
		d.problem("trafficDistribution: %q is not known", v)
		return ""
	}
}

// serves tells whether the Service has the family of an address. One without a
// ClusterIP has that of its addresses.
func (d *deriver) serves(a netip.Addr) bool {
	if len(d.service.ClusterIPs) == 0 {
		return true
	}
	return slices.ContainsFunc(d.service.ClusterIPs, func(ip netip.Addr) bool { return ip.Is4() == a.Is4() })
}

func (d *deriver) unspecified() (out []netip.Addr) {
	for _, a := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if d.serves(a) {
			out = append(out, a)
		}
	}
	return out
}

// add adds one frontend, unless its family is not enabled.
func (d *deriver) add(p Port, kind Kind, a netip.Addr, port uint16, scope Scope, c choice, everywhere, here []candidate) {
	if a.Is4() && !d.at.IPv4 || a.Is6() && !d.at.IPv6 {
		return
	}
	s := d.service
	f := Frontend{Addr: a, Port: port, Protocol: p.Protocol, Scope: scope, Kind: kind, Service: s.Key(), PortName: p.Name,
		Local: c.local, Affinity: s.AffinitySeconds, Algorithm: Random, Forwarding: SNAT,
		Backends: frontendBackends(c.list, a.Is4())}
	if d.have[f.ID()] {
		return
	}
	d.have[f.ID()] = true
	if scope == External {
		d.external(&f)
	}
	if scope == External || a.IsUnspecified() {
		d.direct(&f)
	}
	if len(f.Takers()) == 0 {
		f.Why = why(s, p, d.slices, everywhere, here, a.Is4(), c.local)
	}
	d.Frontends = append(d.Frontends, f)
}

// external sets what only matters for clients outside.
func (d *deriver) external(f *Frontend) {
	s := d.service
	f.Algorithm = cmp.Or(d.at.Algorithm, Random)
	switch v := s.Annotations[AnnotationAlgorithm]; v {
	case "":
	case string(Random), string(Maglev):
		f.Algorithm = Algorithm(v)
	default:
		d.once("annotation %s: %q is neither random nor maglev; %s is used", AnnotationAlgorithm, v, f.Algorithm)
	}
	// Load balancers ask before they are given an address, too.
	if (f.Kind == LoadBalancer || f.Kind == NodePort) && s.ExternalLocal && s.Type == string(LoadBalancer) {
		f.HealthCheck = s.HealthCheckPort
	}
	if f.Kind == LoadBalancer || f.Kind == ExternalIP || d.at.RangesForAll && f.Kind != ClusterIP {
		d.sources(f)
	}
}

// forwarding is how the Service's clients outside reach backends of other nodes.
// Direct return needs that all nodes know its frontends, and that they send each
// other packets as they are.
func (d *deriver) forwarding(protocol uint8) Forwarding {
	s := d.service
	mode := cmp.Or(d.at.Forwarding, string(SNAT))
	v := s.Annotations[AnnotationForwarding]
	switch v {
	case "":
	case string(SNAT), string(DSR), "hybrid":
		mode = v
	default:
		d.once("annotation %s: %q is none of snat, dsr, hybrid; %s is used", AnnotationForwarding, v, mode)
	}
	if mode != string(DSR) && (mode != "hybrid" || protocol != protocolTCP) {
		return SNAT
	}
	_, chosen := s.Annotations[AnnotationNode]
	_, selected := s.Annotations[AnnotationNodeSelector]
	switch {
	case d.at.Tunnel && v == mode:
		d.once("annotation %s: %s needs native routing; snat is used", AnnotationForwarding, v)
		return SNAT
	case d.at.Tunnel:
		return SNAT // said once for all, at the start
	case chosen || selected:
		d.once("%s needs that all nodes serve the Service; snat is used", mode)
		return SNAT
	}
	return DSR
}

// direct sets how clients outside reach backends of other nodes, and to which of
// this node's others may send them. A NodePort of another node is known here by the
// unspecified address.
func (d *deriver) direct(f *Frontend) {
	if f.Forwarding = d.forwarding(f.Protocol); f.Forwarding != DSR || f.Kind == NodePort && f.Scope == External {
		return
	}
	for _, b := range f.Backends {
		if b.Node == d.at.Node {
			f.Direct = append(f.Direct, netip.AddrPortFrom(b.Addr, b.Port))
		}
	}
}

func (d *deriver) once(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(d.Problems, text) {
		d.Problems = append(d.Problems, text)
	}
}

// sources sets the clients that are let in. A range that cannot be read lets
// nobody in, and refuses nobody.
func (d *deriver) sources(f *Frontend) {
	if len(d.service.SourceRanges) == 0 {
		return
	}
	switch v := d.service.Annotations[AnnotationRanges]; v {
	case "", "allow":
	case "deny":
		f.SourcesDeny = true
	default:
		d.once("annotation %s: %q is neither allow nor deny; allow is used", AnnotationRanges, v)
	}
	for _, text := range d.service.SourceRanges {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			d.once("loadBalancerSourceRanges: %q is not a prefix such as 10.0.0.0/8", text)
			continue
		}
		if p.Addr().Is4() == f.Addr.Is4() {
			f.Sources = append(f.Sources, p.Masked())
		}
	}
	slices.SortFunc(f.Sources, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	f.Sources = slices.Compact(f.Sources)
	if len(f.Sources) == 0 && !f.SourcesDeny {
		// Ranges of the other family only: nobody of this one may come.
		unspecified := netip.IPv6Unspecified()
		if f.Addr.Is4() {
			unspecified = netip.IPv4Unspecified()
		}
		f.Sources = []netip.Prefix{netip.PrefixFrom(unspecified, unspecified.BitLen())}
	}
}

// rests adds the rows that keep packets for other ports of virtual addresses from
// being routed on. Addresses of nodes are their own. An ExternalIP is anybody's:
// other ports of it stay reachable from inside, and only what comes in for them drops.
func (d *deriver) rests() {
	scopes := map[netip.Addr]Kind{}
	var order []netip.Addr
	for _, f := range d.Frontends {
		if f.Kind == NodePort || f.Addr.IsUnspecified() || d.at.isNode(f.Addr) {
			continue
		}
		if _, ok := scopes[f.Addr]; !ok {
			order = append(order, f.Addr)
			scopes[f.Addr] = f.Kind
		}
	}
	for _, a := range order {
		for _, scope := range []Scope{Internal, External} {
			if scope == External && !d.at.AllKinds || scope == Internal && scopes[a] == ExternalIP {
				continue
			}
			d.Frontends = append(d.Frontends, Frontend{Addr: a, Scope: scope, Kind: scopes[a], Service: d.service.Key()})
		}
	}
}

// APIServerSockets are the addresses and ports behind the Service of the API
// server itself, sorted.
func APIServerSockets(all table.Snapshot[Slice]) []netip.AddrPort {
	var out []netip.AddrPort
	for _, slice := range all.Index("service", "default/kubernetes") {
		for _, e := range slice.Endpoints {
			for _, a := range e.Addresses {
				for _, p := range slice.Ports {
					out = append(out, netip.AddrPortFrom(a, p.Port))
				}
			}
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out)
}

// APIServers are the addresses behind the Service of the API server itself.
func APIServers(all table.Snapshot[Slice]) []netip.Addr {
	var out []netip.Addr
	for _, slice := range all.Index("service", "default/kubernetes") {
		for _, e := range slice.Endpoints {
			out = append(out, e.Addresses...)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}
