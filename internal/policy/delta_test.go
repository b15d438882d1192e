// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// deltaBetween is what leads from one input to another, found without an engine.
func deltaBetween(from, to Input) Delta {
	d := Delta{Identities: map[identity.ID]label.Set{}, Ports: map[netip.Addr][]endpoint.Port{}, References: to.References}
	subjects := map[uint16]bool{}
	for i := range to.Subjects {
		s := &to.Subjects[i]
		subjects[s.Endpoint] = true
		if !slices.ContainsFunc(from.Subjects, func(o Subject) bool { return sameSubject(&o, s) }) {
			d.Subjects = append(d.Subjects, *s)
		}
	}
	for _, s := range from.Subjects {
		if !subjects[s.Endpoint] {
			d.SubjectsGone = append(d.SubjectsGone, s.Endpoint)
		}
	}
	for id, l := range to.Identities {
		if old, ok := from.Identities[id]; !ok || !slices.Equal(old, l) {
			d.Identities[id] = l
		}
	}
	for id := range from.Identities {
		if _, ok := to.Identities[id]; !ok {
			d.IdentitiesGone = append(d.IdentitiesGone, id)
		}
	}
	rows := map[netip.Prefix]bool{}
	for _, a := range to.Addresses {
		rows[a.Prefix] = true
		if !slices.Contains(from.Addresses, a) {
			d.Addresses = append(d.Addresses, a)
		}
	}
	for _, a := range from.Addresses {
		if !rows[a.Prefix] {
			d.AddressesGone = append(d.AddressesGone, a.Prefix)
		}
	}
	for ip, p := range to.Ports {
		if !slices.Equal(p, from.Ports[ip]) {
			d.Ports[ip] = p
		}
	}
	for ip := range from.Ports {
		if _, ok := to.Ports[ip]; !ok {
			d.Ports[ip] = nil
		}
	}
	objects := map[string]bool{}
	for _, o := range to.Objects {
		objects[o.Key()] = true
		if !slices.Contains(from.Objects, o) {
			d.Objects = append(d.Objects, o)
		}
	}
	for _, o := range from.Objects {
		if !objects[o.Key()] {
			d.ObjectsGone = append(d.ObjectsGone, o.Key())
		}
	}
	return d
}

// pieces parts a delta into pieces that are each about one thing.
func pieces(d Delta) (out []Delta) {
	for _, s := range d.Subjects {
		out = append(out, Delta{Subjects: []Subject{s}})
	}
	for _, id := range d.SubjectsGone {
		out = append(out, Delta{SubjectsGone: []uint16{id}})
	}
	for _, id := range sortedKeys(d.Identities) {
		out = append(out, Delta{Identities: map[identity.ID]label.Set{id: d.Identities[id]}})
	}
	for _, id := range slices.Sorted(slices.Values(d.IdentitiesGone)) {
		out = append(out, Delta{IdentitiesGone: []identity.ID{id}})
	}
	for _, a := range d.Addresses {
		out = append(out, Delta{Addresses: []Address{a}})
	}
	for _, p := range d.AddressesGone {
		out = append(out, Delta{AddressesGone: []netip.Prefix{p}})
	}
	for _, ip := range slices.SortedFunc(maps.Keys(d.Ports), netip.Addr.Compare) {
		out = append(out, Delta{Ports: map[netip.Addr][]endpoint.Port{ip: d.Ports[ip]}})
	}
	for _, o := range d.Objects {
		out = append(out, Delta{Objects: []Object{o}})
	}
	for _, key := range d.ObjectsGone {
		out = append(out, Delta{ObjectsGone: []string{key}})
	}
	if d.References != nil {
		out = append(out, Delta{References: d.References})
	}
	return out
}

// sameVerdicts fails if two kernels judge any probe of the endpoints differently.
func sameVerdicts(t failer, in *Input, a, b *State, what string) {
	for i := range in.Subjects {
		for _, p := range probes([]uint16{in.Subjects[i].Endpoint}) {
			if x, y := p.decide(a), p.decide(b); x != y {
				t.Fatalf("%s: %+v is judged %d and %d", what, p, x, y)
			}
		}
		for id := range in.Identities { // by the number in a tunnel header
			for _, d := range []Direction{Egress, Ingress} {
				x := a.DecidePeer(in.Subjects[i].Endpoint, d, a.IdentityPeer[id], protoTCP, 80).Verdict
				y := b.DecidePeer(in.Subjects[i].Endpoint, d, b.IdentityPeer[id], protoTCP, 80).Verdict
				if x != y {
					t.Fatalf("%s: endpoint %d and identity %d are judged %d and %d", what, in.Subjects[i].Endpoint, id, x, y)
				}
			}
		}
	}
}

// sameSize fails if one kernel holds more than the other of what has no reason to differ.
func sameSize(t failer, a, b *Engine, what string) {
	x, y := a.stats(), b.stats()
	if x != y || len(a.state.Addresses) != len(b.state.Addresses) || len(a.state.Sets) != len(b.state.Sets) {
		t.Fatalf("%s: %+v and %d addresses, a new engine has %+v and %d", what, x, len(a.state.Addresses), y, len(b.state.Addresses))
	}
}

func TestDeltasLeadToWhatANewEngineMakesOfTheSameInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := draw{t}
		c, opts := d.cluster(), d.options()
		kernel := NewState()
		e, err := New(opts, kernel)
		if err != nil {
			t.Fatal(err)
		}
		var in Input
		for range 2 + d.n("steps", 6) {
			event := d.change(c)
			old := in
			in = c.input()
			list := []Delta{deltaBetween(old, in)}
			if d.chance("apart", 2) { // in any order
				list = rapid.Permutation(pieces(list[0])).Draw(t, "order")
			}
			var out Outcome
			for _, delta := range list {
				before := kernel.Clone()
				out = e.Apply(delta)
				if out.Err != nil {
					t.Fatal(out.Err)
				}
				if len(list) == 1 {
					steps(t, event, &kernel, &before, out.Ops, survivors(old, in), in)
					continue
				}
				for _, op := range out.Ops {
					kernel.Apply(op)
				}
			}
			fresh, err := New(opts, NewState())
			if err != nil {
				t.Fatal(err)
			}
			fresh.Update(in)
			sameVerdicts(t, &in, &kernel, &fresh.state, "after "+event)
			sameSize(t, e, fresh, "after "+event)
			if out.Explainer != nil {
				agree(t, opts, &in, out.Explainer, &kernel, event)
			}
			if again := e.Update(in); len(again.Ops) > 0 {
				t.Fatalf("after %s: the whole input gives %d steps more: %#v", event, len(again.Ops), again.Ops)
			}
		}
	})
}

func TestTheOrderOfEventsDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := draw{t}
		c, opts := d.cluster(), d.options()
		in := c.input()
		events := pieces(deltaBetween(Input{}, in))
		var engines [2]*Engine
		for i := range engines {
			e, err := New(opts, NewState())
			if err != nil {
				t.Fatal(err)
			}
			for _, delta := range rapid.Permutation(events).Draw(t, fmt.Sprint("order ", i)) {
				if out := e.Apply(delta); out.Err != nil {
					t.Fatal(out.Err)
				}
			}
			engines[i] = e
		}
		sameVerdicts(t, &in, &engines[0].state, &engines[1].state, "two orders")
		sameSize(t, engines[0], engines[1], "two orders")
	})
}
