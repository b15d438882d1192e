// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stentor-net/stentor/internal/abi"
)

const clientNext = "02:00:00:00:09:09" // next hop towards clients outside

// optionSize is how many bytes the frontend takes in a packet.
func optionSize(six bool) int {
	if six {
		return 24
	}
	return 8
}

// withFrontend puts a frontend into a frame, as a node does that sends a client on.
func withFrontend(frame []byte, addr string, port uint16) []byte {
	a := netip.MustParseAddr(addr)
	if a.Is6() {
		h := append([]byte{frame[20], 2, 0x1e, 20, byte(port >> 8), byte(port), 0, 0}, a.AsSlice()...)
		out := append(append(append([]byte(nil), frame[:54]...), h...), frame[54:]...)
		binary.BigEndian.PutUint16(out[18:], binary.BigEndian.Uint16(frame[18:])+24)
		out[20] = 60
		return out
	}
	h := append([]byte{0x1e, 8, byte(port >> 8), byte(port)}, a.AsSlice()...)
	out := append(append(append([]byte(nil), frame[:34]...), h...), frame[34:]...)
	out[14] += 2
	binary.BigEndian.PutUint16(out[16:], binary.BigEndian.Uint16(frame[16:])+8)
	header := out[14 : 14+int(out[14]&15)*4]
	header[10], header[11] = 0, 0
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum))
	return out
}

// direct is two nodes without a tunnel between them, which both know a frontend
// whose only backend is of node B, by direct return.
type direct struct {
	*cluster
	vip string
	id  uint32 // of the frontend on node B
}

func newDirect(t *testing.T, six, nodePorts bool, protocol uint8, more config) direct {
	t.Helper()
	cfg := config{abi.ConfigTunnel: uint8(0)}
	for k, v := range more {
		cfg[k] = v
	}
	d := direct{cluster: servingCluster(t, cfg), vip: pick(six, "198.51.100.7", "2001:db8:7::7")}
	row := abi.Service{Flags: abi.ServiceDSR}
	at, scope := d.vip, uint8(abi.ScopeExternal)
	if nodePorts {
		d.vip = pick(six, hostIP4, hostIP6)
		at, scope = pick(six, "0.0.0.0", "::"), abi.ScopeInternal
	}
	d.a.serve(frontend{d.vip, nodePort, protocol, abi.ScopeExternal, row, []string{remote.ip(six)}})
	d.id = d.b.serve(frontend{at, nodePort, protocol, scope, row, []string{remote.ip(six)}})
	d.member(remote.ip(six), protocol)
	return d
}

func (d direct) member(addr string, protocol uint8) {
	d.a.Helper()
	d.b.put(abi.MapDirectBackends, abi.DirectBackend{Addr: mapped(addr), Port: ports(8080), Protocol: protocol, Service: d.id}, uint32(1))
}

// pass sends a packet of a client outside through node A and returns what leaves for node B.
func (d direct) pass(t *testing.T, what string, m message) []byte {
	t.Helper()
	r := d.a.run("from_net", m.bytes(t), from{device: devUplink, route: devUplink})
	expect(t, what, r, actRedirect, 0)
	if r.spy.Kind != kindNeighbor {
		t.Fatalf("%s: redirect kind %d, want the uplink's neighbour", what, r.spy.Kind)
	}
	return r.out
}

// arrive checks that a packet reaches the pod of node B as its client sent it.
func (d direct) arrive(t *testing.T, what string, frame []byte, m message) {
	t.Helper()
	r := d.b.run("from_net", frame, from{device: devUplink})
	expectDelivered(t, what, r, remote)
	m.srcMAC, m.dstMAC, m.dst, m.dport, m.ttl = remote.nodeMAC, remote.mac, remote.ip(m.six()), 8080, 62
	if want := m.bytes(t); string(r.out) != string(want) {
		t.Fatalf("%s: arrives as\n%x, want\n%x", what, r.out, want)
	}
}

func (d direct) answer(t *testing.T, m message, flags string) result {
	t.Helper()
	back := message{srcMAC: remote.mac, dstMAC: remote.nodeMAC, src: remote.ip(m.six()), dst: m.src, sport: 8080, dport: m.sport, flags: flags, udp: m.udp}
	return d.b.run("from_pod", back.bytes(t), from{device: devPod1, route: devUplink})
}

