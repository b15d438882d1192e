// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/service"
)

// growing are tables that begin small and are replaced by larger ones.
var growing = []string{
	abi.MapServices, abi.MapServiceSlots, abi.MapBackends, abi.MapMaglevRows, abi.MapServiceVIPs,
	abi.MapAffinities, abi.MapAffinityBackends, abi.MapSourceRanges, abi.MapServiceSkips, abi.MapNodeAddrs, abi.MapDirectBackends,
}

// load reads what the kernel holds, so that numbers are kept over a restart.
func (v *services) load() error {
	err := each(v.maps(abi.MapBackends), func(id uint32, b abi.Backend) {
		if b.Flags&abi.BackendUsed == 0 {
			return
		}
		r := &backendRow{name: backendName{unmapped(b.Addr), swap(b.Port), b.Protocol}, id: id, flags: b.Flags}
		v.backends.numbers.adopt(id)
		v.backends.byName[r.name], v.backends.byID[id] = r, r
	})
	if err != nil {
		return err
	}
	var slots []abi.ServiceSlot
	if err := each(v.maps(abi.MapServiceSlots), func(_ uint32, s abi.ServiceSlot) { slots = append(slots, s) }); err != nil {
		return err
	}
	var rows []abi.MaglevRow
	if err := each(v.maps(abi.MapMaglevRows), func(_ uint32, r abi.MaglevRow) { rows = append(rows, r) }); err != nil {
		return err
	}
	ranges, tables := map[uint32]int{}, map[uint32]int{}
	maglevs := map[uint32]*piece{}
	v.found = map[[32]byte]*piece{}
	err = each(v.maps(abi.MapServices), func(k abi.ServiceKey, r abi.Service) {
		f := &front{row: r}
		v.known[k] = f
		v.ids.adopt(r.ID)
		if int(r.First+r.Count) > len(slots) || int(r.Maglev)+service.MaglevRows(r.MaglevSize, abi.MaglevWidth) > len(rows) {
			return // not ours: the first put makes it right
		}
		for _, s := range slots[r.First : r.First+r.Count] {
			f.backends = append(f.backends, s.Backend)
			if b := v.backends.byID[s.Backend]; b != nil {
				b.refs++
			}
		}
		key := keyOfIDs(f.backends)
		if f.slots = v.ranges[key]; f.slots == nil {
			f.slots = &piece{key: key, first: r.First}
			v.ranges[key] = f.slots
			if r.Count > 0 {
				ranges[r.First] = int(r.Count)
			}
		}
		f.slots.refs++
		if r.Maglev == 0 {
			return
		}
		if f.table = maglevs[r.Maglev]; f.table == nil {
			n := service.MaglevRows(r.MaglevSize, abi.MaglevWidth)
			f.table = &piece{key: fmt.Sprint("found ", r.Maglev), first: r.Maglev}
			maglevs[r.Maglev], tables[r.Maglev] = f.table, n
			v.found[contentOf(rows[r.Maglev:int(r.Maglev)+n])] = f.table
		}
		f.table.refs++
	})
	v.slots.adopt(ranges)
	v.tables.adopt(tables)
	v.loadHints()
	return errors.Join(err, v.loadSides())
}

// loadSides reads the rows beside those of services, and removes those that no
// service refers to.
func (v *services) loadSides() error {
	byID := map[uint32]*front{}
	byVIP := map[abi.ServiceSkip]*front{}
	for k, f := range v.known {
		byID[f.row.ID] = f
		byVIP[abi.ServiceSkip{VIP: k.VIP, Port: k.Port, Protocol: k.Protocol}] = f
	}
	delete(byID, 0)
	var errs []error
	drop := func(name string, key any) { errs = append(errs, v.set(name, key, false)) }
	errs = append(errs, each(v.maps(abi.MapSourceRanges), func(k abi.SourceRange, _ uint32) {
		if f := byID[k.Service]; f != nil {
			f.sources = append(f.sources, rangeOf(k))
		} else {
			drop(abi.MapSourceRanges, k)
		}
	}), each(v.maps(abi.MapServiceSkips), func(k abi.ServiceSkip, _ uint32) {
		if f := byVIP[abi.ServiceSkip{VIP: k.VIP, Port: k.Port, Protocol: k.Protocol}]; f != nil {
			f.skips = append(f.skips, k.Netns)
		} else {
			drop(abi.MapServiceSkips, k)
		}
	}), each(v.maps(abi.MapDirectBackends), func(k abi.DirectBackend, _ uint32) {
		if f := byID[k.Service]; f != nil {
			f.direct = append(f.direct, netip.AddrPortFrom(unmapped(k.Addr), swap(k.Port)))
		} else {
			drop(abi.MapDirectBackends, k)
		}
	}), each(v.maps(abi.MapAffinityBackends), func(k abi.AffinityBackend, _ uint32) {
		if f := byID[k.Service]; f == nil || !slices.Contains(f.sticky(), k.Backend) {
			drop(abi.MapAffinityBackends, k)
		}
	}))
	return errors.Join(errs...)
}

