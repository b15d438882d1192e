// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/service"
)

// FullError says that a table has no room left. Grow makes it larger.
type FullError struct {
	Map  string
	Want uint32 // rows that it should have
}

func (e *FullError) Error() string { return fmt.Sprintf("map %s is full", e.Map) }

// services keeps the kernel's services equal to the frontends. What a service
// points at is written first, then its row; what it pointed at before rests
// until a grace period is over.
type services struct {
	maps  func(name string) *ebpf.Map
	grace func() error
	how   maglevOptions
	hints memory

	mu       sync.Mutex
	known    map[abi.ServiceKey]*front
	ids      *numbers // of frontends: rows of service_vips
	slots    *arena   // of service_slots
	tables   *arena   // of maglev_rows
	ranges   map[string]*piece
	maglevs  map[string]*piece
	found    map[[32]byte]*piece // Maglev tables from before the start, by content
	backends *backendRows
	resting  rest
	stale    map[Translation]int // rounds in which sockets are still looked for
}

// front is a frontend as the kernel has it.
type front struct {
	spec     service.Frontend // that it was made of; empty after a start
	row      abi.Service
	slots    *piece
	table    *piece
	backends []uint32 // all that it refers to, also those without new connections
	sources  []netip.Prefix
	skips    []uint64
	direct   []netip.AddrPort
}

// piece of an array that frontends with the same backends share.
type piece struct {
	key   string
	first uint32
	refs  int
}

// rest is what nobody points at any more, but a running program may still read.
type rest struct {
	slots, tables, ids []uint32
	backends           []uint32
}

func (r *rest) empty() bool {
	return len(r.slots) == 0 && len(r.tables) == 0 && len(r.ids) == 0 && len(r.backends) == 0
}

func (s *Set) newServices() (*services, error) {
	v := &services{maps: s.Map, grace: Grace, how: maglevOptions{service.DefaultMaglevSize, service.MaglevSeed(service.DefaultMaglevSeed)},
		known: map[abi.ServiceKey]*front{}, ranges: map[string]*piece{}, maglevs: map[string]*piece{}, stale: map[Translation]int{}}
	if s.maps[abi.MapServices] == nil {
		return v, nil
	}
	v.ids = newNumbers(v.maps(abi.MapServiceVIPs).MaxEntries())
	v.slots = newArena(v.maps(abi.MapServiceSlots).MaxEntries())
	v.tables = newArena(v.maps(abi.MapMaglevRows).MaxEntries())
	v.backends = newBackendRows(v.maps(abi.MapBackends).MaxEntries())
	if err := v.hints.open(v.maps(abi.MapServiceHints)); err != nil {
		return nil, fmt.Errorf("map %s into memory: %w", abi.MapServiceHints, err)
	}
	return v, v.load()
}

// SetMaglev says how Maglev tables are made: size a prime, the seed the same on
// all nodes. Tables made before stay.
func (s *Set) SetMaglev(size int, seed uint64) {
	s.services.mu.Lock()
	defer s.services.mu.Unlock()
	s.services.how = maglevOptions{size: size, seed: seed}
}

// SetFrontends makes the kernel's services exactly those of the list. It goes on
// after a service that fails; the errors are joined.
func (s *Set) SetFrontends(list []service.Frontend) error {
	v := s.services
	v.mu.Lock()
	want := make(map[abi.ServiceKey]bool, len(list))
	for _, f := range list {
		want[keyOf(f.ID())] = true
	}
	var gone []service.FrontendKey
	for k := range v.known {
		if !want[k] {
			gone = append(gone, service.FrontendKey{Addr: unmapped(k.VIP), Port: swap(k.Port), Protocol: k.Protocol, Scope: service.Scope(k.Scope)})
		}
	}
	v.mu.Unlock()
	if err := s.ChangeFrontends(list, gone); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.forgetUnused()
}

// ChangeFrontends puts frontends and removes others. It goes on after one that
// fails, but for want of room: a *FullError says that Grow and a repetition help.
func (s *Set) ChangeFrontends(put []service.Frontend, remove []service.FrontendKey) error {
	v := s.services
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	var full *FullError
	for _, id := range remove {
		if err := v.remove(keyOf(id)); err != nil {
			errs = append(errs, fmt.Errorf("remove service %s port %d: %w", id.Addr, id.Port, err))
		}
	}
	for _, f := range put {
		if err := v.put(keyOf(f.ID()), f); err != nil {
			errs = append(errs, fmt.Errorf("service %s %s: %w", f.Service, f.Key(), err))
		}
		if len(errs) > 0 && errors.As(errs[len(errs)-1], &full) {
			break // the others would not fit either
		}
	}
	return errors.Join(errs...)
}