func TestABackendElsewhereSeesTheClientAndAnswersItItself(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, protocol uint8) {
		for _, nodePorts := range []bool{false, true} {
			t.Run(fmt.Sprintf("NodePort %v", nodePorts), func(t *testing.T) {
				d := newDirect(t, six, nodePorts, protocol, nil)
				m := toNodePort(six, "S")
				m.dst, m.udp, m.payload = d.vip, udp, 11
				for _, flags := range []string{"S", "S", "A", "PA", "FA", "R"} {
					m.flags = flags
					out := d.pass(t, flags, m)
					told := len(out) - len(m.bytes(t))
					if want := map[bool]int{true: optionSize(six)}[udp || flags == "S"]; told != want {
						t.Errorf("%s: the packet grows by %d bytes, want %d", flags, told, want)
					}
					if got := decode(t, out); got.src != m.src || got.sport != m.sport || got.dst != remote.ip(six) || got.dport != 8080 {
						t.Fatalf("leaves from %s:%d to %s:%d", got.src, got.sport, got.dst, got.dport)
					}
					d.arrive(t, flags, out, m)
					toClientOutside(t, flags, d.answer(t, m, "SA"), m)
				}
				if rows := d.b.flowRows(); len(rows) != 1 {
					t.Errorf("%d flows", len(rows))
				}
				toClientOutside(t, "reset by the pod", d.answer(t, m, "R"), m)
				d.b.setCell(peerWorld, slotRemoteIngress, abi.SetDeny, remote.id)
				m.flags = "S"
				expect(t, "the world is denied", d.b.run("from_net", d.pass(t, "SYN", m), from{device: devUplink}), actShot, abi.ReasonPolicyDenied)
			})
		}
	})
}

func TestTheFrontendIsTakenOutAsItWasPutIn(t *testing.T) {
	for _, f := range families {
		d := newDirect(t, f.six, false, 6, nil)
		m := toNodePort(f.six, "S")
		m.dst = d.vip
		sent := m
		sent.dst, sent.dport, sent.ttl = remote.ip(f.six), 8080, 63
		got := d.pass(t, "SYN", m)
		want := withFrontend(sent.bytes(t), d.vip, nodePort)
		copy(want, got[:12])
		if string(got) != string(want) {
			t.Errorf("%s: leaves as\n%x, want\n%x", f.name, got, want)
		}
	}
}

