// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/stentor-net/stentor/internal/abi"
)

// Node is a node of the cluster in the kernel's table.
type Node struct {
	Index     uint16 // 1..8191
	Underlay  netip.Addr
	Addresses []netip.Addr
}

// SetNodes makes nodes and their addresses exactly those of the list. A row is
// written before the addresses that lead to it, and goes after them. A *FullError
// says that Grow and a repetition help.
func (s *Set) SetNodes(list []Node) error {
	s.nodesMu.Lock()
	defer s.nodesMu.Unlock()
	have, err := s.nodes()
	if err != nil {
		return err
	}
	want, addrs := map[uint16]abi.Node{}, map[abi.Addr]uint32{}
	for _, n := range list {
		if n.Index == 0 || n.Index >= abi.NodesMax {
			return fmt.Errorf("node index %d is not within 1..%d", n.Index, abi.NodesMax-1)
		}
		if _, twice := want[n.Index]; twice {
			return fmt.Errorf("node index %d is given twice", n.Index)
		}
		row := abi.Node{Underlay: mapped(n.Underlay), Flags: abi.NodeUsed}
		if n.Underlay.Is6() {
			row.Flags |= abi.NodeUnderlay6
		}
		want[n.Index] = row
		for _, a := range append(slices.Clone(n.Addresses), n.Underlay) {
			if a.IsValid() {
				addrs[mapped(a)] = uint32(n.Index)
			}
		}
	}
	var errs []error
	rows := s.maps[abi.MapNodes]
	for index, row := range want {
		if old, ok := have.rows[index]; !ok || old != row {
			errs = append(errs, rows.Put(uint32(index), row))
		}
	}
	for a, index := range addrs {
		if old, ok := have.addrs[a]; !ok || old != index {
			errs = append(errs, fullOr(s.Map(abi.MapNodeAddrs).Put(a, index), s.Map(abi.MapNodeAddrs), abi.MapNodeAddrs))
		}
	}
	for a := range have.addrs {
		if _, ok := addrs[a]; !ok {
			errs = append(errs, absentIsFine(s.Map(abi.MapNodeAddrs).Delete(a)))
		}
	}
	for index := range have.rows {
		if _, ok := want[index]; !ok {
			errs = append(errs, rows.Put(uint32(index), abi.Node{}))
		}
	}
	return errors.Join(errs...)
}

// Nodes are those that the kernel knows, by index.
func (s *Set) Nodes() ([]Node, error) {
	s.nodesMu.Lock()
	defer s.nodesMu.Unlock()
	have, err := s.nodes()
	if err != nil {
		return nil, err
	}
	var out []Node
	for _, index := range slices.Sorted(maps.Keys(have.rows)) {
		n := Node{Index: index, Underlay: unmapped(have.rows[index].Underlay)}
		for a, i := range have.addrs {
			if i == uint32(index) {
				n.Addresses = append(n.Addresses, unmapped(a))
			}
		}
		slices.SortFunc(n.Addresses, netip.Addr.Compare)
		out = append(out, n)
	}
	return out, nil
}

type nodeTables struct {
	rows  map[uint16]abi.Node
	addrs map[abi.Addr]uint32
}

func (s *Set) nodes() (nodeTables, error) {
	t := nodeTables{rows: map[uint16]abi.Node{}, addrs: map[abi.Addr]uint32{}}
	err := errors.Join(
		each(s.maps[abi.MapNodes], func(i uint32, n abi.Node) {
			if n.Flags&abi.NodeUsed != 0 {
				t.rows[uint16(i)] = n
			}
		}),
		each(s.Map(abi.MapNodeAddrs), func(a abi.Addr, i uint32) { t.addrs[a] = i }))
	return t, err
}
