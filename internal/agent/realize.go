// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/table"
)

// realize says that the policy of the subjects is in force: it opens those that
// waited for it, and shows the outcome in the table. It returns how many commits
// that took.
func (m *endpoints) realize(subjects []endpoint.Endpoint, out policy.Outcome) (commits uint64, err error) {
	var errs []error
	failed := map[uint16]string{}
	for _, e := range subjects {
		if _, judged := out.Endpoints[e.ID]; !judged || !waits(e.State) {
			continue
		}
		if err := m.enable(e); err != nil {
			failed[e.ID] = err.Error()
			errs = append(errs, fmt.Errorf("open endpoint %d: %w", e.ID, err))
		}
	}
	m.writer.Update(func(tx *table.Tx[endpoint.Endpoint]) {
		for _, e := range subjects {
			o, judged := out.Endpoints[e.ID]
			if !judged {
				continue
			}
			// Nobody else writes these fields: what the subject shows is what the row has.
			egress := endpoint.Enforcement{Enforcing: o.EnforcingEgress, Slot: o.Row.Egress}
			ingress := endpoint.Enforcement{Enforcing: o.EnforcingIngress, Slot: o.Row.Ingress}
			if !waits(e.State) && e.Error == failed[e.ID] && e.PolicyRevision == out.Revision && e.Egress == egress && e.Ingress == ingress {
				continue
			}
			row, ok := tx.Get(fmt.Sprint(e.ID))
			if !ok || row.Incarnation != e.Incarnation {
				continue
			}
			next := row
			next.Error, next.PolicyRevision, next.Egress, next.Ingress = failed[e.ID], out.Revision, egress, ingress
			if waits(next.State) && next.Error == "" {
				next.State = endpoint.StateReady
			}
			if next.State != row.State || next.Error != row.Error || next.PolicyRevision != row.PolicyRevision ||
				next.Egress != row.Egress || next.Ingress != row.Ingress {
				tx.Upsert(next)
				commits = 1
			}
		}
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.policies = make(map[uint16][]string, len(subjects))
	for id, o := range out.Endpoints {
		m.policies[id] = o.Policies
	}
	return commits, errors.Join(errs...)
}

// enable opens an endpoint in the kernel, unless it is being removed: then its
// id must not come back to life.
func (m *endpoints) enable(e endpoint.Endpoint) error {
	m.leaving.Lock()
	defer m.leaving.Unlock()
	row, ok := m.table.Get(fmt.Sprint(e.ID))
	if !ok || row.Incarnation != e.Incarnation || !waits(row.State) {
		return nil
	}
	return m.dp.EnableEndpoint(e.ID)
}

// waits tells whether an endpoint in this state is closed until policy is in force.
func waits(s endpoint.State) bool {
	return s == endpoint.StateWaitingToRegenerate || s == endpoint.StateRestoring || s == endpoint.StateRegenerating
}

// policiesOf names the policies that select an endpoint.
func (m *endpoints) policiesOf(id uint16) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.policies[id]
}