// rangeOf is the prefix of a row of source_ranges.
func rangeOf(k abi.SourceRange) netip.Prefix {
	a, bits := netip.AddrFrom16(k.Addr), int(k.Prefixlen)-32
	if a.Is4In6() {
		a, bits = a.Unmap(), bits-96
	}
	return netip.PrefixFrom(a, bits)
}

// forgetUnused frees what was found after a start and what no frontend wants.
func (v *services) forgetUnused() error {
	v.found = nil
	var errs []error
	for id, r := range v.backends.byID {
		if r.refs == 0 {
			r.refs = 1
			errs = append(errs, v.unhold(id))
		}
	}
	return errors.Join(errs...)
}

// growable says whether a map may be larger than the programs were compiled with.
func growable(name string) bool { return slices.Contains(growing, name) }

// Grow makes larger maps of the names with the rows of the present ones. Programs
// must be loaded with Maps anew; then Grown takes the larger maps for good, or, if
// that failed, Shrink the present ones. Nothing may be written in between.
func (s *Set) Grow(sizes map[string]uint32) error {
	s.services.mu.Lock()
	defer s.services.mu.Unlock()
	s.smaller = map[string]*ebpf.Map{}
	for name, entries := range sizes {
		if err := s.growOne(name, entries); err != nil {
			s.Shrink()
			return err
		}
	}
	return nil
}

func (s *Set) growOne(name string, entries uint32) error {
	old := s.Map(name)
	if old == nil || !growable(name) {
		return fmt.Errorf("map %s does not grow", name)
	}
	spec := s.specs[name].Copy()
	spec.MaxEntries = max(entries, 2*old.MaxEntries())
	next, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("create map %s with %d rows: %w", name, spec.MaxEntries, err)
	}
	if err := copyRows(name, old, next); err != nil {
		next.Close()
		return fmt.Errorf("copy map %s: %w", name, err)
	}
	s.replace(name, next)
	s.smaller[name] = old
	return nil
}

func (s *Set) replace(name string, m *ebpf.Map) {
	s.largerMu.Lock()
	defer s.largerMu.Unlock()
	if s.larger == nil {
		s.larger = map[string]*ebpf.Map{}
	}
	s.larger[name] = m
}

// Grown pins the larger map over the present one.
func (s *Set) Grown() error {
	for name, old := range s.smaller {
		path := filepath.Join(s.dir, name)
		if err := os.Remove(path + "_new"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove %s_new: %w", path, err)
		}
		if err := s.Map(name).Pin(path + "_new"); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
		if err := os.Rename(path+"_new", path); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
		old.Close()
		s.services.resize(name, s.Map(name).MaxEntries())
	}
	s.smaller = nil
	return nil
}

// Shrink goes back to the map before Grow.
func (s *Set) Shrink() {
	for name, old := range s.smaller {
		s.Map(name).Close()
		s.replace(name, old)
	}
	s.smaller = nil
}

func (v *services) resize(name string, size uint32) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch name {
	case abi.MapServiceSlots:
		v.slots.size = size
	case abi.MapMaglevRows:
		v.tables.size = size
	case abi.MapServiceVIPs:
		v.ids.grow(size)
	case abi.MapBackends:
		v.backends.numbers.grow(size)
	}
}

// copyRows copies a table that grows.
func copyRows(name string, from, to *ebpf.Map) error {
	switch name {
	case abi.MapServices:
		return copyAs[abi.ServiceKey, abi.Service](from, to)
	case abi.MapServiceSlots:
		return copyAs[uint32, abi.ServiceSlot](from, to)
	case abi.MapBackends:
		return copyAs[uint32, abi.Backend](from, to)
	case abi.MapMaglevRows:
		return copyAs[uint32, abi.MaglevRow](from, to)
	case abi.MapServiceVIPs:
		return copyAs[uint32, abi.ServiceVIP](from, to)
	case abi.MapAffinities:
		return copyAs[abi.AffinityKey, abi.Affinity](from, to)
	case abi.MapAffinityBackends:
		return copyAs[abi.AffinityBackend, uint32](from, to)
	case abi.MapSourceRanges:
		return copyAs[abi.SourceRange, uint32](from, to)
	case abi.MapNodeAddrs:
		return copyAs[abi.Addr, uint32](from, to)
	case abi.MapDirectBackends:
		return copyAs[abi.DirectBackend, uint32](from, to)
	}
	return copyAs[abi.ServiceSkip, uint32](from, to)
}

func copyAs[K, V any](from, to *ebpf.Map) error {
	var keys []K
	var values []V
	if err := each(from, func(k K, v V) { keys, values = append(keys, k), append(values, v) }); err != nil {
		return err
	}
	if len(keys) == 0 {
		return nil
	}
	if to.Type() != ebpf.LPMTrie {
		_, err := to.BatchUpdate(keys, values, nil)
		return err
	}
	for i, k := range keys {
		if err := to.Put(k, values[i]); err != nil {
			return err
		}
	}
	return nil
}
