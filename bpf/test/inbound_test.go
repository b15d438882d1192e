// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stentor-net/stentor/internal/abi"
)

const nodePort = 30080

// serving is a node with all kinds of services, whose addresses these are.
func serving(host4, host6 string) config {
	return config{abi.ConfigServices: uint8(1), abi.ConfigMasqueradeAddr4: mapped(host4), abi.ConfigMasqueradeAddr6: mapped(host6)}
}

func servingA(more config) config {
	c := serving(hostIP4, hostIP6)
	for k, v := range more {
		c[k] = v
	}
	return c
}

// servingCluster is two such nodes.
func servingCluster(t testing.TB, more config) *cluster {
	t.Helper()
	b := serving(hostBIP4, hostBIP6)
	for k, v := range more {
		b[k] = v
	}
	c := &cluster{a: newNode(t, servingA(more)), b: newNode(t, b)}
	c.fill()
	return c
}

// frontend is a service to be put into a node.
type frontend struct {
	vip      string
	port     uint16
	protocol uint8
	scope    uint8
	row      abi.Service
	backends []string // addresses; port 8080
}

// serve puts a frontend for clients outside and returns its number.
func (n *node) serve(f frontend) uint32 {
	n.Helper()
	n.services++
	f.row.ID, f.row.First, f.row.Count = 100+n.services, n.first, uint32(len(f.backends))
	for _, a := range f.backends {
		n.put(abi.MapBackends, n.first+1, abi.Backend{Addr: mapped(a), Port: ports(8080), Protocol: f.protocol, Flags: abi.BackendUsed})
		n.put(abi.MapServiceSlots, n.first, abi.ServiceSlot{Backend: n.first + 1})
		n.first++
	}
	n.put(abi.MapServiceVIPs, f.row.ID, abi.ServiceVIP{VIP: mapped(f.vip), Port: ports(f.port), Protocol: f.protocol})
	n.put(abi.MapServices, abi.ServiceKey{VIP: mapped(f.vip), Port: ports(f.port), Protocol: f.protocol, Scope: f.scope}, f.row)
	return f.row.ID
}

// toNodePort is a packet of a client outside to a NodePort of node A.
func toNodePort(six bool, flags string) message {
	return message{srcMAC: [6]byte{2, 0, 0, 0, 9, 9}, dstMAC: [6]byte{2, 0, 0, 0, 0, 1}, src: pick(six, outsideIP4, outsideIP6), dst: pick(six, hostIP4, hostIP6), sport: 40000, dport: nodePort, flags: flags}
}

// toClientOutside checks that r leaves by the uplink, from the frontend to the client of m.
func toClientOutside(t *testing.T, what string, r result, m message) {
	t.Helper()
	expect(t, what, r, actRedirect, 0)
	if r.spy.Kind != kindNeighbor || r.spy.Ifindex != deviceIndex[devUplink] {
		t.Fatalf("%s: redirect kind %d to %d; want the uplink's neighbour", what, r.spy.Kind, r.spy.Ifindex)
	}
	checkSums(t, r.out)
	if d := decode(t, r.out); d.src != m.dst || d.sport != m.dport || d.dst != m.src || d.dport != m.sport {
		t.Errorf("%s: answer of %s:%d to %s:%d; want of %s:%d to %s:%d", what, d.src, d.sport, d.dst, d.dport, m.dst, m.dport, m.src, m.sport)
	}
}

func protocols(t *testing.T, f func(t *testing.T, six, udp bool, protocol uint8)) {
	for _, family := range families {
		for _, udp := range []bool{false, true} {
			name, number := "TCP", uint8(6)
			if udp {
				name, number = "UDP", 17
			}
			t.Run(family.name+" "+name, func(t *testing.T) { f(t, family.six, udp, number) })
		}
	}
}

