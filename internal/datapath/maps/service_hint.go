// SPDX-License-Identifier: Apache-2.0

package maps

import "github.com/stentor-net/stentor/internal/abi"

// Hints let sockets find the backends of a plain service without hashing its
// row. One word says all, so that a reader sees the slots of before or of now; it
// names the frontend by its number, which rests after use, as slots do. A frontend
// whose place another one has goes without.

// hintable are flags that mean nothing to sockets; any other one is to be looked at.
const hintable = abi.ServiceLocal | abi.ServiceDSR | abi.ServiceSourceAllow | abi.ServiceSourceDeny

// hintOf is the word of a frontend; 0: sockets must look at its row.
func hintOf(k abi.ServiceKey, r abi.Service) uint64 {
	if k.Scope != abi.ScopeInternal || r.Affinity != 0 || r.Flags&^hintable != 0 || r.Count == 0 {
		return 0
	}
	h, _ := abi.Hint(r.ID, r.First, r.Count)
	return h
}

// hint makes the hint of a frontend what its row says, if the place is its own or free.
func (v *services) hint(k abi.ServiceKey, r abi.Service) {
	if v.hints.b == nil || k.Scope != abi.ScopeInternal || r.ID == 0 {
		return
	}
	row := abi.HintRow(k)
	if owner := hintOwner(v.hints.load64(row)); owner == r.ID || owner == 0 {
		v.hints.store64(row, hintOf(k, r))
	}
}

func hintOwner(h uint64) uint32 { return uint32(h & (1<<abi.HintIDBits - 1)) }

// unhint ends the hint of a frontend.
func (v *services) unhint(k abi.ServiceKey, id uint32) { v.hint(k, abi.Service{ID: id}) }

// loadHints makes all hints what the rows say: an agent may have ended between the
// row of a service and its hint.
func (v *services) loadHints() {
	if v.hints.b == nil {
		return
	}
	want := make(map[uint64]bool, len(v.known))
	for k, f := range v.known {
		want[hintOf(k, f.row)] = true
	}
	for row := range uint32(abi.HintRows) {
		if h := v.hints.load64(row); h != 0 && !want[h] {
			v.hints.store64(row, 0)
		}
	}
	for k, f := range v.known {
		v.hint(k, f.row)
	}
}
