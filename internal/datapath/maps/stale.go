// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/service"
)

// Translation is what a connected socket was translated to.
type Translation struct {
	Protocol    uint8          // IANA number
	VIP         netip.AddrPort // that its program asked for
	Backend     netip.AddrPort
	unspecified bool // any address of a node: only the port of VIP counts
}

// staleRounds is how often sockets to a backend that has gone are looked for. A
// connect that was under way at the first time is found at the second.
const staleRounds = 2

// leave notes the backends that a frontend had and has no more.
func (v *services) leave(k abi.ServiceKey, had, has *front) {
	if k.Scope != uint8(service.Internal) || v.backends == nil {
		return
	}
	for _, id := range missing(has.backends, had.backends) {
		r := v.backends.byID[id]
		if r == nil {
			continue
		}
		t := Translation{Protocol: k.Protocol, VIP: netip.AddrPortFrom(unmapped(k.VIP), swap(k.Port)), Backend: netip.AddrPortFrom(r.name.addr, r.name.port)}
		t.unspecified = t.VIP.Addr().IsUnspecified()
		v.stale[t] = staleRounds
	}
}

// StaleSockets are translations that no new socket gets any more, but that sockets
// may still have. Each is told twice.
func (s *Set) StaleSockets() (out []Translation) {
	v := s.services
	v.mu.Lock()
	defer v.mu.Unlock()
	for t, rounds := range v.stale {
		if v.inForce(t) {
			delete(v.stale, t)
			continue
		}
		out = append(out, t)
		if v.stale[t] = rounds - 1; rounds <= 1 {
			delete(v.stale, t)
		}
	}
	return out
}

// inForce tells whether the backend has come back.
func (v *services) inForce(t Translation) bool {
	k := keyOf(service.FrontendKey{Addr: t.VIP.Addr(), Port: t.VIP.Port(), Protocol: t.Protocol})
	f := v.known[k]
	r := v.backends.byName[backendName{t.Backend.Addr(), t.Backend.Port(), t.Protocol}]
	return f != nil && r != nil && slices.Contains(f.backends, r.id)
}

// Is tells whether a socket has the translation.
func (t Translation) Is(socket Translation) bool {
	return t.Protocol == socket.Protocol && t.Backend == socket.Backend && t.VIP.Port() == socket.VIP.Port() &&
		(t.VIP.Addr() == socket.VIP.Addr() || t.unspecified && t.VIP.Addr().Is4() == socket.VIP.Addr().Is4())
}

// SocketStorage is the storage of UDP sockets.
func (s *Set) SocketStorage() *ebpf.Map { return s.Map(abi.MapSocketPeers) }

// StoredTranslation is that of a UDP socket.
func StoredTranslation(row abi.StoredRow) Translation {
	p := row.Peer
	return Translation{Protocol: 17, VIP: netip.AddrPortFrom(unmapped(p.VIP), swap(p.VIPPort)),
		Backend: netip.AddrPortFrom(unmapped(p.Backend), swap(p.BackendPort))}
}

// TCPTranslation is that of a TCP socket, while its row is not another one's. Its
// backend is the peer of the socket.
func (s *Set) TCPTranslation(cookie uint64) (Translation, bool) {
	rows := s.Map(abi.MapSocketRows)
	var row abi.SocketRow
	if err := rows.Lookup(uint32(cookie)&(rows.MaxEntries()-1), &row); err != nil || row.Cookie != cookie {
		return Translation{}, false
	}
	return Translation{Protocol: 6, VIP: netip.AddrPortFrom(unmapped(row.VIP), swap(row.VIPPort))}, true
}