func keyOf(f service.FrontendKey) abi.ServiceKey {
	return abi.ServiceKey{VIP: mapped(f.Addr), Port: swap(f.Port), Protocol: f.Protocol, Scope: uint8(f.Scope)}
}

func (v *services) remove(k abi.ServiceKey) error {
	old := v.known[k]
	if old == nil {
		return nil
	}
	if err := absentIsFine(v.maps(abi.MapServices).Delete(k)); err != nil {
		return err
	}
	delete(v.known, k)
	v.leave(k, old, &front{})
	v.unhint(k, old.row.ID)
	if old.row.ID != 0 {
		v.resting.ids = append(v.resting.ids, old.row.ID)
	}
	return errors.Join(v.side(k, old.row.ID, &front{}, old, false), v.letGo(old))
}

// put makes one frontend what the row says.
func (v *services) put(k abi.ServiceKey, f service.Frontend) (err error) {
	old := v.known[k]
	if old != nil && old.spec.Service != "" && service.SameFrontend(old.spec, f) {
		return nil
	}
	exists := old != nil
	if !exists {
		old = &front{}
	}
	next, err := v.build(k, f, old)
	if err == nil && (!exists || next.row != old.row) {
		err = v.full(v.maps(abi.MapServices).Put(k, next.row), abi.MapServices)
	}
	if err != nil {
		if old.row.ID == 0 && next.row.ID != 0 {
			v.resting.ids = append(v.resting.ids, next.row.ID)
		}
		return errors.Join(err, v.side(k, next.row.ID, old, next, false), v.letGo(next))
	}
	v.known[k] = next
	v.leave(k, old, next)
	v.hint(k, next.row)
	return errors.Join(v.letGo(old), v.side(k, next.row.ID, next, old, false))
}

// build writes everything that the row of a frontend points at. What it returns
// holds what was taken, also after an error.
func (v *services) build(k abi.ServiceKey, f service.Frontend, old *front) (next *front, err error) {
	next = &front{spec: f, row: abi.Service{ID: old.row.ID, Affinity: f.Affinity, Flags: flagsOf(f), Kind: kinds[f.Kind]},
		sources: f.Sources, skips: f.SkipNetNS, direct: f.Direct}
	if f.Rest() {
		return next, nil
	}
	if f.Affinity != 0 && v.maps(abi.MapAffinities).MaxEntries() < abi.Affinities {
		return next, &FullError{abi.MapAffinities, abi.Affinities}
	}
	if next.row.ID == 0 {
		if next.row.ID, err = v.newID(k); err != nil {
			return next, err
		}
	}
	for _, b := range f.Backends {
		id, err := v.hold(b)
		if err != nil {
			return next, err
		}
		next.backends = append(next.backends, id)
	}
	takers := f.Takers()
	ids := make([]uint32, 0, len(takers))
	for _, b := range takers {
		ids = append(ids, v.backends.byName[nameOf(b)].id)
	}
	if next.slots, err = v.placeSlots(ids); err != nil {
		return next, err
	}
	next.row.First, next.row.Count = next.slots.first, uint32(len(ids))
	if f.Algorithm == service.Maglev && len(ids) > 0 {
		if next.table, err = v.placeTable(takers, ids); err != nil {
			return next, err
		}
		next.row.Maglev, next.row.MaglevSize = next.table.first, uint32(v.how.size)
	}
	// Added before the row changes, removed after.
	return next, v.side(k, next.row.ID, old, next, true)
}

// sticky are the backends that clients may be kept at.
func (f *front) sticky() []uint32 {
	if f.row.Affinity == 0 {
		return nil
	}
	return f.backends
}

// side adds the rows beside the service's own that `to` has and `from` has not.
// With add false it removes them instead.
func (v *services) side(k abi.ServiceKey, id uint32, from, to *front, add bool) error {
	var errs []error
	for _, b := range missing(from.sticky(), to.sticky()) {
		errs = append(errs, v.set(abi.MapAffinityBackends, abi.AffinityBackend{Service: id, Backend: b}, add))
	}
	for _, p := range missing(from.sources, to.sources) {
		bits := p.Bits()
		if p.Addr().Is4() {
			bits += 96
		}
		errs = append(errs, v.set(abi.MapSourceRanges, abi.SourceRange{Prefixlen: 32 + uint32(bits), Service: id, Addr: p.Addr().As16()}, add))
	}
	for _, b := range missing(from.direct, to.direct) {
		key := abi.DirectBackend{Addr: mapped(b.Addr()), Port: swap(b.Port()), Protocol: k.Protocol, Service: id}
		errs = append(errs, v.set(abi.MapDirectBackends, key, add))
	}
	for _, cookie := range missing(from.skips, to.skips) {
		errs = append(errs, v.set(abi.MapServiceSkips, abi.ServiceSkip{VIP: k.VIP, Netns: cookie, Port: k.Port, Protocol: k.Protocol}, add))
	}
	return errors.Join(errs...)
}

