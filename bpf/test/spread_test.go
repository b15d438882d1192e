// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/service"
)

const spreadClients = 4000

// spreadNode serves one frontend whose backends are pods elsewhere.
func spreadNode(t *testing.T, maglev bool, backends []service.Backend) *node {
	t.Helper()
	a := newNodeA(t, servingA(config{abi.ConfigTunnel: uint8(0)}))
	row := abi.Service{Flags: abi.ServiceDSR} // no port of the node for each client
	first := a.first
	if maglev {
		table := service.MaglevTable(backends, service.DefaultMaglevSize, service.MaglevSeed(service.DefaultMaglevSeed))
		row.Maglev, row.MaglevSize = 1, uint32(len(table))
		for at := 0; at < len(table); at += abi.MaglevWidth {
			var r abi.MaglevRow
			for i := range min(abi.MaglevWidth, len(table)-at) {
				r.Backend[i] = first + 1 + uint32(table[at+i])
			}
			a.put(abi.MapMaglevRows, uint32(1+at/abi.MaglevWidth), r)
		}
	}
	var addrs []string
	for _, b := range backends {
		addrs = append(addrs, b.Addr.String())
		a.addPrefix(b.Addr.String(), abi.IpcacheEntry{Identity: 1003, Peer: peerRemote, Node: 2, Flags: abi.IpcachePod})
	}
	a.serve(frontend{hostIP4, nodePort, 6, abi.ScopeExternal, row, addrs})
	return a
}

// spread returns the backend of each client.
func spread(t *testing.T, a *node) (out []string) {
	t.Helper()
	for i := range spreadClients {
		m := toNodePort(false, "S")
		m.src, m.sport = fmt.Sprintf("203.0.113.%d", 1+i%250), uint16(1024+i/250*7)
		r := a.run("from_net", m.bytes(t), from{device: devUplink, route: devUplink})
		expect(t, "SYN", r, actRedirect, 0)
		out = append(out, decode(t, r.out).dst)
	}
	return out
}

func spreadBackends(n int) (out []service.Backend) {
	for i := range n {
		out = append(out, service.Backend{Addr: netip.AddrFrom4([4]byte{10, 0, 2, byte(10 + i)}), Port: 8080, Protocol: 6, Weight: service.DefaultWeight})
	}
	return out
}

func TestClientsSpreadEvenlyOverBackends(t *testing.T) {
	const n = 7
	for _, maglev := range []bool{false, true} {
		t.Run(fmt.Sprintf("Maglev %v", maglev), func(t *testing.T) {
			count := map[string]int{}
			for _, b := range spread(t, spreadNode(t, maglev, spreadBackends(n))) {
				count[b]++
			}
			square, want := 0.0, float64(spreadClients)/n
			for _, c := range count {
				square += (float64(c) - want) * (float64(c) - want) / want
			}
			t.Logf("chi-square %.1f with %d degrees of freedom: %v", square, n-1, count)
			if len(count) != n || square > 38.3 { // one even spread in a million is worse
				t.Errorf("chi-square %.1f: %v", square, count)
			}
		})
	}
}

func TestClientsOfOtherBackendsStayWhenOneLeaves(t *testing.T) {
	all := spreadBackends(7)
	before := spread(t, spreadNode(t, true, all))
	after := spread(t, spreadNode(t, true, append(append([]service.Backend(nil), all[:3]...), all[4:]...)))
	gone, moved, stay := all[3].Addr.String(), 0, 0
	for i, b := range before {
		switch {
		case b == gone:
		case b == after[i]:
			stay++
		default:
			moved++
		}
	}
	t.Logf("of clients of other backends %d stay, %d move", stay, moved)
	if moved*50 > stay {
		t.Errorf("%d clients of backends that stay move, %d stay", moved, stay)
	}
}
