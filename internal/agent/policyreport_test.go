// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/policy/report"
)

// deafCluster refuses the first report.
type deafCluster struct {
	*fakeCluster
	calls int
	last  report.Report
}

func (c *deafCluster) PublishReport(_ context.Context, r report.Report) error {
	if c.calls++; c.calls == 1 {
		return errors.New("the API server is away")
	}
	c.last = r
	return nil
}

func TestAReportThatWasNotStoredIsWrittenAgain(t *testing.T) {
	tables, _, own := newTables()
	own.verdicts.Upsert(
		policy.ObjectStatus{Key: "CiliumNetworkPolicy/a/b", UID: "u", Generation: 3, Valid: true},
		policy.ObjectStatus{Key: "CiliumNetworkPolicy/a/c", UID: "v", Generation: 1, Reason: "quarantined: no"})
	c := &deafCluster{fakeCluster: newFakeCluster()}
	r := &policyReporter{log: slog.New(slog.DiscardHandler), tables: tables, cluster: c, revision: func() uint64 { return 7 }}
	if r.step(t.Context()) {
		t.Error("a report that was refused counts as stored")
	}
	for _, again := range []string{"tried again", "nothing new"} {
		if !r.step(t.Context()) {
			t.Errorf("%s: the report is not stored", again)
		}
	}
	if c.calls != 2 {
		t.Errorf("%d writes, want 2: one that failed, one that did not", c.calls)
	}
	if c.last.Revision != 7 || c.last.Kinds[policy.KindCiliumNetworkPolicy].Count != 2 || len(c.last.Notes) != 1 || c.last.Notes[0].UID != "v" {
		t.Errorf("report %+v", c.last)
	}
	own.verdicts.Upsert(policy.ObjectStatus{Key: "CiliumNetworkPolicy/a/b", UID: "u", Generation: 4, Valid: true})
	if r.step(t.Context()); c.calls != 3 {
		t.Errorf("%d writes after another generation, want 3", c.calls)
	}
}
