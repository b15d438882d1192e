// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/stentor-net/stentor/internal/datapath/link"
	"github.com/stentor-net/stentor/internal/datapath/maps"
	"github.com/stentor-net/stentor/internal/policy"
)

// PodLink is the veth pair of a pod. MAC, NodeMAC and IfIndex come back from
// AddPodLink; HostIfName too if it was empty.
type PodLink struct {
	NetNS, ContainerIfName, HostIfName string
	IPv4, IPv6                         netip.Addr
	MAC, NodeMAC                       [6]byte
	IfIndex                            int
}

// HostInterface is the name of the host's side of the veth of a container's
// interface: always the same for the same pair.
func HostInterface(container, ifName string) string { return link.HostInterface(container, ifName) }

// AddPodLink makes the pod's veth straight in its namespace: addresses without
// duplicate detection, default routes through the router address, permanent
// neighbours, the node's routes to the pod. From the beginning the endpoint
// programs drop what it sends, until EnableEndpoint. It may be repeated.
func (d *Datapath) AddPodLink(_ context.Context, p *PodLink) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	l := link.Pod(*p)
	if err := d.links.AddPod(&l, d.programs.AttachEndpoint); err != nil {
		return fmt.Errorf("add pod link: %w", err)
	}
	*p = PodLink(l)
	return nil
}

// CheckPodLink says what of the pod's link is missing.
func (d *Datapath) CheckPodLink(_ context.Context, p PodLink) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.links.CheckPod(link.Pod(p))
}

// DelPodLink removes the pod's veth with its routes; absent is fine.
func (d *Datapath) DelPodLink(_ context.Context, p PodLink) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.links.DelPod(link.Pod(p))
}

// EndpointBase is an endpoint without its policy.
type EndpointBase struct {
	ID           uint16 // 1..4095
	Incarnation  uint32 // differs each time the id is given out
	IfIndex      int    // of the host's side of the veth
	MAC, NodeMAC [6]byte
	IPv4, IPv6   netip.Addr
}

// PutEndpoint writes the endpoint's row and attaches the programs. Every packet
// is dropped until its policy is applied and EnableEndpoint called. The row of an
// endpoint that is in force already stays as it is.
func (d *Datapath) PutEndpoint(e EndpointBase) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	err := d.tables.PutEndpoint(maps.Endpoint{ID: e.ID, Incarnation: e.Incarnation, IfIndex: e.IfIndex,
		MAC: e.MAC, NodeMAC: e.NodeMAC, IPv4: e.IPv4, IPv6: e.IPv6})
	if err != nil {
		return fmt.Errorf("put endpoint %d: %w", e.ID, err)
	}
	return d.programs.EnsureEndpoint(e.IfIndex)
}

// EnableEndpoint lets traffic pass as policy says.
func (d *Datapath) EnableEndpoint(id uint16) error { return d.tables.EnableEndpoint(id) }

// RemoveEndpoint ends the endpoint: from its first store no packet passes, then
// flows, translations and fragments of its addresses go. Absent is fine.
func (d *Datapath) RemoveEndpoint(id uint16) error {
	if err := d.tables.RemoveEndpoint(id); err != nil {
		return fmt.Errorf("remove endpoint %d: %w", id, err)
	}
	return nil
}

// Endpoints are those that the kernel holds.
func (d *Datapath) Endpoints() ([]EndpointBase, error) {
	var out []EndpointBase
	for _, e := range d.tables.Endpoints() {
		out = append(out, EndpointBase{ID: e.ID, Incarnation: e.Incarnation, IfIndex: e.IfIndex,
			MAC: e.MAC, NodeMAC: e.NodeMAC, IPv4: e.IPv4, IPv6: e.IPv6})
	}
	return out, nil
}

// PolicyState is what the kernel's policy tables hold.
func (d *Datapath) PolicyState() (policy.State, error) { return d.tables.ReadPolicy() }

// ApplyPolicy carries out the steps in order; the error says which one failed,
// those before it stand.
func (d *Datapath) ApplyPolicy(ops []policy.Op) error { return d.tables.Policy().Apply(ops) }

// NetNSCookie is the number by which programs know the network namespace at a path.
func (d *Datapath) NetNSCookie(path string) (uint64, error) { return link.NetNSCookieOf(path) }
