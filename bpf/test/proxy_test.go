// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/proxy/sock"
)

const redirecting = 7 // a set

// listen is a proxy in the namespace of the tests.
func (n *node) listen() {
	n.Helper()
	loopbackUp(n)
	var row abi.ProxyPorts
	for _, six := range []bool{false, true} {
		l, err := sock.ListenTCP(six, 0)
		if err != nil {
			n.Fatal(err)
		}
		u, err := sock.ListenUDP(six, 0)
		if err != nil {
			n.Fatal(err)
		}
		n.Cleanup(func() { l.Close(); u.Close() })
		tcp, udp := ports(uint16(l.Addr().(*net.TCPAddr).Port)), ports(uint16(u.LocalAddr().(*net.UDPAddr).Port))
		if six {
			row.TCP6, row.UDP6 = tcp, udp
		} else {
			row.TCP4, row.UDP4 = tcp, udp
		}
	}
	n.put(abi.MapProxyPorts, uint32(0), row)
}

func loopbackUp(t testing.TB) netlink.Link {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	return lo
}

// redirect makes a cell redirect TCP and UDP.
func (n *node) redirect(peer uint32, slot uint16, endpoint int) {
	n.Helper()
	for _, protocol := range []uint8{6, 17} {
		n.put(abi.MapSets, abi.SetKey{Prefixlen: abi.PrefixProtocol, Set: redirecting, Protocol: protocol}, abi.SetEntry{Verdict: abi.VerdictRedirect, L7: 1})
	}
	n.setCell(peer, slot, redirecting, endpoint)
}

// proxied wants a packet on its way to the proxy, assigned to a socket or not.
func proxied(t *testing.T, what string, r result, assigned bool) {
	t.Helper()
	expect(t, what, r, actOK, 0)
	if r.mark != abi.MarkToProxy || (r.spy.Assigned == 1) != assigned || r.spy.Assigned > 1 {
		t.Fatalf("%s: mark %x, assigned %d; want it at the proxy, assigned %t", what, r.mark, r.spy.Assigned, assigned)
	}
}

// dialled makes the proxy's socket for the answers to a datagram.
func dialled(t *testing.T, m message) {
	t.Helper()
	if !m.udp {
		return // programs do not look for sockets of connections
	}
	loopbackUp(t)
	out, err := netlink.LinkByName("st-bpf-0")
	if err != nil {
		t.Fatal(err)
	}
	route := &netlink.Route{Dst: netlink.NewIPNet(ip(m.dst)), LinkIndex: out.Attrs().Index, Scope: netlink.SCOPE_LINK}
	if err := netlink.RouteReplace(route); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.RouteDel(route) })
	c, err := sock.DialUDP(context.Background(), netip.AddrPortFrom(netip.MustParseAddr(m.src), m.sport), netip.AddrPortFrom(netip.MustParseAddr(m.dst), m.dport))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
}

// leaves wants what the proxy sent to go on without its mark.
func leaves(t *testing.T, what string, r result) {
	t.Helper()
	expect(t, what, r, actOK, 0)
	if r.mark != 0 {
		t.Fatalf("%s: mark %x", what, r.mark)
	}
	checkSums(t, r.out)
}

func onlyRow(t *testing.T, n *node) (row abi.Flow) {
	t.Helper()
	rows := n.flowRows()
	if len(rows) != 1 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, row = range rows {
	}
	return row
}

var proxyMark = uint32(abi.MarkFromProxy)

