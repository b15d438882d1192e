// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/l7"
)

// set is an answer: complete rows for protocols and ports.
type set struct {
	rows    []SetRow
	content string
	serial  uint32
	number  uint16 // in the kernel; 0: none yet, or SetDeny
	special bool   // ends the lookup at the cell
	refs    int    // cells
}

// sets are all answers, interned by content. They have a number while cells
// point to them.
type sets struct {
	l7        l7Table
	folded    map[string]*set // by what is folded
	byContent map[string]*set
	byNumber  [SetsMax]*set
	serial    uint32
	idle      []*set // that no cell may point to
	fresh     []*set // numbered in this change
	rows      int    // of those with a number
	numbered  int
	hint      uint32
	lacking   bool // some slot lacks a set
	freed     bool // since then
	short     error
}

func newSets() *sets {
	return &sets{folded: map[string]*set{}, byContent: map[string]*set{}, hint: SetFirst}
}

// adopt takes over a set of the kernel.
func (x *sets) adopt(n uint16, rows []SetRow) {
	s := x.intern(rows)
	if s.number == 0 && !s.special {
		s.number = n
	} else {
		x.serial++
		s = &set{rows: rows, serial: x.serial, number: n} // the kernel has it twice
	}
	x.byNumber[n] = s
	x.idle = append(x.idle, s)
	x.rows += len(rows)
	x.numbered++
}

func (x *sets) intern(rows []SetRow) *set {
	c := content(rows)
	s := x.byContent[c]
	if s == nil {
		x.serial++
		s = &set{rows: rows, content: c, serial: x.serial}
		if n, ok := special(rows); ok {
			s.number, s.special = n, true
		}
		x.byContent[c] = s
	}
	return s
}

// fold gives the set that the items of a slot fold to.
func (x *sets) fold(s *slot, items []*item) *set {
	keys := make([]string, len(items))
	for i, it := range items {
		keys[i] = it.key()
	}
	slices.Sort(keys)
	key := fmt.Sprint(s.base, " ") + strings.Join(slices.Compact(keys), "\n")
	have := x.folded[key]
	if have == nil {
		have = x.intern(fold(items, s.base, &x.l7))
		x.folded[key] = have
	}
	return have
}

// number gives the number of a set, a new one if it has none; without any left
// what is asked there is denied.
func (x *sets) number(s *slot, want *set) uint16 {
	if want.special || want.number != 0 {
		return want.number
	}
	if x.rows+len(want.rows) > SetRowMax {
		x.short = fmt.Errorf("more than %d set rows: what does not fit is denied", SetRowMax)
	} else if x.numbered >= SetsMax-SetFirst {
		x.short = fmt.Errorf("more than %d sets: what does not fit is denied", SetsMax-SetFirst)
	} else {
		for x.byNumber[x.hint] != nil {
			x.turn()
		}
		want.number = uint16(x.hint)
		x.byNumber[x.hint] = want
		x.turn()
		x.rows += len(want.rows)
		x.numbered++
		x.idle, x.fresh = append(x.idle, want), append(x.fresh, want)
		return want.number
	}
	s.lacking, x.lacking = true, true
	return SetDeny
}

// turn goes to the next number, so that one that is free again rests longest.
func (x *sets) turn() {
	if x.hint++; x.hint >= SetsMax {
		x.hint = SetFirst
	}
}

// count changes how many cells point to the sets of a row.
func (x *sets) count(r *row, more int) {
	for _, n := range r.cells {
		if n >= SetFirst {
			x.countOne(n, more)
		}
	}
}

func (x *sets) countOne(n uint16, more int) {
	if s := x.byNumber[n]; s != nil {
		if s.refs += more; s.refs == 0 {
			x.idle = append(x.idle, s)
		}
	}
}

// put stores a cell of a row whose sets are counted.
func (x *sets) put(r *row, slot, set uint16) {
	if old := r.cells[slot]; old != set {
		r.put(slot, set)
		x.countOne(set, 1)
		x.countOne(old, -1)
	}
}

// dead gives the sets that no cell points to, in order of number.
func (x *sets) dead() (out []*set) {
	for _, s := range x.idle {
		if s.refs == 0 && s.number != 0 && !slices.Contains(out[max(0, len(out)-1):], s) {
			out = append(out, s)
		}
	}
	x.idle = x.idle[:0]
	slices.SortFunc(out, func(a, b *set) int { return int(a.number) - int(b.number) })
	return slices.Compact(out)
}

// free takes the number of a set away.
func (x *sets) free(s *set) {
	x.byNumber[s.number] = nil
	x.rows -= len(s.rows)
	x.numbered--
	x.freed = true
	s.number = 0
}

// crowded tells whether far more answers are remembered than are in use.
func (x *sets) crowded() bool {
	const spare = 1 << 13
	return len(x.folded)+len(x.byContent) > 4*x.numbered+spare
}

// forget drops the answers that are not in use.
func (x *sets) forget() {
	clear(x.folded)
	for k, s := range x.byContent {
		if s.number == 0 && !s.special {
			delete(x.byContent, k)
		}
	}
}

// L7 gives the L7 rules that rows of the kernel's sets name, in order of number.
func (e *Engine) L7() []l7.Source {
	if len(e.sets.l7.lines) == 0 {
		return nil // most clusters have none, and there are many sets to look through
	}
	named := map[uint32]bool{}
	for _, s := range e.sets.byNumber {
		if s == nil {
			continue
		}
		for i := range s.rows {
			if s.rows[i].Verdict == Redirect {
				named[s.rows[i].L7] = true
			}
		}
	}
	var out []l7.Source
	for _, n := range slices.Sorted(maps.Keys(named)) {
		if lines := e.sets.l7.lines[n]; lines != nil {
			out = append(out, l7.Source{Number: n, Lines: lines})
		}
	}
	return out
}
