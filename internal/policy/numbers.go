// SPDX-License-Identifier: Apache-2.0

package policy

// numbers gives out the numbers of peers, classes or slots. One that is freed
// rests until a grace period is over, since a program may still be reading it.
type numbers struct {
	first   uint32
	state   []numberState
	next    uint32   // all from here on were never taken
	free    []uint32 // taken before and rested; the last goes first
	resting []uint32
	count   int // in use
}

type numberState uint8

const (
	numberFree numberState = iota
	numberUsed
	numberResting
)

func newNumbers(first, max uint32) *numbers {
	return &numbers{first: first, state: make([]numberState, max), next: first}
}

// use marks a number that is known to be in use, before any is given out.
func (n *numbers) use(i uint32) {
	if int(i) < len(n.state) && i >= n.first && n.state[i] == numberFree {
		n.state[i] = numberUsed
		n.count++
	}
}

// take gives a free number, or none.
func (n *numbers) take() (uint32, bool) {
	for len(n.free) > 0 {
		i := n.free[len(n.free)-1]
		n.free = n.free[:len(n.free)-1]
		if n.state[i] == numberFree {
			n.state[i] = numberUsed
			n.count++
			return i, true
		}
	}
	for ; int(n.next) < len(n.state); n.next++ {
		if n.state[n.next] == numberFree {
			n.state[n.next] = numberUsed
			n.count++
			n.next++
			return n.next - 1, true
		}
	}
	return 0, false
}

// any tells whether take can give a number, now or after a grace period.
func (n *numbers) any() bool {
	return len(n.free) > 0 || len(n.resting) > 0 || int(n.next) < len(n.state)
}

// used tells whether a number is given out.
func (n *numbers) used(i uint32) bool {
	return int(i) < len(n.state) && n.state[i] == numberUsed
}

// release lets a number rest.
func (n *numbers) release(i uint32) {
	if i >= n.first && n.used(i) {
		n.state[i] = numberResting
		n.count--
		n.resting = append(n.resting, i)
	}
}

// wake frees all that rest: a grace period is over.
func (n *numbers) wake() {
	for k := len(n.resting) - 1; k >= 0; k-- {
		n.state[n.resting[k]] = numberFree
		n.free = append(n.free, n.resting[k])
	}
	n.resting = n.resting[:0]
}