func TestClientsOutsideReachAPodOfTheNodeThatTheyAsk(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, protocol uint8) {
		a := newNodeA(t, servingA(nil))
		m := toNodePort(six, "S")
		m.udp = udp
		a.serve(frontend{m.dst, nodePort, protocol, abi.ScopeExternal, abi.Service{Kind: abi.ServiceNodePort}, []string{server.ip(six)}})
		for _, flags := range []string{"S", "A"} {
			m.flags = flags
			r := a.run("from_net", m.bytes(t), from{device: devUplink})
			expectDelivered(t, flags, r, server)
			checkSums(t, r.out)
			if d := decode(t, r.out); d.src != m.src || d.sport != m.sport || d.dst != server.ip(six) || d.dport != 8080 {
				t.Fatalf("arrives from %s:%d at %s:%d", d.src, d.sport, d.dst, d.dport)
			}
			back := message{srcMAC: server.mac, dstMAC: server.nodeMAC, src: server.ip(six), dst: m.src, sport: 8080, dport: m.sport, flags: "SA", udp: udp}
			r = a.run("from_pod", back.bytes(t), from{device: devPod2, route: devUplink})
			toClientOutside(t, flags, r, m)
			left := a.run("to_net", r.out, from{device: devUplink, mark: r.mark})
			if expect(t, "to_net", left, actOK, 0); left.mark != 0 || string(left.out) != string(r.out) {
				t.Errorf("to_net changes an answer, or leaves mark %x", left.mark)
			}
		}
		if rows := a.flowRows(); len(rows) != 1 {
			t.Errorf("%d flows", len(rows))
		}
		a.setCell(peerWorld, slotServerIngress, abi.SetDeny, server.id)
		expect(t, "after a deny", a.run("from_net", m.bytes(t), from{device: devUplink}), actShot, abi.ReasonPolicyDenied)
	})
}

func TestClientsOutsideReachAPodOfAnotherNodeThroughTheTunnel(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, protocol uint8) {
		c := servingCluster(t, nil)
		m := toNodePort(six, "S")
		m.udp = udp
		c.a.serve(frontend{m.dst, nodePort, protocol, abi.ScopeExternal, abi.Service{Kind: abi.ServiceNodePort}, []string{remote.ip(six)}})
		for _, flags := range []string{"S", "A"} {
			m.flags = flags
			r := c.a.run("from_net", m.bytes(t), from{device: devUplink})
			world := map[bool]uint32{false: abi.IdentityWorldIPv4, true: abi.IdentityWorldIPv6}[six]
			in := tunnelled(t, flags, r, hostBIP4, hostIP4, world)
			checkSums(t, r.out)
			d := decode(t, r.out)
			if d.src != m.dst || d.sport != 40000 || d.dst != remote.ip(six) || d.dport != 8080 || d.ttl != 63 {
				t.Fatalf("leaves as %s:%d to %s:%d, TTL %d; want the node's address, the client's port, the backend", d.src, d.sport, d.dst, d.dport, d.ttl)
			}
			expectDelivered(t, flags, c.b.run("from_overlay", r.out, in), remote)
			back := message{srcMAC: remote.mac, dstMAC: remote.nodeMAC, src: remote.ip(six), dst: d.src, sport: 8080, dport: d.sport, flags: "SA", udp: udp}
			r = c.b.run("from_pod", back.bytes(t), from{device: devPod1})
			in = tunnelled(t, "answer", r, hostIP4, hostBIP4, remote.identity)
			in.route = devUplink
			toClientOutside(t, flags, c.a.run("from_overlay", r.out, in), m)
		}
		// Policy there sees a client of the world, not the node.
		c.b.setCells(peerNode, abi.SetDeny)
		m.sport = 40001
		r := c.a.run("from_net", m.bytes(t), from{device: devUplink})
		expectDelivered(t, "nodes are denied", c.b.run("from_overlay", r.out, tunnelled(t, "", r, hostBIP4, hostIP4, r.spy.VNI)), remote)
		c.b.setCell(peerWorld, slotRemoteIngress, abi.SetDeny, remote.id)
		expect(t, "the world is denied", c.b.run("from_overlay", r.out, tunnelled(t, "", r, hostBIP4, hostIP4, r.spy.VNI)), actShot, abi.ReasonPolicyDenied)
	})
}

