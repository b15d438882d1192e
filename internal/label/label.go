// SPDX-License-Identifier: Apache-2.0

// Package label holds labels with the source that vouches for them, such as k8s:app=curl.
package label

import (
	"cmp"
	"slices"
	"strings"
)

// Sources of labels.
const (
	SourceK8s       = "k8s"
	SourceReserved  = "reserved"
	SourceCIDR      = "cidr"
	SourceCIDRGroup = "cidrgroup"
	SourceFQDN      = "fqdn"
	SourceNode      = "node"
	SourceAny       = "any" // in selectors only: whatever the source
)

// Keys of labels that are derived from a pod's surroundings; source k8s.
const (
	KeyNamespace       = "io.kubernetes.pod.namespace"
	KeyCluster         = "io.cilium.k8s.policy.cluster"
	KeyServiceAccount  = "io.cilium.k8s.policy.serviceaccount"
	PrefixNamespaceKey = "io.cilium.k8s.namespace.labels." // followed by the namespace's label key
)

// Label is a key and a value with the source that vouches for them.
type Label struct{ Source, Key, Value string }

// String gives source:key=value, without "=" where there is no value.
func (l Label) String() string {
	if l.Value == "" {
		return l.Source + ":" + l.Key
	}
	return l.Source + ":" + l.Key + "=" + l.Value
}

// Parse reads source:key=value. Without a source it is SourceAny.
func Parse(s string) Label {
	var l Label
	key, value, _ := strings.Cut(s, "=")
	if source, rest, ok := strings.Cut(key, ":"); ok {
		l.Source, key = source, rest
	} else {
		l.Source = SourceAny
	}
	l.Key, l.Value = key, value
	return l
}

// Set is a list of labels in order of source and key, without duplicates; make it with NewSet.
type Set []Label

// NewSet sorts labels and drops duplicates of (source, key), of which the last wins.
func NewSet(labels ...Label) Set {
	s := slices.Clone(labels)
	slices.SortStableFunc(s, compare)
	out := s[:0]
	for i, l := range s {
		if i+1 < len(s) && compare(l, s[i+1]) == 0 {
			continue
		}
		out = append(out, l)
	}
	return Set(out)
}

func compare(a, b Label) int {
	return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Key, b.Key))
}

// ParseSet reads a list of source:key=value.
func ParseSet(labels []string) Set {
	out := make([]Label, 0, len(labels))
	for _, s := range labels {
		out = append(out, Parse(s))
	}
	return NewSet(out...)
}

// Get returns the value of a key from the source; SourceAny takes the first source that has it.
func (s Set) Get(source, key string) (string, bool) {
	for _, l := range s {
		if l.Key == key && (source == SourceAny || l.Source == source) {
			return l.Value, true
		}
	}
	return "", false
}

// Strings gives every label as source:key=value, in the set's order.
func (s Set) Strings() []string {
	out := make([]string, len(s))
	for i, l := range s {
		out[i] = l.String()
	}
	return out
}

// Key is equal for equal sets and for no others.
func (s Set) Key() string { return strings.Join(s.Strings(), ";") + ";" }