func TestAConnectionOfTwoPodsIsTwoOfTheProxyInOneRow(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, _ uint8) {
		for _, side := range []string{"egress", "ingress", "both"} {
			a := newNodeA(t, nil)
			a.listen()
			if side != "ingress" {
				a.redirect(peerServer, slotClientEgress, client.id)
			}
			if side != "egress" {
				a.redirect(peerClient, slotServerIngress, server.id)
			}
			forth, back := between(client, server, six, 4000, 80, "S"), between(server, client, six, 80, 4000, "SA")
			forth.udp, back.udp = udp, udp
			r := a.run("from_pod", forth.bytes(t), from{device: devPod1})
			proxied(t, side+", SYN", r, true)
			if !slices.ContainsFunc(r.events, func(e abi.Event) bool { return e.Type == abi.EventVerdict && e.Verdict == abi.VerdictRedirect }) {
				t.Errorf("%s: told as %+v", side, r.events)
			}
			leaves(t, side+", the proxy's SYN", a.run("to_pod", forth.bytes(t), from{device: devPod2, mark: proxyMark}))
			if udp && side == "egress" {
				expect(t, side+", answer for nobody", a.run("from_pod", back.bytes(t), from{device: devPod2}), actShot, abi.ReasonSocketLookup)
				dialled(t, forth)
			}
			proxied(t, side+", SYN ACK", a.run("from_pod", back.bytes(t), from{device: devPod2}), udp)
			leaves(t, side+", the proxy's SYN ACK", a.run("to_pod", back.bytes(t), from{device: devPod1, mark: proxyMark}))
			forth.flags = "A"
			proxied(t, side+", ACK", a.run("from_pod", forth.bytes(t), from{device: devPod1}), udp)
			row := onlyRow(t, a)
			if row.Flags != abi.FlowProxied|abi.FlowReplied|row.Flags&abi.FlowFromB || row.Packets[0] != 2 || row.Packets[1] == 0 || row.Endpoint != [2]uint16{1, 2} {
				t.Errorf("%s: row %+v", side, row)
			}
		}
	})
}

func TestWhatIsNotFromTheProxyStaysOutOfItsConnections(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, _ uint8) {
		a := newNodeA(t, nil)
		a.listen()
		a.redirect(peerServer, slotClientEgress, client.id)
		forth, back := between(client, server, six, 4000, 80, "S"), between(server, client, six, 80, 4000, "A")
		forth.udp, back.udp = udp, udp
		proxied(t, "SYN", a.run("from_pod", forth.bytes(t), from{device: devPod1}), true)
		expect(t, "the stack as the server", a.run("to_pod", back.bytes(t), from{device: devPod1}), actShot, abi.ReasonNotFromProxy)
		expect(t, "the stack as the client", a.run("to_pod", forth.bytes(t), from{device: devPod2}), actShot, abi.ReasonNotFromProxy)
		if !udp {
			back.flags = "R"
			leaves(t, "the stack resets", a.run("to_pod", back.bytes(t), from{device: devPod1}))
		}
	})
}

func TestARedirectNeedsAProxy(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, _ uint8) {
		a := newNodeA(t, nil)
		a.redirect(peerServer, slotClientEgress, client.id)
		m := between(client, server, six, 4000, 80, "S")
		m.udp = udp
		expect(t, "none", a.run("from_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonProxyNotRunning)
		if len(a.flowRows()) != 0 {
			t.Error("it left a row")
		}
		loopbackUp(t)
		l, err := net.Listen("tcp", pick(six, "127.0.0.1:0", "[::1]:0"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		stranger := ports(uint16(l.Addr().(*net.TCPAddr).Port))
		a.put(abi.MapProxyPorts, uint32(0), abi.ProxyPorts{TCP4: stranger, TCP6: stranger, UDP4: stranger, UDP6: stranger})
		r := a.run("from_pod", m.bytes(t), from{device: devPod1})
		expect(t, "somebody else listens, or nobody", r, actShot, abi.ReasonProxyNotRunning)
		if r.spy.Assigned != 0 {
			t.Error("somebody else got it")
		}
		a.listen()
		proxied(t, "it runs", a.run("from_pod", m.bytes(t), from{device: devPod1}), true)
	})
}

func TestOnlyWhatComesInCanBeRedirected(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, nil)
			a.listen()
			a.redirect(peerHost, slotServerIngress, server.id)
			m := message{srcMAC: server.nodeMAC, dstMAC: server.mac, src: pick(f.six, hostIP4, hostIP6), dst: server.ip(f.six), sport: 5000, dport: 80, flags: "S"}
			expect(t, "of the host", a.run("to_pod", m.bytes(t), from{device: devPod2}), actShot, abi.ReasonProxyFromStack)
			a.put(abi.MapSets, abi.SetKey{Prefixlen: abi.PrefixAny, Set: redirecting}, abi.SetEntry{Verdict: abi.VerdictRedirect, L7: 1})
			a.setCell(peerServer, slotClientEgress, redirecting, client.id)
			ping := between(client, server, f.six, 0, 0, "")
			ping.icmp, ping.icmpType, ping.icmpID = true, map[bool]uint8{false: 8, true: 128}[f.six], 77
			expect(t, "a ping", a.run("from_pod", ping.bytes(t), from{device: devPod1}), actShot, abi.ReasonProxyUnsupported)
		})
	}
}

