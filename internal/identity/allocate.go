// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"math/rand/v2"

	"github.com/stentor-net/stentor/internal/label"
)

// Lookup finds the number of a label set. Of several, which is legal, the
// lowest counts, so that all nodes agree on one.
func Lookup(existing map[ID]label.Set, labels label.Set) (ID, bool) {
	var best ID
	key := labels.Key()
	for id, have := range existing {
		if id.Scope() == ScopeCluster && (best == 0 || id < best) && have.Key() == key {
			best = id
		}
	}
	return best, best != 0
}

// Pick gives the number that a label set has, or a free one to create: taken at
// random, so that two nodes that create at the same time seldom collide. It
// gives false if no number is free.
func Pick(existing map[ID]label.Set, labels label.Set, r *rand.Rand) (id ID, exists, ok bool) {
	if id, found := Lookup(existing, labels); found {
		return id, true, true
	}
	const size = uint32(MaxAllocated - MinAllocated + 1)
	start := r.Uint32N(size)
	for i := range size {
		id := MinAllocated + ID((start+i)%size)
		if _, taken := existing[id]; !taken {
			return id, false, true
		}
	}
	return 0, false, false
}
