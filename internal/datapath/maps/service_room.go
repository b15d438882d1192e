// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"encoding/binary"
	"math/bits"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/service"
)

// Room says how large the tables should be that a list of frontends does not fit
// in, beside the one that was found full: each growth loads all programs anew, so
// one is made do for the whole list.
func (s *Set) Room(full *FullError, list []service.Frontend) map[string]uint32 {
	v := s.services
	v.mu.Lock()
	defer v.mu.Unlock()
	out := map[string]uint32{full.Map: full.Want}
	for name, rows := range v.needs(list) {
		have := v.maps(name).MaxEntries()
		if size := uint32(1) << bits.Len32(rows-1); rows > have && size > out[name] {
			out[name] = size
		}
	}
	return out
}

// needs counts the rows of each table, at most, when a list has been put.
func (v *services) needs(list []service.Frontend) map[string]uint32 {
	services, ids := len(v.known), 1
	for _, f := range v.known {
		if f.row.ID != 0 {
			ids++
		}
	}
	slots, tables := int(v.slots.end), int(v.tables.end)
	fresh, ranges, maglevs := map[backendName]bool{}, map[string]bool{}, map[string]bool{}
	var key []byte
	affinities := 0
	for _, f := range list {
		if f.Affinity != 0 {
			affinities = abi.Affinities
		}
		old := v.known[keyOf(f.ID())]
		if old == nil {
			services++
		}
		if f.Rest() {
			continue
		}
		if old == nil {
			ids++
		}
		for _, b := range f.Backends {
			if n := nameOf(b); v.backends.byName[n] == nil {
				fresh[n] = true
			}
		}
		if old != nil && service.SameFrontend(old.spec, f) {
			continue
		}
		takers := f.Takers()
		if len(takers) == 0 {
			continue
		}
		key = key[:0]
		for _, b := range takers {
			a := b.Addr.As16()
			key = binary.LittleEndian.AppendUint16(append(key, a[:]...), b.Port)
			key = append(key, b.Protocol)
		}
		if !ranges[string(key)] {
			ranges[string(key)] = true
			slots += 1 << class(len(takers))
		}
		if f.Algorithm == service.Maglev && !maglevs[string(key)] {
			maglevs[string(key)] = true
			tables += 1 << class(service.MaglevRows(uint32(v.how.size), abi.MaglevWidth))
		}
	}
	backends := 1 + len(v.backends.byID) + len(v.resting.backends) + len(fresh)
	return map[string]uint32{abi.MapAffinities: uint32(affinities), abi.MapServices: uint32(services), abi.MapServiceVIPs: uint32(ids + len(v.resting.ids)),
		abi.MapServiceSlots: uint32(slots), abi.MapMaglevRows: uint32(tables), abi.MapBackends: uint32(backends)}
}
