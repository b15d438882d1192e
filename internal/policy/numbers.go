// SPDX-License-Identifier: Apache-2.0

package policy

// numbers gives out the numbers of peers, classes or slots. One that is freed
// rests until a grace period is over, since a program may still be reading it.
type numbers struct {
	first uint32
	state []numberState
	hint  uint32
	rests int
}

type numberState uint8

const (
	numberFree numberState = iota
	numberUsed
	numberResting
)

func newNumbers(first, max uint32) *numbers {
	return &numbers{first: first, state: make([]numberState, max), hint: first}
}

// use marks a number that is known to be in use.
func (n *numbers) use(i uint32) {
	if int(i) < len(n.state) && i >= n.first {
		if n.state[i] == numberResting {
			n.rests--
		}
		n.state[i] = numberUsed
	}
}

// take gives a free number, or none.
func (n *numbers) take() (uint32, bool) {
	size := uint32(len(n.state))
	for range size - n.first {
		i := n.hint
		if n.hint++; n.hint >= size {
			n.hint = n.first
		}
		if n.state[i] == numberFree {
			n.state[i] = numberUsed
			return i, true
		}
	}
	return 0, false
}

// release lets a number rest.
func (n *numbers) release(i uint32) {
	if int(i) < len(n.state) && i >= n.first && n.state[i] == numberUsed {
		n.state[i] = numberResting
		n.rests++
	}
}

// wake frees all that rest: a grace period is over.
func (n *numbers) wake() {
	if n.rests == 0 {
		return
	}
	for i := range n.state {
		if n.state[i] == numberResting {
			n.state[i] = numberFree
		}
	}
	n.rests = 0
	n.hint = n.first
}

// keepOnly releases every used number that is not in the set.
func (n *numbers) keepOnly(in []bool) {
	for i := n.first; int(i) < len(n.state); i++ {
		if n.state[i] == numberUsed && !in[i] {
			n.release(i)
		}
	}
}
