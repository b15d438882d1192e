// SPDX-License-Identifier: Apache-2.0

package agent

import "net/netip"

// The rows that the agent and the datapath exchange.
type (
	// PodLink is the veth pair of a pod. MAC, NodeMAC, IfIndex come back from AddPodLink.
	PodLink struct {
		NetNS, ContainerIfName, HostIfName string
		IPv4, IPv6                         netip.Addr
		MAC, NodeMAC                       [6]byte
		IfIndex                            int
	}
	// EndpointBase is an endpoint without its policy.
	EndpointBase struct {
		ID           uint16
		Incarnation  uint32
		IfIndex      int
		MAC, NodeMAC [6]byte
		IPv4, IPv6   netip.Addr
	}
	// NodeRow is a node by its number.
	NodeRow struct {
		Index     uint16
		Underlay  netip.Addr
		Addresses []netip.Addr
		PodCIDRs  []netip.Prefix
		Local     bool
	}
	// MapInfo describes a map.
	MapInfo struct {
		Name, Type           string
		Entries, Max, Memory int
	}
	// MetricRow counts packets by what became of them.
	MetricRow struct {
		Reason         uint8
		ReasonText     string
		Ingress        bool
		Packets, Bytes uint64
	}
	// Event is what a program told.
	Event struct {
		Type, Reason, Verdict, Point, Protocol, TCPFlags uint8
		ReasonText                                       string
		Ingress, Reply                                   bool
		Source, Destination                              netip.AddrPort
		SourceIdentity, DestinationIdentity              uint32
		Endpoint                                         uint16
		Length                                           uint32
		Lost                                             uint64
	}
)
