// SPDX-License-Identifier: Apache-2.0

package maps_test

import (
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/datapath/load"
	"github.com/stentor-net/stentor/internal/datapath/maps"
	"github.com/stentor-net/stentor/internal/datapath/nstest"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/service"
)

func open(t *testing.T, dir string) *maps.Set {
	t.Helper()
	specs, err := load.Parse()
	if err != nil {
		t.Fatal(err)
	}
	s, err := maps.Open(dir, specs.Maps())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newDir(t *testing.T) string {
	nstest.RequireRoot(t)
	return filepath.Join(nstest.BPFDir(t), "node")
}

// reopen is a restart of the agent.
func reopen(t *testing.T, s *maps.Set, dir string) *maps.Set {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, dir)
}

func TestPolicyStateIsFoundAgainAfterARestart(t *testing.T) {
	dir := newDir(t)
	s := open(t, dir)
	var row, far [512]uint16
	row[0], row[1], row[511] = 1, 5, 6
	far[3] = 5
	rows := []policy.SetRow{{Protocol: 6, Port: 80, PortBits: 16, Verdict: policy.Allow, Row: 0}, {Protocol: 17, Port: 1024, PortBits: 6, Verdict: policy.Redirect, L7: 3, Row: 1}}
	pod := policy.Entry{Identity: 4000, Peer: 8, Node: 1, Flags: policy.AddressPod}
	if err := s.PutEndpoint(maps.Endpoint{ID: 12, Incarnation: 3, IfIndex: 99, IPv4: netip.MustParseAddr("10.0.0.5")}); err != nil {
		t.Fatal(err)
	}
	endpoint := policy.EndpointRow{Identity: 4000, Peer4: 8, Egress: 1, Ingress: 511}
	err := s.Policy().Apply([]policy.Op{
		policy.WriteSet{Set: 5, Rows: rows}, policy.WriteClass{Class: 2, Row: row}, policy.WriteClass{Class: 1500, Row: far},
		policy.SetPeer{Peer: 8, Class: 2}, policy.SetPeer{Peer: 131071, Class: 1500},
		policy.SetIdentityPeer{Identity: 4000, Peer: 8},
		policy.PutAddress{Prefix: netip.MustParsePrefix("10.0.0.5/32"), Entry: pod}, policy.PutAddress{Prefix: netip.MustParsePrefix("fd00::/64"), Entry: pod},
		policy.SetEndpoint{Endpoint: 12, Row: endpoint},
		policy.Grace{},
	})
	if err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s, dir)
	got, err := s.ReadPolicy()
	if err != nil {
		t.Fatal(err)
	}
	want := policy.State{
		Peers:        map[uint32]uint32{8: 2, 131071: 1500},
		Classes:      map[uint32]*[512]uint16{0: {}, 1: {}, 2: &row, 1500: &far},
		Sets:         map[uint32][]policy.SetRow{5: rows},
		IdentityPeer: map[identity.ID]uint32{4000: 8},
		Addresses:    map[netip.Prefix]policy.Entry{netip.MustParsePrefix("10.0.0.5/32"): pod, netip.MustParsePrefix("fd00::/64"): pod},
		Endpoints:    map[uint16]policy.EndpointRow{12: endpoint},
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); d != "" {
		t.Errorf("state differs (-want +got):\n%s", d)
	}
	// The rows that a set had before the restart are known, so that none is left behind.
	if err := s.Policy().Apply([]policy.Op{policy.DeleteSet{Set: 5}}); err != nil {
		t.Fatal(err)
	}
	if got, _ = s.ReadPolicy(); len(got.Sets) != 0 {
		t.Errorf("rows of a deleted set are left: %v", got.Sets)
	}
}

func TestAMapOfAnotherLayoutIsRefusedByName(t *testing.T) {
	dir := newDir(t)
	open(t, dir).Close()
	specs, err := load.Parse()
	if err != nil {
		t.Fatal(err)
	}
	changed := specs.Maps()
	changed[abi.MapFlows] = changed[abi.MapFlows].Copy()
	changed[abi.MapFlows].ValueSize += 8
	_, err = maps.Open(dir, changed)
	var layout *maps.LayoutError
	if !errors.As(err, &layout) || layout.Map != abi.MapFlows {
		t.Fatalf("error %v does not name the map", err)
	}
	if !strings.Contains(err.Error(), "stentor cleanup") {
		t.Errorf("error does not say what to do: %v", err)
	}
}

