// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"net/netip"
	"slices"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/service"
)

func TestAServiceThatFailsGivesBackWhatItTook(t *testing.T) {
	backends, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: uint32(unsafe.Sizeof(abi.Backend{})), MaxEntries: 8})
	if err != nil {
		t.Skipf("a table cannot be made: %v", err)
	}
	defer backends.Close()
	v := &services{backends: backends, grace: func() error { return nil }, known: map[abi.ServiceKey]entry{},
		ids32: map[backendName]uint32{}, used: make([]bool, 8), ids: []bool{true, true}}
	f := service.Frontend{Addr: netip.MustParseAddr("10.96.0.1"), Port: 80, Protocol: 6,
		Backends: []service.Backend{{Addr: netip.MustParseAddr("10.0.0.1"), Port: 80}, {Addr: netip.MustParseAddr("10.0.0.2"), Port: 80}}}
	if err := v.put(abi.ServiceKey{}, f); err == nil {
		t.Fatal("there was a number left")
	}
	v.release()
	if slices.Contains(v.used, true) || len(v.ids32) != 0 {
		t.Errorf("rows %v and names %v are lost", v.used, v.ids32)
	}
}
