// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/k8s"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/policy/report"
	"github.com/stentor-net/stentor/internal/table"
)

// enforcement finds out which nodes have which policies in force, from their
// reports. A digest that is the same as that of a view of the operator's tells
// that the node has this view in force; of a node whose digest is none of them
// the last view that it had counts, since a policy that is still the same since
// then is still in force there.
type enforcement struct {
	seen  map[policy.Kind][]snapshot          // views, the oldest first
	nodes map[string]map[policy.Kind]snapshot // what each node had in force last
}

// snapshot is all objects of one kind at one moment.
type snapshot struct {
	digest  report.Digest
	objects map[string]version // by key; shared, never changed
}

type version struct {
	uid        string
	generation int64
}

// viewsKept is how many views of each kind are remembered. An agent that is
// further behind counts with what it had.
const viewsKept = 64

func newEnforcement() *enforcement {
	return &enforcement{seen: map[policy.Kind][]snapshot{}, nodes: map[string]map[policy.Kind]snapshot{}}
}

// look takes over the objects as they are now, and what nodes reported.
func (e *enforcement) look(objects table.Snapshot[policy.Object], reports table.Snapshot[k8s.NodeReport]) {
	views := map[policy.Kind]snapshot{}
	for kind := range e.seen {
		views[kind] = snapshot{objects: map[string]version{}}
	}
	for key, o := range objects.All() {
		v, ok := views[o.Kind]
		if !ok {
			v.objects = map[string]version{}
		}
		v.digest = v.digest.Add(key, o.UID, o.Generation)
		v.objects[key] = version{o.UID, o.Generation}
		views[o.Kind] = v
	}
	for kind, v := range views {
		list := e.seen[kind]
		if n := len(list); n > 0 && list[n-1].digest == v.digest {
			continue
		}
		list = append(list, v)
		e.seen[kind] = slices.Clone(list[max(0, len(list)-viewsKept):])
	}
	for node := range e.nodes {
		if _, ok := reports.Get(node); !ok {
			delete(e.nodes, node)
		}
	}
	for node, r := range reports.All() {
		if e.nodes[node] == nil {
			e.nodes[node] = map[policy.Kind]snapshot{}
		}
		for kind, list := range e.seen {
			for i := len(list) - 1; i >= 0; i-- {
				if list[i].digest == r.Report.Kinds[kind] {
					e.nodes[node][kind] = list[i]
					break
				}
			}
		}
	}
}

// has tells whether a node has the object, as it is, in force.
func (e *enforcement) has(node string, o *policy.Object) bool {
	v, ok := e.nodes[node][o.Kind].objects[o.Key()]
	return ok && v.uid == o.UID && v.generation == o.Generation
}

// state is what all nodes together say about an object.
type state struct {
	known   int      // nodes that have judged it as it is now
	missing []string // nodes that have not
	invalid map[string][]string
	notes   map[string][]string // by text: nodes that say so
	untold  bool                // some node has more to say than a report holds
}

// about gathers what the nodes say about an object.
func (e *enforcement) about(o *policy.Object, nodes []string, reports table.Snapshot[k8s.NodeReport]) state {
	s := state{invalid: map[string][]string{}, notes: map[string][]string{}}
	key := o.Key()
	for _, node := range nodes {
		if !e.has(node, o) {
			s.missing = append(s.missing, node)
			continue
		}
		s.known++
		r, _ := reports.Get(node)
		i := slices.IndexFunc(r.Report.Notes, func(n report.Note) bool {
			return n.Key == key && n.UID == o.UID && n.Generation == o.Generation
		})
		switch {
		case i < 0:
			s.untold = s.untold || r.Report.More > 0
		case r.Report.Notes[i].Valid:
			s.notes[r.Report.Notes[i].Reason] = append(s.notes[r.Report.Notes[i].Reason], node)
		default:
			s.invalid[r.Report.Notes[i].Reason] = append(s.invalid[r.Report.Notes[i].Reason], node)
		}
	}
	return s
}

