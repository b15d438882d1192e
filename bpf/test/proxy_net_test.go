// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/stentor-net/stentor/internal/abi"
)

// fromProxyToTunnel checks what to_overlay makes of a packet of the proxy.
func fromProxyToTunnel(t *testing.T, what string, n *node, m message, to string, identity uint32) result {
	t.Helper()
	r := n.run("to_overlay", m.bytes(t), from{device: devOverlay, mark: proxyMark})
	leaves(t, what, r)
	if want := binary.BigEndian.Uint32(netip.MustParseAddr(to).AsSlice()); r.spy.Remote[0] != want || r.spy.VNI != identity {
		t.Fatalf("%s: tunnel to %x with VNI %d; want %x, %d", what, r.spy.Remote[0], r.spy.VNI, want, identity)
	}
	return r
}

func TestTheProxySpeaksThroughTheTunnelAsThePod(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, _ uint8) {
		c := newCluster(t, nil)
		c.a.listen()
		c.b.listen()
		c.a.redirect(peerRemote, slotClientEgress, client.id)
		c.b.redirect(peerClient, slotRemoteIngress, remote.id)
		forth, back := between(client, remote, six, 4000, 80, "S"), between(remote, client, six, 80, 4000, "SA")
		forth.udp, back.udp = udp, udp
		toB, toA := from{device: devOverlay, outer: hostIP4, vni: client.identity}, from{device: devOverlay, outer: hostBIP4, vni: remote.identity}
		proxied(t, "SYN", c.a.run("from_pod", forth.bytes(t), from{device: devPod1}), true)
		r := fromProxyToTunnel(t, "the client's proxy", c.a, forth, hostBIP4, client.identity)
		proxied(t, "SYN there", c.b.run("from_overlay", r.out, toB), true)
		leaves(t, "the server's proxy", c.b.run("to_pod", forth.bytes(t), from{device: devPod1, mark: proxyMark}))
		dialled(t, forth)
		proxied(t, "SYN ACK", c.b.run("from_pod", back.bytes(t), from{device: devPod1}), udp)
		r = fromProxyToTunnel(t, "the server's proxy, back", c.b, back, hostIP4, remote.identity)
		proxied(t, "SYN ACK here", c.a.run("from_overlay", r.out, toA), udp)
		leaves(t, "the client's proxy, back", c.a.run("to_pod", back.bytes(t), from{device: devPod1, mark: proxyMark}))
		onlyRow(t, c.a)
		onlyRow(t, c.b)
		expect(t, "the stack as the client", c.a.run("to_overlay", forth.bytes(t), from{device: devOverlay}), actShot, abi.ReasonNotFromProxy)
		e := icmpError(t, remote.ip(six), forth.bytes(t))
		proxied(t, "error", c.a.run("from_overlay", e.bytes(t), toA), false)
		forth.sport++
		fromProxyToTunnel(t, "with another port", c.a, forth, hostBIP4, client.identity)
		back.dport++
		dialled(t, forth)
		proxied(t, "its answer", c.a.run("from_overlay", back.bytes(t), toA), udp)
	})
}

func TestResetsCrossTheTunnel(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c := newCluster(t, nil)
			c.b.listen()
			forth := between(client, remote, f.six, 4000, 80, "S")
			in := from{device: devOverlay, outer: hostIP4, vni: client.identity}
			expectDelivered(t, "SYN", c.b.run("from_overlay", forth.bytes(t), in), remote)
			c.b.redirect(peerClient, slotRemoteIngress, remote.id)
			forth.flags = "A"
			r := c.b.run("from_overlay", forth.bytes(t), in)
			isReset(t, "ACK", r, forth, devOverlay)
			if want := binary.BigEndian.Uint32(netip.MustParseAddr(hostIP4).AsSlice()); r.spy.Remote[0] != want || r.spy.VNI != remote.identity {
				t.Errorf("tunnel to %x with VNI %d; want %x, %d", r.spy.Remote[0], r.spy.VNI, want, remote.identity)
			}
		})
	}
}

