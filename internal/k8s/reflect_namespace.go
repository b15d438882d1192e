// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/table"
)

// ReflectNamespaces keeps all namespaces in the table.
func ReflectNamespaces(ctx context.Context, c *Client, w *table.Writer[identity.Namespace]) error {
	return reflection[*corev1.Namespace, identity.Namespace]{
		kind: Namespaces,
		row: func(n *corev1.Namespace) (identity.Namespace, bool) {
			return identity.Namespace{Name: n.Name, Labels: n.Labels}, true
		},
		key:    func(n identity.Namespace) string { return n.Name },
		synced: w.MarkSynced,
	}.run(ctx, c, w)
}
