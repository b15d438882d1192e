// SPDX-License-Identifier: Apache-2.0

package l7

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
)

// maxWords is how many literals an expression may stand for to be matched
// without a regular expression.
const maxWords = 16

// pattern is an expression that must match a whole text. Texts hold no line
// breaks: "." matches all of them. The zero value matches everything.
type pattern struct {
	kind  patternKind
	words []string // exact: one of them; prefix: one of them begins it
	more  int      // prefix: at least so many bytes follow
	fold  bool     // letters of either case
	re    *regexp.Regexp
}

type patternKind uint8

const (
	matchAll patternKind = iota
	matchExact
	matchPrefix
	matchExpression
)

// compilePattern reads an expression: RE2, which holds what POSIX extended
// expressions can say. Empty matches everything.
func compilePattern(expression string, fold bool) (pattern, error) {
	if expression == "" {
		return pattern{}, nil
	}
	flags := syntax.Perl
	if fold {
		flags |= syntax.FoldCase
	}
	tree, err := syntax.Parse(expression, flags)
	if err != nil {
		return pattern{}, fmt.Errorf("%q: %w", expression, err)
	}
	p := pattern{fold: fold}
	if p.plain(expression) {
		return p, nil
	}
	// Written anew from the tree, so that no quote or bracket of the text reaches the anchors.
	if p.re, err = regexp.Compile(`\A(?:` + tree.String() + `)\z`); err != nil {
		return pattern{}, fmt.Errorf("%q: %w", expression, err)
	}
	p.kind = matchExpression
	return p, nil
}

// plain finds expressions that are a few words, or a few words and then anything.
func (p *pattern) plain(expression string) bool {
	tree, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return false
	}
	parts := unanchored(flatten(tree, nil))
	p.kind = matchExact
	if n := len(parts); n > 0 {
		if more, ok := anything(parts[n-1]); ok {
			p.kind, p.more, parts = matchPrefix, more, parts[:n-1]
		}
	}
	p.words = []string{""}
	for _, part := range parts {
		next, ok := spell(part)
		if !ok || len(next)*len(p.words) > maxWords {
			return false
		}
		p.words = product(p.words, next)
	}
	slices.Sort(p.words)
	p.words = slices.Compact(p.words)
	if p.kind == matchPrefix && p.more == 0 && slices.Contains(p.words, "") {
		*p = pattern{}
	}
	return true
}

// flatten gives the parts of nested concatenations and groups in order.
func flatten(tree *syntax.Regexp, parts []*syntax.Regexp) []*syntax.Regexp {
	switch tree.Op {
	case syntax.OpCapture, syntax.OpConcat:
		for _, sub := range tree.Sub {
			parts = flatten(sub, parts)
		}
		return parts
	}
	return append(parts, tree)
}

// unanchored cuts off anchors that say what holds anyway.
func unanchored(parts []*syntax.Regexp) []*syntax.Regexp {
	for len(parts) > 0 && parts[0].Op == syntax.OpBeginText {
		parts = parts[1:]
	}
	for len(parts) > 0 && parts[len(parts)-1].Op == syntax.OpEndText {
		parts = parts[:len(parts)-1]
	}
	return parts
}

// anything tells whether a part matches every text of at least so many bytes.
func anything(part *syntax.Regexp) (more int, ok bool) {
	for part.Op == syntax.OpCapture {
		part = part.Sub[0]
	}
	switch part.Op {
	case syntax.OpPlus:
		more = 1
	case syntax.OpStar:
	default:
		return 0, false
	}
	op := part.Sub[0].Op
	return more, op == syntax.OpAnyChar || op == syntax.OpAnyCharNotNL
}

// spell lists the words that a part stands for, if they are few.
func spell(part *syntax.Regexp) ([]string, bool) {
	switch part.Op {
	case syntax.OpEmptyMatch:
		return []string{""}, true
	case syntax.OpLiteral:
		return []string{string(part.Rune)}, part.Flags&syntax.FoldCase == 0
	case syntax.OpCharClass:
		return spellClass(part.Rune)
	case syntax.OpCapture:
		return spell(part.Sub[0])
	case syntax.OpQuest:
		words, ok := spell(part.Sub[0])
		return append(words, ""), ok
	case syntax.OpConcat:
		words := []string{""}
		for _, sub := range part.Sub {
			next, ok := spell(sub)
			if !ok || len(next)*len(words) > maxWords {
				return nil, false
			}
			words = product(words, next)
		}
		return words, true
	case syntax.OpAlternate:
		var words []string
		for _, sub := range part.Sub {
			next, ok := spell(sub)
			if words = append(words, next...); !ok || len(words) > maxWords {
				return nil, false
			}
		}
		return words, true
	}
	return nil, false
}

func spellClass(ranges []rune) (words []string, ok bool) {
	for i := 0; i < len(ranges); i += 2 {
		if ranges[i+1]-ranges[i] >= maxWords || len(words) > maxWords {
			return nil, false
		}
		for r := ranges[i]; r <= ranges[i+1]; r++ {
			words = append(words, string(r))
		}
	}
	return words, true
}

func product(first, second []string) []string {
	out := make([]string, 0, len(first)*len(second))
	for _, a := range first {
		for _, b := range second {
			out = append(out, a+b)
		}
	}
	return out
}

// match tells whether the whole text matches. It does not allocate.
func (p *pattern) match(text []byte) bool {
	switch p.kind {
	case matchAll:
		return true
	case matchExpression:
		return p.re.Match(text)
	}
	for _, w := range p.words {
		head := text
		if p.kind == matchPrefix {
			if len(text) < len(w)+p.more {
				continue
			}
			head = text[:len(w)]
		}
		if string(head) == w || p.fold && equalFold(head, w) {
			return true
		}
	}
	return false
}
