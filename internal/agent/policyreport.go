// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/policy/report"
)

// policyReporter tells the operator what policy this node has in force: one
// small object per node and change, whatever the number of policies. The
// operator writes the status of the policies from all reports.
type policyReporter struct {
	log     *slog.Logger
	tables  *tables
	cluster Cluster

	revision func() uint64 // of the policy in force
	written  string        // the last report that was stored
}

// Pace of reports: changes that come closer are one report. The pause differs
// from node to node, so that a policy for all nodes is not one burst of writes.
const (
	policyReportEvery  = 200 * time.Millisecond
	policyReportSpread = 800 * time.Millisecond
	policyReportRetry  = 2 * time.Second
)

func (r *policyReporter) Run(ctx context.Context) error {
	if err := waitSynced(ctx, r.tables.policies); err != nil {
		return err
	}
	for {
		seen := watch(r.tables.verdicts)
		if r.tables.verdicts.Revision() == 0 { // nothing is in force yet
			if err := waitAny(ctx, seen...); err != nil {
				return err
			}
			continue
		}
		wait := policyReportEvery + rand.N(policyReportSpread)
		stored := r.step(ctx)
		if !stored {
			wait = policyReportRetry
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
		if !stored {
			continue
		}
		if err := waitAny(ctx, seen...); err != nil {
			return err
		}
	}
}

// step stores the report if it says anything new, and tells whether it is stored.
func (r *policyReporter) step(ctx context.Context) bool {
	var list []policy.ObjectStatus
	for _, v := range r.tables.verdicts.Snapshot().All() {
		list = append(list, v)
	}
	out := report.Of(r.revision(), list)
	text := out.Encode()
	if text == r.written {
		return true
	}
	if err := r.cluster.PublishReport(ctx, out); err != nil {
		if ctx.Err() == nil {
			r.log.Debug("policy report is not stored", "error", err)
		}
		return false
	}
	r.written = text
	return true
}
