// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stentor-net/stentor/internal/service"
)

// An address that goes from Service to Service, hundreds of times, each time with
// other backends: at the end there is what would have been there at once.
func TestABurstOfServicesWithOneAddressLeavesNothing(t *testing.T) {
	s := tinyServices(t, 64)
	vip := netip.MustParseAddr("10.96.0.1")
	at := func(i int) service.Frontend {
		f := service.Frontend{Service: fmt.Sprint("test/s", i), Addr: vip, Port: 80, Protocol: 6, Kind: service.ClusterIP}
		for j := range 1 + i%5 {
			f.Backends = append(f.Backends, service.Backend{Addr: netip.AddrFrom4([4]byte{10, 1, byte(i), byte(j)}), Port: 80, Protocol: 6, State: service.Active})
		}
		return f
	}
	for i := range 1000 {
		f := at(i)
		if i%3 == 0 {
			if err := s.ChangeFrontends(nil, []service.FrontendKey{f.ID()}); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
		}
		if err := s.ChangeFrontends([]service.Frontend{f}, nil); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	last := at(4)
	if err := s.ChangeFrontends([]service.Frontend{last}, nil); err != nil {
		t.Fatal(err)
	}
	s.SettleServices()
	rows, err := s.dumpServices()
	if err != nil || len(rows) != 1 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	if backends, _ := s.dumpBackends(); countActive(backends) != len(last.Backends) {
		t.Errorf("%d backends are in use, want %d", countActive(backends), len(last.Backends))
	}
	if err := s.ChangeFrontends(nil, []service.FrontendKey{last.ID()}); err != nil {
		t.Fatal(err)
	}
	s.SettleServices()
	v := s.services
	if len(v.known)+len(v.ranges)+len(v.maglevs)+len(v.backends.byID) > 0 || !v.resting.empty() {
		t.Errorf("left: %d services, %d ranges, %d backends", len(v.known), len(v.ranges), len(v.backends.byID))
	}
	// Twice as many as there is room for, if numbers had not come back.
	for i := range 128 {
		f := at(i)
		if err := s.ChangeFrontends([]service.Frontend{f}, nil); err != nil {
			t.Fatalf("after the burst, step %d: %v", i, err)
		}
	}
}

func countActive(rows [][]string) (n int) {
	for _, r := range rows {
		if r[2] == "active" {
			n++
		}
	}
	return n
}
