// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"strconv"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/table"
)

// ReflectIdentities keeps the cluster's identities in the table. It leaves rows
// with other numbers, reserved and node-local ones, alone.
func ReflectIdentities(ctx context.Context, c *Client, w *table.Writer[identity.Identity]) error {
	return reflection[*ciliumv2.CiliumIdentity, identity.Identity]{
		kind:   CiliumIdentities,
		row:    IdentityRow,
		key:    func(i identity.Identity) string { return i.ID.String() },
		mine:   func(i identity.Identity) bool { return allocated(i.ID) },
		synced: w.MarkSynced,
	}.run(ctx, c, w)
}

// IdentityRow converts a CiliumIdentity; false if its name is not a number of
// the cluster's range.
func IdentityRow(o *ciliumv2.CiliumIdentity) (identity.Identity, bool) {
	n, err := strconv.ParseUint(o.Name, 10, 32)
	if err != nil || !allocated(identity.ID(n)) {
		return identity.Identity{}, false
	}
	labels := make([]label.Label, 0, len(o.SecurityLabels))
	for k, v := range o.SecurityLabels {
		l := label.Parse(k)
		l.Value = v
		labels = append(labels, l)
	}
	_, unused := o.Annotations[AnnotationUnused]
	return identity.Identity{ID: identity.ID(n), Labels: label.NewSet(labels...), Unused: unused}, true
}

// allocated says whether the cluster, or one of its mesh, gave out the number.
func allocated(id identity.ID) bool {
	return id >= identity.MinAllocated && id < identity.LocalCIDR
}