// tcpOf reads the header of a segment.
func tcpOf(t *testing.T, frame []byte) *layers.TCP {
	t.Helper()
	h, ok := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default).TransportLayer().(*layers.TCP)
	if !ok {
		t.Fatalf("no TCP in %x", frame)
	}
	return h
}

// isReset wants r to be the reset of whoever sent m, from the other end as m has
// it, back on the device that m came by.
func isReset(t *testing.T, what string, r result, m message, device int) {
	t.Helper()
	expect(t, what, r, actRedirect, abi.ReasonFlowNowRedirected)
	if r.spy.Kind != kindRedirect || r.spy.Ifindex != deviceIndex[device] || r.mark != abi.MarkChecked {
		t.Fatalf("%s: redirect kind %d to %d, mark %x; want back to %d", what, r.spy.Kind, r.spy.Ifindex, r.mark, deviceIndex[device])
	}
	checkSums(t, r.out)
	d, h := decode(t, r.out), tcpOf(t, r.out)
	if d.src != m.dst || d.sport != m.dport || d.dst != m.src || d.dport != m.sport {
		t.Errorf("%s: reset of %s:%d to %s:%d", what, d.src, d.sport, d.dst, d.dport)
	}
	if sent := tcpOf(t, m.bytes(t)); !h.RST || h.ACK || h.SYN || h.Seq != sent.Ack || len(h.Payload) != 0 {
		t.Errorf("%s: %+v, want a reset with sequence number %d", what, h, sent.Ack)
	}
}

func TestADirectConnectionIsResetWhenItIsRedirected(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, nil)
			a.listen()
			forth, back := between(client, server, f.six, 4000, 80, "S"), between(server, client, f.six, 80, 4000, "SA")
			expectDelivered(t, "SYN", a.run("from_pod", forth.bytes(t), from{device: devPod1}), server)
			expectDelivered(t, "SYN ACK", a.run("from_pod", back.bytes(t), from{device: devPod2}), client)
			a.redirect(peerServer, slotClientEgress, client.id)
			forth.flags, forth.payload, back.flags = "A", 3, "A"
			isReset(t, "client", a.run("from_pod", forth.bytes(t), from{device: devPod1}), forth, devPod1)
			isReset(t, "server", a.run("from_pod", back.bytes(t), from{device: devPod2}), back, devPod2)
			r := a.run("to_pod", a.run("from_pod", forth.bytes(t), from{device: devPod1}).out, from{device: devPod1, mark: abi.MarkChecked})
			leaves(t, "the reset, into the pod", r)
			forth.flags = "R"
			r = a.run("from_pod", forth.bytes(t), from{device: devPod1})
			expect(t, "a reset is not answered", r, actShot, abi.ReasonFlowNowRedirected)
			forth.flags, forth.payload = "S", 0
			proxied(t, "SYN on the same ports", a.run("from_pod", forth.bytes(t), from{device: devPod1}), true)
			onlyRow(t, a)
		})
	}
}

func TestADirectConnectionThatHasNotBegunOpensThroughTheProxy(t *testing.T) {
	a := newNodeA(t, nil)
	a.listen()
	syn := between(client, server, false, 4000, 80, "S")
	expectDelivered(t, "SYN", a.run("from_pod", syn.bytes(t), from{device: devPod1}), server)
	a.redirect(peerServer, slotClientEgress, client.id)
	proxied(t, "SYN again", a.run("from_pod", syn.bytes(t), from{device: devPod1}), true)
	if row := onlyRow(t, a); row.Flags&abi.FlowProxied == 0 {
		t.Errorf("row %+v", row)
	}
}

