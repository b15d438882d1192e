// SPDX-License-Identifier: Apache-2.0

package test

import (
	"testing"

	"github.com/stentor-net/stentor/internal/abi"
)

const (
	vip4, vip6 = "10.96.0.10", "fd00:96::10"
	serviceID  = 5
)

// addService puts a service with these backends, each "address" at port.
func (n *node) addService(vip string, vport uint16, protocol uint8, port uint16, addrs ...string) {
	n.Helper()
	first := n.first
	for _, a := range addrs {
		n.put(abi.MapBackends, n.first+1, abi.Backend{Addr: mapped(a), Port: ports(port), Protocol: protocol, Flags: abi.BackendUsed})
		n.put(abi.MapServiceSlots, n.first, abi.ServiceSlot{Backend: n.first + 1})
		n.first++
	}
	n.put(abi.MapServiceVIPs, uint32(serviceID), abi.ServiceVIP{VIP: mapped(vip), Port: ports(vport), Protocol: protocol})
	n.put(abi.MapServices, abi.ServiceKey{VIP: mapped(vip), Port: ports(vport), Protocol: protocol},
		abi.Service{First: first, Count: uint32(len(addrs)), ID: serviceID, Kind: abi.ServiceClusterIP})
}

func toService(six bool, flags string) message {
	return message{srcMAC: client.mac, dstMAC: client.nodeMAC, src: client.ip(six), dst: pick(six, vip4, vip6), sport: 4000, dport: 80, flags: flags}
}

func TestServicesAreTranslatedOnTheWireBothWays(t *testing.T) {
	for _, f := range families {
		for _, protocol := range []string{"TCP", "UDP"} {
			t.Run(f.name+" "+protocol, func(t *testing.T) {
				a := newNodeA(t, nil)
				m := toService(f.six, "S")
				m.udp = protocol == "UDP"
				a.addService(m.dst, 80, uint8(m.protocol()), 8080, server.ip(f.six))
				for _, flags := range []string{"S", "A"} {
					m.flags = flags
					r := a.run("from_pod", m.bytes(t), from{device: devPod1})
					expectDelivered(t, flags, r, server)
					checkSums(t, r.out)
					if d := decode(t, r.out); d.dst != server.ip(f.six) || d.dport != 8080 || d.src != client.ip(f.six) {
						t.Fatalf("arrives at %s:%d from %s", d.dst, d.dport, d.src)
					}
				}
				back := between(server, client, f.six, 8080, 4000, "SA")
				back.udp = m.udp
				r := a.run("from_pod", back.bytes(t), from{device: devPod2})
				expectDelivered(t, "reply", r, client)
				checkSums(t, r.out)
				if d := decode(t, r.out); d.src != m.dst || d.sport != 80 {
					t.Errorf("reply of %s:%d", d.src, d.sport)
				}
				e := icmpError(t, server.ip(f.six), between(client, server, f.six, 4000, 8080, "A").bytes(t))
				if m.udp {
					about := between(client, server, f.six, 4000, 8080, "")
					about.udp = true
					e = icmpError(t, server.ip(f.six), about.bytes(t))
				}
				e.srcMAC, e.dstMAC = server.mac, server.nodeMAC
				r = a.run("from_pod", e.bytes(t), from{device: devPod2})
				expectDelivered(t, "error", r, client)
				checkSums(t, r.out)
				if d := innerOf(t, r.out); d.dst != m.dst || d.dport != 80 {
					t.Errorf("error about %s:%d", d.dst, d.dport)
				}
				answer := m.reply("A")
				e = icmpError(t, client.ip(f.six), answer.bytes(t))
				e.srcMAC, e.dstMAC = client.mac, client.nodeMAC
				r = a.run("from_pod", e.bytes(t), from{device: devPod1})
				expectDelivered(t, "error about the answer", r, server)
				checkSums(t, r.out)
				if d := innerOf(t, r.out); d.src != server.ip(f.six) || m.udp && d.sport != 8080 || d.dst != client.ip(f.six) {
					t.Errorf("error about %s:%d to %s", d.src, d.sport, d.dst)
				}
				answer.sport = 81
				e = icmpError(t, client.ip(f.six), answer.bytes(t))
				e.srcMAC, e.dstMAC = client.mac, client.nodeMAC
				expect(t, "error about nothing", a.run("from_pod", e.bytes(t), from{device: devPod1}), actShot, abi.ReasonPolicyDenied)
			})
		}
	}
}

func TestPolicySeesBackendsNotServices(t *testing.T) {
	a := newNodeA(t, nil)
	a.addService(vip4, 80, 6, 8080, server.ip4)
	a.put(abi.MapSets, abi.SetKey{Prefixlen: 64, Set: 7, Protocol: 6, Port: ports(8080)}, abi.SetEntry{Verdict: abi.VerdictAllow})
	a.setCells(peerWorld, abi.SetDeny)
	a.setCell(peerClient, slotServerIngress, 7, server.id)
	expectDelivered(t, "SYN", a.run("from_pod", toService(false, "S").bytes(t), from{device: devPod1}), server)
	a.setCell(peerClient, slotServerIngress, abi.SetDeny, server.id)
	expect(t, "after a deny", a.run("from_pod", toService(false, "A").bytes(t), from{device: devPod1}), actShot, abi.ReasonPolicyDenied)
}

