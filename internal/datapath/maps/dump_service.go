// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/service"
)

// The tables of services are printed as the kernel has them, not as the agent wants them.

var kindNames = []string{"ClusterIP", "NodePort", "ExternalIP", "LoadBalancer", "HostPort", "LocalRedirect"}

// frontendName is address, port and protocol of a row.
func frontendName(k abi.ServiceKey) string {
	if k.Protocol == 0 && k.Port == 0 {
		return unmapped(k.VIP).String() + " rest"
	}
	return socket(k.VIP, k.Port) + "/" + protocol(k.Protocol)
}

func (s *Set) dumpServices() (rows [][]string, err error) {
	backends, err := s.backendNames()
	if err != nil {
		return nil, err
	}
	var slots []abi.ServiceSlot
	if err := each(s.Map(abi.MapServiceSlots), func(_ uint32, v abi.ServiceSlot) { slots = append(slots, v) }); err != nil {
		return nil, err
	}
	err = each(s.Map(abi.MapServices), func(k abi.ServiceKey, r abi.Service) {
		var to []string
		for i := r.First; i < r.First+r.Count && int(i) < len(slots); i++ {
			to = append(to, backends[slots[i].Backend])
		}
		algorithm, affinity := "random", "-"
		if r.Maglev != 0 {
			algorithm = "maglev"
		}
		if r.Affinity != 0 {
			affinity = num(r.Affinity) + "s"
		}
		rows = append(rows, []string{frontendName(k), service.Scope(k.Scope).String(), num(r.ID), kindNames[min(int(r.Kind), len(kindNames)-1)],
			strings.Join(to, ","), algorithm, affinity,
			flags(uint64(r.Flags), []string{"rest", "local", "dsr", "source-allow", "source-deny", "skipped"}, "", false)})
	})
	return rows, err
}

func (s *Set) backendNames() (map[uint32]string, error) {
	out := map[uint32]string{}
	err := each(s.Map(abi.MapBackends), func(id uint32, b abi.Backend) {
		if id != 0 && b.Addr != (abi.Addr{}) {
			out[id] = socket(b.Addr, b.Port)
		}
	})
	return out, err
}

func (s *Set) dumpBackends() (rows [][]string, err error) {
	used := map[uint32]int{}
	v := s.services
	v.mu.Lock()
	for _, f := range v.known {
		for _, id := range f.backends {
			used[id]++
		}
	}
	v.mu.Unlock()
	err = each(s.Map(abi.MapBackends), func(id uint32, b abi.Backend) {
		if b.Addr == (abi.Addr{}) {
			return
		}
		state := "gone"
		switch {
		case b.Flags&abi.BackendTerminating != 0:
			state = "terminating"
		case b.Flags&abi.BackendUsed != 0:
			state = "active"
		}
		rows = append(rows, []string{socket(b.Addr, b.Port) + "/" + protocol(b.Protocol), num(id), state, num(used[id])})
	})
	return rows, err
}

func (s *Set) dumpAffinity() (rows [][]string, err error) {
	idle, err := s.idle()
	if err != nil {
		return nil, err
	}
	backends, err := s.backendNames()
	if err != nil {
		return nil, err
	}
	err = each(s.Map(abi.MapAffinities), func(k abi.AffinityKey, a abi.Affinity) {
		client := unmapped(k.Client).String()
		if k.IsCookie != 0 {
			client = fmt.Sprintf("netns %d", binary.NativeEndian.Uint64(k.Client.B[:8]))
		}
		rows = append(rows, []string{client, num(k.Service), backends[a.Backend], idle(a.Last)})
	})
	return rows, err
}

func (s *Set) dumpMaglev() (rows [][]string, err error) {
	backends, err := s.backendNames()
	if err != nil {
		return nil, err
	}
	var table []abi.MaglevRow
	if err := each(s.Map(abi.MapMaglevRows), func(_ uint32, r abi.MaglevRow) { table = append(table, r) }); err != nil {
		return nil, err
	}
	err = each(s.Map(abi.MapServices), func(k abi.ServiceKey, r abi.Service) {
		if r.Maglev == 0 {
			return
		}
		count := map[uint32]int{}
		for i := range r.MaglevSize {
			if at := int(r.Maglev + i/abi.MaglevWidth); at < len(table) {
				count[table[at].Backend[i%abi.MaglevWidth]]++
			}
		}
		var to []string
		for id, n := range count {
			to = append(to, fmt.Sprintf("%s(%d)", backends[id], n))
		}
		slices.Sort(to)
		rows = append(rows, []string{num(r.ID), frontendName(k), num(r.MaglevSize), strings.Join(to, ",")})
	})
	return rows, err
}

func (s *Set) dumpSources() (rows [][]string, err error) {
	names := map[uint32]string{}
	if err := each(s.Map(abi.MapServices), func(k abi.ServiceKey, r abi.Service) { names[r.ID] = frontendName(k) }); err != nil {
		return nil, err
	}
	err = each(s.Map(abi.MapSourceRanges), func(k abi.SourceRange, _ uint32) {
		rows = append(rows, []string{num(k.Service), names[k.Service], rangeOf(k).String()})
	})
	return rows, err
}
