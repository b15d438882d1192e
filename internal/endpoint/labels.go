// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/stentor-net/stentor/internal/label"
)

// Filter decides which labels of a pod count for its identity. Labels that
// differ from pod to pod would make an identity for each of them.
type Filter struct {
	include, exclude []rule
}

type rule struct {
	source string // label.SourceAny: every source
	key    *regexp.Regexp
}

// What counts although a rule of defaultExclude matches it.
var defaultInclude = []string{
	`io\.kubernetes\.pod\.namespace`,
	`io\.cilium\.k8s\.namespace\.labels`,
	`io\.cilium\.k8s\.policy\.cluster`,
	`io\.cilium\.k8s\.policy\.serviceaccount`,
	`app\.kubernetes\.io`,
}

// What a controller or a tool puts on each pod, revision or machine.
var defaultExclude = []string{
	`io\.kubernetes`,
	`kubernetes\.io`,
	`.*beta\.kubernetes\.io`,
	`k8s\.io`,
	`statefulset\.kubernetes\.io/pod-name`,
	`apps\.kubernetes\.io/pod-index`,
	`batch\.kubernetes\.io/job-completion-index`,
	`batch\.kubernetes\.io/controller-uid`,
	`pod-template-generation`,
	`pod-template-hash`,
	`controller-revision-hash`,
	`controller-uid`,
	`annotation.*`,
	`etcd_node`,
}

// NewFilter reads the option `labels`: a list of key prefixes, as regular
// expressions, separated by blanks; "!" in front excludes, "source:" in front
// limits to a source. Anything included by name makes all the rest excluded,
// except the labels that policy always needs.
func NewFilter(option string) (Filter, error) {
	var f Filter
	add := func(list *[]rule, text string) error {
		r := rule{source: label.SourceAny}
		if source, rest, ok := strings.Cut(text, ":"); ok {
			r.source, text = source, rest
		}
		var err error
		if r.key, err = regexp.Compile("^(?:" + text + ")"); err != nil {
			return fmt.Errorf("label pattern %q: %w", text, err)
		}
		*list = append(*list, r)
		return nil
	}
	own := false
	for _, text := range strings.Fields(option) {
		rest, negative := strings.CutPrefix(text, "!")
		list := &f.include
		if negative {
			list = &f.exclude
		} else {
			own = true
		}
		if err := add(list, rest); err != nil {
			return Filter{}, err
		}
	}
	for _, text := range defaultInclude {
		if err := add(&f.include, text); err != nil {
			return Filter{}, err
		}
	}
	defaults := defaultExclude
	if own {
		defaults = []string{""} // everything else
	}
	for _, text := range defaults {
		if err := add(&f.exclude, text); err != nil {
			return Filter{}, err
		}
	}
	return f, nil
}

// Counts tells whether a label is part of the identity. Own rules come before
// the defaults; the first list to match is the one that includes.
func (f Filter) Counts(l label.Label) bool {
	for _, r := range f.include {
		if r.matches(l) {
			return true
		}
	}
	for _, r := range f.exclude {
		if r.matches(l) {
			return false
		}
	}
	return true
}

func (r rule) matches(l label.Label) bool {
	return (r.source == label.SourceAny || r.source == l.Source) && r.key.MatchString(l.Key)
}

// IdentityLabels are the labels that number a pod: its own, those of its
// namespace, its service account and its cluster, as far as they count.
func IdentityLabels(p Pod, namespace map[string]string, cluster string, f Filter) label.Set {
	all := make([]label.Label, 0, len(p.Labels)+len(namespace)+3)
	add := func(key, value string) {
		if l := (label.Label{Source: label.SourceK8s, Key: key, Value: value}); f.Counts(l) {
			all = append(all, l)
		}
	}
	for k, v := range p.Labels {
		add(k, v)
	}
	for k, v := range namespace {
		add(label.PrefixNamespaceKey+k, v)
	}
	add(label.KeyNamespace, p.Namespace)
	add(label.KeyCluster, cluster)
	if p.ServiceAccount != "" {
		add(label.KeyServiceAccount, p.ServiceAccount)
	}
	return label.NewSet(all...)
}
