// SPDX-License-Identifier: Apache-2.0

package service

import (
	"cmp"
	"hash/fnv"
	"slices"
)

// MaglevSizes are the table sizes that can be chosen: primes.
var MaglevSizes = []int{251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071}

// DefaultMaglevSize of tables; DefaultMaglevSeed is the text that all nodes of a cluster share.
const (
	DefaultMaglevSize = 16381
	DefaultMaglevSeed = "JLfvgnHc2kaSUFaI"
)

// MaglevRows is how many rows of the given width a table takes.
func MaglevRows(size uint32, width int) int { return (int(size) + width - 1) / width }

// MaglevTable fills a lookup table of the given size, a prime, with indices into
// backends: each backend has its share by weight, and when a backend comes or
// goes few positions change hands. It depends on the set of backends alone, so
// that all nodes have the same table (Eisenbud et al., NSDI 2016).
func MaglevTable(backends []Backend, size int, seed uint64) []int {
	table := make([]int, size)
	if len(backends) == 0 || size == 0 {
		return nil
	}
	type turn struct {
		index        int
		offset, skip uint64
		next         uint64 // place in its permutation
		credit       float64
		share        float64 // positions a round
	}
	turns := make([]turn, 0, len(backends))
	most := uint16(1)
	for i, b := range backends {
		h1, h2 := maglevHashes(b, seed)
		turns = append(turns, turn{index: i, offset: h1 % uint64(size), skip: h2%uint64(size-1) + 1})
		most = max(most, b.Weight)
	}
	slices.SortFunc(turns, func(a, b turn) int { return cmp.Compare(backends[a.index].Socket(), backends[b.index].Socket()) })
	for i := range turns {
		turns[i].share = float64(max(backends[turns[i].index].Weight, 1)) / float64(most)
	}
	for i := range table {
		table[i] = -1
	}
	for filled := 0; ; {
		for i := range turns {
			t := &turns[i]
			for t.credit += t.share; t.credit >= 1; t.credit-- {
				at := (t.offset + t.next*t.skip) % uint64(size)
				for table[at] >= 0 {
					t.next++
					at = (t.offset + t.next*t.skip) % uint64(size)
				}
				table[at] = t.index
				t.next++
				if filled++; filled == size {
					return table
				}
			}
		}
	}
}

// maglevHashes are two independent hashes of a backend's name.
func maglevHashes(b Backend, seed uint64) (uint64, uint64) {
	h := fnv.New64a()
	h.Write([]byte(b.Socket()))
	sum := h.Sum64()
	return mix(sum ^ seed), mix(sum + mix(seed+1))
}

// mix spreads every bit over all (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// MaglevSeed makes a number of the seed's text.
func MaglevSeed(text string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(text))
	return mix(h.Sum64())
}
