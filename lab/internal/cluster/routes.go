// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/stentor-net/stentor/lab/internal/fabric"
)

// podRoutes gives the fabric, where the API server is, a route to every node's
// pods by that node's address: what calls webhooks and proxies to pods needs
// one, as on a control plane that is not one of the nodes.
func (b *builder) podRoutes(ctx context.Context) error {
	return b.wait(ctx, "nodes' pod ranges", func(ctx context.Context) (bool, error) {
		nodes, err := b.kube.Nodes(ctx)
		if err != nil {
			return false, err
		}
		for _, n := range nodes {
			given := podCIDRs(ctx, b.kube, &n)
			if len(given) != len(b.Plan.PodCIDRs) {
				return false, fmt.Errorf("%s has the pod ranges %v", n.Name, given)
			}
			m, ok := b.Plan.Node(n.Name)
			if !ok {
				return false, fmt.Errorf("node %s is not the lab's", n.Name)
			}
			for _, c := range given {
				cidr, err := netip.ParsePrefix(c)
				if err != nil {
					return false, fmt.Errorf("pod range of %s: %w", n.Name, err)
				}
				via, ok := sameFamily(m.Addrs, cidr.Addr())
				if !ok {
					return false, fmt.Errorf("%s has no address of the family of %s", n.Name, cidr)
				}
				if err := fabric.Route(b.Plan.FabricNS, cidr, via); err != nil {
					return false, err
				}
			}
		}
		return len(nodes) == len(b.Plan.Nodes), nil
	})
}
