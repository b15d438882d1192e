// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"slices"
	"strings"
)

// settleUses counts which selectors tell peers apart in some slot.
func (e *Engine) settleUses() {
	for _, s := range e.now.newSlots {
		if s.closed {
			continue
		}
		for at, sel := range s.uses {
			u := e.useByKey[sel.key]
			if u == nil {
				u = &use{sel: sel, id: -1}
				e.useByKey[sel.key] = u
				e.now.newUses = append(e.now.newUses, u)
			}
			u.slots = append(u.slots, slotUse{s, int32(at)})
		}
	}
	for _, s := range e.now.freedSlots {
		for _, sel := range s.uses {
			u := e.useByKey[sel.key]
			at := slices.IndexFunc(u.slots, func(x slotUse) bool { return x.slot == s })
			u.slots = swapOut(u.slots, at)
			if len(u.slots) == 0 {
				e.now.leftUses = append(e.now.leftUses, u)
			}
		}
	}
	slices.SortFunc(e.now.newUses, func(a, b *use) int {
		if x, y := a.sel.byAddress(), b.sel.byAddress(); x != y {
			if y {
				return -1
			}
			return 1
		}
		return strings.Compare(a.sel.key, b.sel.key)
	})
	for _, u := range e.now.newUses {
		e.numberUse(u)
		if u.sel.byAddress() {
			e.addUse(u)
		}
	}
	e.dropUses()
}

func (e *Engine) numberUse(u *use) {
	if n := len(e.freeUses); n > 0 {
		u.id, e.freeUses = e.freeUses[n-1], e.freeUses[:n-1]
		e.uses[u.id] = u
		return
	}
	u.id = int32(len(e.uses))
	e.uses = append(e.uses, u)
}

// dropUses forgets the selectors that no slot has any more. Their numbers are
// free once no group has them.
func (e *Engine) dropUses() {
	slices.SortFunc(e.now.leftUses, func(a, b *use) int { return cmp.Compare(a.id, b.id) })
	var labels []*use
	for _, u := range e.now.leftUses {
		delete(e.useByKey, u.sel.key)
		if u.sel.byAddress() {
			e.dropUse(u)
		} else {
			labels = append(labels, u)
		}
	}
	if len(labels) > 0 {
		e.join(labels)
	}
}

// splitUses sorts the identities by the label selectors that are new.
func (e *Engine) splitUses() {
	for _, u := range e.now.newUses {
		if !u.sel.byAddress() {
			e.split(u)
		}
	}
}