func TestTheProxySpeaksOnRoutesAsThePod(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, _ uint8) {
		cfg := native()
		c := newCluster(t, cfg)
		c.a.listen()
		c.b.listen()
		c.a.redirect(peerRemote, slotClientEgress, client.id)
		c.b.redirect(peerClient, slotRemoteIngress, remote.id)
		forth, back := between(client, remote, six, 4000, 80, "S"), between(remote, client, six, 80, 4000, "SA")
		forth.udp, back.udp = udp, udp
		same := func(what string, r result, m message) {
			t.Helper()
			leaves(t, what, r)
			if string(r.out) != string(m.bytes(t)) {
				t.Errorf("%s: leaves as %+v", what, decode(t, r.out))
			}
		}
		uplink := from{device: devUplink}
		proxied(t, "SYN", c.a.run("from_pod", forth.bytes(t), from{device: devPod1}), true)
		same("the client's proxy", c.a.run("to_net", forth.bytes(t), from{device: devUplink, mark: proxyMark}), forth)
		proxied(t, "SYN there", c.b.run("from_net", forth.bytes(t), uplink), true)
		leaves(t, "the server's proxy", c.b.run("to_pod", forth.bytes(t), from{device: devPod1, mark: proxyMark}))
		dialled(t, forth)
		proxied(t, "SYN ACK", c.b.run("from_pod", back.bytes(t), from{device: devPod1}), udp)
		same("the server's proxy, back", c.b.run("to_net", back.bytes(t), from{device: devUplink, mark: proxyMark}), back)
		proxied(t, "SYN ACK here", c.a.run("from_net", back.bytes(t), uplink), udp)
		proxied(t, "error", c.a.run("from_net", icmpError(t, remote.ip(six), forth.bytes(t)).bytes(t), uplink), false)
		c.a.bumpEndpoint(client.id)
		proxied(t, "judged again", c.a.run("from_net", back.bytes(t), uplink), udp)
		if !udp {
			back.flags = "A"
			c.a.setCell(peerRemote, slotClientEgress, abi.SetAllow, client.id)
			forth.sport, back.dport = 4100, 4100
			expect(t, "direct", c.a.run("from_pod", forth.bytes(t), from{device: devPod1, route: devUplink}), actRedirect, 0)
			c.a.redirect(peerRemote, slotClientEgress, client.id)
			isReset(t, "answer of a direct one", c.a.run("from_net", back.bytes(t), uplink), back, devUplink)
		}
	})
}

func TestTheProxySpeaksToTheWorldAsTheNode(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, _ uint8) {
		a := newNodeA(t, masquerading())
		a.listen()
		a.redirect(peerWorld, slotClientEgress, client.id)
		m := toOutside(six)
		m.udp = udp
		proxied(t, "SYN", a.run("from_pod", m.bytes(t), from{device: devPod1}), true)
		r := a.run("to_net", m.bytes(t), from{device: devUplink, mark: proxyMark})
		leaves(t, "the proxy's SYN", r)
		out := decode(t, r.out)
		if out.src != pick(six, hostIP4, hostIP6) || out.sport < 61000 {
			t.Fatalf("leaves as %s:%d", out.src, out.sport)
		}
		back := m.reply("SA")
		back.dst, back.dport = out.src, out.sport
		dialled(t, m)
		arrives := func(what string, p message) {
			t.Helper()
			r := a.run("from_net", p.bytes(t), from{device: devUplink})
			proxied(t, what, r, p.udp)
			checkSums(t, r.out)
			if in := decode(t, r.out); in.dst != client.ip(six) {
				t.Errorf("%s: comes back to %s", what, in.dst)
			}
		}
		arrives("answer", back)
		a.bumpEndpoint(client.id)
		arrives("answer, judged again", back)
		arrives("error", icmpError(t, pick(six, "192.0.2.1", "2001:db8:1::1"), r.out))
		leaves(t, "to the client", a.run("to_pod", m.reply("SA").bytes(t), from{device: devPod1, mark: proxyMark}))
		if row := onlyRow(t, a); row.Flags&(abi.FlowProxied|abi.FlowReplied) != abi.FlowProxied|abi.FlowReplied {
			t.Errorf("row %+v", row)
		}
		a.setCell(peerWorld, slotClientEgress, abi.SetDeny, client.id)
		expect(t, "answer of what is denied", a.run("from_net", back.bytes(t), from{device: devUplink}), actShot, abi.ReasonPolicyDenied)
		expect(t, "the proxy, denied", a.run("to_net", m.bytes(t), from{device: devUplink, mark: proxyMark}), actShot, abi.ReasonPolicyDenied)
	})
}

