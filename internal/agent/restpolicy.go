// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"slices"

	"github.com/stentor-net/stentor/api/rest"
)

// policy returns the objects with what became of them.
func (a *Agent) policy() (any, error) {
	selects := map[string][]uint16{}
	revision := uint64(0)
	for _, e := range a.tables.endpoints.Snapshot().All() {
		revision = max(revision, e.PolicyRevision)
		for _, key := range a.endpoints.policiesOf(e.ID) {
			selects[key] = append(selects[key], e.ID)
		}
	}
	list := []rest.PolicyObject{}
	for key, o := range a.tables.policies.Snapshot().All() {
		p := rest.PolicyObject{
			Kind: string(o.Kind), Namespace: o.Namespace, Name: o.Name, Generation: o.Generation,
			Reason: o.Err, Endpoints: selects[key], Object: o.Spec,
		}
		if v, ok := a.tables.verdicts.Get(key); ok {
			p.Valid, p.Reason = v.Valid, v.Reason
		}
		slices.Sort(p.Endpoints)
		list = append(list, p)
	}
	text, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return nil, err
	}
	return rest.Policy{Revision: int64(revision), Policy: string(text)}, nil
}

// policySelectors answers GET /v1/policy/selectors and subject-selectors.
func (a *Agent) policySelectors(subjects bool) (any, error) {
	x := a.past.current()
	if x == nil {
		return nil, errNoPolicyYet
	}
	out := []rest.SelectorIdentityMapping{}
	for _, s := range x.Selectors(subjects) {
		m := rest.SelectorIdentityMapping{Selector: s.Selector, Users: int64(len(s.Objects)), Policies: s.Objects}
		for _, id := range s.Identities {
			m.Identities = append(m.Identities, int64(id))
		}
		out = append(out, m)
	}
	return out, nil
}

// quarantined counts the policies that are set aside.
func (a *Agent) quarantined() int {
	n := 0
	for _, v := range a.tables.verdicts.Snapshot().All() {
		if !v.Valid {
			n++
		}
	}
	return n
}
