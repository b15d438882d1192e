// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/stentor-net/stentor/internal/abi"
)

// trial is a node that is sent what nobody should send. Its policy allows one
// thing: client to server, TCP to port 80 and UDP to port 53. Whatever arrives
// anywhere is held against that by a parser of its own.
type trial struct {
	*node
	before  map[uint8]uint64    // drops counted when the trial began, by reason
	shots   map[uint8]uint64    // packets that were dropped since
	ran     int                 // packets that the kernel took
	started map[abi.FlowKey]row // flows that must stay as they are
}

// row is what packets of others must not change in a flow.
type row struct {
	side     [2]uint64
	endpoint [2]uint16
	identity [2]uint32
	node     uint16
	fromB    bool
}

func rowOf(f abi.Flow) row {
	return row{f.Side, f.Endpoint, f.Identity, f.Node, f.Flags&abi.FlowFromB != 0}
}

const setNarrow = 7

func newTrial(t testing.TB, cfg config) *trial {
	t.Helper()
	a := newNodeA(t, cfg)
	for _, peer := range []uint32{peerHost, peerWorld, peerNode, peerClient, peerServer, peerRemote} {
		a.setCells(peer, abi.SetDeny)
	}
	for _, open := range []struct {
		protocol uint8
		port     uint16
	}{{6, 80}, {17, 53}} {
		a.put(abi.MapSets, abi.SetKey{Prefixlen: 64, Set: setNarrow, Protocol: open.protocol, Port: ports(open.port)}, abi.SetEntry{Verdict: abi.VerdictAllow})
	}
	a.setCell(peerClient, slotServerIngress, setNarrow, server.id)
	a.setCell(peerServer, slotClientEgress, setNarrow, client.id)
	x := &trial{node: a, before: map[uint8]uint64{}, shots: map[uint8]uint64{}, started: map[abi.FlowKey]row{}}
	for _, f := range families {
		m := between(client, server, f.six, 40000, 80, "S")
		if r := a.run("from_pod", m.bytes(t), from{device: devPod1}); r.verdict != actRedirect {
			t.Fatalf("the flow of the trial: verdict %d, reason %s", r.verdict, name(r.reason))
		}
	}
	for key, f := range a.flowRows() {
		x.started[key] = rowOf(f)
	}
	for reason := range 256 {
		x.before[uint8(reason)] = a.dropped(uint8(reason), 0) + a.dropped(uint8(reason), 1)
	}
	return x
}

// send runs a packet through a program and holds the outcome against what may be.
func (x *trial) send(prog string, data []byte, in from) (result, bool) {
	x.Helper()
	r, err := x.tryRun(prog, data, in)
	if errors.Is(err, syscall.EINVAL) {
		return r, false // the kernel makes no packet of these bytes
	}
	if err != nil {
		x.Fatalf("%s: %v for %x", prog, err, data)
	}
	x.ran++
	drops := 0
	for _, e := range r.events {
		if e.Type == abi.EventDrop {
			drops++
		}
	}
	switch r.verdict {
	case actShot:
		if _, known := abi.Reasons[r.reason]; drops != 1 || !known {
			x.Fatalf("%s: dropped with %d events, reason %d, for %x", prog, drops, r.reason, data)
		}
		x.shots[r.reason]++
	case actOK, actRedirect:
		if drops != 0 {
			x.Fatalf("%s: verdict %d and yet told as a drop (%s) for %x", prog, r.verdict, name(r.reason), data)
		}
		if why := x.mayPass(prog, r, in); why != "" {
			x.Fatalf("%s: passes although %s: in %x, out %x, verdict %d, %+v", prog, why, data, r.out, r.verdict, r.spy)
		}
	default:
		x.Fatalf("%s: verdict %d for %x", prog, r.verdict, data)
	}
	return r, true
}

// finish compares the counters with what was seen, and the flows with what they were.
func (x *trial) finish() {
	x.Helper()
	for reason := 1; reason < 256; reason++ {
		counted := x.dropped(uint8(reason), 0) + x.dropped(uint8(reason), 1) - x.before[uint8(reason)]
		if counted != x.shots[uint8(reason)] {
			x.Errorf("%q: %d drops are counted, %d packets were dropped", name(uint8(reason)), counted, x.shots[uint8(reason)])
		}
	}
	rows := x.flowRows()
	for key, want := range x.started {
		if f, ok := rows[key]; !ok || rowOf(f) != want {
			x.Errorf("the flow %+v is %+v, was %+v", key, f, want)
		}
	}
	if x.ran == 0 {
		x.Error("the kernel took no packet")
	}
}