func TestAFrontendIsBelievedOnlyWhereItLeadsToItsBackend(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			d := newDirect(t, f.six, false, 6, nil)
			d.b.addPod(pod{id: 2, device: devPod2, identity: 1005, peer: peerRemote, ip4: "10.0.2.2", ip6: "fd00:2::2", egress: 7, ingr: 8,
				incarnation: 105, mac: [6]byte{2, 0, 0, 0, 2, 2}, nodeMAC: [6]byte{2, 0, 0, 0, 2, 0xb}})
			other := pick(f.six, "10.0.2.2", "fd00:2::2")
			outside := pick(f.six, outsideIP4, outsideIP6)
			good := message{src: outside, dst: remote.ip(f.six), sport: 40000, dport: 8080, flags: "S"}
			try := func(what string, change func(m *message), vip string, port uint16, reason uint8) {
				t.Helper()
				m := good
				change(&m)
				m.sport++
				r := d.b.run("from_net", withFrontend(m.bytes(t), vip, port), from{device: devUplink})
				if reason != 0 {
					expect(t, what, r, actShot, reason)
				} else {
					expectDelivered(t, what, r, remote)
				}
			}
			same := func(*message) {}
			try("a right one", same, d.vip, nodePort, 0)
			try("an unknown address", same, pick(f.six, "198.51.100.8", "2001:db8:7::8"), nodePort, abi.ReasonUnknownFrontend)
			try("an unknown port", same, d.vip, nodePort+1, abi.ReasonUnknownFrontend)
			try("a node's port that is none", same, pick(f.six, hostIP4, hostIP6), nodePort, abi.ReasonUnknownFrontend)
			try("a pod that is no backend", func(m *message) { m.dst = other }, d.vip, nodePort, abi.ReasonUnknownFrontend)
			try("a port that is no backend", func(m *message) { m.dport = 22 }, d.vip, nodePort, abi.ReasonUnknownFrontend)
			try("the host", func(m *message) { m.dst = pick(f.six, hostBIP4, hostBIP6) }, d.vip, nodePort, abi.ReasonUnknownFrontend)
			try("another protocol", func(m *message) { m.udp = true }, d.vip, nodePort, abi.ReasonUnknownFrontend)
			try("from a pod of the other node", func(m *message) { m.src = client.ip(f.six) }, d.vip, nodePort, abi.ReasonUnknownSender)
			try("from a pod of this node", func(m *message) { m.src = other }, d.vip, nodePort, abi.ReasonUnknownSender)
			if n := d.b.dropped(abi.ReasonUnknownFrontend, 1); n != 7 {
				t.Errorf("%d drops counted", n)
			}
			m := message{srcMAC: client.mac, dstMAC: client.nodeMAC, src: client.ip(f.six), dst: remote.ip(f.six), sport: 4000, dport: 8080, flags: "S"}
			expect(t, "by a pod", d.a.run("from_pod", withFrontend(m.bytes(t), d.vip, nodePort), from{device: devPod1}), actShot, abi.ReasonUnknownFrontend)
			in := toNodePort(f.six, "S")
			in.dst = d.vip
			expect(t, "by a client of the service", d.a.run("from_net", withFrontend(in.bytes(t), d.vip, nodePort), from{device: devUplink, route: devUplink}), actShot, abi.ReasonUnknownFrontend)
		})
	}
}

func TestAPacketWithoutRoomForTheFrontend(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			const mtu = 1450
			d := newDirect(t, f.six, false, 17, nil)
			header := map[bool]int{false: 28, true: 48}[f.six]
			m := toNodePort(f.six, "")
			m.dst, m.udp, m.dontFrag = d.vip, true, true
			m.payload = mtu - header - optionSize(f.six)
			d.arrive(t, "the largest that fits", d.pass(t, "the largest that fits", m), m)
			m.payload++
			r := d.a.run("from_net", m.bytes(t), from{device: devUplink, route: devUplink})
			expect(t, "one byte more", r, actRedirect, abi.ReasonFragNeeded)
			checkSums(t, r.out)
			at, size := 14+20+6, 2
			if f.six {
				at, size = 14+40+4, 4
			}
			got := 0
			for _, b := range r.out[at : at+size] {
				got = got<<8 | int(b)
			}
			if e := decode(t, r.out); got != mtu-optionSize(f.six) || e.src != m.dst || e.dst != m.src || e.dstMAC != clientNext {
				t.Errorf("the error of %s to %s (%s) says %d bytes", e.src, e.dst, e.dstMAC, got)
			}
			if f.six {
				return // nobody else makes fragments of IPv6
			}
			m.dontFrag, m.payload = false, mtu-header
			d.arrive(t, "once the node knows", d.pass(t, "once the node knows", m), m)
			m.sport++
			out := d.pass(t, "before it knows", m)
			if got := decode(t, out); got.src != hostIP4 || got.dst != remote.ip4 {
				t.Errorf("a connection that cannot tell leaves from %s to %s, want the node's address", got.src, got.dst)
			}
			expectDelivered(t, "with the node's address", d.b.run("from_net", out, from{device: devUplink}), remote)
			m.payload = 10
			if got := decode(t, d.pass(t, "later", m)); got.src != hostIP4 {
				t.Errorf("then the same connection leaves from %s", got.src)
			}
		})
	}
}

