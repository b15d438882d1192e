// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/stentor-net/stentor/internal/node"
	"github.com/stentor-net/stentor/internal/table"
)

// ReflectMachine keeps the Node object of one node in the table.
func ReflectMachine(ctx context.Context, c *Client, name string, w *table.Writer[node.Machine]) error {
	return reflection[*corev1.Node, node.Machine]{
		kind:   Nodes,
		fields: "metadata.name=" + name,
		row:    func(o *corev1.Node) (node.Machine, bool) { return MachineRow(o), true },
		key:    func(m node.Machine) string { return m.Name },
		synced: w.MarkSynced,
	}.run(ctx, c, w)
}

// MachineRow converts a Node. Heartbeats and conditions leave it as it is.
func MachineRow(o *corev1.Node) node.Machine {
	return node.Machine{Name: o.Name, Says: fmt.Sprint(o.Labels, o.Status.Addresses, o.Spec.PodCIDRs, o.Status.NodeInfo.BootID)}
}
