// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"net/netip"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/node"
	"github.com/stentor-net/stentor/internal/table"
)

// ReflectNodes keeps all nodes, from their CiliumNodes, in the table; self is
// the name of the agent's own.
func ReflectNodes(ctx context.Context, c *Client, self string, w *table.Writer[node.Node]) error {
	return reflection[*ciliumv2.CiliumNode, node.Node]{
		kind: CiliumNodes,
		row: func(o *ciliumv2.CiliumNode) (node.Node, bool) {
			row := NodeRow(o)
			row.Local = row.Name == self
			return row, true
		},
		key:    func(n node.Node) string { return n.Name },
		synced: w.MarkSynced,
	}.run(ctx, c, w)
}

// NodeRow converts a CiliumNode. Addresses and prefixes that do not parse are
// left out.
func NodeRow(o *ciliumv2.CiliumNode) node.Node {
	row := node.Node{Name: o.Name, Created: o.CreationTimestamp.Time, Labels: o.Labels, BootID: o.Spec.BootID}
	for _, address := range o.Spec.Addresses {
		a, err := netip.ParseAddr(address.IP)
		if err != nil {
			continue
		}
		switch address.Type {
		case ciliumv2.AddressInternalIP:
			row.InternalIP = append(row.InternalIP, a)
		case ciliumv2.AddressExternalIP:
			row.ExternalIP = append(row.ExternalIP, a)
		case ciliumv2.AddressCiliumInternalIP:
			row.Router = append(row.Router, a)
		}
	}
	for _, text := range []string{o.Spec.HealthAddressing.IPV4, o.Spec.HealthAddressing.IPV6} {
		if a, err := netip.ParseAddr(text); err == nil {
			row.Health = append(row.Health, a)
		}
	}
	for _, text := range o.Spec.IPAM.PodCIDRs {
		if p, err := netip.ParsePrefix(string(text)); err == nil {
			row.PodCIDRs = append(row.PodCIDRs, p.Masked())
		}
	}
	return row
}