// missing are those of `of` that are not in `in`.
func missing[T comparable](in, of []T) (out []T) {
	has := make(map[T]bool, len(in))
	for _, x := range in {
		has[x] = true
	}
	for _, x := range of {
		if !has[x] {
			out = append(out, x)
		}
	}
	return out
}

var kinds = map[service.Kind]uint8{
	service.ClusterIP: abi.ServiceClusterIP, service.NodePort: abi.ServiceNodePort, service.ExternalIP: abi.ServiceExternalIP,
	service.LoadBalancer: abi.ServiceLoadBalancer, service.HostPort: abi.ServiceHostPort, service.LocalRedirect: abi.ServiceLocalRedirect,
}

func flagsOf(f service.Frontend) (out uint16) {
	for _, x := range []struct {
		cond bool
		flag uint16
	}{
		{f.Rest(), abi.ServiceRest},
		{f.Local, abi.ServiceLocal},
		{f.Forwarding == service.DSR, abi.ServiceDSR},
		{len(f.Sources) > 0 && !f.SourcesDeny, abi.ServiceSourceAllow},
		{len(f.Sources) > 0 && f.SourcesDeny, abi.ServiceSourceDeny},
		{len(f.SkipNetNS) > 0, abi.ServiceSkipped},
		{f.Addr.IsLoopback(), abi.ServiceLoopback},
	} {
		if x.cond {
			out |= x.flag
		}
	}
	return out
}

func (v *services) newID(k abi.ServiceKey) (uint32, error) {
	id, ok := v.ids.take()
	if !ok {
		v.release()
		if id, ok = v.ids.take(); !ok {
			return 0, &FullError{abi.MapServiceVIPs, 2 * uint32(len(v.ids.used))}
		}
	}
	if err := v.maps(abi.MapServiceVIPs).Put(id, abi.ServiceVIP{VIP: k.VIP, Port: k.Port, Protocol: k.Protocol}); err != nil {
		v.ids.put(id)
		return 0, err
	}
	return id, nil
}

// letGo gives back what a front holds; it rests before it is used again.
func (v *services) letGo(f *front) error {
	drop := func(p *piece, all map[string]*piece, resting *[]uint32) {
		if p == nil {
			return
		}
		if p.refs--; p.refs == 0 {
			delete(all, p.key)
			if p.first != 0 {
				*resting = append(*resting, p.first)
			}
		}
	}
	drop(f.slots, v.ranges, &v.resting.slots)
	drop(f.table, v.maglevs, &v.resting.tables)
	var errs []error
	for _, id := range f.backends {
		errs = append(errs, v.unhold(id))
	}
	return errors.Join(errs...)
}

func (v *services) full(err error, name string) error { return fullOr(err, v.maps(name), name) }

// fullOr turns the kernel's "no room" into a *FullError.
func fullOr(err error, m *ebpf.Map, name string) error {
	if isFull(err) {
		return &FullError{name, 2 * m.MaxEntries()}
	}
	return err
}

// release frees what rested once no program can still read it.
func (v *services) release() {
	if v.resting.empty() || v.grace() != nil {
		return
	}
	v.free(v.resting)
	v.resting = rest{}
}

func (v *services) free(r rest) {
	for _, first := range r.slots {
		v.slots.put(first)
	}
	for _, first := range r.tables {
		v.tables.put(first)
	}
	for _, id := range r.ids {
		v.ids.put(id)
	}
	for _, id := range r.backends {
		v.backends.numbers.put(id)
	}
}

// SettleServices frees the rows of services that changed. It waits for a grace
// period, but changes need not wait for it.
func (s *Set) SettleServices() {
	v := s.services
	v.mu.Lock()
	r := v.resting
	v.resting = rest{}
	v.mu.Unlock()
	if r.empty() {
		return
	}
	err := v.grace()
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil { // the next one frees them
		v.resting = rest{append(r.slots, v.resting.slots...), append(r.tables, v.resting.tables...), append(r.ids, v.resting.ids...), append(r.backends, v.resting.backends...)}
		return
	}
	v.free(r)
}
