// SPDX-License-Identifier: Apache-2.0

package service

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func maglevBackends(n int) (out []Backend) {
	for i := range n {
		out = append(out, Backend{Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Port: 8080, Protocol: 6, State: Active, Weight: DefaultWeight})
	}
	return out
}

func TestAMaglevTableSharesByWeight(t *testing.T) {
	for _, size := range MaglevSizes {
		for _, n := range []int{1, 2, 3, 10, 100} {
			list := maglevBackends(n)
			list[0].Weight = 3 * DefaultWeight
			share := float64(size) / float64(n+2)
			count := make([]int, n)
			for _, i := range MaglevTable(list, size, MaglevSeed(DefaultMaglevSeed)) {
				count[i]++
			}
			for i, got := range count {
				want := share
				if i == 0 {
					want *= 3
				}
				if math.Abs(float64(got)-want) > 4 { // a round, more or less
					t.Errorf("size %d, %d backends: backend %d has %d positions, want %.0f", size, n, i, got, want)
				}
			}
		}
	}
}

func TestAMaglevTableIsTheSameWhateverTheOrderOfBackends(t *testing.T) {
	list := maglevBackends(20)
	seed := MaglevSeed(DefaultMaglevSeed)
	first := MaglevTable(list, DefaultMaglevSize, seed)
	other := append([]Backend(nil), list...)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(other), func(i, j int) { other[i], other[j] = other[j], other[i] })
	for at, i := range MaglevTable(other, DefaultMaglevSize, seed) {
		if other[i].Addr != list[first[at]].Addr {
			t.Fatalf("position %d: %s, or %s", at, list[first[at]].Addr, other[i].Addr)
		}
	}
	same := 0
	for at, i := range MaglevTable(list, DefaultMaglevSize, seed+1) {
		if i == first[at] {
			same++
		}
	}
	if same > DefaultMaglevSize/10 {
		t.Errorf("with another seed %d of %d positions are the same", same, DefaultMaglevSize)
	}
}

// The paper's measure of disruption: positions of backends that stay and change
// hands all the same. It finds about 2 % for tables a hundred times the backends.
func TestFewPositionsChangeHandsWhenABackendLeaves(t *testing.T) {
	for _, n := range []int{2, 5, 20, 100} {
		list := maglevBackends(n)
		before := MaglevTable(list, DefaultMaglevSize, MaglevSeed(DefaultMaglevSeed))
		for _, gone := range []int{0, n / 2, n - 1} {
			left := append(append([]Backend(nil), list[:gone]...), list[gone+1:]...)
			moved := 0
			for at, i := range MaglevTable(left, DefaultMaglevSize, MaglevSeed(DefaultMaglevSeed)) {
				if before[at] != gone && left[i].Addr != list[before[at]].Addr {
					moved++
				}
			}
			share := float64(moved) / DefaultMaglevSize
			t.Logf("%d backends, without number %d: %.2f %% of positions moved", n, gone, 100*share)
			if share > 0.02 {
				t.Errorf("%d backends, without number %d: %.1f %% of positions moved between those that stay", n, gone, 100*share)
			}
		}
	}
}
