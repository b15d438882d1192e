// SPDX-License-Identifier: Apache-2.0

package service

import (
	"cmp"
	"maps"
	"slices"
)

// Change of frontends and backends, for tables and kernel.
type Change struct {
	Put            []Frontend
	Remove         []Frontend
	PutBackends    []Backend
	RemoveBackends []Backend
}

// Empty tells whether nothing changes.
func (c Change) Empty() bool {
	return len(c.Put)+len(c.Remove)+len(c.PutBackends)+len(c.RemoveBackends) == 0
}

// Balance joins what follows from each object: an owner's frontends are replaced
// as a whole, and where two owners claim the same address and port, the same one
// wins whatever the order of events.
type Balance struct {
	owners   map[string]Derived
	claims   map[FrontendKey]map[string]Frontend // by owner
	winners  map[FrontendKey]Frontend
	touched  map[FrontendKey]bool
	backends map[string]Backend // as they should be
	told     map[string]Backend // as Take has told
	changed  map[string]bool
}

// NewBalance has no frontends.
func NewBalance() *Balance {
	return &Balance{owners: map[string]Derived{}, claims: map[FrontendKey]map[string]Frontend{}, winners: map[FrontendKey]Frontend{},
		touched: map[FrontendKey]bool{}, backends: map[string]Backend{}, told: map[string]Backend{}, changed: map[string]bool{}}
}

// Owners are those that have something, in order.
func (b *Balance) Owners() []string { return slices.Sorted(maps.Keys(b.owners)) }

// Problems of an owner's object.
func (b *Balance) Problems(owner string) []string { return b.owners[owner].Problems }

// Set replaces what an owner has. Nothing at all is fine.
func (b *Balance) Set(owner string, d Derived) {
	old := b.owners[owner]
	for _, f := range old.Frontends {
		delete(b.claims[f.ID()], owner)
		b.touched[f.ID()] = true
	}
	for _, f := range d.Frontends {
		k := f.ID()
		if b.claims[k] == nil {
			b.claims[k] = map[string]Frontend{}
		}
		b.claims[k][owner] = f
		b.touched[k] = true
	}
	for _, x := range old.Backends {
		delete(b.backends, x.Key())
		b.changed[x.Key()] = true
	}
	for _, x := range d.Backends {
		b.backends[x.Key()] = x
		b.changed[x.Key()] = true
	}
	if len(d.Frontends)+len(d.Backends)+len(d.Problems) == 0 {
		delete(b.owners, owner)
		return
	}
	b.owners[owner] = d
}

// Take returns what changed since the last time.
func (b *Balance) Take() Change {
	var c Change
	for k := range b.touched {
		old, had := b.winners[k]
		now, has := b.winner(k)
		switch {
		case has && (!had || !SameFrontend(old, now)):
			b.winners[k] = now
			c.Put = append(c.Put, now)
		case had && !has:
			delete(b.winners, k)
			c.Remove = append(c.Remove, old)
		}
	}
	for key := range b.changed {
		old, had := b.told[key]
		now, has := b.backends[key]
		switch {
		case has && now != old:
			b.told[key] = now
			c.PutBackends = append(c.PutBackends, now)
		case had && !has:
			delete(b.told, key)
			c.RemoveBackends = append(c.RemoveBackends, old)
		}
	}
	clear(b.touched)
	clear(b.changed)
	slices.SortFunc(c.Put, compareFrontends)
	slices.SortFunc(c.Remove, compareFrontends)
	return c
}

// All are the frontends as they are now, sorted.
func (b *Balance) All() []Frontend {
	return slices.SortedFunc(maps.Values(b.winners), compareFrontends)
}

// order of kinds: the first has the address where several want it.
var order = map[Kind]int{LocalRedirect: 0, ClusterIP: 1, LoadBalancer: 2, ExternalIP: 3, NodePort: 4, HostPort: 5}

func (b *Balance) winner(k FrontendKey) (Frontend, bool) {
	claims := b.claims[k]
	if len(claims) == 0 {
		delete(b.claims, k)
		return Frontend{}, false
	}
	return slices.MinFunc(slices.Collect(maps.Values(claims)), func(a, b Frontend) int {
		return cmp.Or(cmp.Compare(order[a.Kind], order[b.Kind]), cmp.Compare(a.Service, b.Service), cmp.Compare(a.PortName, b.PortName))
	}), true
}

func compareFrontends(a, b Frontend) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Scope, b.Scope))
}
