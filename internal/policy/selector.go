// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/label"
)

// operator relates the label of a requirement to its values.
type operator uint8

const (
	opIn operator = iota
	opNotIn
	opExists
	opNotExists
)

// requirement is one condition on the labels of a peer or a subject.
type requirement struct {
	source string // label.SourceAny: whatever the source
	key    string
	op     operator
	values []string
}

// matches tells whether the labels meet the requirement. As in Kubernetes, a
// label that is absent meets opNotIn.
func (r *requirement) matches(set label.Set) bool {
	found := false
	for i := range set {
		if set[i].Key != r.key || (r.source != label.SourceAny && set[i].Source != r.source) {
			continue
		}
		found = true
		if (r.op == opIn || r.op == opNotIn) && slices.Contains(r.values, set[i].Value) {
			return r.op == opIn
		}
	}
	switch r.op {
	case opIn:
		return false
	case opNotIn:
		return true
	case opExists:
		return found
	}
	return !found
}

func (r *requirement) String() string {
	return fmt.Sprintf("%s:%s %d %q", r.source, r.key, r.op, r.values)
}

// term is a conjunction of requirements.
type term []requirement

func (t term) matches(set label.Set) bool {
	for i := range t {
		if !t[i].matches(set) {
			return false
		}
	}
	return true
}

func (t term) has(key string) bool {
	return slices.ContainsFunc(t, func(r requirement) bool { return r.key == key })
}

func (t term) hasPrefix(prefix string) bool {
	return slices.ContainsFunc(t, func(r requirement) bool { return strings.HasPrefix(r.key, prefix) })
}

func (t term) hasSource(source string) bool {
	return slices.ContainsFunc(t, func(r requirement) bool { return r.source == source })
}

// asks tells whether only sets with a label of the source can match.
func (t term) asks(source string) bool {
	return slices.ContainsFunc(t, func(r requirement) bool {
		return r.source == source && (r.op == opIn || r.op == opExists)
	})
}

// wants tells whether only sets with the label can match.
func (t term) wants(source, key string) bool {
	return slices.ContainsFunc(t, func(r requirement) bool {
		return r.source == source && r.key == key && (r.op == opIn || r.op == opExists)
	})
}

// canonical is equal for equal terms, whatever the order of their requirements.
func (t term) canonical() string {
	parts := make([]string, len(t))
	for i := range t {
		parts[i] = t[i].String()
	}
	slices.Sort(parts)
	return strings.Join(slices.Compact(parts), "&")
}

// cidrRange is a prefix without the prefixes cut out of it.
type cidrRange struct {
	prefix netip.Prefix
	except []netip.Prefix
}

// portName is a named port with one of the numbers that pods give it.
type portName struct {
	name     string
	protocol uint8
	number   uint16
	loose    bool // peers that are not pods have every named port
}

// selector picks peers: by labels (any of its terms), by address (any of its
// ranges) or by a named port. Selectors are interned by key.
type selector struct {
	key     string
	any     bool // every peer, also those nobody knows
	cluster bool // surely matches every pod of this cluster
	terms   []term
	ranges  []cidrRange
	k8s     bool // ranges with the Kubernetes meaning: they match pods and nodes, too
	port    *portName

	unplaced bool
}

// unplaced picks peers that are known by identity alone. What an address would
// have to tell about them, a deny takes as told.
var unplaced = &selector{key: "unplaced", unplaced: true}

var anyPeer = &selector{key: "any", any: true}

// labelSelector makes a selector of alternatives.
func labelSelector(terms ...term) *selector {
	keys := make([]string, len(terms))
	for i, t := range terms {
		keys[i] = t.canonical()
	}
	slices.Sort(keys)
	return &selector{key: "labels " + strings.Join(keys, " | "), terms: terms}
}

func rangeSelector(ranges []cidrRange, k8s bool) *selector {
	keys := make([]string, len(ranges))
	for i, r := range ranges {
		keys[i] = fmt.Sprint(r.prefix, r.except)
	}
	slices.Sort(keys)
	kind := "cidr "
	if k8s {
		kind = "ipblock "
	}
	return &selector{key: kind + strings.Join(keys, " "), ranges: ranges, k8s: k8s}
}

func portSelector(p portName) *selector {
	return &selector{key: fmt.Sprintf("port %s/%d=%d %t", p.name, p.protocol, p.number, p.loose), port: &p}
}

// byAddress tells whether two addresses of one identity can differ for the selector.
func (s *selector) byAddress() bool { return s.ranges != nil || s.port != nil || s.unplaced }

// matches judges by labels alone.
func (s *selector) matches(set label.Set) bool {
	if s.any {
		return true
	}
	return slices.ContainsFunc(s.terms, func(t term) bool { return t.matches(set) })
}