func TestFragmentsForABackendElsewhere(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			d := newDirect(t, f.six, true, 17, nil)
			first := toNodePort(f.six, "")
			first.dst, first.udp, first.more, first.id, first.payload = d.vip, true, true, 7, 64
			later := first
			later.more, later.fragment = false, 9
			for _, m := range []message{first, later} {
				out := d.pass(t, "node A", m)
				if want := len(m.bytes(t)); m.fragment == 0 && len(out) != want+optionSize(f.six) || m.fragment != 0 && len(out) != want {
					t.Errorf("fragment %d: %d bytes of %d leave", m.fragment, len(out), want)
				}
				r := d.b.run("from_net", out, from{device: devUplink})
				expectDelivered(t, "node B", r, remote)
				if got := decode(t, r.out); got.dst != remote.ip(f.six) || got.src != m.src || len(r.out) != len(m.bytes(t)) {
					t.Errorf("fragment %d arrives from %s at %s, %d bytes", m.fragment, got.src, got.dst, len(r.out))
				}
			}
			if rows := d.b.flowRows(); len(rows) != 1 {
				t.Errorf("%d flows", len(rows))
			}
		})
	}
}

func TestErrorsOfDirectReturnGoBothWays(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			d := newDirect(t, f.six, true, 17, nil)
			m := toNodePort(f.six, "")
			m.dst, m.udp, m.payload = d.vip, true, 30
			arrived := d.b.run("from_net", d.pass(t, "datagram", m), from{device: devUplink})
			expectDelivered(t, "datagram", arrived, remote)
			e := icmpError(t, remote.ip(f.six), arrived.out)
			e.srcMAC, e.dstMAC = remote.mac, remote.nodeMAC
			r := d.b.run("from_pod", e.bytes(t), from{device: devPod1, route: devUplink})
			expect(t, "of the pod", r, actRedirect, 0)
			checkSums(t, r.out)
			if got := decode(t, r.out); got.src != m.dst || got.dst != m.src {
				t.Errorf("the error comes from %s for %s", got.src, got.dst)
			}
			if got := innerOf(t, r.out); got.src != m.src || got.sport != m.sport || got.dst != m.dst || got.dport != m.dport {
				t.Errorf("the client is told of %s:%d to %s:%d", got.src, got.sport, got.dst, got.dport)
			}
			answer := d.answer(t, m, "")
			toClientOutside(t, "answer", answer, m)
			router := pick(f.six, "203.0.113.1", "2001:db8::1")
			e = icmpError(t, router, answer.out)
			r = d.a.run("from_net", e.bytes(t), from{device: devUplink, route: devUplink})
			expect(t, "about the answer", r, actRedirect, 0)
			checkSums(t, r.out)
			r = d.b.run("from_net", r.out, from{device: devUplink})
			expect(t, "on node B", r, actOK, 0)
			if got := decode(t, r.out); got.src != router || got.dst != remote.ip(f.six) {
				t.Errorf("the error comes from %s for %s", got.src, got.dst)
			}
			r = d.b.run("to_pod", r.out, from{device: devPod1})
			expect(t, "to the pod", r, actOK, 0)
			if got := innerOf(t, r.out); got.src != remote.ip(f.six) || got.sport != 8080 || got.dst != m.src || got.dport != m.sport {
				t.Errorf("the pod is told of %s:%d to %s:%d", got.src, got.sport, got.dst, got.dport)
			}
		})
	}
}