func TestClientsOutsideReachAPodOfAnotherNodeWithoutATunnel(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, protocol uint8) {
		c := servingCluster(t, config{abi.ConfigTunnel: uint8(0)})
		m := toNodePort(six, "S")
		m.udp = udp
		c.a.serve(frontend{m.dst, nodePort, protocol, abi.ScopeExternal, abi.Service{}, []string{remote.ip(six)}})
		r := c.a.run("from_net", m.bytes(t), from{device: devUplink, route: devUplink})
		expect(t, "from_net", r, actRedirect, 0)
		d := decode(t, r.out)
		if r.spy.Kind != kindNeighbor || d.src != m.dst || d.sport < 61000 || d.dst != remote.ip(six) {
			t.Fatalf("leaves as %s:%d to %s, redirect kind %d; want a port of the node's own range, which no socket of the host gets", d.src, d.sport, d.dst, r.spy.Kind)
		}
		expectDelivered(t, "there", c.b.run("from_net", r.out, from{device: devUplink}), remote)
		back := message{srcMAC: remote.mac, dstMAC: remote.nodeMAC, src: remote.ip(six), dst: d.src, sport: 8080, dport: d.sport, flags: "SA", udp: udp}
		r = c.b.run("from_pod", back.bytes(t), from{device: devPod1, route: devUplink})
		expect(t, "answer", r, actRedirect, 0)
		toClientOutside(t, "answer", c.a.run("from_net", r.out, from{device: devUplink, route: devUplink}), m)
	})
}

func TestErrorsAboutWhatClientsOutsideSentReachThem(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c := servingCluster(t, nil)
			m := toNodePort(f.six, "")
			m.udp = true
			c.a.serve(frontend{m.dst, nodePort, 17, abi.ScopeExternal, abi.Service{}, []string{remote.ip(f.six)}})
			sent := c.a.run("from_net", m.bytes(t), from{device: devUplink}).out
			e := icmpError(t, remote.ip(f.six), sent)
			r := c.a.run("from_overlay", e.bytes(t), from{device: devOverlay, outer: hostBIP4, vni: remote.identity, route: devUplink})
			expect(t, "error", r, actRedirect, 0)
			checkSums(t, r.out)
			if d := decode(t, r.out); d.dst != m.src {
				t.Errorf("error for %s", d.dst)
			}
			if d := innerOf(t, r.out); d.src != m.src || d.sport != m.sport || d.dst != m.dst || d.dport != m.dport {
				t.Errorf("error about %s:%d to %s:%d", d.src, d.sport, d.dst, d.dport)
			}
		})
	}
}

func TestClientsOfOneBackendDoNotShareAPort(t *testing.T) {
	c := servingCluster(t, config{abi.ConfigNATPortMin: uint16(61000), abi.ConfigNATPortMax: uint16(61001)})
	m := toNodePort(false, "S")
	c.a.serve(frontend{m.dst, nodePort, 6, abi.ScopeExternal, abi.Service{}, []string{remote.ip4}})
	seen := map[uint16]bool{}
	for i := range 3 { // the first keeps its port, the others get the two of the range
		m.src = fmt.Sprintf("203.0.113.%d", 10+i)
		r := c.a.run("from_net", m.bytes(t), from{device: devUplink})
		expect(t, m.src, r, actRedirect, 0)
		d := decode(t, r.out)
		if seen[d.sport] {
			t.Errorf("port %d is given twice", d.sport)
		}
		seen[d.sport] = true
		if again := decode(t, c.a.run("from_net", m.bytes(t), from{device: devUplink}).out); again.sport != d.sport {
			t.Errorf("port changes from %d to %d", d.sport, again.sport)
		}
	}
	m.src = "203.0.113.20"
	expect(t, "one too many", c.a.run("from_net", m.bytes(t), from{device: devUplink}), actShot, abi.ReasonNATNoMapping)
	if n := c.a.dropped(abi.ReasonNATNoMapping, 1); n != 1 {
		t.Errorf("%d drops counted", n)
	}
}

