// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/stentor-net/stentor/internal/service"
)

// clusterOf fills the tables with services of five endpoints each.
func clusterOf(raw RawWriters, from, to int) {
	for i := from; i < to; i++ {
		name := fmt.Sprint("s", i)
		raw.Services.Upsert(service.Service{Namespace: "default", Name: name, Type: "ClusterIP", ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})},
			Ports: []service.Port{{Name: "http", Protocol: 6, Port: 80}}, Selector: map[string]string{"app": name}})
		slice := service.Slice{Namespace: "default", Name: name, Service: name, Ports: []service.SlicePort{{Name: "http", Protocol: 6, Port: 8080}}}
		for k := range 5 {
			n := 5*i + k
			slice.Endpoints = append(slice.Endpoints, service.SliceEndpoint{Ready: true, Serving: true, NodeName: "n1",
				Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(128 + n>>16), byte(n >> 8), byte(n)})}})
		}
		raw.Slices.Upsert(slice)
	}
}

// noKernel takes frontends and does nothing.
type noKernel struct{ Datapath }

func (noKernel) SetFrontends([]service.Frontend) error                           { return nil }
func (noKernel) ChangeFrontends([]service.Frontend, []service.FrontendKey) error { return nil }

// newTestBalancer has a datapath that does nothing.
func newTestBalancer() (*balancer, RawWriters) {
	tables, raw, own := newTables()
	return &balancer{log: slog.New(slog.NewTextHandler(io.Discard, nil)), opts: Options{IPv4: true, Service: ServiceOptions{AllKinds: true}}, tables: tables,
		frontends: own.frontends, backends: own.backends, checks: newChecks(own.checks), dp: noKernel{}, balance: service.NewBalance()}, raw
}

// BenchmarkTenThousandServices is what deriving them costs when they come at once.
func BenchmarkTenThousandServices(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		x, raw := newTestBalancer()
		clusterOf(raw, 0, 10_000)
		dirty := map[string]bool{}
		for key := range x.tables.services.Snapshot().All() {
			dirty[key] = true
		}
		b.StartTimer()
		if err := x.step(dirty); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOneServiceOfThirtyThousand is what a change of one costs.
func BenchmarkOneServiceOfThirtyThousand(b *testing.B) {
	x, raw := newTestBalancer()
	clusterOf(raw, 0, 30_000)
	if err := x.step(map[string]bool{}); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		slice, _ := x.tables.slices.Get("default/s7")
		slice.Endpoints = slice.Endpoints[:i%5]
		raw.Slices.Upsert(slice)
		if err := x.step(map[string]bool{"default/s7": true}); err != nil {
			b.Fatal(err)
		}
	}
}