// What the client, or a router on the way to it, says about an answer reaches the
// backend, wherever it is.
func TestErrorsAboutAnswersReachTheBackend(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, protocol uint8) {
		for _, tunnel := range []uint8{0, 1} {
			c := servingCluster(t, config{abi.ConfigTunnel: tunnel})
			m := toNodePort(six, "S")
			m.udp = udp
			c.a.serve(frontend{m.dst, nodePort, protocol, abi.ScopeExternal, abi.Service{}, []string{remote.ip(six)}})
			c.a.serve(frontend{m.dst, nodePort + 1, protocol, abi.ScopeExternal, abi.Service{}, []string{server.ip(six)}})
			about := func() []byte {
				e := icmpError(t, pick(six, "203.0.113.1", "2001:db8::1"), m.reply("A").bytes(t))
				return e.bytes(t)
			}
			r := c.a.run("from_net", about(), from{device: devUplink, route: devUplink})
			if expect(t, "about no connection", r, actOK, 0); string(r.out) != string(about()) {
				t.Error("an error about no connection changes")
			}
			r = c.a.run("from_net", m.bytes(t), from{device: devUplink, route: devUplink})
			d := decode(t, r.out)
			there := func(what string, r result, in from) result {
				t.Helper()
				if tunnel == 1 {
					r = c.b.run("from_overlay", r.out, in)
					expectDelivered(t, what, r, remote)
					return r
				}
				expect(t, what, r, actRedirect, 0)
				r = c.b.run("from_net", r.out, from{device: devUplink})
				if what == "connection" {
					expectDelivered(t, what, r, remote)
					return r
				}
				expect(t, what, r, actOK, 0)
				r = c.b.run("to_pod", r.out, from{device: devPod1})
				expect(t, what, r, actOK, 0)
				return r
			}
			world := map[bool]uint32{false: abi.IdentityWorldIPv4, true: abi.IdentityWorldIPv6}[six]
			in := from{}
			if tunnel == 1 {
				in = tunnelled(t, "connection", r, hostBIP4, hostIP4, world)
			}
			there("connection", r, in)
			r = c.a.run("from_net", about(), from{device: devUplink, route: devUplink})
			if tunnel == 1 {
				in = tunnelled(t, "error", r, hostBIP4, hostIP4, world)
			}
			r = there("error", r, in)
			checkSums(t, r.out)
			if got := innerOf(t, r.out); got.src != remote.ip(six) || got.dst != d.src || got.sport != 8080 && udp || got.dport != d.sport && udp {
				t.Errorf("tunnel %d: the pod is told of %s:%d to %s:%d, which sent to %s:%d", tunnel, got.src, got.sport, got.dst, got.dport, d.src, d.sport)
			}
			m.dport++
			expectDelivered(t, "to this node's pod", c.a.run("from_net", m.bytes(t), from{device: devUplink}), server)
			r = c.a.run("from_net", about(), from{device: devUplink})
			expect(t, "about its answer", r, actOK, 0)
			r = c.a.run("to_pod", r.out, from{device: devPod2})
			expect(t, "to it", r, actOK, 0)
			checkSums(t, r.out)
			if got := innerOf(t, r.out); got.src != server.ip(six) || got.dst != m.src {
				t.Errorf("the pod of this node is told of %s to %s", got.src, got.dst)
			}
		}
	})
}

func TestAHostElsewhereAnswersClientsItself(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, protocol uint8) {
		d := newDirect(t, six, false, protocol, nil)
		host := pick(six, hostBIP4, hostBIP6)
		d.a.serve(frontend{d.vip, nodePort, protocol, abi.ScopeExternal, abi.Service{Flags: abi.ServiceDSR}, []string{host}})
		d.member(host, protocol)
		m := toNodePort(six, "S")
		m.dst, m.udp = d.vip, udp
		r := d.b.run("from_net", d.pass(t, "SYN", m), from{device: devUplink})
		expect(t, "SYN", r, actOK, 0)
		checkSums(t, r.out)
		if got := decode(t, r.out); got.src != m.src || got.dst != host || got.dport != 8080 {
			t.Fatalf("arrives from %s at %s:%d", got.src, got.dst, got.dport)
		}
		answer := message{src: host, dst: m.src, sport: 8080, dport: m.sport, flags: "SA", udp: udp}
		r = d.b.run("to_net", answer.bytes(t), from{device: devUplink})
		expect(t, "answer", r, actOK, 0)
		checkSums(t, r.out)
		if got := decode(t, r.out); got.src != m.dst || got.sport != m.dport || got.dst != m.src {
			t.Errorf("answer of %s:%d", got.src, got.sport)
		}
	})
}