func TestWhatServicesRefuseClientsOutside(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, servingA(nil))
			vip := pick(f.six, "198.51.100.7", "2001:db8:7::7")
			m := toNodePort(f.six, "S")
			m.dst, m.dport = vip, 80
			put := func(port uint16, row abi.Service, backends ...string) uint32 {
				return a.serve(frontend{vip, port, 6, abi.ScopeExternal, row, backends})
			}
			put(81, abi.Service{Flags: abi.ServiceLocal})
			put(82, abi.Service{})
			allowed := put(83, abi.Service{Flags: abi.ServiceSourceAllow}, server.ip(f.six))
			denied := put(84, abi.Service{Flags: abi.ServiceSourceDeny}, server.ip(f.six))
			a.put(abi.MapServices, abi.ServiceKey{VIP: mapped(vip), Scope: abi.ScopeExternal}, abi.Service{Flags: abi.ServiceRest})
			try := func(what string, port uint16, verdict uint32, reason uint8) result {
				t.Helper()
				m.dport = port
				m.sport++
				r := a.run("from_net", m.bytes(t), from{device: devUplink})
				expect(t, what, r, verdict, reason)
				return r
			}
			try("a port without service", 80, actShot, abi.ReasonNoServiceBackend)
			try("traffic policy Local without backend", 81, actShot, abi.ReasonNoServiceBackend)
			try("not among the allowed", 83, actShot, abi.ReasonNotInSourceRange)
			r := try("no backend", 82, actRedirect, abi.ReasonNoServiceBackend)
			checkSums(t, r.out)
			d := decode(t, r.out)
			if d.src != vip || d.dst != m.src || d.dstMAC != "02:00:00:00:09:09" || r.spy.Ifindex != deviceIndex[devUplink] {
				t.Errorf("the answer is of %s for %s (%s)", d.src, d.dst, d.dstMAC)
			}
			if in := innerOf(t, r.out); in.dst != vip || in.dport != 82 || in.sport != m.sport {
				t.Errorf("the answer is about %s:%d", in.dst, in.dport)
			}
			for _, id := range []uint32{allowed, denied} {
				bits := uint32(32 + 96 + 24)
				if f.six {
					bits = 32 + 48
				}
				a.put(abi.MapSourceRanges, abi.SourceRange{Prefixlen: bits, Service: id, Addr: netip.MustParseAddr(m.src).As16()}, uint32(1))
			}
			expectDelivered(t, "allowed", try("allowed", 83, actRedirect, 0), server)
			try("denied", 84, actShot, abi.ReasonNotInSourceRange)
			m.src = pick(f.six, "192.0.2.9", "2001:db9::9")
			expectDelivered(t, "not denied", try("not denied", 84, actRedirect, 0), server)
			m.src = client.ip(f.six)
			try("with a pod's address", 84, actShot, abi.ReasonUnknownSender)
			put(85, abi.Service{}, remote.ip(f.six))
			try("with a pod's address, to a backend elsewhere", 85, actShot, abi.ReasonUnknownSender)
			m = toNodePort(f.six, "S")
			m.dport = 22
			b := m.bytes(t)
			if r := a.run("from_net", b, from{device: devUplink}); r.verdict != actOK || string(r.out) != string(b) {
				t.Errorf("a port of the host: verdict %d", r.verdict)
			}
		})
	}
}