// Conditions of a policy.
const (
	conditionValid    = ciliumv2.PolicyConditionValid
	conditionEnforced = ciliumv2.PolicyConditionEnforced
)

// conditions are what the object's status should say.
func (s *state) conditions() []ciliumv2.PolicyCondition {
	valid := ciliumv2.PolicyCondition{Type: conditionValid, Status: "True", Reason: "PolicyValid", Message: s.text(s.notes)}
	switch {
	case s.known == 0:
		valid.Status, valid.Reason, valid.Message = "Unknown", "NoReport", "no node has judged this policy yet"
	case len(s.invalid) > 0:
		valid.Status, valid.Reason, valid.Message = "False", "PolicyInvalid", s.text(s.invalid)
	case s.untold && valid.Message == "":
		valid.Status, valid.Reason = "Unknown", "TooManyNotes"
		valid.Message = "nodes have more to say about policies than a report holds: see stentor policy get"
	}
	all := s.known + len(s.missing)
	enforced := ciliumv2.PolicyCondition{Type: conditionEnforced, Status: "True", Reason: "AllNodes", Message: fmt.Sprintf("in force on %d of %d nodes", s.known, all)}
	switch {
	case len(s.invalid) > 0:
		enforced.Status, enforced.Reason = "False", "Quarantined"
		enforced.Message = fmt.Sprintf("set aside on %d of %d nodes", countNodes(s.invalid), all)
	case len(s.missing) > 0:
		enforced.Status, enforced.Reason = "False", "SomeNodes"
		enforced.Message += ", not on " + listed(s.missing)
	case all == 0:
		enforced.Status, enforced.Reason = "False", "NoNodes"
	}
	return []ciliumv2.PolicyCondition{valid, enforced}
}

// text writes what nodes say; which of them only where they differ.
func (s *state) text(said map[string][]string) string {
	var parts []string
	for _, text := range slices.Sorted(maps.Keys(said)) {
		if nodes := said[text]; len(nodes) == s.known {
			parts = append(parts, text)
		} else {
			parts = append(parts, listed(nodes)+": "+text)
		}
	}
	return strings.Join(parts, "; ")
}

func countNodes(said map[string][]string) int {
	all := map[string]bool{}
	for _, nodes := range said {
		for _, n := range nodes {
			all[n] = true
		}
	}
	return len(all)
}

// listed names the first of a list that may be long.
func listed(names []string) string {
	const shown = 3
	if n := len(names); n > shown {
		return strings.Join(names[:shown], ", ") + fmt.Sprintf(" and %d more", n-shown)
	}
	return strings.Join(names, ", ")
}

// pace decides when a status is written: at once when it has settled, later
// while nodes are still at it, and seldom if only the number of nodes changed.
type pace struct {
	settle  time.Duration // how long nodes get to take over a new version
	refresh time.Duration // between writes that only change a number
}

// told is what was written about an object.
type told struct {
	version version
	status  [2]string // of both conditions
	text    string
	since   time.Time // when this version was seen first
	written time.Time
	warned  string
}

// due tells whether to write now, or when to look again; zero: nothing to write.
func (p pace) due(t *told, want []ciliumv2.PolicyCondition, now time.Time) (bool, time.Duration) {
	text := textOf(want)
	status := [2]string{want[0].Status, want[1].Status}
	switch {
	case text == t.text:
		return false, 0
	case status[1] == "False" && want[1].Reason != "Quarantined" && now.Sub(t.since) < p.settle:
		return false, p.settle - now.Sub(t.since)
	case t.text != "" && status == t.status && now.Sub(t.written) < p.refresh:
		return false, p.refresh - now.Sub(t.written)
	}
	return true, 0
}

func textOf(list []ciliumv2.PolicyCondition) string {
	var parts []string
	for _, c := range list {
		parts = append(parts, c.Type, c.Status, c.Reason, c.Message)
	}
	return strings.Join(parts, "\x00")
}
