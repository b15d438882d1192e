// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"math/bits"
	"slices"
)

// arena gives out pieces of an array. Sizes are rounded up to powers of two, so
// that a piece that came back fits the next one of its size.
type arena struct {
	size uint32           // rows of the array
	end  uint32           // rows from here on were never used
	free [32][]uint32     // first rows of free pieces, by the logarithm of their size
	used map[uint32]uint8 // first row -> logarithm of the size, of pieces given out
}

// newArena leaves out the first row, which means "none".
func newArena(size uint32) *arena { return &arena{size: size, end: 1, used: map[uint32]uint8{}} }

func class(n int) uint8 { return uint8(bits.Len(uint(max(n, 1) - 1))) }

// take returns the first row of n in a line, false if there is no room.
func (a *arena) take(n int) (uint32, bool) {
	c := class(n)
	if last := len(a.free[c]) - 1; last >= 0 {
		first := a.free[c][last]
		a.free[c] = a.free[c][:last]
		a.used[first] = c
		return first, true
	}
	if uint64(a.end)+1<<c <= uint64(a.size) {
		first := a.end
		a.end += 1 << c
		a.used[first] = c
		return first, true
	}
	for big := c + 1; int(big) < len(a.free); big++ {
		last := len(a.free[big]) - 1
		if last < 0 {
			continue
		}
		first := a.free[big][last]
		a.free[big] = a.free[big][:last]
		a.add(first+1<<c, first+1<<big)
		a.used[first] = c
		return first, true
	}
	return 0, false
}

// put takes a piece back.
func (a *arena) put(first uint32) {
	if c, ok := a.used[first]; ok {
		delete(a.used, first)
		a.free[c] = append(a.free[c], first)
	}
}

// add makes the rows from first to before end free.
func (a *arena) add(first, end uint32) {
	for first < end {
		c := bits.Len32(end-first) - 1
		a.free[c] = append(a.free[c], first)
		first += 1 << c
	}
}

// adopt makes the given pieces used, as they were found in the kernel.
func (a *arena) adopt(pieces map[uint32]int) {
	at := uint32(1)
	for _, first := range sortedKeys(pieces) {
		if first < at || first >= a.size {
			continue
		}
		a.add(at, first)
		c := class(pieces[first])
		a.used[first] = c
		at = min(first+1<<c, a.size)
	}
	a.end = at
}

func sortedKeys[V any](m map[uint32]V) []uint32 {
	out := make([]uint32, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
