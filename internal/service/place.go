// SPDX-License-Identifier: Apache-2.0

package service

import (
	"net/netip"
	"slices"
)

// Values of trafficDistribution; the annotation topology-mode counts as PreferSameZone.
const (
	PreferSameZone = "PreferSameZone"
	PreferSameNode = "PreferSameNode"
	preferClose    = "PreferClose" // older name of PreferSameZone
)

// Annotations and labels of Services that are carried out.
const (
	AnnotationType         = "service.cilium.io/type"
	AnnotationNode         = "service.cilium.io/node"
	AnnotationNodeSelector = "service.cilium.io/node-selector"
	AnnotationForwarding   = "service.cilium.io/forwarding-mode"
	AnnotationAlgorithm    = "service.cilium.io/lb-algorithm"
	AnnotationRanges       = "service.cilium.io/src-ranges-policy"
	AnnotationDelegation   = "service.cilium.io/proxy-delegation" // told that it is not
	AnnotationWeight       = "service.cilium.io/weight"           // of EndpointSlices
	annotationTopology     = "service.kubernetes.io/topology-mode"
	annotationHints        = "service.kubernetes.io/topology-aware-hints"

	LabelProxyName = "service.kubernetes.io/service-proxy-name"
	labelHeadless  = "service.kubernetes.io/headless"
)

// Place is what frontends depend on besides objects: this node and its settings.
type Place struct {
	Node   string
	Zone   string // label topology.kubernetes.io/zone
	Labels map[string]string
	// Addresses are all of the node's own; NodePort those on which NodePorts and
	// HostPorts are served.
	Addresses, NodePort []netip.Addr

	IPv4, IPv6        bool
	AllKinds          bool // kube-proxy-replacement; otherwise ClusterIP only
	Topology          bool // hints and trafficDistribution count
	ExternalClusterIP bool // ClusterIPs are served to clients outside, too
	RangesForAll      bool // loadBalancerSourceRanges limit every external frontend, not only those of the load balancer
	ProxyName         string
	Algorithm         Algorithm // of external frontends
	Forwarding        string    // snat, dsr, hybrid
	Tunnel            bool      // nodes send pods' packets to each other through a tunnel

	RedirectRanges []netip.Prefix // that address matchers of redirects must be within; none: any
	Around         Around
}

// isNode tells whether an address is one of a node or of the API server.
func (at Place) isNode(a netip.Addr) bool {
	return slices.Contains(at.Addresses, a) || slices.Contains(at.Around.Nodes, a) ||
		slices.ContainsFunc(at.Around.APIServers, func(p netip.AddrPort) bool { return p.Addr() == a })
}

// Around is what the cluster has that no address of a Service may take traffic from.
type Around struct {
	PodRanges  []netip.Prefix   // of all nodes
	Nodes      []netip.Addr     // addresses of all nodes
	APIServers []netip.AddrPort // TCP
	NodePorts  []uint16         // TCP ports on which every node answers itself: kubelet, agent
	PortMin    uint16           // first port of NodePorts
	PortMax    uint16           // the last one; 0: not known
}