// A client may use one port for two addresses; behind both may be the same backend.
func TestTwoFrontendsOfOneBackendAreNotConfused(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			d := newDirect(t, f.six, true, 6, nil)
			m := message{src: pick(f.six, outsideIP4, outsideIP6), dst: remote.ip(f.six), sport: 40000, dport: 8080, flags: "S"}
			first, second := pick(f.six, hostIP4, hostIP6), pick(f.six, hostBIP4, hostBIP6)
			send := func(flags, vip string) result {
				m.flags = flags
				return d.b.run("from_net", withFrontend(m.bytes(t), vip, nodePort), from{device: devUplink})
			}
			expectDelivered(t, "one node's address", send("S", first), remote)
			expect(t, "another's", send("S", second), actShot, abi.ReasonCtInsertFailed)
			expectDelivered(t, "the first again", send("S", first), remote)
			m.flags = "R"
			expectDelivered(t, "reset", d.b.run("from_net", m.bytes(t), from{device: devUplink}), remote)
			expectDelivered(t, "another's, after the end", send("S", second), remote)
			asked := m
			asked.dst, asked.dport = second, nodePort
			toClientOutside(t, "answer", d.answer(t, m, "SA"), asked)
			if !f.six {
				direct := m
				direct.sport, direct.flags = 40001, "S"
				expect(t, "to the pod itself", d.b.run("from_net", direct.bytes(t), from{device: devUplink}), actOK, 0)
				expect(t, "to the pod itself", d.b.run("to_pod", direct.bytes(t), from{device: devPod1}), actOK, 0)
				m.sport = 40001
				expect(t, "then through a service", send("S", first), actShot, abi.ReasonCtInsertFailed)
			}
		})
	}
}

// A flow is judged again after a change of policy, whoever speaks first.
func TestADirectFlowSurvivesAChangeOfPolicy(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			d := newDirect(t, f.six, true, 6, nil)
			m := toNodePort(f.six, "S")
			m.dst = d.vip
			d.arrive(t, "SYN", d.pass(t, "SYN", m), m)
			d.b.bumpEndpoint(remote.id)
			toClientOutside(t, "answer", d.answer(t, m, "SA"), m)
			d.b.bumpEndpoint(remote.id)
			m.flags = "A"
			out := d.pass(t, "ACK", m)
			r := d.b.run("from_net", out, from{device: devUplink})
			expect(t, "through the stack", r, actOK, 0)
			expect(t, "to the pod", d.b.run("to_pod", r.out, from{device: devPod1}), actOK, 0)
			d.arrive(t, "then straight", out, m)
			toClientOutside(t, "answer", d.answer(t, m, "A"), m)
		})
	}
}

func TestThroughATunnelNobodyIsAnsweredDirectly(t *testing.T) {
	for _, f := range families {
		d := newDirect(t, f.six, false, 6, config{abi.ConfigTunnel: uint8(1)})
		m := toNodePort(f.six, "S")
		m.dst = d.vip
		r := d.a.run("from_net", m.bytes(t), from{device: devUplink})
		tunnelled(t, "SYN", r, hostBIP4, hostIP4, map[bool]uint32{false: abi.IdentityWorldIPv4, true: abi.IdentityWorldIPv6}[f.six])
		if got := decode(t, r.out); got.src != pick(f.six, hostIP4, hostIP6) {
			t.Errorf("leaves from %s", got.src)
		}
	}
}

// A client outside that another node balances here has that node's address. Its flow
// is judged as the world's, also when an answer is the first to find it stale.
func TestAnswersToBalancedClientsAreJudgedAsTheWorlds(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c := servingCluster(t, nil)
			m := toNodePort(f.six, "S")
			c.a.serve(frontend{m.dst, nodePort, 6, abi.ScopeExternal, abi.Service{}, []string{remote.ip(f.six)}})
			r := c.a.run("from_net", m.bytes(t), from{device: devUplink})
			world := map[bool]uint32{false: abi.IdentityWorldIPv4, true: abi.IdentityWorldIPv6}[f.six]
			d := decode(t, r.out)
			expectDelivered(t, "SYN", c.b.run("from_overlay", r.out, tunnelled(t, "SYN", r, hostBIP4, hostIP4, world)), remote)
			back := message{srcMAC: remote.mac, dstMAC: remote.nodeMAC, src: remote.ip(f.six), dst: d.src, sport: 8080, dport: d.sport, flags: "SA"}
			c.b.setCell(peerNode, slotRemoteIngress, abi.SetDeny, remote.id)
			tunnelled(t, "nodes are denied", c.b.run("from_pod", back.bytes(t), from{device: devPod1}), hostIP4, hostBIP4, remote.identity)
			c.b.setCell(peerNode, slotRemoteIngress, abi.SetAllow, remote.id)
			c.b.setCell(peerWorld, slotRemoteIngress, abi.SetDeny, remote.id)
			expect(t, "the world is denied", c.b.run("from_pod", back.bytes(t), from{device: devPod1}), actShot, abi.ReasonPolicyDenied)
		})
	}
}

