// SPDX-License-Identifier: Apache-2.0

package l7

import (
	"slices"
	"strings"
	"sync/atomic"
)

// Book holds the compiled rules of a node. The zero value is empty: it allows
// nothing. Readers never wait.
type Book struct {
	pages atomic.Pointer[map[uint32]page]
}

type page struct {
	set     *Set
	lines   []string
	problem string
}

// Set gives the rules of a number, or nil if they are not known.
func (b *Book) Set(number uint32) *Set {
	if m := b.pages.Load(); m != nil {
		return (*m)[number].set
	}
	return nil
}

// Replace puts other rules in the place of all; one caller at a time. Rules that
// it knows already are not compiled again, unless they had a problem.
func (b *Book) Replace(sources []Source, secrets Secrets) (problems []Problem) {
	old := map[uint32]page{}
	if m := b.pages.Load(); m != nil {
		old = *m
	}
	next := make(map[uint32]page, len(sources))
	for _, s := range sources {
		have, ok := old[s.Number]
		if !ok || have.problem != "" || !slices.Equal(have.lines, s.Lines) {
			set, err := Compile(s.Number, s.Lines, secrets)
			have = page{set: set, lines: s.Lines}
			if err != nil {
				have.problem = strings.ReplaceAll(err.Error(), "\n", "; ")
			}
		}
		if have.problem != "" {
			problems = append(problems, Problem{Number: s.Number, Reason: have.problem})
		}
		next[s.Number] = have
	}
	b.pages.Store(&next)
	return problems
}
