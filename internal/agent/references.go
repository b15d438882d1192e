// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"slices"

	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/service"
	"github.com/stentor-net/stentor/internal/table"
)

// references keeps what policies can name. The result is the same pointer as
// long as its content is the same: only other ones make the engine look again.
type references struct {
	made    *policy.References
	read    [3]uint64 // revisions of the tables it was made from
	started bool
}

func (r *references) update(t *tables) *policy.References {
	groups, services, slices := t.groups.Snapshot(), t.services.Snapshot(), t.slices.Snapshot()
	now := [3]uint64{groups.Revision(), services.Revision(), slices.Revision()}
	if r.started && now == r.read {
		return r.made
	}
	r.read, r.started = now, true
	if next := referencesOf(groups, services, slices); r.made == nil || !next.Same(r.made) {
		r.made = next
	}
	return r.made
}

func referencesOf(groups table.Snapshot[policy.Group], services table.Snapshot[service.Service], all table.Snapshot[service.Slice]) *policy.References {
	var named []policy.Group
	for _, g := range groups.All() {
		named = append(named, g)
	}
	var list []policy.Service
	for key, s := range services.All() {
		row := policy.Service{Namespace: s.Namespace, Name: s.Name, Labels: s.Labels, Selector: s.Selector}
		if len(s.Selector) == 0 {
			row.Backends = writtenBackends(all, key)
		}
		list = append(list, row)
	}
	return policy.NewReferences(named, list)
}

// writtenBackends are the addresses of a Service without selector, in order.
func writtenBackends(all table.Snapshot[service.Slice], key string) []netip.Addr {
	var out []netip.Addr
	for _, slice := range all.Index("service", key) {
		for _, e := range slice.Endpoints {
			out = append(out, e.Addresses...)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}
