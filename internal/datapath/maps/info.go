// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/stentor-net/stentor/internal/abi"
)

// Info describes a table of the kernel.
type Info struct {
	Name, Type           string
	Entries, Max, Memory int // rows in use (-1: not counted), rows possible, bytes
}

// Infos describes every table and the banks of classes.
func (s *Set) Infos() ([]Info, error) {
	var out []Info
	var errs []error
	add := func(name string, m *ebpf.Map) {
		info, err := m.Info()
		if err != nil {
			errs = append(errs, fmt.Errorf("look at map %s: %w", name, err))
			return
		}
		i := Info{Name: name, Type: m.Type().String(), Entries: -1, Max: int(m.MaxEntries())}
		if bytes, ok := info.Memlock(); ok {
			i.Memory = int(bytes)
		}
		if n, ok := s.count(name); ok {
			i.Entries = n
		}
		out = append(out, i)
	}
	all := s.Maps()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		add(name, all[name])
	}
	for n, b := range s.banks {
		if b.m != nil {
			add(fmt.Sprintf("class_bank_%d", n), b.m)
		}
	}
	return out, errors.Join(errs...)
}

// count counts the rows of a table by reading their keys.
func (s *Set) count(name string) (int, bool) {
	n := 0
	var err error
	m := s.Map(name)
	switch name {
	case abi.MapFlows:
		err = each(m, func(abi.FlowKey, abi.Flow) { n++ })
	case abi.MapServiceFlows:
		err = each(m, func(abi.FlowKey, abi.ServiceFlow) { n++ })
	case abi.MapNAT:
		err = each(m, func(abi.NATKey, abi.NATEntry) { n++ })
	case abi.MapFragments:
		err = each(m, func(abi.FragmentKey, abi.Fragment) { n++ })
	case abi.MapIpcache:
		err = each(m, func(abi.IpcacheKey, abi.IpcacheEntry) { n++ })
	case abi.MapSets:
		err = each(m, func(abi.SetKey, abi.SetEntry) { n++ })
	case abi.MapIdentityPeer:
		err = each(m, func(uint32, uint32) { n++ })
	case abi.MapServices:
		err = each(m, func(abi.ServiceKey, abi.Service) { n++ })
	case abi.MapNodeAddrs, abi.MapEndpointAddrs:
		err = each(m, func(abi.Addr, uint32) { n++ })
	case abi.MapEndpoints:
		n = len(s.Endpoints())
	case abi.MapNodes:
		err = each(m, func(_ uint32, v abi.Node) {
			if v.Flags&abi.NodeUsed != 0 {
				n++
			}
		})
	default:
		return 0, false
	}
	return n, err == nil
}

// Metric counts packets by what became of them.
type Metric struct {
	Reason         uint8 // 0: forwarded
	ReasonText     string
	Ingress        bool
	Packets, Bytes uint64
}

// Metrics sums the counters of all CPUs; rows without packets are left out.
func (s *Set) Metrics() ([]Metric, error) {
	m := s.maps[abi.MapMetrics]
	if m == nil {
		return nil, nil
	}
	var out []Metric
	var key uint32
	var perCPU []abi.Metric
	it := m.Iterate()
	for it.Next(&key, &perCPU) {
		r := Metric{Reason: uint8(key / 2), Ingress: key%2 == 1}
		for _, c := range perCPU {
			r.Packets += c.Packets
			r.Bytes += c.Bytes
		}
		if r.Packets == 0 {
			continue
		}
		if r.ReasonText = "Forwarded"; r.Reason != 0 {
			r.ReasonText = abi.ReasonText(r.Reason)
		}
		out = append(out, r)
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	slices.SortFunc(out, func(a, b Metric) int { return int(a.Reason) - int(b.Reason) })
	return out, nil
}