// The port of a mapping goes from the pod to the proxy and back with the flow.
func TestAMappingFollowsItsFlow(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, masquerading())
			a.listen()
			m := toOutside(f.six)
			m.udp = true
			expect(t, "direct", a.run("from_pod", m.bytes(t), from{device: devPod1}), actOK, 0)
			out := decode(t, a.run("to_net", m.bytes(t), from{device: devUplink}).out)
			back := m.reply("")
			back.dst, back.dport = out.src, out.sport
			leaves(t, "answer", a.run("from_net", back.bytes(t), from{device: devUplink}))
			a.redirect(peerWorld, slotClientEgress, client.id)
			proxied(t, "redirected", a.run("from_pod", m.bytes(t), from{device: devPod1}), true)
			again := decode(t, a.run("to_net", m.bytes(t), from{device: devUplink, mark: proxyMark}).out)
			if again.sport != out.sport {
				t.Errorf("port %d, was %d", again.sport, out.sport)
			}
			dialled(t, m)
			proxied(t, "answer for the proxy", a.run("from_net", back.bytes(t), from{device: devUplink}), true)
			for key := range a.flowRows() {
				if err := a.maps[abi.MapFlows].Delete(key); err != nil {
					t.Fatal(err)
				}
			}
			a.setCell(peerWorld, slotClientEgress, abi.SetAllow, client.id)
			expect(t, "direct again", a.run("from_pod", m.bytes(t), from{device: devPod1}), actOK, 0)
			leaves(t, "leaves", a.run("to_net", m.bytes(t), from{device: devUplink}))
			leaves(t, "answer for the pod", a.run("from_net", back.bytes(t), from{device: devUplink}))
		})
	}
}

func TestTheProxySeesBackendsAndItsClientsServices(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, protocol uint8) {
		a := newNodeA(t, nil)
		a.listen()
		m := toService(six, "S")
		m.udp = udp
		a.addService(m.dst, 80, protocol, 8080, server.ip(six))
		a.redirect(peerServer, slotClientEgress, client.id)
		r := a.run("from_pod", m.bytes(t), from{device: devPod1})
		proxied(t, "SYN", r, true)
		checkSums(t, r.out)
		if d := decode(t, r.out); d.dst != server.ip(six) || d.dport != 8080 {
			t.Fatalf("the proxy gets what was for %s:%d", d.dst, d.dport)
		}
		back := between(server, client, six, 8080, 4000, "SA")
		back.udp = udp
		toBackend := back.reply("")
		dialled(t, toBackend)
		r = a.run("from_pod", back.bytes(t), from{device: devPod2})
		proxied(t, "SYN ACK", r, udp)
		if d := decode(t, r.out); d.src != server.ip(six) {
			t.Errorf("the proxy hears %s", d.src)
		}
		r = a.run("to_pod", back.bytes(t), from{device: devPod1, mark: proxyMark})
		leaves(t, "SYN ACK of the proxy", r)
		if d := decode(t, r.out); d.src != m.dst || d.sport != 80 {
			t.Errorf("the client hears %s:%d", d.src, d.sport)
		}
	})
}

func TestResetsComeFromTheService(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, servingA(nil))
			a.listen()
			m := toService(f.six, "S")
			a.addService(m.dst, 80, 6, 8080, server.ip(f.six))
			out := toNodePort(f.six, "S")
			a.serve(frontend{out.dst, nodePort, 6, abi.ScopeExternal, abi.Service{Kind: abi.ServiceNodePort}, []string{server.ip(f.six)}})
			expectDelivered(t, "SYN", a.run("from_pod", m.bytes(t), from{device: devPod1}), server)
			expectDelivered(t, "SYN from outside", a.run("from_net", out.bytes(t), from{device: devUplink}), server)
			for _, peer := range []uint32{peerClient, peerWorld} {
				a.redirect(peer, slotServerIngress, server.id)
			}
			m.flags, out.flags = "A", "A"
			isReset(t, "ClusterIP", a.run("from_pod", m.bytes(t), from{device: devPod1}), m, devPod1)
			isReset(t, "NodePort", a.run("from_net", out.bytes(t), from{device: devUplink}), out, devUplink)
		})
	}
}

