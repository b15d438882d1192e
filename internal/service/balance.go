// SPDX-License-Identifier: Apache-2.0

package service

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Change of frontends and backends, for tables and kernel.
type Change struct {
	Put            []Frontend
	Remove         []Frontend
	PutBackends    []Backend
	RemoveBackends []Backend
	Problems       map[string][]string // by owner, where they changed; none: there are none any more
}

// Empty tells whether nothing changes.
func (c Change) Empty() bool {
	return len(c.Put)+len(c.Remove)+len(c.PutBackends)+len(c.RemoveBackends)+len(c.Problems) == 0
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

	lost      map[string]map[FrontendKey]string // by owner: who has what it claims, for people
	losers    map[FrontendKey][]string          // owners in lost
	concerned map[string]bool                   // owners whose problems may have changed
	reported  map[string][]string               // problems as Take has told
}

// NewBalance has no frontends.
func NewBalance() *Balance {
	return &Balance{owners: map[string]Derived{}, claims: map[FrontendKey]map[string]Frontend{}, winners: map[FrontendKey]Frontend{},
		touched: map[FrontendKey]bool{}, backends: map[string]Backend{}, told: map[string]Backend{}, changed: map[string]bool{},
		lost: map[string]map[FrontendKey]string{}, losers: map[FrontendKey][]string{}, concerned: map[string]bool{}, reported: map[string][]string{}}
}

// Owners are those that have something, in order.
func (b *Balance) Owners() []string { return slices.Sorted(maps.Keys(b.owners)) }

// Problems of an owner's object, sorted: those in the object itself, and what
// others have that it claims. The latter are as the last Take left them.
func (b *Balance) Problems(owner string) []string {
	out := slices.Clone(b.owners[owner].Problems)
	out = slices.AppendSeq(out, maps.Values(b.lost[owner]))
	slices.Sort(out)
	return slices.Compact(out)
}

// Set replaces what an owner has. Nothing at all is fine.
func (b *Balance) Set(owner string, d Derived) {
	b.concerned[owner] = true
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
		holder, now, has := b.winner(k)
		b.settle(k, holder, now)
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
	c.Problems = b.problems()
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

// settle notes what the owners lost that claim k and do not hold it.
func (b *Balance) settle(k FrontendKey, holder string, now Frontend) {
	for _, owner := range b.losers[k] {
		delete(b.lost[owner], k)
		if len(b.lost[owner]) == 0 {
			delete(b.lost, owner)
		}
		b.concerned[owner] = true
	}
	delete(b.losers, k)
	for owner, f := range b.claims[k] {
		if owner == holder || f.Rest() || now.Redirect != "" && now.Service == f.Service && f.Redirect == "" {
			continue
		}
		if b.lost[owner] == nil {
			b.lost[owner] = map[FrontendKey]string{}
		}
		b.lost[owner][k] = fmt.Sprintf("%s (%s) yields to %s (%s)", f.Socket(), f.Kind, cmp.Or(now.Redirect, now.Service), now.Kind)
		b.losers[k] = append(b.losers[k], owner)
		b.concerned[owner] = true
	}
}

// problems are those that changed since they were told.
func (b *Balance) problems() map[string][]string {
	out := map[string][]string{}
	for owner := range b.concerned {
		now := b.Problems(owner)
		if slices.Equal(now, b.reported[owner]) {
			continue
		}
		out[owner] = now
		if b.reported[owner] = now; len(now) == 0 {
			delete(b.reported, owner)
		}
	}
	clear(b.concerned)
	return out
}

// order of claims: the first has the address where several want it. Redirects of
// a Service stand before it, those of a mere address after everything else.
func order(f Frontend) int {
	if f.Kind == LocalRedirect && strings.HasSuffix(f.Service, ":local-redirect") {
		return len(orderOfKinds)
	}
	return slices.Index(orderOfKinds, f.Kind)
}

// ExternalIPs are last: whoever may write a Service writes them, also addresses of nodes.
var orderOfKinds = []Kind{LocalRedirect, ClusterIP, LoadBalancer, NodePort, HostPort, ExternalIP}

// winner is who holds k, and what it claims.
func (b *Balance) winner(k FrontendKey) (holder string, f Frontend, ok bool) {
	claims := b.claims[k]
	for owner, c := range claims {
		if !ok || compareClaims(c, f) < 0 {
			holder, f, ok = owner, c, true
		}
	}
	if !ok {
		delete(b.claims, k)
	}
	return holder, f, ok
}

func compareClaims(a, b Frontend) int {
	return cmp.Or(cmp.Compare(order(a), order(b)), cmp.Compare(a.Service, b.Service), cmp.Compare(a.PortName, b.PortName), cmp.Compare(a.Redirect, b.Redirect))
}

func compareFrontends(a, b Frontend) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Scope, b.Scope))
}
