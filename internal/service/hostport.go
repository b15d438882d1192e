// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/stentor-net/stentor/internal/endpoint"
)

// OfPod derives the frontends of the host ports of a pod of this node.
func OfPod(p endpoint.Pod, at Place) Derived {
	var d Derived
	if !at.AllKinds || p.HostNetwork || p.Phase != "Running" {
		return d
	}
	for _, port := range p.HostPorts {
		for _, a := range at.hostPortAddresses(port) {
			if a.Is4() && !at.IPv4 || a.Is6() && !at.IPv6 {
				continue
			}
			f := Frontend{Addr: a, Port: port.HostPort, Protocol: port.Protocol, Kind: HostPort, Service: p.Key(), PortName: port.Name,
				Local: true, Algorithm: Random, Forwarding: SNAT}
			for _, ip := range p.IPs {
				if ip.Is4() == a.Is4() {
					f.Backends = append(f.Backends, Backend{Service: p.Key(), PortName: port.Name, Addr: ip, Port: port.Number,
						Protocol: port.Protocol, State: Active, Weight: DefaultWeight, Node: at.Node, Pod: p.Key()})
				}
			}
			if len(f.Backends) == 0 {
				f.Why = "the pod has no address of this family"
			}
			d.Frontends = append(d.Frontends, f)
			if !a.IsLoopback() {
				f.Scope = External
				d.Frontends = append(d.Frontends, f)
			}
		}
		if len(at.hostPortAddresses(port)) == 0 && port.Bound() {
			d.Problems = append(d.Problems, fmt.Sprintf("host port %d: %s is no address of this node that others reach", port.HostPort, port.HostIP))
		}
	}
	return d
}

var loopback = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// hostPortAddresses are those on which a host port is served: never one that is
// not the node's, which would let a pod take the traffic of others. Those of the
// loopback are for programs on the node's own network.
func (at Place) hostPortAddresses(p endpoint.HostPort) []netip.Addr {
	switch {
	case !p.Bound():
		return slices.Concat(at.NodePort, loopback)
	case p.HostIP.IsLoopback(), slices.Contains(at.Addresses, p.HostIP):
		return []netip.Addr{p.HostIP}
	}
	return nil
}