// What the backend sees of a client outside, in each of the eight cases: traffic
// policy Cluster and Local, SNAT and DSR, IPv4 and IPv6; the backend on the node that
// was asked and on another one.
func TestTheBackendSeesTheRightAddress(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, protocol uint8) {
		for _, x := range []struct {
			name string
			row  uint16
			sees string // of a backend on another node; empty: nobody
		}{
			{"Cluster SNAT", 0, "node"}, {"Cluster DSR", abi.ServiceDSR, "client"}, {"Local SNAT", abi.ServiceLocal, ""}, {"Local DSR", abi.ServiceLocal | abi.ServiceDSR, ""},
		} {
			t.Run(x.name, func(t *testing.T) {
				d := newDirect(t, six, true, protocol, nil)
				m := toNodePort(six, "S")
				m.dst, m.udp, m.dport = d.vip, udp, nodePort+1
				d.a.serve(frontend{d.vip, m.dport, protocol, abi.ScopeExternal, abi.Service{Flags: x.row}, []string{server.ip(six)}})
				r := d.a.run("from_net", m.bytes(t), from{device: devUplink, route: devUplink})
				expectDelivered(t, "here", r, server)
				if got := decode(t, r.out); got.src != m.src || got.sport != m.sport {
					t.Errorf("a backend here sees %s:%d", got.src, got.sport)
				}
				m.dport = nodePort
				var backends []string
				if x.sees != "" {
					backends = []string{remote.ip(six)}
				}
				d.a.serve(frontend{d.vip, nodePort, protocol, abi.ScopeExternal, abi.Service{Flags: x.row}, backends})
				r = d.a.run("from_net", m.bytes(t), from{device: devUplink, route: devUplink})
				if x.sees == "" {
					expect(t, "elsewhere", r, actShot, abi.ReasonNoServiceBackend)
					return
				}
				expect(t, "elsewhere", r, actRedirect, 0)
				r = d.b.run("from_net", r.out, from{device: devUplink})
				expectDelivered(t, "elsewhere", r, remote)
				if got, want := decode(t, r.out), map[string]string{"node": d.vip, "client": m.src}[x.sees]; got.src != want {
					t.Errorf("a backend elsewhere sees %s, want %s", got.src, want)
				}
			})
		}
	})
}

// What is cut off, or does not fit into its header, is no frontend.
func TestABrokenFrontendLeadsNowhere(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			d := newDirect(t, f.six, false, 6, nil)
			m := message{src: pick(f.six, outsideIP4, outsideIP6), dst: remote.ip(f.six), sport: 40000, dport: 8080, flags: "S"}
			good := withFrontend(m.bytes(t), d.vip, nodePort)
			at := map[bool]int{false: 34, true: 54}[f.six]
			for n := 34; n < at+optionSize(f.six)+14; n++ { // TCP's flags are the last that is read
				r, err := d.b.tryRun("from_net", good[:n], from{device: devUplink})
				if err == nil && r.verdict != actOK && r.verdict != actShot {
					t.Errorf("cut after %d bytes: verdict %d", n, r.verdict)
				}
			}
			for i := range optionSize(f.six) {
				if f.six && (i == 6 || i == 7) {
					continue // reserved
				}
				for _, bit := range []byte{1, 4, 0x80} {
					b := append([]byte(nil), good...)
					b[at+i] ^= bit
					r := d.b.run("from_net", b, from{device: devUplink})
					if r.verdict == actRedirect {
						t.Errorf("byte %d changed by %x: delivered", i, bit)
					}
				}
			}
			if !f.six {
				short := append([]byte(nil), good...)
				short[14]-- // 4 bytes of options, and then ports that look like an address
				if r := d.b.run("from_net", short, from{device: devUplink}); r.verdict != actOK || string(r.out) != string(short) {
					t.Errorf("an option beyond its header: verdict %d", r.verdict)
				}
			}
		})
	}
}
