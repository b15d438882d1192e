// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stentor-net/stentor/internal/abi"
)

// hooks are the ways into the programs, with the packets that rightly come there.
var hooks = []struct {
	prog string
	in   from
	from pod
	to   pod
}{
	{"from_pod", from{device: devPod1}, client, server},
	{"to_pod", from{device: devPod2}, client, server},
	{"from_overlay", from{device: devOverlay, outer: hostBIP4, vni: remote.identity}, remote, client},
	{"to_overlay", from{device: devOverlay}, client, remote},
	{"from_net", from{device: devUplink}, remote, client},
	{"to_net", from{device: devUplink}, client, remote},
}

// originals are valid packets to begin from.
func originals(t testing.TB, a, b pod) [][]byte {
	var out [][]byte
	for _, f := range families {
		m := between(a, b, f.six, 4000, 80, "S")
		out = append(out, m.bytes(t))
		long := m
		long.options, long.extensions = true, 2
		out = append(out, long.bytes(t))
		udp := between(a, b, f.six, 4000, 53, "")
		udp.udp, udp.payload = true, 32
		out = append(out, udp.bytes(t))
		first := udp
		first.more, first.id, first.payload = true, 99, 64
		out = append(out, first.bytes(t))
		later := first
		later.fragment, later.more = 9, false
		out = append(out, later.bytes(t))
		ping := between(a, b, f.six, 0, 0, "")
		ping.icmp, ping.icmpType, ping.icmpID = true, map[bool]uint8{false: 8, true: 128}[f.six], 77
		out = append(out, ping.bytes(t))
		for _, about := range quoted(a, b, f.six) {
			e := icmpError(t, a.ip(f.six), about.bytes(t))
			e.srcMAC, e.dstMAC = a.mac, a.nodeMAC
			out = append(out, e.bytes(t))
		}
		vxlan := udp
		vxlan.dport, vxlan.payload = 8472, 0
		vxlan.inner = append([]byte{8, 0, 0, 0, 0, 3, 0xe9, 0}, between(b, a, f.six, 80, 4000, "S").bytes(t)...)
		out = append(out, vxlan.bytes(t))
	}
	six := between(a, b, true, 4000, 80, "S").bytes(t)
	out = append(out, withHeaders(six, 0, 60, 43), withHeaders(six, 51), withHeaders(six, 44, 60))
	ask := between(a, b, true, 0, 0, "")
	ask.icmp, ask.icmpType, ask.ttl, ask.inner = true, 135, 255, make([]byte, 24)
	tell := ask
	tell.icmpType = 136
	return append(out, ask.bytes(t), tell.bytes(t), arpFrom(a, 1, routerIP4))
}

// quoted are packets that b sent to a, for errors about them: the flow of a trial,
// and one each that is read in another way.
func quoted(a, b pod, six bool) []message {
	plain := between(b, a, six, 80, 40000, "A")
	echo, first, later, long := plain, plain, plain, plain
	echo.icmp, echo.icmpType, echo.icmpID = true, map[bool]uint8{false: 0, true: 129}[six], 77
	first.more, first.id, first.payload = true, 99, 64
	later.fragment, later.id, later.payload = 9, 99, 64
	long.options, long.extensions = true, 1
	return []message{plain, echo, first, later, long}
}

// arpFrom is ARP of a pod: operation 1 asks, 2 tells.
func arpFrom(p pod, operation byte, target string) []byte {
	b := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, p.mac[:]...)
	b = append(b, 8, 6, 0, 1, 8, 0, 6, 4, 0, operation)
	b = append(b, p.mac[:]...)
	b = append(b, ip(p.ip4)...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return append(b, ip(target)...)
}

var (
	etherTypes  = []uint16{0x0800, 0x0806, 0x86dd, 0x8100, 0x88a8, 0x88cc, 0x8847, 0x0000, 0x05dc}
	nextHeaders = []byte{0, 1, 2, 4, 6, 17, 41, 43, 44, 47, 50, 51, 58, 59, 60, 132, 135, 136, 255}
)

