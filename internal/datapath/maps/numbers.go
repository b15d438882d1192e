// SPDX-License-Identifier: Apache-2.0

package maps

// numbers gives out rows of an array one by one, in turn, so that a number rests
// long before it comes back. 0 means none.
type numbers struct {
	used []bool
	last uint32
}

func newNumbers(size uint32) *numbers {
	n := &numbers{used: make([]bool, size)}
	n.used[0] = true
	return n
}

func (n *numbers) take() (uint32, bool) {
	for i := range uint32(len(n.used)) {
		k := (n.last + 1 + i) % uint32(len(n.used))
		if !n.used[k] {
			n.used[k], n.last = true, k
			return k, true
		}
	}
	return 0, false
}

func (n *numbers) put(k uint32) {
	if k != 0 && int(k) < len(n.used) {
		n.used[k] = false
	}
}

// adopt marks a number that was found in the kernel.
func (n *numbers) adopt(k uint32) {
	if int(k) < len(n.used) {
		n.used[k] = true
		n.last = max(n.last, k)
	}
}

func (n *numbers) grow(size uint32) {
	n.used = append(n.used, make([]bool, int(size)-len(n.used))...)
}
