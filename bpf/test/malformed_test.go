// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"slices"
	"syscall"
	"testing"

	"github.com/stentor-net/stentor/internal/abi"
)

func TestFragmentsFollowTheirFirst(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, nil)
			a.put(abi.MapSets, abi.SetKey{Prefixlen: 64, Set: 7, Protocol: 17, Port: ports(53)}, abi.SetEntry{Verdict: abi.VerdictAllow})
			a.put(abi.MapSets, abi.SetKey{Prefixlen: 48 + 6, Set: 7, Protocol: 17}, abi.SetEntry{Verdict: abi.VerdictAllow}) // ports 0 to 1023
			a.setCell(peerClient, slotServerIngress, 7, server.id)
			first := between(client, server, f.six, 4000, 53, "")
			first.udp, first.more, first.id, first.payload = true, true, 99, 64
			later := first
			later.fragment, later.more = 9, false
			expect(t, "before the first", a.run("from_pod", later.bytes(t), from{device: devPod1}), actShot, abi.ReasonFragFirstMissing)
			expectDelivered(t, "first", a.run("from_pod", first.bytes(t), from{device: devPod1}), server)
			expectDelivered(t, "later", a.run("from_pod", later.bytes(t), from{device: devPod1}), server)
			if f.six {
				b := later.bytes(t)
				b[14+40], b[14+48], b[14+49] = 60, 17, 0 // options, and data that would be their header
				expect(t, "later one whose data looks like headers", a.run("from_pod", b, from{device: devPod1}), actShot, abi.ReasonFragFirstMissing)
			}
			forged := first
			forged.id, forged.srcMAC, forged.dstMAC = 98, server.mac, server.nodeMAC
			expect(t, "first one that another pod forges", a.run("from_pod", forged.bytes(t), from{device: devPod2}), actShot, abi.ReasonInvalidSourceIP)
			later.id = 98
			expect(t, "of another datagram", a.run("from_pod", later.bytes(t), from{device: devPod1}), actShot, abi.ReasonFragFirstMissing)
			a.setCell(peerClient, slotServerIngress, abi.SetAllow, server.id)
			expectDelivered(t, "without ports, where every port is allowed", a.run("from_pod", later.bytes(t), from{device: devPod1}), server)
		})
	}
}

func TestMasqueradedFragmentsKeepTogether(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := newNodeA(t, masquerading())
			first := toOutside(f.six)
			first.udp, first.more, first.id, first.payload = true, true, 99, 64
			later := first
			later.fragment, later.more = 9, false
			r := a.run("to_net", first.bytes(t), from{device: devUplink})
			expect(t, "first", r, actOK, 0)
			r = a.run("to_net", later.bytes(t), from{device: devUplink})
			expect(t, "later", r, actOK, 0)
			b := later.bytes(t)
			if d := decode(t, r.out); d.src != pick(f.six, hostIP4, hostIP6) {
				t.Errorf("later fragment leaves as %s", d.src)
			}
			if n := 64; string(r.out[len(r.out)-n:]) != string(b[len(b)-n:]) {
				t.Error("the data of the fragment changed")
			}
		})
	}
}

