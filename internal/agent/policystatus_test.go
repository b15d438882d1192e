// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/stentor-net/stentor/internal/policy"
)

// deafCluster refuses the first status of a policy.
type deafCluster struct {
	*fakeCluster
	calls int
}

func (c *deafCluster) PublishPolicyStatus(context.Context, policy.Object, bool, string) error {
	if c.calls++; c.calls == 1 {
		return errors.New("the API server is away")
	}
	return nil
}

func TestAStatusThatWasNotStoredIsWrittenAgain(t *testing.T) {
	tables, raw, own := newTables()
	o := policy.Object{Kind: policy.KindCiliumNetworkPolicy, Namespace: "a", Name: "b", UID: "u"}
	raw.Policies.Upsert(o)
	own.verdicts.Upsert(policy.ObjectStatus{Key: o.Key(), Valid: true})
	c := &deafCluster{fakeCluster: newFakeCluster()}
	r := &policyReporter{log: slog.New(slog.DiscardHandler), tables: tables, cluster: c, written: map[string]string{}}
	if r.step(t.Context()) {
		t.Error("a status that was refused counts as written")
	}
	for _, again := range []string{"tried again", "nothing left to write"} {
		if !r.step(t.Context()) {
			t.Errorf("%s: a status is not written", again)
		}
	}
	if c.calls != 2 {
		t.Errorf("%d writes, want 2: one that failed, one that did not", c.calls)
	}
}
