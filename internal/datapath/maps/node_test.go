// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/abi"
)

func TestAddressesOfNodesGrowTheirTable(t *testing.T) {
	s := tinyServices(t, 16)
	for _, spec := range []*ebpf.MapSpec{
		{Name: abi.MapNodes, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(unsafe.Sizeof(abi.Node{})), MaxEntries: abi.NodesMax},
		{Name: abi.MapNodeAddrs, Type: ebpf.Hash, KeySize: uint32(unsafe.Sizeof(abi.Addr{})), ValueSize: 4, MaxEntries: 4, Flags: unix.BPF_F_NO_PREALLOC},
	} {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			t.Fatal(err)
		}
		s.specs[spec.Name], s.maps[spec.Name] = spec, m
	}
	var list []Node
	for i := range 10 {
		list = append(list, Node{Index: uint16(i + 1), Underlay: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}),
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i), 0, 1})}})
	}
	var full *FullError
	if err := s.SetNodes(list); !errors.As(err, &full) || full.Map != abi.MapNodeAddrs {
		t.Fatalf("20 addresses into 4 rows: %v", err)
	}
	for err := error(full); errors.As(err, &full); err = s.SetNodes(list) {
		if err := s.Grow(s.Room(full, nil)); err != nil {
			t.Fatal(err)
		}
		s.smaller = nil
	}
	got, err := s.Nodes()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(list) {
		t.Fatalf("%d nodes, want %d", len(got), len(list))
	}
	for i, n := range got {
		if len(n.Addresses) != 2 {
			t.Errorf("node %d has %v", i, n.Addresses)
		}
	}
}