// mutate applies operations of three bytes: what, where, with what. Most places
// are in the nextHeaders, where it matters.
func mutate(packet, operations []byte) []byte {
	b := append([]byte(nil), packet...)
	for ; len(operations) >= 3; operations = operations[3:] {
		what, where, with := operations[0]%14, int(operations[1]), operations[2]
		if len(b) < 60 {
			b = append(b, make([]byte, 60-len(b))...) // what was cut off is cut at the end, if at all
		}
		v6 := b[12] == 0x86
		switch what {
		case 0:
			b[where%len(b)] = with
		case 1:
			b[where%len(b)] ^= 1 << (with % 8)
		case 2:
			b = append(b[:14+where%46], b[min(len(b), 14+where%46+int(with%9)):]...)
		case 3:
			b = append(b, make([]byte, int(with)*4)...)
		case 4:
			binary.BigEndian.PutUint16(b[12:], etherTypes[int(with)%len(etherTypes)])
		case 5:
			b[14] = with
		case 6: // length of the packet
			at := 16
			if v6 {
				at = 18
			}
			binary.BigEndian.PutUint16(b[at:], uint16(where&1)<<8|uint16(with))
		case 7: // IPv4 fragment
			b[20], b[21] = byte(where), with
		case 8:
			at := 23
			if v6 {
				at = 20
			}
			b[at] = nextHeaders[int(with)%len(nextHeaders)]
		case 9: // an extension header, or eight bytes of IPv4 options
			header := []byte{b[20], with % 4, byte(where), with, 0, 0, 0, 1}
			if v6 {
				b[20] = nextHeaders[where%len(nextHeaders)]
				b = append(b[:54:54], append(header, b[54:]...)...)
			} else if b[14]&15 < 14 {
				b[14] += 2
				b = append(b[:34:34], append(header, b[34:]...)...)
			}
		case 10: // to itself
			if v6 {
				copy(b[38:54], b[22:38])
			} else {
				copy(b[30:34], b[26:30])
			}
		case 11: // to somebody else
			others := []string{hostIP4, routerIP4, outsideIP4, server.ip4, client.ip4, remote.ip4, "10.0.1.200", "255.255.255.255", "224.0.0.1", "127.0.0.1", "0.0.0.0"}
			at := 30
			if v6 {
				others = []string{hostIP6, routerIP6, outsideIP6, server.ip6, client.ip6, remote.ip6, "fd00:1::200", "ff02::1", "::1", "::", "fe80::1"}
				at = 38
			}
			copy(b[at:], ip(others[int(with)%len(others)]))
		case 12: // TCP: offset and flags
			at := 46
			if v6 {
				at = 66
			}
			if len(b) > at+1 {
				b[at], b[at+1] = byte(where), with
			}
		case 13: // cut off
			b = b[:14+int(with)%(len(b)-14)]
			return b
		}
		if len(b) > 1400 {
			b = b[:1400]
		}
	}
	return b
}

// TestMutatedPacketsNeverPassByAccident sends some thousands of packets that are
// nearly right to every hook. The numbers are the same in every run.
func TestMutatedPacketsNeverPassByAccident(t *testing.T) {
	rounds := 150
	if testing.Short() {
		rounds = 10
	}
	for _, tunnel := range []uint8{1, 0} {
		cfg := masquerading()
		cfg[abi.ConfigTunnel] = tunnel
		x := newTrial(t, cfg)
		random := rand.New(rand.NewPCG(1, uint64(tunnel)))
		for _, hook := range hooks {
			for _, packet := range originals(t, hook.from, hook.to) {
				for range rounds {
					operations := make([]byte, 3*(1+random.IntN(4)))
					for i := range operations {
						operations[i] = byte(random.Uint32())
					}
					x.send(hook.prog, mutate(packet, operations), hook.in)
				}
			}
		}
		t.Logf("tunnel %d: %d packets, dropped for %d reasons", tunnel, x.ran, len(x.shots))
		x.finish()
	}
}

// FuzzMutatedPackets is the same with the fuzzer's choice.
func FuzzMutatedPackets(f *testing.F) {
	requireRoot(f)
	x := newTrial(f, masquerading())
	var packets [][][]byte
	for _, hook := range hooks {
		x.prog(hook.prog) // loaded for all runs
		packets = append(packets, originals(f, hook.from, hook.to))
	}
	for h := range hooks {
		for p := range packets[h] {
			f.Add(uint8(h), uint8(p), []byte{13, 0, 30})
		}
	}
	f.Fuzz(func(t *testing.T, h, p uint8, operations []byte) {
		x.TB = t
		if len(operations) > 30 {
			return
		}
		hook := hooks[int(h)%len(hooks)]
		list := packets[int(h)%len(hooks)]
		x.send(hook.prog, mutate(list[int(p)%len(list)], operations), hook.in)
	})
}
