// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/identity"
)

func TestEndpointsWithoutASlotAreClosedAndTheStatusSaysSo(t *testing.T) {
	in := Input{Identities: identity.Reserved()}
	for i := range 600 {
		labels := podLabels("red", map[string]string{"app": fmt.Sprint(i)}, nil)
		id := identity.MinAllocated + identity.ID(i)
		in.Identities[id] = labels
		row := Address{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32), Identity: id}
		in.Addresses = append(in.Addresses, row)
		in.Subjects = append(in.Subjects, Subject{Endpoint: uint16(i + 1), Identity: id, Labels: labels, IPv4: row})
		rule := fromLabel(fmt.Sprint(i), "app", fmt.Sprint((i+1)%600), "")
		in.Objects = append(in.Objects, Object{Kind: KindCiliumNetworkPolicy, Namespace: "red", Name: fmt.Sprint(i), Spec: &ciliumv2.CiliumNetworkPolicy{Spec: &rule}})
	}
	e, err := New(Options{AllowLocalhost: LocalhostPolicy}, NewState())
	if err != nil {
		t.Fatal(err)
	}
	first := in
	first.Subjects = in.Subjects[100:]
	kernel := NewState()
	for _, op := range e.Update(first).Ops {
		kernel.Apply(op)
	}
	out := e.Update(in)
	for _, op := range out.Ops {
		kernel.Apply(op)
	}
	if out.Err == nil {
		t.Error("600 different slots raise no error")
	}
	closed := 0
	for i, s := range in.Subjects {
		from := in.Addresses[(i+1)%600].Prefix.Addr()
		other := in.Addresses[(i+2)%600].Prefix.Addr()
		if kernel.Decide(s.Endpoint, Ingress, other, protoTCP, 80).Verdict != Deny {
			t.Fatalf("endpoint %d is open to others", s.Endpoint)
		}
		if kernel.Decide(s.Endpoint, Ingress, from, protoTCP, 80).Verdict == Deny {
			if closed++; i >= 100 {
				t.Errorf("endpoint %d had a slot and lost it", s.Endpoint)
			}
			a, err := out.Explainer.Explain(Question{Endpoint: s.Endpoint, Direction: Ingress, Peer: from, Protocol: protoTCP, Port: 80})
			if err != nil || !a.Closed {
				t.Errorf("endpoint %d is closed, explained as %s (%v)", s.Endpoint, a.Why(), err)
			}
		}
	}
	if closed != 600-(SlotClosed-1) {
		t.Errorf("%d endpoints are closed, want %d", closed, 600-(SlotClosed-1))
	}
}

func TestPeersThatDoNotFitAreUnknown(t *testing.T) {
	e, err := New(Options{}, NewState())
	if err != nil {
		t.Fatal(err)
	}
	e.peers = newNumbers(PeerFirst, 12)
	e.classes = newNumbers(ClassFirst, 4)
	c := sixPods()
	c.put("p", fromLabel("web", "app", "db", "80"))
	c.put("q", fromLabel("web", "app", "cache", "70"))
	in := c.input()
	out := e.Update(in)
	if out.Err == nil {
		t.Error("no error although numbers ran out")
	}
	kernel := NewState()
	for _, op := range out.Ops {
		kernel.Apply(op)
	}
	o := newOracle(Options{}, &in)
	for i := range in.Subjects {
		for _, p := range probes([]uint16{in.Subjects[i].Endpoint}) {
			if got := p.decide(&kernel); got != Deny && o.judge(&in.Subjects[i], p.d, p.addr, p.protocol, p.port) == Deny {
				t.Fatalf("%+v passes although it must not", p)
			}
		}
	}
}

func TestTheOrderOfInputDoesNotMatter(t *testing.T) {
	in := benchCluster(300, 60, 20)
	want := ""
	r := rand.New(rand.NewPCG(7, 7))
	for range 5 {
		e, err := New(Options{}, NewState())
		if err != nil {
			t.Fatal(err)
		}
		got := describe(e.Update(in).Ops)
		if want == "" {
			want = got
		}
		if got != want {
			t.Fatal("another order of the same input gives other steps")
		}
		in.Addresses, in.Objects, in.Subjects = slices.Clone(in.Addresses), slices.Clone(in.Objects), slices.Clone(in.Subjects)
		r.Shuffle(len(in.Addresses), func(i, j int) { in.Addresses[i], in.Addresses[j] = in.Addresses[j], in.Addresses[i] })
		r.Shuffle(len(in.Objects), func(i, j int) { in.Objects[i], in.Objects[j] = in.Objects[j], in.Objects[i] })
		r.Shuffle(len(in.Subjects), func(i, j int) { in.Subjects[i], in.Subjects[j] = in.Subjects[j], in.Subjects[i] })
	}
}

func TestASharedSlotServesEndpointsThatTheSameRulesSelect(t *testing.T) {
	c := sixPods()
	c.put("p", fromLabel("web", "app", "db", "80"))
	e, err := New(Options{}, NewState())
	if err != nil {
		t.Fatal(err)
	}
	out := e.Update(c.input())
	if a, b := out.Endpoints[1].Row.Ingress, out.Endpoints[2].Row.Ingress; a != b || a == SlotOpen {
		t.Errorf("slots %d and %d; want one for both", a, b)
	}
	if s := out.Endpoints[3]; s.Row.Ingress != SlotOpen || s.EnforcingIngress || len(s.Policies) > 0 {
		t.Errorf("an endpoint that no policy selects: %+v", s)
	}
	if s := out.Endpoints[1]; !s.EnforcingIngress || s.EnforcingEgress || !slices.Equal(s.Policies, []string{"CiliumNetworkPolicy/red/p"}) {
		t.Errorf("an endpoint that a policy selects: %+v", s)
	}
}

