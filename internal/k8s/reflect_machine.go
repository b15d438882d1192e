// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"fmt"
	"slices"

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

// taintGoing is on nodes that the cluster autoscaler takes away.
const taintGoing = "ToBeDeletedByClusterAutoscaler"

// MachineRow converts a Node. Heartbeats and conditions leave it as it is.
func MachineRow(o *corev1.Node) node.Machine {
	leaving := o.DeletionTimestamp != nil || slices.ContainsFunc(o.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taintGoing })
	return node.Machine{Name: o.Name, Leaving: leaving, Says: fmt.Sprint(o.Labels, o.Status.Addresses, o.Spec.PodCIDRs, o.Status.NodeInfo.BootID)}
}
