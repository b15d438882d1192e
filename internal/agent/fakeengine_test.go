// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"maps"
	"slices"
	"sync/atomic"

	"github.com/stentor-net/stentor/internal/l7"
	"github.com/stentor-net/stentor/internal/policy"
)

// fakeEngine gives every endpoint its row, only when it differs, as the real one does.
type fakeEngine struct {
	subjects map[uint16]policy.Subject
	objects  map[string]policy.Object
	rows     map[uint16]policy.EndpointRow
	audited  *atomic.Int32
}

func (e *fakeEngine) L7() []l7.Source { return nil }

func (e *fakeEngine) Update(in policy.Input) policy.Outcome {
	e.subjects, e.objects = map[uint16]policy.Subject{}, map[string]policy.Object{}
	return e.Apply(policy.Delta{Subjects: in.Subjects, Objects: in.Objects})
}

func (e *fakeEngine) Apply(d policy.Delta) policy.Outcome {
	for _, id := range d.SubjectsGone {
		delete(e.subjects, id)
	}
	for _, s := range d.Subjects {
		e.subjects[s.Endpoint] = s
	}
	for _, key := range d.ObjectsGone {
		delete(e.objects, key)
	}
	for _, o := range d.Objects {
		e.objects[o.Key()] = o
	}
	out := policy.Outcome{Revision: 1, Endpoints: map[uint16]policy.SubjectOutcome{}}
	for _, key := range slices.Sorted(maps.Keys(e.objects)) {
		o := e.objects[key]
		out.Objects = append(out.Objects, policy.ObjectStatus{Key: key, Valid: o.Err == "", Reason: o.Err})
	}
	next := map[uint16]policy.EndpointRow{}
	audited := int32(0)
	defer func() { e.audited.Store(audited) }()
	for _, s := range e.subjects {
		row := policy.EndpointRow{Identity: s.Identity}
		if s.Audit {
			audited++
		}
		next[s.Endpoint] = row
		out.Endpoints[s.Endpoint] = policy.SubjectOutcome{Row: row, EnforcingIngress: len(e.objects) > 0}
		if old, ok := e.rows[s.Endpoint]; !ok || old != row {
			out.Ops = append(out.Ops, policy.SetEndpoint{Endpoint: s.Endpoint, Row: row})
		}
	}
	e.rows = next
	return out
}