// mayPass says why what a program passed should not have; "" if it may.
func (x *trial) mayPass(prog string, r result, in from) string {
	h := headersOf(r.out)
	if r.spy.Kind == kindPeer {
		to := client
		switch r.spy.Ifindex {
		case deviceIndex[devPod1]:
		case deviceIndex[devPod2]:
			to = server
		default:
			return "the device is no pod's"
		}
		if h.dst != to.address(h.six) {
			return "the pod has another address"
		}
		return h.allowed()
	}
	switch prog {
	case "from_pod":
		if r.verdict == actRedirect {
			if r.spy.Kind == kindRedirect && r.spy.Ifindex == deviceIndex[in.device] {
				return "" // an answer to the pod's question for its neighbour
			}
			return "policy denies other nodes"
		}
		if h.neighbor && h.ttl == 255 && (h.dst.IsLinkLocalUnicast() || h.dst.IsMulticast() || isHost(h.dst)) {
			return ""
		}
		if h.src == client.address(h.six) && h.dst == server.address(h.six) {
			return h.allowed() // the flow began through the stack and stays there
		}
		return "policy denies the host and the world"
	case "to_pod":
		if !h.ok || h.neighbor && h.ttl == 255 {
			return "" // not IP, or the host's talk with its neighbour
		}
		return h.allowed()
	case "from_overlay":
		if r.verdict == actOK && isHost(h.dst) {
			return ""
		}
		return "policy denies other nodes"
	case "to_overlay":
		if r.spy.VNI == 0 {
			return "no tunnel is set"
		}
	case "to_net": // from_pod lets nothing pass that has no whole header of a known protocol
		if h.whole && h.src == client.address(h.six) && h.dst != remote.address(h.six) && !h.inRanges() {
			return "it has the pod's address"
		}
	}
	return ""
}

func isHost(a netip.Addr) bool {
	return slices.Contains([]string{hostIP4, hostIP6, routerIP4, routerIP6}, a.String())
}

func (p pod) address(six bool) netip.Addr { return netip.MustParseAddr(p.ip(six)) }

// headers are what a receiver would read in a frame.
type headers struct {
	ok, six      bool
	src, dst     netip.Addr
	ttl          uint8
	protocol     uint8
	later        bool // fragment without ports
	sport, dport uint16
	icmpType     uint8
	neighbor     bool // neighbour solicitation or advertisement
	whole        bool // the L4 header is of a known protocol and not cut off
}

func headersOf(b []byte) (h headers) {
	if len(b) < 34 {
		return h
	}
	l4 := 0
	switch binary.BigEndian.Uint16(b[12:]) {
	case 0x0800:
		if b[14]>>4 != 4 || b[14]&15 < 5 {
			return h
		}
		h.src, h.dst = netip.AddrFrom4([4]byte(b[26:30])), netip.AddrFrom4([4]byte(b[30:34]))
		h.ttl, h.protocol = b[22], b[23]
		h.later = binary.BigEndian.Uint16(b[20:])&0x1fff != 0
		l4 = 14 + int(b[14]&15)*4
	case 0x86dd:
		if len(b) < 54 || b[14]>>4 != 6 {
			return h
		}
		h.six = true
		h.src, h.dst = netip.AddrFrom16([16]byte(b[22:38])), netip.AddrFrom16([16]byte(b[38:54]))
		h.ttl, h.protocol = b[21], b[20]
		l4 = 54
		for h.protocol == 0 || h.protocol == 43 || h.protocol == 44 || h.protocol == 51 || h.protocol == 60 || h.protocol == 135 {
			if len(b) < l4+8 || h.later {
				break
			}
			next, length := b[l4], (int(b[l4+1])+1)*8
			switch h.protocol {
			case 44:
				length, h.later = 8, binary.BigEndian.Uint16(b[l4+2:])>>3 != 0
			case 51:
				length = (int(b[l4+1]) + 2) * 4
			}
			h.protocol, l4 = next, l4+length
		}
	default:
		return h
	}
	h.ok = true
	if h.later || len(b) < l4+4 {
		return h
	}
	h.sport, h.dport = binary.BigEndian.Uint16(b[l4:]), binary.BigEndian.Uint16(b[l4+2:])
	need := map[uint8]int{1: 8, 6: 14, 17: 8, 58: 8, 132: 8}[h.protocol]
	h.whole = need > 0 && len(b) >= l4+need
	if h.protocol == 58 || h.protocol == 1 {
		h.icmpType = b[l4]
		h.neighbor = h.protocol == 58 && (h.icmpType == 135 || h.icmpType == 136)
	}
	return h
}

// allowed says why policy denies a frame to a pod; "" if it does not.
func (h headers) allowed() string {
	c, s := client.address(h.six), server.address(h.six)
	open := func(protocol uint8, port uint16) bool {
		return protocol == 6 && port == 80 || protocol == 17 && port == 53
	}
	switch {
	case !h.ok:
		return "it is not IP"
	case h.src == h.dst:
		return "" // a pod always reaches itself
	case h.isError():
		return "" // passes as part of the flow that it is about; what flows there are was judged
	case h.src == c && h.dst == s && h.later && (h.protocol == 6 || h.protocol == 17):
		return "" // its first one was judged
	case h.src == c && h.dst == s && open(h.protocol, h.dport), h.src == s && h.dst == c && open(h.protocol, h.sport):
		return ""
	}
	return "policy denies it"
}

func (h headers) isError() bool {
	return !h.later && (h.protocol == 1 && (h.icmpType == 3 || h.icmpType == 11 || h.icmpType == 12) || h.protocol == 58 && h.icmpType >= 1 && h.icmpType <= 4)
}

func (h headers) inRanges() bool {
	for _, s := range []string{"10.0.1.0/24", "10.0.2.0/24", "fd00:1::/64", "fd00:2::/64"} {
		if netip.MustParsePrefix(s).Contains(h.dst) {
			return true
		}
	}
	return false
}