func TestTheHostItselfServesClientsOutside(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, protocol uint8) {
		a := newNodeA(t, servingA(nil))
		m := toNodePort(six, "S")
		m.udp = udp
		host := pick(six, hostIP4, hostIP6)
		answer := message{src: host, dst: m.src, sport: 8080, dport: m.sport, flags: "SA", udp: udp}
		before := answer.bytes(t)
		if r := a.run("to_net", before, from{device: devUplink}); string(r.out) != string(before) {
			t.Error("a packet of the host changes although nobody asked")
		}
		a.serve(frontend{m.dst, nodePort, protocol, abi.ScopeExternal, abi.Service{}, []string{host}})
		r := a.run("from_net", m.bytes(t), from{device: devUplink})
		expect(t, "from_net", r, actOK, 0)
		checkSums(t, r.out)
		if d := decode(t, r.out); d.dst != host || d.dport != 8080 || d.src != m.src {
			t.Fatalf("arrives at %s:%d", d.dst, d.dport)
		}
		r = a.run("to_net", before, from{device: devUplink})
		expect(t, "to_net", r, actOK, 0)
		checkSums(t, r.out)
		if d := decode(t, r.out); d.src != m.dst || d.sport != nodePort || d.dst != m.src {
			t.Errorf("answer of %s:%d", d.src, d.sport)
		}
		answer.dport++
		other := answer.bytes(t)
		if r := a.run("to_net", other, from{device: devUplink}); string(r.out) != string(other) {
			t.Error("another connection of the host changes")
		}
	})
}

func TestAClientOutsideKeepsItsBackend(t *testing.T) {
	a := newNodeA(t, servingA(nil))
	m := toNodePort(false, "S")
	both := []string{server.ip4, client.ip4}
	first := a.first
	id := a.serve(frontend{m.dst, nodePort, 6, abi.ScopeExternal, abi.Service{Affinity: 60}, both})
	for i := range 2 {
		a.put(abi.MapAffinityBackends, abi.AffinityBackend{Service: id, Backend: first + uint32(i) + 1}, uint32(1))
	}
	target := func() string {
		m.sport++
		r := a.run("from_net", m.bytes(t), from{device: devUplink})
		expect(t, "from_net", r, actRedirect, 0)
		return decode(t, r.out).dst
	}
	chosen := target()
	for range 40 {
		if got := target(); got != chosen {
			t.Fatalf("the client got %s, then %s", chosen, got)
		}
	}
	gone := first + 1
	if chosen == client.ip4 {
		gone++
	}
	if err := a.maps[abi.MapAffinityBackends].Delete(abi.AffinityBackend{Service: id, Backend: gone}); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 40 {
		seen[target()] = true
		var row abi.Affinity
		key := abi.AffinityKey{Client: mapped(m.src), Service: id}
		if err := a.maps[abi.MapAffinities].Lookup(key, &row); err != nil {
			t.Fatal(err)
		}
		row.Last -= 61 * 250
		a.put(abi.MapAffinities, key, row)
	}
	if len(seen) != 2 {
		t.Errorf("once its time was over the client still got only %v", seen)
	}
}

func TestAMaglevTableDecidesByTheTuple(t *testing.T) {
	c := servingCluster(t, nil)
	m := toNodePort(false, "S")
	const size = 251
	count := map[string]int{}
	for _, n := range []*node{c.a, c.b} {
		first := n.first
		for i := range uint32(size) {
			var row abi.MaglevRow
			at := 1 + i/abi.MaglevWidth
			if err := n.maps[abi.MapMaglevRows].Lookup(at, &row); err != nil {
				t.Fatal(err)
			}
			row.Backend[i%abi.MaglevWidth] = first + 1 + i%2
			n.put(abi.MapMaglevRows, at, row)
		}
		n.serve(frontend{m.dst, nodePort, 6, abi.ScopeExternal, abi.Service{Maglev: 1, MaglevSize: size}, []string{server.ip4, remote.ip4}})
	}
	for i := range 100 {
		m.sport = 40000 + uint16(i)
		var to [2]string
		for k, n := range []*node{c.a, c.b} {
			r := n.run("from_net", m.bytes(t), from{device: devUplink})
			expect(t, "from_net", r, actRedirect, 0)
			to[k] = decode(t, r.out).dst
		}
		if to[0] != to[1] {
			t.Fatalf("port %d: %s on one node, %s on the other", m.sport, to[0], to[1])
		}
		count[to[0]]++
	}
	if len(count) != 2 || count[server.ip4] < 25 || count[remote.ip4] < 25 {
		t.Errorf("shares %v", count)
	}
}

