// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/service"
)

// tinyServices is a Set with service tables of so many rows.
func tinyServices(t *testing.T, rows uint32) *Set {
	t.Helper()
	s := &Set{dir: t.TempDir(), maps: map[string]*ebpf.Map{}, specs: map[string]*ebpf.MapSpec{}}
	array := func(name string, size uintptr) {
		s.specs[name] = &ebpf.MapSpec{Name: name, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(size), MaxEntries: rows}
	}
	hash := func(name string, key, value uintptr) {
		s.specs[name] = &ebpf.MapSpec{Name: name, Type: ebpf.Hash, KeySize: uint32(key), ValueSize: uint32(value), MaxEntries: rows, Flags: unix.BPF_F_NO_PREALLOC}
	}
	array(abi.MapBackends, unsafe.Sizeof(abi.Backend{}))
	array(abi.MapServiceSlots, unsafe.Sizeof(abi.ServiceSlot{}))
	array(abi.MapMaglevRows, unsafe.Sizeof(abi.MaglevRow{}))
	array(abi.MapServiceVIPs, unsafe.Sizeof(abi.ServiceVIP{}))
	hash(abi.MapServices, unsafe.Sizeof(abi.ServiceKey{}), unsafe.Sizeof(abi.Service{}))
	hash(abi.MapAffinityBackends, unsafe.Sizeof(abi.AffinityBackend{}), 4)
	hash(abi.MapDirectBackends, unsafe.Sizeof(abi.DirectBackend{}), 4)
	hash(abi.MapServiceSkips, unsafe.Sizeof(abi.ServiceSkip{}), 4)
	hash(abi.MapAffinities, unsafe.Sizeof(abi.AffinityKey{}), unsafe.Sizeof(abi.Affinity{}))
	s.specs[abi.MapServiceHints] = &ebpf.MapSpec{Name: "service_hints", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: abi.HintRows, Flags: unix.BPF_F_MMAPABLE}
	s.specs[abi.MapSourceRanges] = &ebpf.MapSpec{Name: "source_ranges", Type: ebpf.LPMTrie, KeySize: uint32(unsafe.Sizeof(abi.SourceRange{})), ValueSize: 4, MaxEntries: rows, Flags: unix.BPF_F_NO_PREALLOC}
	for name, spec := range s.specs {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			t.Skipf("a table cannot be made: %v", err)
		}
		s.maps[name] = m
	}
	t.Cleanup(func() {
		s.Close()
	})
	restart(t, s)
	return s
}

// restart forgets everything that the kernel does not hold.
func restart(t *testing.T, s *Set) {
	t.Helper()
	var err error
	if s.services, err = s.newServices(); err != nil {
		t.Fatal(err)
	}
	s.services.grace = func() error { return nil }
	s.services.how.size = 251
}

// grown puts frontends, growing what is full, as the datapath does, and tells how
// often it had to.
func grown(t *testing.T, s *Set, list []service.Frontend) int {
	t.Helper()
	for times := range 64 {
		err := s.SetFrontends(list)
		var full *FullError
		if !errors.As(err, &full) {
			if err != nil {
				t.Fatal(err)
			}
			return times
		}
		if err := s.Grow(s.Room(full, list)); err != nil {
			t.Fatal(err)
		}
		for name, old := range s.smaller { // what Grown does, but for the pin
			old.Close()
			s.services.resize(name, s.Map(name).MaxEntries())
		}
		s.smaller = nil
	}
	t.Fatal("it grows for ever")
	return 0
}

func backend(n int, state service.State) service.Backend {
	return service.Backend{Addr: netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), Port: 80, Protocol: 6, State: state, Weight: 100}
}

func frontend(n int, backends ...service.Backend) service.Frontend {
	return service.Frontend{Service: fmt.Sprintf("default/s%d", n), Addr: netip.AddrFrom4([4]byte{10, 96, byte(n >> 8), byte(n)}), Port: 80, Protocol: 6,
		Kind: service.ClusterIP, Backends: backends}
}