func TestAnEndpointIsAdoptedOnlyIfItIsTheSame(t *testing.T) {
	dir := newDir(t)
	s := open(t, dir)
	e := maps.Endpoint{ID: 7, Incarnation: 1, IfIndex: 42, MAC: [6]byte{2, 1}, NodeMAC: [6]byte{2, 2},
		IPv4: netip.MustParseAddr("10.0.0.7"), IPv6: netip.MustParseAddr("fd00::7")}
	ready := func() (bool, bool) {
		for _, r := range s.Endpoints() {
			if r.ID == e.ID {
				return r.Ready, true
			}
		}
		return false, false
	}
	put := func() {
		t.Helper()
		if err := s.PutEndpoint(e); err != nil {
			t.Fatal(err)
		}
	}
	put()
	if r, ok := ready(); r || !ok {
		t.Fatal("a new endpoint must exist and not be ready")
	}
	if err := s.EnableEndpoint(e.ID); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s, dir)
	put()
	if r, _ := ready(); !r {
		t.Error("an endpoint that was in force must stay so over a restart")
	}
	e.Incarnation = 2
	put()
	if r, ok := ready(); r || !ok {
		t.Error("an id given out again must not be ready before it is enabled")
	}
	if err := s.RemoveEndpoint(e.ID); err != nil {
		t.Fatal(err)
	}
	if _, ok := ready(); ok {
		t.Error("a removed endpoint is still there")
	}
	if err := s.RemoveEndpoint(e.ID); err != nil {
		t.Errorf("removing it again: %v", err)
	}
}

func TestNothingIsLeftOfTheAddressesOfARemovedEndpoint(t *testing.T) {
	s := open(t, newDir(t))
	mine, other := netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("10.0.0.8")
	if err := s.PutEndpoint(maps.Endpoint{ID: 7, Incarnation: 1, IfIndex: 42, IPv4: mine}); err != nil {
		t.Fatal(err)
	}
	if err := s.EnableEndpoint(7); err != nil {
		t.Fatal(err)
	}
	third := netip.MustParseAddr("10.0.0.9")
	put := func(table string, k, v any) {
		t.Helper()
		if m := s.Map(table); m == nil {
			t.Skipf("no map %s in this version", table)
		} else if err := m.Put(k, v); err != nil {
			t.Fatal(err)
		}
	}
	a := func(x netip.Addr) abi.Addr { return abi.Addr{B: x.As16()} }
	for _, pair := range [][2]netip.Addr{{mine, other}, {other, mine}, {other, third}} {
		put(abi.MapFlows, abi.FlowKey{A: a(pair[0]), B: a(pair[1]), Protocol: 6}, abi.Flow{})
		put(abi.MapFragments, abi.FragmentKey{Source: a(pair[0]), Destination: a(pair[1])}, abi.Fragment{})
	}
	if err := s.RemoveEndpoint(7); err != nil {
		t.Fatal(err)
	}
	infos, err := s.Infos()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		if want := map[string]int{abi.MapFlows: 1, abi.MapFragments: 1, abi.MapEndpointAddrs: 0}; slices.Contains([]string{abi.MapFlows, abi.MapFragments, abi.MapEndpointAddrs}, i.Name) && i.Entries != want[i.Name] {
			t.Errorf("%s has %d rows, want %d", i.Name, i.Entries, want[i.Name])
		}
	}
}

