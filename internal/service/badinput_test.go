// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func addrOf(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)}) }

// Fifty slices of a hundred endpoints, some of them in two slices.
func TestAServiceOf5000EndpointsIsWhole(t *testing.T) {
	const endpoints = 5000
	et, ew := NewSliceTable()
	for i := range endpoints / 100 {
		s := slice(fmt.Sprint("s", i), web)
		for j := range 102 {
			s.Endpoints = append(s.Endpoints, at("a", "ready", addrOf((i*100+j)%endpoints).String()))
		}
		ew.Upsert(s)
	}
	one := deathstar
	one.ClusterIPs = one.ClusterIPs[:1]
	d := Of(one, et.Snapshot(), Place{Node: "a", IPv4: true})
	if len(d.Problems) > 0 {
		t.Errorf("problems: %v", d.Problems)
	}
	for _, f := range d.Frontends {
		if !f.Rest() && len(f.Takers()) != endpoints {
			t.Errorf("%s has %d backends", f.Key(), len(f.Takers()))
		}
	}
	table := MaglevTable(d.Frontends[0].Takers(), DefaultMaglevSize, MaglevSeed(DefaultMaglevSeed))
	seen := map[int]bool{}
	for _, b := range table {
		seen[int(b)] = true
	}
	if len(seen) != endpoints {
		t.Errorf("%d backends are in the Maglev table", len(seen))
	}
}

func TestServicesThatComeAgainInABurstAreAsIfNothingWas(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	b := NewBalance()
	told := map[FrontendKey]Frontend{}
	et, _ := NewSliceTable()
	place := Place{Node: "a", IPv4: true, IPv6: true, AllKinds: true}
	services := make([]Service, 5) // all with the same addresses and ports
	for i := range services {
		services[i] = deathstar
		services[i].Name = fmt.Sprint("s", i)
	}
	there := map[string]bool{}
	for range 2000 {
		s := services[r.IntN(len(services))]
		if there[s.Key()] {
			b.Set(s.Key(), Derived{})
		} else {
			b.Set(s.Key(), Of(s, et.Snapshot(), place))
		}
		there[s.Key()] = !there[s.Key()]
		if r.IntN(3) > 0 {
			continue // the datapath is told of several at once
		}
		c := b.Take()
		for _, f := range c.Remove {
			delete(told, f.ID())
		}
		for _, f := range c.Put {
			told[f.ID()] = f
		}
	}
	b.Take()
	fresh := NewBalance()
	for _, s := range services {
		if there[s.Key()] {
			fresh.Set(s.Key(), Of(s, et.Snapshot(), place))
		}
	}
	fresh.Take()
	compare := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if d := cmp.Diff(fresh.All(), b.All(), compare); d != "" {
		t.Errorf("-fresh +after the burst:\n%s", d)
	}
	for _, s := range services {
		if d := cmp.Diff(fresh.Problems(s.Key()), b.Problems(s.Key())); d != "" {
			t.Errorf("problems of %s: -fresh +after the burst:\n%s", s.Key(), d)
		}
	}
	for _, s := range services {
		b.Set(s.Key(), Derived{})
	}
	b.Take()
	if len(b.All())+len(b.claims)+len(b.lost)+len(b.losers)+len(b.reported)+len(b.owners) > 0 {
		t.Error("something is left although all have gone")
	}
}

func TestWhoLosesAnAddressIsToldUntilItHasIt(t *testing.T) {
	et, _ := NewSliceTable()
	b := NewBalance()
	first, second := deathstar, deathstar
	first.Name, second.Name = "first", "second"
	place := Place{Node: "a", IPv4: true, IPv6: true}
	b.Set(first.Key(), Of(first, et.Snapshot(), place))
	b.Set(second.Key(), Of(second, et.Snapshot(), place))
	c := b.Take()
	if got := c.Problems["default/second"]; len(got) != 4 || got[0] != "10.96.0.9:53/UDP (ClusterIP) yields to default/first (ClusterIP)" {
		t.Errorf("second is told %q", got)
	}
	if _, told := c.Problems["default/first"]; told {
		t.Error("first is told of something")
	}
	b.Set(first.Key(), Derived{})
	if got, told := b.Take().Problems["default/second"]; !told || len(got) > 0 {
		t.Errorf("second is told %q when it has the address", got)
	}
	if i := slices.IndexFunc(b.All(), func(f Frontend) bool { return f.Service != "default/second" }); i >= 0 {
		t.Errorf("%+v", b.All()[i])
	}
}
