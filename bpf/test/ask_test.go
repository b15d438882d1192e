// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/datapath/maps"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/l7"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/testkit/corpus"
)

// askedNode has pods 1 to 3 whose policy is made of random cells and sets, and
// somebody who asks its tables.
type askedNode struct {
	*judgeNode
	*maps.Asker
	random *rand.Rand
	sport  uint16
}

var askedPorts = []uint16{80, 81, 53, 8080, 8191}

func askedPod(id uint16) (four, six netip.Addr) {
	return netip.AddrFrom4([4]byte{10, 0, 1, byte(id)}), netip.MustParseAddr(fmt.Sprintf("fd00:1::%x", id))
}

func newAskedNode(t *testing.T, seed uint64) *askedNode {
	j := newJudgeNode(t)
	asker, err := maps.OpenAsker(j.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { asker.Close() })
	a := &askedNode{judgeNode: j, Asker: asker, random: rand.New(rand.NewPCG(seed, 0)), sport: firstPort}
	if err := asker.Publish(maps.Listeners{TCP4: 1, TCP6: 1, UDP4: 1, UDP6: 1}); err != nil { // where nobody listens
		t.Fatal(err)
	}
	for id := uint16(1); id <= 3; id++ {
		e := maps.Endpoint{ID: id, Incarnation: uint32(id) + 100, IfIndex: int(deviceIndex[devPod1]), MAC: client.mac, NodeMAC: client.nodeMAC}
		e.IPv4, e.IPv6 = askedPod(id)
		if err := j.set.PutEndpoint(e); err != nil {
			t.Fatal(err)
		}
		if err := j.set.EnableEndpoint(id); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func (a *askedNode) apply(ops ...policy.Op) {
	a.Helper()
	if err := a.set.Policy().Apply(ops); err != nil {
		a.Fatal(err)
	}
}

// change gives the node another policy.
func (a *askedNode) change() {
	a.Helper()
	var ops []policy.Op
	for set := uint32(policy.SetFirst); set < policy.SetFirst+6; set++ {
		w := policy.WriteSet{Set: set}
		for _, r := range []policy.SetRow{{}, {Protocol: 6}, {Protocol: 17}, {Protocol: 6, Port: 80, PortBits: 16}, {Protocol: 6, Port: 80, PortBits: 15},
			{Protocol: 6, Port: 8064, PortBits: 9}, {Protocol: 17, Port: 53, PortBits: 16}} {
			if a.random.IntN(3) == 0 {
				continue
			}
			r.Verdict, r.Row = policy.Verdict(a.random.IntN(4)), uint16(len(w.Rows))
			if r.Verdict == policy.Redirect {
				r.L7 = a.random.Uint32() | 1
			}
			w.Rows = append(w.Rows, r)
		}
		ops = append(ops, w)
	}
	for class := uint32(0); class < 6; class++ {
		w := policy.WriteClass{Class: class}
		for slot := range w.Row {
			w.Row[slot] = uint16(a.random.IntN(policy.SetFirst + 6))
		}
		ops = append(ops, w)
	}
	for peer := uint32(0); peer < 12; peer++ {
		ops = append(ops, policy.SetPeer{Peer: peer, Class: uint32(a.random.IntN(6))})
	}
	for id := uint16(1); id <= 3; id++ {
		ops = append(ops, policy.SetEndpoint{Endpoint: id, Row: policy.EndpointRow{Identity: identity.ID(1000 + id), Peer4: uint32(a.random.IntN(12)),
			Peer6: uint32(a.random.IntN(12)), Egress: uint16(a.random.IntN(6)), Ingress: uint16(a.random.IntN(6))}})
	}
	for i, p := range []string{"0.0.0.0/0", "::/0", "198.51.100.0/24", "198.51.100.7/32", "2001:db8::/32", "2001:db8::7/128", "10.0.2.5/32", "fd00:2::5/128"} {
		e := policy.Entry{Identity: identity.ID(20 + i), Peer: uint32(a.random.IntN(12))}
		if i >= 6 {
			e.Node, e.Flags = 2, policy.AddressPod
		}
		ops = append(ops, policy.PutAddress{Prefix: netip.MustParsePrefix(p), Entry: e})
	}
	a.apply(append(ops, policy.BumpEndpoint{Endpoint: 1}, policy.BumpEndpoint{Endpoint: 2}, policy.BumpEndpoint{Endpoint: 3}, policy.BumpPeers{})...)
}

// connection is one of a pod with anybody.
func (a *askedNode) connection() (c l7.Connection, client, server uint16) {
	client = uint16(1 + a.random.IntN(3))
	four, six := askedPod(client)
	own, others := four, []string{"203.0.113.1", "198.51.100.3", "198.51.100.7", "10.0.2.5"}
	if a.random.IntN(2) == 0 {
		own, others = six, []string{"2001:db9::1", "2001:db8::3", "2001:db8::7", "fd00:2::5"}
	}
	to := netip.MustParseAddr(others[a.random.IntN(len(others))])
	if a.random.IntN(2) == 0 {
		server = client%3 + 1
		if to, _ = askedPod(server); own.Is6() {
			_, to = askedPod(server)
		}
	}
	a.sport++
	c = l7.Connection{Client: netip.AddrPortFrom(own, a.sport), Server: netip.AddrPortFrom(to, askedPorts[a.random.IntN(len(askedPorts))]), Protocol: 6}
	if a.random.IntN(3) == 0 {
		c.Protocol = 17
	}
	return c, client, server
}

// want is what the tables say, read one by one.
func want(s *policy.State, c l7.Connection, client, server uint16) (denied bool, limits []l7.Limit) {
	for side, ends := range [][2]uint16{{client, server}, {server, client}} {
		own, other := ends[0], ends[1]
		if own == 0 {
			continue
		}
		direction, addr := policy.Egress, c.Server.Addr()
		slot := s.Endpoints[own].Egress
		if side == 1 {
			direction, addr = policy.Ingress, c.Client.Addr()
			slot = s.Endpoints[own].Ingress
		}
		if slot == policy.SlotOpen {
			continue
		}
		d := s.Decide(own, direction, addr, c.Protocol, int(c.Server.Port()))
		if other != 0 {
			peer := s.Endpoints[other].Peer4
			if addr.Is6() {
				peer = s.Endpoints[other].Peer6
			}
			d = s.DecidePeer(own, direction, peer, c.Protocol, int(c.Server.Port()))
		}
		switch d.Verdict {
		case policy.Deny:
			denied = true
		case policy.Redirect:
			limits = append(limits, l7.Limit{Side: l7.Side(side), Endpoint: own, Set: d.L7})
		}
	}
	return denied, limits
}

// rowOf is the row of a connection that a pod opened, and its key.
func (a *askedNode) rowOf(c l7.Connection) (abi.FlowKey, *abi.Flow) {
	a.Helper()
	k := abi.FlowKey{A: mapped(c.Client.Addr().String()), PortA: ports(c.Client.Port()), B: mapped(c.Server.Addr().String()), PortB: ports(c.Server.Port()), Protocol: c.Protocol}
	if c.Server.Addr().Less(c.Client.Addr()) {
		k.A, k.B, k.PortA, k.PortB = k.B, k.A, k.PortB, k.PortA
	}
	var f abi.Flow
	err := a.maps[abi.MapFlows].Lookup(k, &f)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return k, nil
	}
	if err != nil {
		a.Fatal(err)
	}
	return k, &f
}

// Programs, tables read one by one, and whoever asks the tables are of one
// opinion about every connection, whatever the policy.
func TestWhoAsksTheTablesHearsWhatProgramsDo(t *testing.T) {
	seed := uint64(20)
	a := newAskedNode(t, seed)
	told := map[string]int{}
	for round := range 40 {
		a.change()
		state, err := a.set.ReadPolicy()
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			c, client, server := a.connection()
			frame := a.build(c.Client.Addr(), c.Server.Addr(), corpus.Connection{Protocol: c.Protocol, Port: int(c.Server.Port())}, c.Client.Port())
			if _, err := a.prog("from_pod").Run(&ebpf.RunOptions{Data: frame, Context: skb{Ifindex: deviceIndex[devPod1]}}); err != nil {
				t.Fatal(err)
			}
			key, row := a.rowOf(c)
			denied, limits := want(&state, c, client, server)
			what := fmt.Sprintf("seed %d, round %d: %+v", seed, round, c)
			if (row == nil) != denied || row != nil && (row.Flags&abi.FlowProxied != 0) != (len(limits) > 0) {
				t.Errorf("%s: the programs made %+v, the tables say denied %t, limits %v", what, row, denied, limits)
			}
			if row == nil || row.Flags&abi.FlowProxied == 0 {
				if _, err := a.Judge(c); !errors.Is(err, maps.ErrNoFlow) {
					t.Errorf("%s: %v for what did not come through the proxy", what, err)
				}
				row = &abi.Flow{Endpoint: [2]uint16{client, server}, Incarnation: [2]uint32{uint32(client) + 100, uint32(server) + 100}, Flags: abi.FlowProxied}
				if key.A != mapped(c.Client.Addr().String()) {
					row.Flags |= abi.FlowFromB
				}
				if server == 0 {
					row.Incarnation[1] = 0
				}
				a.put(abi.MapFlows, key, *row) // as from before a change
			}
			r, err := a.Judge(c)
			if err != nil || r.Denied != denied || !denied && !slices.Equal(r.Limits, limits) {
				t.Errorf("%s: ruled %+v, %v, want denied %t, limits %v", what, r, err, denied, limits)
			}
			if !a.Holds(c, &r) {
				t.Errorf("%s: nothing changed, and the ruling does not hold", what)
			}
			told[fmt.Sprintf("denied %t, limits %d", denied, len(limits))]++
			if a.random.IntN(5) == 0 {
				a.outdates(what, c, client, server)
			}
		}
	}
	t.Log(told)
	for _, kind := range []string{"denied false, limits 0", "denied false, limits 1", "denied false, limits 2", "denied true, limits 0"} {
		if told[kind] < 10 {
			t.Errorf("only %d connections were %s", told[kind], kind)
		}
	}
}

// outdates wants a ruling to hold over changes for others, and not over its own.
func (a *askedNode) outdates(what string, c l7.Connection, client, server uint16) {
	a.Helper()
	other := uint16(1)
	for other == client || other == server {
		other++
	}
	steps := []struct {
		op    policy.Op
		holds bool
	}{{policy.BumpEndpoint{Endpoint: other}, true}, {policy.BumpEndpoint{Endpoint: client}, false}, {policy.BumpPeer{Addr: c.Server.Addr()}, false}}
	if server != 0 {
		steps = append(steps, struct {
			op    policy.Op
			holds bool
		}{policy.BumpPeer{Addr: c.Client.Addr()}, false})
	}
	for _, s := range steps {
		r, err := a.Judge(c)
		if err != nil {
			a.Errorf("%s: %v", what, err)
		}
		a.apply(s.op)
		if a.Holds(c, &r) != s.holds {
			a.Errorf("%s: after %T the ruling holds: %t", what, s.op, !s.holds)
		}
	}
}