// shown is what the kernel holds, as `bpf lb list` prints it, without numbers.
func shown(t *testing.T, s *Set) (out []string) {
	t.Helper()
	_, rows, err := s.Dump("lb")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		out = append(out, r[0]+" "+r[4])
	}
	return out
}

// TestRandomChangesLeaveTheKernelAsTheListSays compares the kernel with the list
// after every change, over restarts and growth.
func TestRandomChangesLeaveTheKernelAsTheListSays(t *testing.T) {
	s := tinyServices(t, 16)
	r := rand.New(rand.NewPCG(1, 2))
	list := map[int]service.Frontend{}
	for step := range 400 {
		for range r.IntN(4) + 1 {
			n := r.IntN(60)
			if r.IntN(3) == 0 {
				delete(list, n)
				continue
			}
			f := frontend(n)
			for i := range 12 {
				if r.IntN(3) == 0 {
					f.Backends = append(f.Backends, backend(i, []service.State{service.Active, service.Active, service.Terminating, service.Maintenance}[r.IntN(4)]))
				}
			}
			if r.IntN(3) == 0 {
				f.Algorithm = service.Maglev
			}
			if r.IntN(3) == 0 {
				f.Affinity = 60
			}
			if r.IntN(3) == 0 {
				f.Sources = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(r.IntN(4))}), 16)}
			}
			if r.IntN(3) == 0 {
				for _, b := range f.Backends {
					if r.IntN(2) == 0 {
						f.Direct = append(f.Direct, netip.AddrPortFrom(b.Addr, b.Port))
					}
				}
			}
			list[n] = f
		}
		var want []string
		var all []service.Frontend
		affinity, sources, direct := 0, 0, 0
		for _, f := range list {
			all = append(all, f)
			var to []string
			for _, b := range f.Takers() {
				to = append(to, netip.AddrPortFrom(b.Addr, b.Port).String())
			}
			want = append(want, f.Socket()+" "+strings.Join(to, ","))
			if f.Affinity > 0 {
				affinity += len(f.Backends)
			}
			sources += len(f.Sources)
			direct += len(f.Direct)
		}
		grown(t, s, all)
		slices.Sort(want)
		if got := shown(t, s); !slices.Equal(got, want) {
			t.Fatalf("step %d: the kernel has\n%s\nwant\n%s", step, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		for name, n := range map[string]int{abi.MapAffinityBackends: affinity, abi.MapSourceRanges: sources, abi.MapDirectBackends: direct} {
			if got := countRows(t, s, name); got != n {
				t.Fatalf("step %d: %d rows in %s, want %d", step, got, name, n)
			}
		}
		checkHints(t, s, step)
		if r.IntN(10) == 0 {
			if row := uint32(r.IntN(abi.HintRows)); s.services.hints.load64(row) != 0 {
				s.services.hints.store64(row, 1<<abi.HintIDBits|3) // of an agent that ended in between
			}
			restart(t, s)
			checkHints(t, s, step)
		}
	}
	grown(t, s, nil)
	checkHints(t, s, -1)
	s.SettleServices()
	if got := shown(t, s); got != nil {
		t.Errorf("left over: %s", got)
	}
	v := s.services
	if len(v.slots.used)+len(v.tables.used)+len(v.backends.byID)+len(v.backends.byName)+len(v.ranges)+len(v.maglevs) != 0 {
		t.Errorf("lost: slots %v, tables %v, backends %v", v.slots.used, v.tables.used, v.backends.byID)
	}
	for i, used := range append(v.ids.used[1:], v.backends.numbers.used[1:]...) {
		if used {
			t.Errorf("number %d is lost", i+1)
		}
	}
}

