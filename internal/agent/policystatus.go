// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"time"

	"github.com/stentor-net/stentor/internal/policy"
)

// policyReporter writes into the status of CNP and CCNP whether they are valid.
// Every agent comes to the same answer; the node whose name is the first does
// it for all, so that a policy costs one write, not one per node.
type policyReporter struct {
	log     *slog.Logger
	opts    Options
	tables  *tables
	cluster Cluster

	written map[string]string // Object.Key -> what was written for which generation
}

const policyStatusEvery = time.Second

func (r *policyReporter) Run(ctx context.Context) error {
	r.written = map[string]string{}
	if err := waitSynced(ctx, r.tables.nodes, r.tables.policies); err != nil {
		return err
	}
	for {
		seen := watch(r.tables.verdicts, r.tables.nodes)
		done := !r.first() || r.step(ctx)
		if err := pause(ctx, policyStatusEvery); err != nil {
			return err
		}
		if !done {
			continue
		}
		if err := waitAny(ctx, seen...); err != nil {
			return err
		}
	}
}

// first tells whether this node has the first name of all.
func (r *policyReporter) first() bool {
	return firstNode(r.tables) == r.opts.NodeName
}

// firstNode has the first name of all; it does what one node does for all.
func firstNode(t *tables) string {
	for name := range t.nodes.Snapshot().All() {
		return name
	}
	return ""
}

// step writes what differs, and reports whether all of it is written.
func (r *policyReporter) step(ctx context.Context) bool {
	done := true
	for key, v := range r.tables.verdicts.Snapshot().All() {
		o, ok := r.tables.policies.Get(key)
		if !ok || o.Kind == policy.KindNetworkPolicy {
			continue
		}
		mark := o.UID + " " + yesNo(v.Valid) + " " + v.Reason
		if r.written[key] == mark {
			continue
		}
		if err := r.cluster.PublishPolicyStatus(ctx, o, v.Valid, v.Reason); err != nil {
			r.log.Debug("status of policy is not written", "policy", key, "error", err)
			done = false
			continue
		}
		r.written[key] = mark
	}
	return done
}
