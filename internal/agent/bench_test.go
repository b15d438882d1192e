// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/node"
)

// BenchmarkOneEndpointMore is what an ADD costs the enforcer in a cluster of
// 10,000 pods with 2,000 identities on 100 nodes.
func BenchmarkOneEndpointMore(b *testing.B) {
	const pods, identities, nodes = 10_000, 2_000, 100
	tables, raw, own := newTables()
	labels := func(i int) label.Set {
		return label.ParseSet([]string{fmt.Sprint("k8s:app=a", i), "k8s:io.kubernetes.pod.namespace=default"})
	}
	for i := range identities {
		raw.Identities.Upsert(identity.Identity{ID: identity.MinAllocated + identity.ID(i), Labels: labels(i)})
	}
	for i := range nodes {
		raw.Nodes.Upsert(node.Node{
			Name: fmt.Sprint("n", i), Local: i == 0, InternalIP: []netip.Addr{netip.AddrFrom4([4]byte{172, 30, 0, byte(i)})},
			PodCIDRs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 24)},
		})
	}
	for i := range pods {
		raw.Remotes.Upsert(endpoint.Remote{
			Namespace: "default", Name: fmt.Sprint("p", i), NodeIP: netip.AddrFrom4([4]byte{172, 30, 0, byte(1 + i%99)}), State: endpoint.StateReady,
			Identity: identity.MinAllocated + identity.ID(i%identities), IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(1 + i%99), byte(2 + i/99)})},
		})
	}
	kernel := newFakeKernel(b)
	o := Options{IPv4: true, Routing: RoutingTunnel, RunDir: b.TempDir()}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	m := newEndpoints(log, o, newMetrics(), own.endpoints)
	m.dp = kernel
	f := &enforcer{
		log: log, opts: o, tables: tables, addresses: own.addresses, verdicts: own.verdicts, endpoints: m,
		ids: newAllocator(nil, tables.identities), checks: newChecks(own.checks), dp: kernel,
		newEngine: newPolicyEngine, past: &past{}, metrics: newMetrics(),
	}
	if err := f.step(); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		e := endpoint.Endpoint{
			ID: uint16(1 + i%4000), Incarnation: uint32(i), Identity: identity.MinAllocated, Labels: labels(0),
			IPv4: netip.AddrFrom4([4]byte{10, 0, 0, 2}), State: endpoint.StateWaitingToRegenerate,
		}
		own.endpoints.Replace([]endpoint.Endpoint{e}, nil)
		kernel.endpoints = map[uint16]EndpointBase{e.ID: {ID: e.ID, IPv4: e.IPv4}}
		if err := f.step(); err != nil {
			b.Fatal(err)
		}
	}
}