func TestDirectDatagramsMoveToTheProxy(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, nil)
			a.listen()
			forth, back := between(client, server, f.six, 4000, 53, ""), between(server, client, f.six, 53, 4000, "")
			forth.udp, back.udp = true, true
			expectDelivered(t, "query", a.run("from_pod", forth.bytes(t), from{device: devPod1}), server)
			a.redirect(peerServer, slotClientEgress, client.id)
			dialled(t, forth)
			proxied(t, "answer", a.run("from_pod", back.bytes(t), from{device: devPod2}), true)
			proxied(t, "query", a.run("from_pod", forth.bytes(t), from{device: devPod1}), true)
			leaves(t, "the proxy's answer", a.run("to_pod", back.bytes(t), from{device: devPod1, mark: proxyMark}))
		})
	}
}

func TestAProxiedConnectionStaysSoWhatPolicySays(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, nil)
			a.listen()
			a.redirect(peerServer, slotClientEgress, client.id)
			forth, back := between(client, server, f.six, 4000, 80, "S"), between(server, client, f.six, 80, 4000, "A")
			proxied(t, "SYN", a.run("from_pod", forth.bytes(t), from{device: devPod1}), true)
			forth.flags = "A"
			a.setCell(peerServer, slotClientEgress, abi.SetAllow, client.id)
			proxied(t, "allowed", a.run("from_pod", forth.bytes(t), from{device: devPod1}), false)
			proxied(t, "allowed, reply", a.run("from_pod", back.bytes(t), from{device: devPod2}), false)
			leaves(t, "allowed, from the proxy", a.run("to_pod", forth.bytes(t), from{device: devPod2, mark: proxyMark}))
			a.setCell(peerClient, slotServerIngress, abi.SetDeny, server.id)
			expect(t, "denied", a.run("from_pod", forth.bytes(t), from{device: devPod1}), actShot, abi.ReasonPolicyDenied)
			expect(t, "denied, reply", a.run("from_pod", back.bytes(t), from{device: devPod2}), actShot, abi.ReasonPolicyDenied)
			expect(t, "denied, from the proxy", a.run("to_pod", forth.bytes(t), from{device: devPod2, mark: proxyMark}), actShot, abi.ReasonPolicyDenied)
			a.setCell(peerClient, slotServerIngress, abi.SetAllow, server.id)
			proxied(t, "allowed again", a.run("from_pod", forth.bytes(t), from{device: devPod1}), false)
		})
	}
}

// A client may end its side before the proxy has opened the other one.
func TestTheProxyOpensForAClientThatHasEnded(t *testing.T) {
	a := newNodeA(t, nil)
	a.listen()
	a.addService(vip4, 80, 6, 8080, server.ip4)
	a.redirect(peerServer, slotClientEgress, client.id)
	m := toService(false, "S")
	proxied(t, "SYN", a.run("from_pod", m.bytes(t), from{device: devPod1}), true)
	m.flags = "FA"
	proxied(t, "FIN", a.run("from_pod", m.bytes(t), from{device: devPod1}), false)
	leaves(t, "the proxy's SYN", a.run("to_pod", between(client, server, false, 4000, 8080, "S").bytes(t), from{device: devPod2, mark: proxyMark}))
	if row := onlyRow(t, a); row.Service != serviceID {
		t.Errorf("the row has lost its service: %+v", row)
	}
}

func TestTheProxyOpensWithAnotherPort(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, _ uint8) {
		a := newNodeA(t, nil)
		a.listen()
		a.redirect(peerServer, slotClientEgress, client.id)
		a.redirect(peerClient, slotServerIngress, server.id)
		m, back := between(client, server, six, 4999, 80, "S"), between(server, client, six, 80, 4999, "SA")
		m.udp, back.udp = udp, udp
		leaves(t, "SYN", a.run("to_pod", m.bytes(t), from{device: devPod2, mark: proxyMark}))
		dialled(t, m)
		proxied(t, "SYN ACK", a.run("from_pod", back.bytes(t), from{device: devPod2}), udp)
		a.setCell(peerClient, slotServerIngress, abi.SetDeny, server.id)
		m.sport = 4998
		expect(t, "denied", a.run("to_pod", m.bytes(t), from{device: devPod2, mark: proxyMark}), actShot, abi.ReasonPolicyDenied)
	})
}