func TestClientsOutsideReachAPodThroughTheProxy(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, protocol uint8) {
		a := newNodeA(t, servingA(nil))
		a.listen()
		m := toNodePort(six, "S")
		m.udp = udp
		a.serve(frontend{m.dst, nodePort, protocol, abi.ScopeExternal, abi.Service{Kind: abi.ServiceNodePort}, []string{server.ip(six)}})
		a.redirect(peerWorld, slotServerIngress, server.id)
		r := a.run("from_net", m.bytes(t), from{device: devUplink})
		proxied(t, "SYN", r, true)
		forth := message{srcMAC: server.nodeMAC, dstMAC: server.mac, src: m.src, dst: server.ip(six), sport: m.sport, dport: 8080, flags: "S", udp: udp}
		leaves(t, "the proxy's SYN", a.run("to_pod", forth.bytes(t), from{device: devPod2, mark: proxyMark}))
		back := forth.reply("SA")
		back.srcMAC, back.dstMAC = server.mac, server.nodeMAC
		dialled(t, forth)
		proxied(t, "SYN ACK", a.run("from_pod", back.bytes(t), from{device: devPod2}), udp)
		r = a.run("to_net", back.bytes(t), from{device: devUplink, mark: proxyMark})
		leaves(t, "SYN ACK of the proxy", r)
		if d := decode(t, r.out); d.src != m.dst || d.sport != m.dport || d.dst != m.src || d.dport != m.sport {
			t.Errorf("the client hears %s:%d", d.src, d.sport)
		}
	})
}

// What the host itself answers comes from its stack; it goes to the proxy over a
// device of our own.
func TestTheHostAnswersTheProxy(t *testing.T) {
	protocols(t, func(t *testing.T, six, udp bool, _ uint8) {
		mac := [6]byte{2, 0, 0, 0, 7, 7}
		a := newNodeA(t, config{abi.ConfigHostMAC: mac})
		a.listen()
		a.redirect(peerHost, slotClientEgress, client.id)
		m := toOutside(six)
		m.dst, m.udp = pick(six, hostIP4, hostIP6), udp
		proxied(t, "SYN", a.run("from_pod", m.bytes(t), from{device: devPod1}), true)
		for _, flags := range []string{"SA", "R"} {
			r := a.run("to_pod", m.reply(flags).bytes(t), from{device: devPod1})
			expect(t, flags, r, actRedirect, 0)
			if r.spy.Kind != kindRedirect || r.spy.Ifindex != deviceIndex[devHost] || r.mark != abi.MarkToProxy || [6]byte(r.out[:6]) != mac {
				t.Errorf("%s: redirect kind %d to %d, mark %x, MAC %x", flags, r.spy.Kind, r.spy.Ifindex, r.mark, r.out[:6])
			}
		}
		leaves(t, "from the proxy", a.run("to_pod", m.reply("SA").bytes(t), from{device: devPod1, mark: proxyMark}))
	})
}

// Nothing that is marked for the proxy may end in another socket of the node.
func TestNoOtherSocketGetsWhatIsForTheProxy(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, nil)
			a.listen()
			a.redirect(peerServer, slotClientEgress, client.id)
			for _, udp := range []bool{false, true} {
				m := between(client, server, f.six, 4000, 80, "S")
				m.udp, m.more, m.payload = udp, true, 64
				expect(t, "a fragment", a.run("from_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonFragUnsupported)
			}
			waiting(t, f.six, 81)
			l, err := net.Listen("tcp", pick(f.six, "0.0.0.0:81", "[::]:81"))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			syn := between(client, server, f.six, 4001, 81, "S")
			proxied(t, "SYN to a port of the host", a.run("from_pod", syn.bytes(t), from{device: devPod1}), true)
			syn.sport = 4000
			expect(t, "while the last connection of that client rests", a.run("from_pod", syn.bytes(t), from{device: devPod1}), actShot, abi.ReasonSocketLookup)
			l.Close()
			proxied(t, "and the host does not listen", a.run("from_pod", syn.bytes(t), from{device: devPod1}), false)
		})
	}
}
