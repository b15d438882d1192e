// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/table"
)

// ReflectEndpoints keeps the endpoints that the cluster's nodes published in
// the table.
func ReflectEndpoints(ctx context.Context, c *Client, w *table.Writer[endpoint.Remote]) error {
	return reflection[*ciliumv2.CiliumEndpoint, endpoint.Remote]{
		kind:   CiliumEndpoints,
		row:    func(o *ciliumv2.CiliumEndpoint) (endpoint.Remote, bool) { return EndpointRow(o), true },
		key:    endpoint.Remote.Key,
		synced: w.MarkSynced,
	}.run(ctx, c, w)
}

// EndpointRow converts a CiliumEndpoint. Without an identity its number is 0.
func EndpointRow(o *ciliumv2.CiliumEndpoint) endpoint.Remote {
	row := endpoint.Remote{Namespace: o.Namespace, Name: o.Name, PodUID: string(ownerUID(o)), State: endpoint.State(o.Status.State)}
	if id := o.Status.Identity; id != nil {
		row.Identity = identity.ID(id.ID)
	}
	if n := o.Status.Networking; n != nil {
		row.NodeIP, _ = netip.ParseAddr(n.NodeIP) // invalid if it does not parse
		for _, pair := range n.Addressing {
			for _, text := range []string{pair.IPV4, pair.IPV6} {
				if a, err := netip.ParseAddr(text); err == nil {
					row.IPs = append(row.IPs, a)
				}
			}
		}
	}
	for _, p := range o.Status.NamedPorts {
		row.Ports = append(row.Ports, endpoint.Port{Name: p.Name, Number: p.Port, Protocol: protocol(corev1.Protocol(p.Protocol))})
	}
	return row
}