func TestTheProxyTakesNoPortOfADirectConnection(t *testing.T) {
	a := newNodeA(t, nil)
	a.listen()
	m := between(client, server, false, 4000, 80, "S")
	expectDelivered(t, "SYN", a.run("from_pod", m.bytes(t), from{device: devPod1}), server)
	expect(t, "SYN of the proxy", a.run("to_pod", m.bytes(t), from{device: devPod2, mark: proxyMark}), actShot, abi.ReasonNotOfProxy)
	m.flags = "A"
	expectDelivered(t, "ACK", a.run("from_pod", m.bytes(t), from{device: devPod1}), server)
}

// connect makes the sockets that a proxy has for a connection of a pod with
// another one, in the namespace of the tests.
func connect(t *testing.T, six bool, port uint16) (own, other net.Conn) {
	t.Helper()
	lo := loopbackUp(t)
	for _, p := range []pod{client, server} {
		addr := netip.MustParseAddr(p.ip(six))
		route := &netlink.Route{Dst: netlink.NewIPNet(addr.AsSlice()), LinkIndex: lo.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST}
		if err := netlink.RouteReplace(route); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = netlink.RouteDel(route) })
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, abi.MarkFromProxy)
			_ = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
		})
	}}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", netip.AddrPortFrom(netip.MustParseAddr(server.ip(six)), port).String())
	if err != nil {
		t.Fatal(err)
	}
	// Not by sock.DialTCP, which takes another port for what is local.
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: ip(client.ip(six)), Port: 4000}, Control: lc.Control}
	c, err := d.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	t.Cleanup(func() {
		_ = c.(*net.TCPConn).SetLinger(0) // the ports are free at once
		c.Close()
		accepted.Close()
	})
	return accepted, c
}

// waiting leaves the proxy's side of a connection in TIME_WAIT.
func waiting(t *testing.T, six bool, port uint16) {
	t.Helper()
	own, other := connect(t, six, port)
	own.Close()
	if _, err := io.ReadAll(other); err != nil {
		t.Fatal(err)
	}
	other.Close()
}

func TestAProxiedConnectionSurvivesTheLossOfItsRow(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			for _, first := range []string{"client", "server"} {
				a := newNodeA(t, nil)
				a.listen()
				a.redirect(peerServer, slotClientEgress, client.id)
				m, device := between(client, server, f.six, 4000, 80, "A"), devPod1
				if first == "server" {
					m, device = between(server, client, f.six, 80, 4000, "A"), devPod2
				} else {
					isReset(t, "without a socket", a.run("from_pod", m.bytes(t), from{device: device}), m, device)
				}
				t.Run(first, func(t *testing.T) {
					connect(t, f.six, 80)
					proxied(t, "with a socket", a.run("from_pod", m.bytes(t), from{device: device}), false)
					if row := onlyRow(t, a); row.Flags&(abi.FlowProxied|abi.FlowPickedUp) != abi.FlowProxied|abi.FlowPickedUp {
						t.Errorf("row %+v", row)
					}
				})
			}
		})
	}
}

func TestErrorsAboutWhatTheProxySendsGoToIt(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, _ uint8) {
		a := newNodeA(t, nil)
		a.listen()
		a.redirect(peerServer, slotClientEgress, client.id)
		m := between(client, server, six, 4000, 80, "S")
		m.udp = udp
		proxied(t, "SYN", a.run("from_pod", m.bytes(t), from{device: devPod1}), true)
		e := icmpError(t, server.ip(six), m.bytes(t))
		e.srcMAC, e.dstMAC = server.mac, server.nodeMAC
		proxied(t, "error", a.run("from_pod", e.bytes(t), from{device: devPod2}), false)
		expect(t, "error of the stack", a.run("to_pod", e.bytes(t), from{device: devPod1}), actShot, abi.ReasonNotFromProxy)
	})
}