func TestAReusedEndpointNumberIsWrittenAgain(t *testing.T) {
	c := sixPods()
	c.put("p", fromLabel("web", "app", "db", "80"))
	e, err := New(Options{}, NewState())
	if err != nil {
		t.Fatal(err)
	}
	e.Update(c.input())
	c.pods[0].incarnation++
	ops := e.Update(c.input()).Ops
	if !slices.ContainsFunc(ops, func(op Op) bool { s, ok := op.(SetEndpoint); return ok && s.Endpoint == 1 }) {
		t.Errorf("the row of the new pod is not written:\n%s", describe(ops))
	}
}

func TestFreedNumbersRestUntilAGracePeriodIsOver(t *testing.T) {
	n := newNumbers(2, 5)
	var got []uint32
	for range 3 {
		i, ok := n.take()
		if !ok {
			t.Fatal("no number although three are free")
		}
		got = append(got, i)
	}
	n.release(got[1])
	if i, ok := n.take(); ok {
		t.Fatalf("%d is given out again before a grace period", i)
	}
	n.wake()
	if i, ok := n.take(); !ok || i != got[1] {
		t.Errorf("got %d, %t; want %d", i, ok, got[1])
	}
}

func TestADenyByAddressHoldsForAPeerKnownByIdentityAlone(t *testing.T) {
	c := sixPods()
	rule := ciliumv2.Rule{EndpointSelector: byLabel("app", "web"), IngressDeny: []ciliumv2.IngressDenyRule{{
		IngressPeers: ciliumv2.IngressPeers{FromCIDR: []ciliumv2.CIDR{"10.0.0.6/32"}},
	}}}
	off := false
	rule.EnableDefaultDeny = &ciliumv2.DefaultDeny{Ingress: &off}
	c.put("p", rule)
	in := c.input()
	e, err := New(Options{CIDRMatchPods: true}, NewState())
	if err != nil {
		t.Fatal(err)
	}
	e.Update(in)
	id := in.Addresses[len(in.Addresses)-1].Identity // of 10.0.0.6
	s := e.State()
	if got := s.DecidePeer(1, Ingress, s.IdentityPeer[id], protoTCP, 80).Verdict; got != Deny {
		t.Errorf("a peer that may have the address passes: %d", got)
	}
	for addr, want := range map[string]Verdict{"10.0.0.6": Deny, "10.0.0.5": Allow} {
		if got := s.Decide(1, Ingress, netip.MustParseAddr(addr), protoTCP, 80).Verdict; got != want {
			t.Errorf("%s: got %d, want %d", addr, got, want)
		}
	}
}

func TestAStateThatCannotBeIsWrittenAgain(t *testing.T) {
	c := sixPods()
	c.put("p", fromLabel("web", "app", "db", "80"))
	in := c.input()
	in.Addresses = append(in.Addresses, Address{})
	e, err := New(Options{}, NewState())
	if err != nil {
		t.Fatal(err)
	}
	e.Update(in)
	r := rand.New(rand.NewPCG(3, 3))
	for range 50 {
		kernel := e.State().Clone()
		wreck(r, &kernel)
		again, err := New(Options{}, kernel)
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range again.Update(in).Ops {
			kernel.Apply(op)
		}
		o := newOracle(Options{}, &in)
		for i := range in.Subjects {
			for _, p := range probes([]uint16{in.Subjects[i].Endpoint}) {
				if want, got := o.judge(&in.Subjects[i], p.d, p.addr, p.protocol, p.port), p.decide(&kernel); got != want {
					t.Fatalf("%+v: got %d, want %d", p, got, want)
				}
			}
		}
	}
}

// wreck writes nonsense into some rows.
func wreck(r *rand.Rand, s *State) {
	for _, id := range sortedKeys(s.Endpoints) {
		if r.IntN(2) == 0 {
			s.Endpoints[id] = EndpointRow{Identity: identity.ID(r.Uint32()), Peer4: r.Uint32(), Peer6: r.Uint32N(40), Egress: uint16(r.Uint32()), Ingress: uint16(r.IntN(8))}
		}
	}
	for _, p := range sortedKeys(s.Peers) {
		if r.IntN(4) == 0 {
			s.Peers[p] = r.Uint32N(10) * r.Uint32N(10000)
		}
	}
	for _, id := range sortedKeys(s.IdentityPeer) {
		if r.IntN(4) == 0 {
			s.IdentityPeer[id] = r.Uint32()
		}
	}
	for p, a := range s.Addresses {
		if r.IntN(4) == 0 {
			s.Addresses[p] = Entry{Identity: a.Identity, Peer: r.Uint32N(3) * r.Uint32N(200000)}
		}
	}
	for _, k := range sortedKeys(s.Classes) {
		s.Classes[k][r.IntN(8)] = uint16(r.IntN(6))
	}
	s.Sets[uint32(r.IntN(8))] = nil
	s.Peers[PeersMax+5] = 3
}