func TestServiceOfAnotherNodesPod(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c := newCluster(t, nil)
			m := toService(f.six, "S")
			c.a.addService(m.dst, 80, 6, 8080, remote.ip(f.six))
			r := c.a.run("from_pod", m.bytes(t), from{device: devPod1})
			in := tunnelled(t, "SYN", r, hostBIP4, hostIP4, client.identity)
			expectDelivered(t, "SYN", c.b.run("from_overlay", r.out, in), remote)
			r = c.b.run("from_pod", between(remote, client, f.six, 8080, 4000, "SA").bytes(t), from{device: devPod1})
			in = tunnelled(t, "reply", r, hostIP4, hostBIP4, remote.identity)
			r = c.a.run("from_overlay", r.out, in)
			expectDelivered(t, "reply", r, client)
			checkSums(t, r.out)
			if d := decode(t, r.out); d.src != m.dst || d.sport != 80 {
				t.Errorf("reply of %s:%d", d.src, d.sport)
			}
		})
	}
}

func TestAServiceKeepsItsBackendForAConnection(t *testing.T) {
	a := newNodeA(t, nil)
	a.addService(vip4, 80, 6, 8080, server.ip4)
	expectDelivered(t, "SYN", a.run("from_pod", toService(false, "S").bytes(t), from{device: devPod1}), server)
	a.addService(vip4, 80, 6, 8080, client.ip4) // other backends from now on
	expectDelivered(t, "ACK", a.run("from_pod", toService(false, "A").bytes(t), from{device: devPod1}), server)
	expectDelivered(t, "SYN again", a.run("from_pod", toService(false, "S").bytes(t), from{device: devPod1}), server)
	expectDelivered(t, "RST", a.run("from_pod", toService(false, "R").bytes(t), from{device: devPod1}), server)
	expectDelivered(t, "SYN on closed", a.run("from_pod", toService(false, "S").bytes(t), from{device: devPod1}), client)
}

func TestAPodReachesItselfThroughItsService(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, nil)
			a.setCells(peerClient, abi.SetDeny)
			m := toService(f.six, "S")
			a.addService(m.dst, 80, 6, 8080, client.ip(f.six))
			r := a.run("from_pod", m.bytes(t), from{device: devPod1})
			expectDelivered(t, "SYN", r, client)
			checkSums(t, r.out)
			self := pick(f.six, "169.254.42.1", "fe80::1")
			if d := decode(t, r.out); d.src != self || d.dst != client.ip(f.six) || d.dport != 8080 {
				t.Fatalf("arrives from %s at %s:%d", d.src, d.dst, d.dport)
			}
			back := between(client, client, f.six, 8080, 4000, "SA")
			back.dst = self
			r = a.run("from_pod", back.bytes(t), from{device: devPod1})
			expectDelivered(t, "reply", r, client)
			checkSums(t, r.out)
			if d := decode(t, r.out); d.src != m.dst || d.dst != client.ip(f.six) || d.sport != 80 || d.dport != 4000 {
				t.Errorf("reply of %s:%d to %s:%d", d.src, d.sport, d.dst, d.dport)
			}
			back.srcMAC, back.dstMAC, back.src = server.mac, server.nodeMAC, server.ip(f.six)
			expect(t, "another pod to that address", a.run("from_pod", back.bytes(t), from{device: devPod2}), actShot, abi.ReasonUnknownL3Target)
		})
	}
}

func TestAServiceWithoutBackendsAnswers(t *testing.T) {
	for _, f := range families {
		a := newNodeA(t, nil)
		m := toService(f.six, "S")
		a.addService(m.dst, 80, 6, 8080)
		r := a.run("from_pod", m.bytes(t), from{device: devPod1})
		expect(t, "SYN", r, actRedirect, abi.ReasonNoServiceBackend)
		checkSums(t, r.out)
		if d := decode(t, r.out); r.spy.Ifindex != deviceIndex[devPod1] || d.src != m.dst || d.dst != m.src || d.dstMAC != decode(t, m.bytes(t)).srcMAC {
			t.Errorf("%s: answer of %s to %s", f.name, d.src, d.dst)
		}
		if in := innerOf(t, r.out); in.dport != 80 || in.dst != m.dst {
			t.Errorf("%s: answer about %s:%d", f.name, in.dst, in.dport)
		}
		in := a.run("to_pod", r.out, from{device: devPod1, mark: r.mark})
		if expect(t, "to_pod", in, actOK, 0); in.mark != 0 {
			t.Errorf("mark %x enters the pod", in.mark)
		}
		a = newNodeA(t, config{abi.ConfigReject: uint8(0)})
		a.addService(m.dst, 80, 6, 8080)
		expect(t, "without answer", a.run("from_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonNoServiceBackend)
	}
}

// A connection that was translated at its socket has the same tuple as one that
// would be translated here to the same backend: it is not taken over.
func TestAFlowOfAnotherOriginIsNotTakenOver(t *testing.T) {
	a := newNodeA(t, nil)
	a.addService(vip4, 80, 6, 8080, server.ip4)
	expectDelivered(t, "direct", a.run("from_pod", between(client, server, false, 4000, 8080, "S").bytes(t), from{device: devPod1}), server)
	expect(t, "through the service with the same port", a.run("from_pod", toService(false, "S").bytes(t), from{device: devPod1}), actShot, abi.ReasonCtInsertFailed)
	r := a.run("from_pod", between(server, client, false, 8080, 4000, "SA").bytes(t), from{device: devPod2})
	expectDelivered(t, "reply", r, client)
	if d := decode(t, r.out); d.src != server.ip4 {
		t.Errorf("reply of %s", d.src)
	}
}
