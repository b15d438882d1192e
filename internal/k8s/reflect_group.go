// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/table"
)

// ReflectGroups keeps all CiliumCIDRGroups in the table.
func ReflectGroups(ctx context.Context, c *Client, w *table.Writer[policy.Group]) error {
	return reflection[*ciliumv2.CiliumCIDRGroup, policy.Group]{
		kind:     CIDRGroups,
		row:      func(o *ciliumv2.CiliumCIDRGroup) (policy.Group, bool) { return GroupRow(o), true },
		key:      func(g policy.Group) string { return g.Name },
		optional: true,
		synced:   w.MarkSynced,
	}.run(ctx, c, w)
}

// GroupRow converts a CiliumCIDRGroup.
func GroupRow(o *ciliumv2.CiliumCIDRGroup) policy.Group {
	row := policy.Group{Name: o.Name, Labels: o.Labels}
	for _, c := range o.Spec.ExternalCIDRs {
		row.CIDRs = append(row.CIDRs, string(c))
	}
	return row
}
