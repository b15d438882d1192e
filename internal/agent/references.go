// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/service"
	"github.com/stentor-net/stentor/internal/table"
)

// references keeps what policies can name. The result is the same pointer as
// long as its content is the same: only other ones make the engine look again.
// Endpoints of Services with a selector are not part of it, so that what changes
// most costs nothing here; and while there is no policy, nothing is made.
type references struct {
	made     *policy.References
	groups   *table.Cursor[policy.Group]
	services *table.Cursor[service.Service]
	slices   *table.Cursor[service.Slice]
	owners   owners
	rows     map[string]policy.Service
	stale    bool // made has not all of rows and groups
}

func (r *references) update(t *tables) *policy.References {
	if r.rows == nil {
		r.groups, r.services, r.slices = t.groups.Changes(), t.services.Changes(), t.slices.Changes()
		r.owners, r.rows, r.made, r.stale = owners{}, map[string]policy.Service{}, policy.NewReferences(nil, nil), true
	}
	groups, _ := r.groups.Next()
	services, _ := r.services.Next()
	endpoints, _ := r.slices.Next()
	r.stale = r.stale || len(groups) > 0
	all := t.slices.Snapshot()
	dirty := map[string]bool{}
	for _, c := range services {
		dirty[c.Key] = true
	}
	for _, c := range endpoints {
		r.owners.touch(c, dirty)
	}
	for key := range dirty {
		old, had := r.rows[key]
		s, has := t.services.Get(key)
		if !has {
			delete(r.rows, key)
			r.stale = r.stale || had
			continue
		}
		if row := nameable(s, all); !had || !old.Same(row) {
			r.rows[key], r.stale = row, true
		}
	}
	if !r.stale || t.policies.Snapshot().Len() == 0 {
		return r.made
	}
	r.stale = false
	if next := policy.NewReferences(rowsOf(t.groups), slices.Collect(maps.Values(r.rows))); !next.Same(r.made) {
		r.made = next
	}
	return r.made
}

// nameable is a Service as policies know it.
func nameable(s service.Service, all table.Snapshot[service.Slice]) policy.Service {
	row := policy.Service{Namespace: s.Namespace, Name: s.Name, Labels: s.Labels, Selector: s.Selector}
	if len(s.Selector) == 0 {
		row.Backends = writtenBackends(all, s.Key())
	}
	return row
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

// owners knows the Service of each EndpointSlice, by their keys.
type owners map[string]string

// touch adds the Services that a change of a slice concerns: it may have come from
// another one.
func (o owners) touch(c table.Change[service.Slice], dirty map[string]bool) {
	if was, ok := o[c.Key]; ok {
		dirty[was] = true
	}
	delete(o, c.Key)
	if !c.Deleted {
		o[c.Key] = c.Row.Namespace + "/" + c.Row.Service
		dirty[o[c.Key]] = true
	}
}
