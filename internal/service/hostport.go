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
			for _, scope := range []Scope{Internal, External} {
				f.Scope = scope
				d.Frontends = append(d.Frontends, f)
			}
		}
		if port.HostIP.IsValid() && !port.HostIP.IsUnspecified() && !port.HostIP.IsLoopback() && !slices.Contains(at.Addresses, port.HostIP) {
			d.Problems = append(d.Problems, fmt.Sprintf("host port %d: %s is no address of this node", port.HostPort, port.HostIP))
		}
	}
	return d
}

// hostPortAddresses are those on which a host port is served.
func (at Place) hostPortAddresses(p endpoint.HostPort) []netip.Addr {
	if p.HostIP.IsValid() && !p.HostIP.IsUnspecified() {
		return []netip.Addr{p.HostIP}
	}
	return at.NodePort
}
