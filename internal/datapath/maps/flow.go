// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"net/netip"
	"time"

	"github.com/stentor-net/stentor/internal/abi"
)

// How long rows live without a packet.
const (
	timeoutTCP     = 8000 * time.Second // established
	timeoutSYN     = 60 * time.Second   // never answered
	timeoutClosing = 10 * time.Second
	timeoutOther   = 60 * time.Second
)

const protocolTCP = 6

// ForgetAddresses deletes every flow, translation and fragment of the
// addresses, so that the next pod with one of them inherits nothing. It returns
// how many rows went.
func (s *Set) ForgetAddresses(list ...netip.Addr) (int, error) {
	gone := map[abi.Addr]bool{}
	for _, a := range list {
		if a.IsValid() {
			gone[mapped(a)] = true
		}
	}
	if len(gone) == 0 {
		return 0, nil
	}
	flows, err := prune(s, abi.MapFlows, func(k abi.FlowKey, _ abi.Flow) bool { return gone[k.A] || gone[k.B] })
	vias, err2 := prune(s, abi.MapServiceFlows, func(k abi.FlowKey, f abi.ServiceFlow) bool { return gone[k.A] || gone[k.B] || gone[f.Addr] })
	nats, err3 := prune(s, abi.MapNAT, func(k abi.NATKey, e abi.NATEntry) bool { return gone[k.Local] || gone[k.Remote] || gone[e.Addr] })
	frags, err4 := prune(s, abi.MapFragments, func(k abi.FragmentKey, _ abi.Fragment) bool { return gone[k.Source] || gone[k.Destination] })
	return flows + vias + nats + frags, errors.Join(err, err2, err3, err4)
}

// Swept tells what a sweep found.
type Swept struct {
	Flows, ServiceFlows, NAT int // rows alive
	Expired                  int // rows of all three that were deleted because their time was over
	Early                    int // unanswered flows that were deleted because the table was nearly full
}

// Above this part of the table flows that nobody answered go early, so that
// none that somebody uses is evicted for a flood's sake.
const (
	pressure     = 0.8
	earlyTimeout = 2 * time.Second
)

// Sweep deletes rows whose time is over.
func (s *Set) Sweep() (Swept, error) {
	now, hz, err := s.Jiffies()
	if err != nil {
		return Swept{}, err
	}
	// Signed: a packet may stamp its row after the clock was read.
	idle := func(last uint32) time.Duration {
		return time.Duration(int32(now-last)) * time.Second / time.Duration(hz)
	}
	var r Swept
	flows, err := prune(s, abi.MapFlows, func(k abi.FlowKey, f abi.Flow) bool {
		r.Flows++
		return idle(f.Last) > flowTimeout(k, f)
	})
	r.Flows -= flows
	if m := s.maps[abi.MapFlows]; m != nil && float64(r.Flows) > pressure*float64(m.MaxEntries()) {
		var perr error
		r.Early, perr = prune(s, abi.MapFlows, func(_ abi.FlowKey, f abi.Flow) bool {
			return f.Flags&abi.FlowReplied == 0 && idle(f.Last) > earlyTimeout
		})
		err = errors.Join(err, perr)
		r.Flows -= r.Early
	}
	vias, err2 := prune(s, abi.MapServiceFlows, func(k abi.FlowKey, f abi.ServiceFlow) bool {
		r.ServiceFlows++
		return idle(f.Last) > served(k.Protocol, f.TCP)
	})
	r.ServiceFlows -= vias
	nats, err3 := prune(s, abi.MapNAT, func(k abi.NATKey, e abi.NATEntry) bool {
		r.NAT++
		if e.Service != 0 {
			return idle(e.Last) > served(k.Protocol, e.TCP)
		}
		return idle(e.Last) > timeoutOther && (k.Protocol != protocolTCP || !s.flowOf(k, e))
	})
	r.NAT -= nats
	r.Expired = flows + vias + nats
	return r, errors.Join(err, err2, err3)
}

func flowTimeout(k abi.FlowKey, f abi.Flow) time.Duration {
	switch {
	case f.Flags&abi.FlowClosing != 0:
		return timeoutClosing
	case k.Protocol == protocolTCP && f.Flags&abi.FlowReplied == 0:
		return timeoutSYN
	}
	return other(k.Protocol)
}

func other(protocol uint8) time.Duration {
	if protocol == protocolTCP {
		return timeoutTCP
	}
	return timeoutOther
}

// served is how long a connection of a client outside is remembered; one side has
// said that it ends, or not.
func served(protocol, tcp uint8) time.Duration {
	if tcp&(tcpFIN|tcpRST) != 0 {
		return timeoutSYN // the other side may go on for a while
	}
	return other(protocol)
}

// TCP flags.
const (
	tcpFIN = 1
	tcpRST = 4
)

// flowOf tells whether the connection of a masqueraded TCP mapping still has a flow.
func (s *Set) flowOf(k abi.NATKey, e abi.NATEntry) bool {
	pod, port := k.Local, k.LocalPort
	if k.Direction == abi.NATIn {
		pod, port = e.Addr, e.Port
	}
	var f abi.Flow
	return s.maps[abi.MapFlows].Lookup(flowKey(pod, port, k.Remote, k.RemotePort, k.Protocol), &f) == nil
}

// flowKey puts a tuple into canonical order; ports as in the rows.
func flowKey(a abi.Addr, pa uint16, b abi.Addr, pb uint16, protocol uint8) abi.FlowKey {
	if less(b, pb, a, pa) {
		a, pa, b, pb = b, pb, a, pa
	}
	return abi.FlowKey{A: a, B: b, PortA: pa, PortB: pb, Protocol: protocol, Leg: abi.LegDirect}
}

func less(a abi.Addr, pa uint16, b abi.Addr, pb uint16) bool {
	for i := range a.B {
		if a.B[i] != b.B[i] {
			return a.B[i] < b.B[i]
		}
	}
	return swap(pa) < swap(pb)
}

// prune deletes the rows that f wants gone and counts them. Each is deleted by
// itself: a batch ends at the first row that the kernel has evicted meanwhile.
func prune[K, V any](s *Set, table string, f func(K, V) bool) (int, error) {
	m := s.maps[table]
	if m == nil {
		return 0, nil
	}
	var gone []K
	err := each(m, func(k K, v V) {
		if f(k, v) {
			gone = append(gone, k)
		}
	})
	for _, k := range gone {
		err = errors.Join(err, absentIsFine(m.Delete(k)))
	}
	return len(gone), err
}