func TestSweepTakesWhatIsIdleForTooLong(t *testing.T) {
	s := open(t, newDir(t))
	now, hz, err := s.Jiffies()
	if err != nil {
		t.Fatal(err)
	}
	if hz != 100 && hz != 250 && hz != 300 && hz != 1000 {
		t.Fatalf("timer frequency %d", hz)
	}
	ago := func(seconds uint32) uint32 { return now - seconds*hz }
	for i, f := range []struct {
		protocol uint8
		flow     abi.Flow
	}{
		{6, abi.Flow{Last: ago(7000), Flags: abi.FlowReplied}},                 // established: stays
		{6, abi.Flow{Last: ago(8001), Flags: abi.FlowReplied}},                 // too long
		{6, abi.Flow{Last: ago(50)}},                                           // half open: stays
		{6, abi.Flow{Last: ago(61)}},                                           // never answered
		{6, abi.Flow{Last: ago(11), Flags: abi.FlowReplied | abi.FlowClosing}}, // closed
		{17, abi.Flow{Last: ago(59), Flags: abi.FlowReplied}},                  // stays
		{17, abi.Flow{Last: ago(61), Flags: abi.FlowReplied}},                  // idle
		{17, abi.Flow{Last: now + 5*hz, Flags: abi.FlowReplied}},               // stamped after the clock was read: stays
	} {
		if err := s.Map(abi.MapFlows).Put(abi.FlowKey{Protocol: f.protocol, PortA: uint16(i)}, f.flow); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.Sweep()
	if err != nil {
		t.Fatal(err)
	}
	if r.Flows != 4 || r.Expired != 4 {
		t.Errorf("%d flows stay and %d expired, want 4 and 4", r.Flows, r.Expired)
	}
}

func TestServicesKeepTheirNumbersOverChangesAndRestarts(t *testing.T) {
	dir := newDir(t)
	s := open(t, dir)
	back := func(n ...byte) (out []service.Backend) {
		for _, b := range n {
			out = append(out, service.Backend{Addr: netip.AddrFrom4([4]byte{10, 0, 0, b}), Port: 8080, Protocol: 6, State: service.Active})
		}
		return out
	}
	front := func(last byte, b []service.Backend) service.Frontend {
		return service.Frontend{Service: "default/s", Addr: netip.AddrFrom4([4]byte{10, 96, 0, last}), Port: 80, Protocol: 6, Kind: service.ClusterIP, Backends: b}
	}
	set := func(f ...service.Frontend) {
		t.Helper()
		if err := s.SetFrontends(f); err != nil {
			t.Fatal(err)
		}
	}
	read := func(f service.Frontend) abi.Service {
		t.Helper()
		var row abi.Service
		if err := s.Map(abi.MapServices).Lookup(abi.ServiceKey{VIP: abi.Addr{B: f.Addr.As16()}, Port: 80 << 8, Protocol: 6}, &row); err != nil {
			t.Fatal(err)
		}
		for i, want := range f.Backends {
			var slot abi.ServiceSlot
			if err := s.Map(abi.MapServiceSlots).Lookup(row.First+uint32(i), &slot); err != nil {
				t.Fatal(err)
			}
			var b abi.Backend
			if err := s.Map(abi.MapBackends).Lookup(slot.Backend, &b); err != nil {
				t.Fatal(err)
			}
			if maps.Addr(b.Addr) != want.Addr || maps.Port(b.Port) != want.Port {
				t.Errorf("backend %d is %s:%d, want %v", i, maps.Addr(b.Addr), maps.Port(b.Port), want)
			}
		}
		if int(row.Count) != len(f.Backends) {
			t.Errorf("%d backends, want %d", row.Count, len(f.Backends))
		}
		return row
	}
	one, two := front(1, back(1, 2, 3)), front(2, back(4))
	set(one, two)
	first, second := read(one), read(two)
	if first.ID == 0 || first.ID == second.ID {
		t.Fatalf("numbers %d and %d", first.ID, second.ID)
	}
	one.Backends = back(1, 3)
	set(one, two)
	if r := read(one); r.ID != first.ID || r.First == first.First {
		t.Errorf("number %d -> %d, run %d -> %d: the number must stay and the run be another", first.ID, r.ID, first.First, r.First)
	}
	s = reopen(t, s, dir)
	if s.Map(abi.MapServices) == nil {
		t.Fatal("no services")
	}
	set(one, two)
	if r := read(two); r != second {
		t.Errorf("row %+v after a restart, was %+v", r, second)
	}
	two.Backends = nil
	set(two)
	read(two)
	if err := s.Map(abi.MapServices).Lookup(abi.ServiceKey{VIP: abi.Addr{B: one.Addr.As16()}, Port: 80 << 8, Protocol: 6}, &abi.Service{}); err == nil {
		t.Error("a service that is gone is still in the kernel")
	}
}

func TestNodesAreExactlyThoseOfTheList(t *testing.T) {
	dir := newDir(t)
	s := open(t, dir)
	a := netip.MustParseAddr
	list := []maps.Node{
		{Index: 1, Underlay: a("172.30.0.1"), Addresses: []netip.Addr{a("10.0.1.1"), a("172.30.0.1")}},
		{Index: 2, Underlay: a("fd30::2"), Addresses: []netip.Addr{a("fd30::2")}},
	}
	check := func(want []maps.Node) {
		t.Helper()
		if err := s.SetNodes(want); err != nil {
			t.Fatal(err)
		}
		s = reopen(t, s, dir)
		got, err := s.Nodes()
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Errorf("nodes differ (-want +got):\n%s", d)
		}
	}
	check(list)
	list[1].Addresses = []netip.Addr{a("10.0.2.1"), a("fd30::2")}
	check(list)
	check(list[:1])
	if s.SetNodes([]maps.Node{{Index: 0}}) == nil {
		t.Error("index 0 means none and must be refused")
	}
}

func TestEveryTableCanBePrinted(t *testing.T) {
	s := open(t, newDir(t))
	for _, name := range maps.DumpNames() {
		h, _, err := s.Dump(name)
		if err != nil || len(h) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := s.Dump("nothing"); err == nil || !strings.Contains(err.Error(), "ipcache") {
		t.Errorf("error %v does not name the tables", err)
	}
}

func TestMemoryOfAllTablesStaysSmall(t *testing.T) {
	s := open(t, newDir(t))
	infos, err := s.Infos()
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, i := range infos {
		total += i.Memory
		t.Logf("%-16s %8d KiB", i.Name, i.Memory>>10)
	}
	t.Logf("%-16s %8d KiB", "total", total>>10)
	if total == 0 {
		t.Error("no memory is reported")
	}
}