func TestADatagramLeavesABackendThatIsGone(t *testing.T) {
	a := newNodeA(t, servingA(nil))
	m := toNodePort(false, "")
	m.udp = true
	first := a.first
	a.serve(frontend{m.dst, nodePort, 17, abi.ScopeExternal, abi.Service{}, []string{server.ip4}})
	expectDelivered(t, "first", a.run("from_net", m.bytes(t), from{device: devUplink}), server)
	a.serve(frontend{m.dst, nodePort, 17, abi.ScopeExternal, abi.Service{}, []string{client.ip4}})
	expectDelivered(t, "while the backend is there", a.run("from_net", m.bytes(t), from{device: devUplink}), server)
	a.put(abi.MapBackends, first+1, abi.Backend{Addr: mapped(server.ip4), Port: ports(8080), Protocol: 17})
	expectDelivered(t, "after it has gone", a.run("from_net", m.bytes(t), from{device: devUplink}), client)
}

// Not by a SYN that nobody answers, nor by a port that the client uses again.
func TestAnOpeningPacketLeavesABackendThatIsGone(t *testing.T) {
	a := newNodeA(t, servingA(nil))
	m := toNodePort(false, "S")
	first := a.first
	a.serve(frontend{m.dst, nodePort, 6, abi.ScopeExternal, abi.Service{}, []string{server.ip4}})
	expectDelivered(t, "SYN", a.run("from_net", m.bytes(t), from{device: devUplink}), server)
	a.serve(frontend{m.dst, nodePort, 6, abi.ScopeExternal, abi.Service{}, []string{client.ip4}})
	expectDelivered(t, "SYN while the backend is there", a.run("from_net", m.bytes(t), from{device: devUplink}), server)
	a.put(abi.MapBackends, first+1, abi.Backend{Addr: mapped(server.ip4), Port: ports(8080), Protocol: 6})
	m.flags = "A"
	r := a.run("from_net", m.bytes(t), from{device: devUplink})
	if d := decode(t, r.out); d.dst != server.ip4 {
		t.Errorf("a connection that runs moves to %s", d.dst)
	}
	m.flags = "S"
	expectDelivered(t, "SYN after it has gone", a.run("from_net", m.bytes(t), from{device: devUplink}), client)
}

func TestPodsReachNodePortsOfEveryNode(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, servingA(nil))
			a.serve(frontend{pick(f.six, "0.0.0.0", "::"), nodePort, 6, abi.ScopeInternal, abi.Service{}, []string{server.ip(f.six)}})
			for i, dst := range []string{pick(f.six, hostIP4, hostIP6), pick(f.six, hostBIP4, hostBIP6)} {
				m := message{srcMAC: client.mac, dstMAC: client.nodeMAC, src: client.ip(f.six), dst: dst, sport: 4000 + uint16(i), dport: nodePort, flags: "S"}
				expectDelivered(t, dst, a.run("from_pod", m.bytes(t), from{device: devPod1}), server)
				back := between(server, client, f.six, 8080, m.sport, "SA")
				r := a.run("from_pod", back.bytes(t), from{device: devPod2})
				expectDelivered(t, "answer", r, client)
				checkSums(t, r.out)
				if d := decode(t, r.out); d.src != dst || d.sport != nodePort {
					t.Errorf("answer of %s:%d, want %s:%d", d.src, d.sport, dst, nodePort)
				}
				m.dport = 29999
				expect(t, "another port", a.run("from_pod", m.bytes(t), from{device: devPod1}), map[bool]uint32{true: actRedirect, false: actOK}[dst == pick(f.six, hostBIP4, hostBIP6)], 0)
			}
			m := message{srcMAC: client.mac, dstMAC: client.nodeMAC, src: client.ip(f.six), dst: pick(f.six, outsideIP4, outsideIP6), sport: 4000, dport: nodePort, flags: "S"}
			expect(t, "of nobody's address", a.run("from_pod", m.bytes(t), from{device: devPod1}), actOK, 0)
		})
	}
}