func TestOptionsAndExtensionHeadersAreWalked(t *testing.T) {
	a := newNodeA(t, nil)
	a.setCell(peerClient, slotServerIngress, abi.SetDeny, server.id)
	a.put(abi.MapSets, abi.SetKey{Prefixlen: 64, Set: 7, Protocol: 6, Port: ports(80)}, abi.SetEntry{Verdict: abi.VerdictAllow})
	a.setCell(peerClient, slotServerIngress, 7, server.id)
	m := between(client, server, false, 4000, 80, "S")
	m.options = true
	expectDelivered(t, "IPv4 options", a.run("from_pod", m.bytes(t), from{device: devPod1}), server)
	m = between(client, server, true, 4000, 80, "S")
	for n := 1; n <= 5; n++ {
		m.extensions = n
		expectDelivered(t, "IPv6 extension headers", a.run("from_pod", m.bytes(t), from{device: devPod1}), server)
	}
	m.dport = 81
	expect(t, "another port behind them", a.run("from_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonPolicyDenied)
	m.extensions = 6
	expect(t, "too many", a.run("from_pod", m.bytes(t), from{device: devPod1}), actShot, abi.ReasonInvalidExthdr)
}

func TestTruncatedPacketsAreDropped(t *testing.T) {
	a := newNodeA(t, nil)
	for _, f := range families {
		full := between(client, server, f.six, 4000, 80, "S").bytes(t)
		l4 := 14 + 20
		if f.six {
			l4 = 14 + 40
		}
		for n := l4; n < l4+14; n++ {
			r := a.run("from_pod", full[:n], from{device: devPod1})
			if r.verdict != actShot || r.reason != abi.ReasonInvalidPacket && r.reason != abi.ReasonCtTruncated {
				t.Errorf("%s, %d bytes: verdict %d, reason %s", f.name, n, r.verdict, name(r.reason))
			}
		}
	}
	m := between(client, server, false, 4000, 80, "S").bytes(t)
	m[14] = 0x44
	expect(t, "header shorter than a header", a.run("from_pod", m, from{device: devPod1}), actShot, abi.ReasonInvalidPacket)
	m = between(client, server, false, 4000, 80, "S").bytes(t)
	m[23] = 47
	expect(t, "GRE", a.run("from_pod", m, from{device: devPod1}), actShot, abi.ReasonCtUnknownL4)
	m = between(client, server, false, 4000, 80, "S").bytes(t)
	m[12], m[13] = 0x88, 0xcc
	expect(t, "LLDP", a.run("from_pod", m, from{device: devPod1}), actShot, abi.ReasonUnsupportedL3)
	six := between(client, server, true, 4000, 80, "S").bytes(t)
	own, other := mapped(client.ip4), mapped(server.ip4)
	expect(t, "mapped address on the wire", a.run("from_pod", slices.Concat(six[:22], own.B[:], other.B[:], six[54:]), from{device: devPod1}), actShot, abi.ReasonInvalidPacket)
	expect(t, "mapped destination on the wire", a.run("from_pod", slices.Concat(six[:38], other.B[:], six[54:]), from{device: devPod1}), actShot, abi.ReasonInvalidPacket)
}

// FuzzPackets sends random bytes into every program: each one ends with a
// verdict, and an endpoint that is not ready passes nothing.
func FuzzPackets(f *testing.F) {
	requireRoot(f)
	a := newNodeA(f, masquerading())
	unready := client
	unready.notReady = true
	a.addPod(unready)
	programs := []string{"from_pod", "to_pod", "from_overlay", "to_overlay", "from_net", "to_net"}
	for _, p := range programs {
		a.prog(p)
	}
	for _, hook := range hooks {
		for _, b := range originals(f, hook.from, hook.to) {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a.TB = t
		if len(data) < 15 || len(data) > 1500 {
			return
		}
		for _, p := range programs {
			device := devPod1
			if p != "from_pod" && p != "to_pod" {
				device = devUplink
			}
			r, err := a.tryRun(p, data, from{device: device, outer: hostBIP4, vni: remote.identity})
			if errors.Is(err, syscall.EINVAL) {
				return // the kernel makes no packet of these bytes
			}
			if err != nil {
				t.Fatalf("%s: %v", p, err)
			}
			if r.verdict != actOK && r.verdict != actShot && r.verdict != actRedirect {
				t.Errorf("%s: verdict %d for %x", p, r.verdict, data)
			}
			arp := data[12] == 8 && data[13] == 6 || data[12] == 0x86 && data[13] == 0xdd
			if p == "from_pod" && r.verdict != actShot && !arp {
				t.Errorf("an endpoint that is not ready sends %x", data)
			}
			if r.spy.Kind == kindPeer && r.spy.Ifindex == deviceIndex[devPod1] {
				t.Errorf("%s: an endpoint that is not ready receives %x", p, data)
			}
		}
	})
}
