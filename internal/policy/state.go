// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/stentor-net/stentor/internal/identity"
)

// NewState is the state of a kernel that holds nothing: every cell is SetDeny.
func NewState() State {
	return State{
		Peers: map[uint32]uint32{}, Classes: map[uint32]*[SlotsMax]uint16{}, Sets: map[uint32][]SetRow{},
		IdentityPeer: map[identity.ID]uint32{}, Addresses: map[netip.Prefix]Entry{}, Endpoints: map[uint16]EndpointRow{},
	}
}

// Clone copies a state deeply.
func (s *State) Clone() State {
	c := State{
		Peers: maps.Clone(s.Peers), Classes: make(map[uint32]*[SlotsMax]uint16, len(s.Classes)), Sets: make(map[uint32][]SetRow, len(s.Sets)),
		IdentityPeer: maps.Clone(s.IdentityPeer), Addresses: maps.Clone(s.Addresses), Endpoints: maps.Clone(s.Endpoints),
	}
	for k, v := range s.Classes {
		row := *v
		c.Classes[k] = &row
	}
	for k, v := range s.Sets {
		c.Sets[k] = slices.Clone(v)
	}
	if c.Peers == nil {
		c.Peers = map[uint32]uint32{}
	}
	if c.IdentityPeer == nil {
		c.IdentityPeer = map[identity.ID]uint32{}
	}
	if c.Addresses == nil {
		c.Addresses = map[netip.Prefix]Entry{}
	}
	if c.Endpoints == nil {
		c.Endpoints = map[uint16]EndpointRow{}
	}
	return c
}

// repair takes numbers that cannot be for those that let nothing pass, so that
// what stands in their place is written again.
func (s *State) repair() {
	for p, class := range s.Peers {
		if p >= PeersMax || class >= ClassMax {
			delete(s.Peers, p)
		}
	}
	for n := range s.Sets {
		if n < SetFirst || n >= SetsMax {
			delete(s.Sets, n)
		}
	}
	for id, p := range s.IdentityPeer {
		if p >= PeersMax {
			s.IdentityPeer[id] = PeerUnknown
		}
	}
	for p, e := range s.Addresses {
		if e.Peer >= PeersMax {
			e.Peer = PeerUnknown
			s.Addresses[p] = e
		}
	}
	for id, row := range s.Endpoints {
		if row.Egress >= SlotsMax || row.Ingress >= SlotsMax || row.Peer4 >= PeersMax || row.Peer6 >= PeersMax {
			s.Endpoints[id] = EndpointRow{Egress: SlotClosed, Ingress: SlotClosed}
		}
	}
}

// Apply carries out one step, as the kernel's tables would.
func (s *State) Apply(op Op) {
	switch o := op.(type) {
	case WriteClass:
		row := o.Row
		s.Classes[o.Class] = &row
	case WriteSet:
		s.Sets[o.Set] = o.Rows
	case DeleteSet:
		delete(s.Sets, o.Set)
	case SetPeer:
		s.Peers[o.Peer] = o.Class
	case SetCell:
		row := s.Classes[o.Class]
		if row == nil {
			row = &[SlotsMax]uint16{}
			s.Classes[o.Class] = row
		}
		row[o.Slot] = o.Set
	case SetIdentityPeer:
		s.IdentityPeer[o.Identity] = o.Peer
	case DeleteIdentityPeer:
		delete(s.IdentityPeer, o.Identity)
	case PutAddress:
		s.Addresses[o.Prefix] = o.Entry
	case DeleteAddress:
		delete(s.Addresses, o.Prefix)
	case SetEndpoint:
		s.Endpoints[o.Endpoint] = o.Row
	}
}

// Decision is what the kernel answers, with the places it found the answer in.
type Decision struct {
	Verdict Verdict
	L7      uint32
	Peer    uint32
	Class   uint32
	Slot    uint16
	Set     uint16
	Row     uint16 // of the set; 0 for the special sets
}

func (d Decision) String() string {
	return fmt.Sprintf("%d (l7 %d, peer %d, class %d, slot %d, set %d, row %d)", d.Verdict, d.L7, d.Peer, d.Class, d.Slot, d.Set, d.Row)
}

// Decide looks up the verdict about a packet between an endpoint and an
// address. Port -1: a fragment, whose port is not known.
func (s *State) Decide(endpoint uint16, d Direction, peer netip.Addr, protocol uint8, port int) Decision {
	entry := Entry{}
	for bits := peer.BitLen(); bits >= 0; bits-- {
		p, _ := peer.Prefix(bits)
		if e, ok := s.Addresses[p]; ok {
			entry = e
			break
		}
	}
	return s.DecidePeer(endpoint, d, entry.Peer, protocol, port)
}

// DecidePeer is Decide for a peer by number, as an identity of a tunnel header gives it.
func (s *State) DecidePeer(endpoint uint16, d Direction, peer uint32, protocol uint8, port int) Decision {
	row := s.Endpoints[endpoint]
	out := Decision{Peer: peer, Class: s.Peers[peer], Slot: row.Egress}
	if d == Ingress {
		out.Slot = row.Ingress
	}
	if cells := s.Classes[out.Class]; cells != nil {
		out.Set = cells[out.Slot]
	}
	switch out.Set {
	case SetDeny:
		return out
	case SetAllow:
		out.Verdict = Allow
		return out
	}
	best := -1
	for _, r := range s.Sets[uint32(out.Set)] {
		if length, hit := r.covers(protocol, port); hit && length > best {
			best = length
			out.Verdict, out.L7, out.Row = r.Verdict, r.L7, r.Row
		}
	}
	return out
}

// covers tells whether the row's prefix holds a port of a protocol, and its length.
func (r *SetRow) covers(protocol uint8, port int) (int, bool) {
	switch {
	case r.Protocol == 0:
		return 0, true
	case r.Protocol != protocol:
		return 0, false
	case r.PortBits == 0:
		return 8, true
	case port < 0:
		return 0, false
	}
	shift := 16 - r.PortBits
	return 8 + int(r.PortBits), uint16(port)>>shift == r.Port>>shift
}