func TestNodePortsOfAnotherNodeAreLeftToItWithPolicyLocal(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, servingA(nil))
			own, others := pick(f.six, hostIP4, hostIP6), pick(f.six, hostBIP4, hostBIP6)
			local := abi.Service{Flags: abi.ServiceLocal}
			a.serve(frontend{pick(f.six, "0.0.0.0", "::"), nodePort, 6, abi.ScopeInternal, local, []string{server.ip(f.six)}})
			a.serve(frontend{own, nodePort, 6, abi.ScopeInternal, abi.Service{}, []string{server.ip(f.six)}})
			m := message{srcMAC: client.mac, dstMAC: client.nodeMAC, src: client.ip(f.six), dst: own, sport: 4000, dport: nodePort, flags: "S"}
			expectDelivered(t, "this node's", a.run("from_pod", m.bytes(t), from{device: devPod1}), server)
			m.dst, m.sport = others, 4001
			r := a.run("from_pod", m.bytes(t), from{device: devPod1})
			if d := decode(t, r.out); d.dst != others || d.dport != nodePort {
				t.Errorf("the other node's goes to %s:%d, want it as it is", d.dst, d.dport)
			}
		})
	}
}

// On the wire a loopback address is no frontend: the sockets of the host reach it.
func TestPacketsDoNotReachFrontendsOnTheLoopback(t *testing.T) {
	for _, f := range families {
		a := newNodeA(t, servingA(nil))
		m := toService(f.six, "S")
		m.dst = pick(f.six, "127.0.0.1", "::1")
		a.serve(frontend{m.dst, m.dport, 6, abi.ScopeInternal, abi.Service{Kind: abi.ServiceHostPort, Flags: abi.ServiceLoopback}, []string{server.ip(f.six)}})
		r := a.run("from_pod", m.bytes(t), from{device: devPod1})
		if d := decode(t, r.out); d.dst != m.dst || r.verdict == actRedirect {
			t.Errorf("%s: verdict %d, to %s", f.name, r.verdict, d.dst)
		}
	}
}

func TestPodsReachServicesOfHosts(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, servingA(nil))
			host := pick(f.six, hostIP4, hostIP6)
			m := toService(f.six, "S")
			a.addService(m.dst, 80, 6, 6443, host)
			r := a.run("from_pod", m.bytes(t), from{device: devPod1})
			expect(t, "SYN", r, actOK, 0)
			if d := decode(t, r.out); d.dst != host || d.dport != 6443 {
				t.Fatalf("goes to %s:%d", d.dst, d.dport)
			}
			back := message{src: host, dst: m.src, sport: 6443, dport: 4000, flags: "SA"}
			r = a.run("to_pod", back.bytes(t), from{device: devPod1})
			expect(t, "answer", r, actOK, 0)
			checkSums(t, r.out)
			if d := decode(t, r.out); d.src != m.dst || d.sport != 80 {
				t.Errorf("answer of %s:%d", d.src, d.sport)
			}
		})
	}
}