// checkHints wants every plain frontend that has a hint to have its own, and no other hint.
func checkHints(t *testing.T, s *Set, step int) {
	t.Helper()
	v := s.services
	right := map[uint32]uint64{} // by row; of one of those that would have it
	for k, f := range v.known {
		if h := hintOf(k, f.row); h != 0 && (right[abi.HintRow(k)] == 0 || v.hints.load64(abi.HintRow(k)) == h) {
			right[abi.HintRow(k)] = h
		}
	}
	for row := range uint32(abi.HintRows) {
		if got := v.hints.load64(row); got != right[row] {
			t.Fatalf("step %d: hint %d is %x, want %x", step, row, got, right[row])
		}
	}
}

func countRows(t *testing.T, s *Set, name string) int {
	t.Helper()
	n := 0
	it := s.Map(name).Iterate()
	k, v := make([]byte, s.Map(name).KeySize()), make([]byte, 4)
	for it.Next(&k, &v) {
		n++
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestFrontendsWithTheSameBackendsShareTheirSlots(t *testing.T) {
	s := tinyServices(t, 64)
	one, two := frontend(1, backend(1, service.Active), backend(2, service.Active)), frontend(2, backend(1, service.Active), backend(2, service.Active))
	one.Algorithm, two.Algorithm = service.Maglev, service.Maglev
	if err := s.SetFrontends([]service.Frontend{one, two}); err != nil {
		t.Fatal(err)
	}
	v := s.services
	if len(v.slots.used) != 1 || len(v.tables.used) != 1 || len(v.backends.byID) != 2 {
		t.Errorf("%d ranges, %d tables, %d backends; want 1, 1, 2", len(v.slots.used), len(v.tables.used), len(v.backends.byID))
	}
}

func TestWhatServicesPointedAtRestsUntilTheGracePeriodIsOver(t *testing.T) {
	s := tinyServices(t, 64)
	v := s.services
	if err := s.SetFrontends([]service.Frontend{frontend(1, backend(1, service.Active))}); err != nil {
		t.Fatal(err)
	}
	if err := s.SetFrontends([]service.Frontend{frontend(1, backend(2, service.Active))}); err != nil {
		t.Fatal(err)
	}
	if len(v.resting.slots) != 1 || len(v.resting.backends) != 1 {
		t.Errorf("resting: %+v", v.resting)
	}
	var b abi.Backend
	if err := s.maps[abi.MapBackends].Lookup(uint32(1), &b); err != nil {
		t.Fatal(err)
	}
	if b.Flags != 0 || unmapped(b.Addr).String() != "10.0.0.1" {
		t.Errorf("the row of a backend that has gone is %+v: it must say so and keep its address", b)
	}
	if len(v.slots.used) != 2 {
		t.Errorf("%d pieces of slots in use, want both", len(v.slots.used))
	}
	s.SettleServices()
	if len(v.slots.used) != 1 || !v.resting.empty() {
		t.Errorf("%d pieces in use, resting %+v", len(v.slots.used), v.resting)
	}
}

func TestThirtyThousandServicesFitWithoutASetting(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second")
	}
	s := tinyServices(t, 4096)
	var list []service.Frontend
	for n := range 30000 {
		f := frontend(n)
		for i := range 5 {
			b := backend(0, service.Active)
			b.Addr = netip.AddrFrom4([4]byte{10, byte(1 + n>>13), byte(n >> 5), byte(n<<3 | i)})
			f.Backends = append(f.Backends, b)
		}
		list = append(list, f)
	}
	grown(t, s, list)
	if got := shown(t, s); len(got) != len(list) {
		t.Errorf("%d services in the kernel", len(got))
	}
	before := s.services.slots.end
	restart(t, s)
	grown(t, s, list)
	if after := s.services.slots.end; after != before {
		t.Errorf("a restart moved the slots: %d rows in use before, %d after", before, after)
	}
}

func TestOneGrowthIsEnoughForALongList(t *testing.T) {
	s := tinyServices(t, 64)
	var list []service.Frontend
	for i := range 3000 {
		f := frontend(i, backend(3*i, service.Active), backend(3*i+1, service.Active), backend(3*i+2, service.Terminating))
		if i%100 == 0 {
			f.Algorithm, f.Scope = service.Maglev, service.External
		}
		list = append(list, f, service.Frontend{Service: f.Service, Addr: f.Addr, Kind: f.Kind})
	}
	if n := grown(t, s, list); n != 1 {
		t.Errorf("the tables grew %d times, want once", n)
	}
	if n := len(shown(t, s)); n < len(list) {
		t.Errorf("the kernel has %d rows of %d", n, len(list))
	}
}

func TestAChangeDoesNotWaitForTheGracePeriodOfAnother(t *testing.T) {
	s := tinyServices(t, 64)
	grown(t, s, []service.Frontend{frontend(1, backend(1, service.Active))})
	if err := s.ChangeFrontends(nil, []service.FrontendKey{frontend(1).ID()}); err != nil {
		t.Fatal(err)
	}
	waiting, over, settled := make(chan struct{}), make(chan struct{}), make(chan struct{})
	s.services.grace = func() error { close(waiting); <-over; return nil }
	go func() { defer close(settled); s.SettleServices() }()
	<-waiting
	if err := s.ChangeFrontends([]service.Frontend{frontend(2, backend(2, service.Active))}, nil); err != nil {
		t.Fatal(err)
	}
	if n := len(s.services.ids.used); n == 0 || !s.services.ids.used[1] {
		t.Error("the number of the frontend that went is free before its grace period is over")
	}
	close(over)
	<-settled
	if s.services.ids.used[1] {
		t.Error("the number of the frontend that went rests for ever")
	}
}

func TestTheTableOfAffinitiesComesWithTheFirstServiceThatHasThem(t *testing.T) {
	s := tinyServices(t, 16)
	plain := frontend(1, backend(1, service.Active))
	grown(t, s, []service.Frontend{plain})
	if n := s.Map(abi.MapAffinities).MaxEntries(); n != 16 {
		t.Errorf("%d rows without need", n)
	}
	sticky := plain
	sticky.Affinity = 60
	grown(t, s, []service.Frontend{sticky})
	if n := s.Map(abi.MapAffinities).MaxEntries(); n != abi.Affinities {
		t.Errorf("%d rows, want %d", n, abi.Affinities)
	}
}

func TestOnlyFrontendsWithNothingElseToAskHaveHints(t *testing.T) {
	key := abi.ServiceKey{VIP: mapped(netip.MustParseAddr("10.96.0.1")), Port: swap(80), Protocol: 6}
	plain := abi.Service{ID: 7, First: 8, Count: 3}
	if hintOf(key, plain) != 7|8<<abi.HintIDBits|3<<(abi.HintIDBits+abi.HintFirstBits) {
		t.Errorf("a plain frontend: %x", hintOf(key, plain))
	}
	for flag := uint16(1); flag != 0; flag <<= 1 {
		row := plain
		row.Flags = flag
		forPackets := flag == abi.ServiceLocal || flag == abi.ServiceDSR || flag == abi.ServiceSourceAllow || flag == abi.ServiceSourceDeny
		if got := hintOf(key, row) != 0; got != forPackets {
			t.Errorf("flag %d: hint %v", flag, got)
		}
	}
	for what, x := range map[string]struct {
		scope uint8
		row   abi.Service
	}{
		"clients outside":   {abi.ScopeExternal, plain},
		"affinity":          {abi.ScopeInternal, abi.Service{ID: 7, First: 8, Count: 3, Affinity: 60}},
		"no backend":        {abi.ScopeInternal, abi.Service{ID: 7, First: 8}},
		"number too large":  {abi.ScopeInternal, abi.Service{ID: 1 << abi.HintIDBits, First: 8, Count: 3}},
		"slots too far":     {abi.ScopeInternal, abi.Service{ID: 7, First: 1 << abi.HintFirstBits, Count: 3}},
		"too many backends": {abi.ScopeInternal, abi.Service{ID: 7, First: 8, Count: 1 << abi.HintCountBits}},
	} {
		key.Scope = x.scope
		if h := hintOf(key, x.row); h != 0 {
			t.Errorf("%s: hint %x", what, h)
		}
	}
}
