// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/service"
	"github.com/stentor-net/stentor/internal/table"
)

// ReflectRedirects keeps all CiliumLocalRedirectPolicies in the table.
func ReflectRedirects(ctx context.Context, c *Client, w *table.Writer[service.Redirect]) error {
	return reflection[*ciliumv2.CiliumLocalRedirectPolicy, service.Redirect]{
		kind: LocalRedirectPolicies,
		row: func(o *ciliumv2.CiliumLocalRedirectPolicy) (service.Redirect, bool) {
			return service.ReadRedirect(o), true
		},
		key:      service.Redirect.Key,
		optional: true,
		synced:   w.MarkSynced,
	}.run(ctx, c, w)
}