// A host port is known on its own node only.
func TestPodsReachHostPortsOfOtherNodes(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c := servingCluster(t, nil)
			host := pick(f.six, hostBIP4, hostBIP6)
			c.b.serve(frontend{host, 8088, 6, abi.ScopeInternal, abi.Service{Kind: abi.ServiceHostPort}, []string{remote.ip(f.six)}})
			m := message{srcMAC: client.mac, dstMAC: client.nodeMAC, src: client.ip(f.six), dst: host, sport: 4000, dport: 8088, flags: "S"}
			for _, flags := range []string{"S", "A"} {
				m.flags = flags
				r := c.a.run("from_pod", m.bytes(t), from{device: devPod1})
				in := tunnelled(t, flags, r, hostBIP4, hostIP4, client.identity)
				r = c.b.run("from_overlay", r.out, in)
				expectDelivered(t, flags, r, remote)
				checkSums(t, r.out)
				r = c.b.run("from_pod", between(remote, client, f.six, 8080, 4000, "SA").bytes(t), from{device: devPod1})
				in = tunnelled(t, "answer", r, hostIP4, hostBIP4, 1)
				r = c.a.run("from_overlay", r.out, in)
				expectDelivered(t, "answer", r, client)
				checkSums(t, r.out)
				if d := decode(t, r.out); d.src != host || d.sport != 8088 {
					t.Errorf("answer of %s:%d", d.src, d.sport)
				}
				c.a.bumpEndpoint(client.id) // a stale row knows the answer, too
			}
			c.b.setCell(peerClient, slotRemoteIngress, abi.SetDeny, remote.id)
			r := c.a.run("from_pod", m.bytes(t), from{device: devPod1})
			expect(t, "after a deny", c.b.run("from_overlay", r.out, tunnelled(t, "", r, hostBIP4, hostIP4, client.identity)), actShot, abi.ReasonPolicyDenied)
		})
	}
}

// With traffic policy Local a NodePort is served by the node that is asked alone.
func TestPodsReachNodePortsOfOtherNodesWithPolicyLocal(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c := servingCluster(t, nil)
			host := pick(f.six, hostBIP4, hostBIP6)
			local := abi.Service{Kind: abi.ServiceNodePort, Flags: abi.ServiceLocal}
			c.a.serve(frontend{pick(f.six, "0.0.0.0", "::"), nodePort, 6, abi.ScopeInternal, local, []string{server.ip(f.six)}})
			c.b.serve(frontend{host, nodePort, 6, abi.ScopeInternal, abi.Service{Kind: abi.ServiceNodePort}, []string{server.ip(f.six)}})
			c.b.serve(frontend{host, nodePort, 6, abi.ScopeExternal, local, []string{remote.ip(f.six)}})
			m := message{srcMAC: client.mac, dstMAC: client.nodeMAC, src: client.ip(f.six), dst: host, sport: 4000, dport: nodePort, flags: "S"}
			r := c.a.run("from_pod", m.bytes(t), from{device: devPod1})
			r = c.b.run("from_overlay", r.out, tunnelled(t, "SYN", r, hostBIP4, hostIP4, client.identity))
			expectDelivered(t, "SYN", r, remote)
			r = c.b.run("from_pod", between(remote, client, f.six, 8080, 4000, "SA").bytes(t), from{device: devPod1})
			r = c.a.run("from_overlay", r.out, tunnelled(t, "answer", r, hostIP4, hostBIP4, 1))
			expectDelivered(t, "answer", r, client)
			if d := decode(t, r.out); d.src != host || d.sport != nodePort {
				t.Errorf("answer of %s:%d, want %s:%d", d.src, d.sport, host, nodePort)
			}
			c.b.serve(frontend{host, nodePort, 6, abi.ScopeExternal, local, nil})
			m.sport = 4001
			r = c.a.run("from_pod", m.bytes(t), from{device: devPod1})
			expect(t, "without a backend there", c.b.run("from_overlay", r.out, tunnelled(t, "", r, hostBIP4, hostIP4, client.identity)), actShot, abi.ReasonNoServiceBackend)
		})
	}
}
