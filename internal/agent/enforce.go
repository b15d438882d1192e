// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/table"
)

// enforcer turns the tables into policy input, lets the engine judge, carries
// the steps out in the kernel, and opens the endpoints whose policy is in force.
// It is the only one that writes policy and nodes.
type enforcer struct {
	log       *slog.Logger
	opts      Options
	tables    *tables
	addresses *table.Writer[Address]
	verdicts  *table.Writer[policy.ObjectStatus]
	endpoints *endpoints
	ids       *allocator
	checks    *checks
	metrics   *metrics
	past      *past
	dp        Datapath
	rules     *l7Rules // nil: no proxy
	newEngine func(o policy.Options, s policy.State, before Engine) (Engine, error)

	engine   Engine
	astray   bool   // the kernel is not what the engine thinks: make another from its state
	fresh    bool   // the engine has not been given anything yet
	mode     string // enable-policy and audit mode of the engine
	numbers  *numbering
	lastRows []NodeRow
	written  uint64 // revision of the endpoints after the last step, if nobody else wrote
	refs     references
	feed     feed
	around   surroundings
	book     *addressBook
	shown    []policy.ObjectStatus
	nodeIDs  map[identity.ID]label.Set // of nodes by their labels
	first    chan struct{}             // closed once the first input was carried out; optional
}

// Pace of the enforcer.
const (
	enforceEvery = time.Millisecond // changes that come closer are taken together
	enforceRetry = 500 * time.Millisecond
)

func (f *enforcer) Run(ctx context.Context) error {
	t := f.tables
	inputs := []anyTable{t.namespaces, t.identities, t.nodes, t.policies, t.groups, t.services, t.remotes, t.slices, t.hostAddresses, t.settings, t.endpoints}
	// Before all of them are complete, an update would take away what the
	// kernel rightly enforces. Settings and endpoints have no outside to wait for.
	if err := waitSynced(ctx, inputs[:len(inputs)-2]...); err != nil {
		return err
	}
	for {
		seen := watch(inputs...)
		if err := f.step(); err != nil {
			f.checks.fail("policy", err.Error(), "changes of policy and of pods", "the step is tried again")
			f.log.Warn("policy is not carried out", "error", err)
			if err := pause(ctx, enforceRetry); err != nil {
				return err
			}
			continue
		}
		if f.first != nil {
			close(f.first)
			f.first = nil
		}
		// The step itself wrote to the endpoints; only what others wrote
		// asks for another one.
		next := t.endpoints.Changed()
		if t.endpoints.Snapshot().Revision() == f.written {
			seen[len(seen)-1] = next
		}
		if err := pause(ctx, enforceEvery); err != nil {
			return err
		}
		if err := waitAny(ctx, seen...); err != nil {
			return err
		}
	}
}

// step carries out the tables as they are now. What other inputs than pods,
// identities and policies say is given to the engine as a whole, and so is
// everything after a step that failed.
func (f *enforcer) step() error {
	gone := f.endpoints.gone()
	news := f.feed.read(f.tables)
	before := f.tables.endpoints.Snapshot()
	subjects := subjectsOf(before)
	if err := f.ensureEngine(); err != nil {
		f.feed.whole = true
		return err
	}
	same := f.around.read(f.tables)
	f.reportNodes(len(f.around.nodes), f.around.conflicts)
	whole := f.feed.whole || f.fresh || !same
	f.feed.whole = true // until all of it is done
	var out policy.Outcome
	var after []NodeRow
	if !whole {
		d, changed, ok := f.delta(subjects, news)
		if whole = !ok; ok {
			f.storeAddresses(changed)
			out = f.engine.Apply(d)
		}
	}
	if whole {
		during, settled, err := f.numberNodes()
		if err != nil {
			return err
		}
		if err := f.setNodes(during); err != nil {
			return err
		}
		after = settled
		out = f.engine.Update(f.input(subjects, f.deriveAddresses(subjects)))
	}
	now, later := untilGrace(out.Ops)
	f.rules.before(f.engine, whole || namesRules(out.Ops))
	err := f.apply(now)
	if err != nil || len(now) > 0 {
		f.metrics.countPolicy(err)
	}
	if err != nil {
		return err
	}
	if whole {
		if err := f.setNodes(after); err != nil {
			return err
		}
		f.numbers.settled()
	}
	f.past.add(out.Explainer, time.Now())
	f.ids.changeLocal(out.Local, f.fresh)
	f.ids.setNodes(f.nodeIDs)
	f.fresh = false
	f.showVerdicts(out.Objects)
	f.endpoints.forgotten(gone)
	f.report(out)
	commits, err := f.endpoints.realize(subjects, out)
	f.written = before.Revision() + commits
	if e := f.apply(later); e != nil {
		return errors.Join(err, e)
	}
	f.rules.after()
	f.feed.whole = false
	return err
}

func (f *enforcer) apply(ops []policy.Op) error {
	if len(ops) == 0 {
		return nil
	}
	if err := f.dp.ApplyPolicy(ops); err != nil {
		f.astray = true
		return fmt.Errorf("carry out policy: %w", err)
	}
	return nil
}

// untilGrace parts the steps that put policy in force from those that only
// tidy up: waiting for a grace period takes longer than all others.
func untilGrace(ops []policy.Op) (now, later []policy.Op) {
	at := len(ops)
	for at > 0 {
		if _, tidy := ops[at-1].(policy.DeleteSet); !tidy {
			break
		}
		at--
	}
	if at > 0 && at < len(ops) {
		if _, grace := ops[at-1].(policy.Grace); grace {
			at--
		}
	}
	return ops[:at], ops[at:]
}

func (f *enforcer) showVerdicts(list []policy.ObjectStatus) {
	if len(list) == len(f.shown) && (len(list) == 0 || &list[0] == &f.shown[0]) {
		return
	}
	f.verdicts.Replace(list, func(a, b policy.ObjectStatus) bool { return a == b })
	f.shown = list
}

func (f *enforcer) numberNodes() (during, after []NodeRow, err error) {
	if f.numbers == nil {
		found, err := f.dp.NodeRows()
		if err != nil {
			return nil, nil, fmt.Errorf("read nodes of the datapath: %w", err)
		}
		f.numbers = newNumbering(found)
	}
	during, after = f.numbers.update(f.around.nodes)
	return during, after, nil
}

// ensureEngine makes the engine from the kernel's state where there is none, or
// where the mode of enforcement is another one: the difference is then an
// ordinary change.
func (f *enforcer) ensureEngine() error {
	opts := f.opts.policyOptions()
	if s, ok := f.tables.settings.Get(keyEnforcement); ok {
		opts.Enforcement = s.Value
	}
	if s, ok := f.tables.settings.Get(keyAudit); ok {
		opts.Audit, _ = strconv.ParseBool(s.Value)
	}
	mode := fmt.Sprint(opts.Enforcement, opts.Audit)
	if f.engine != nil && !f.astray && f.mode == mode {
		return nil
	}
	state, err := f.dp.PolicyState()
	if err != nil {
		return fmt.Errorf("read policy of the datapath: %w", err)
	}
	engine, err := f.newEngine(opts, state, f.engine)
	if err != nil {
		return fmt.Errorf("start the policy engine: %w", err)
	}
	f.engine, f.astray, f.fresh, f.mode = engine, false, true, mode
	return nil
}

func (f *enforcer) setNodes(rows []NodeRow) error {
	if slices.EqualFunc(rows, f.lastRows, sameNodeRow) {
		return nil
	}
	if err := f.dp.SetNodes(rows); err != nil {
		f.lastRows = nil
		return fmt.Errorf("set nodes: %w", err)
	}
	f.lastRows = rows
	return nil
}

func sameNodeRow(a, b NodeRow) bool {
	return a.Index == b.Index && a.Underlay == b.Underlay && a.Local == b.Local &&
		slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.PodCIDRs, b.PodCIDRs)
}

// subjectsOf are the endpoints that policy judges for: all but those on their way out.
func subjectsOf(s table.Snapshot[endpoint.Endpoint]) []endpoint.Endpoint {
	var out []endpoint.Endpoint
	for _, e := range s.All() {
		if e.State != endpoint.StateDisconnecting && e.State != endpoint.StateNotReady {
			out = append(out, e)
		}
	}
	return out
}

func (f *enforcer) report(out policy.Outcome) {
	var bad []string
	for _, o := range out.Objects {
		if !o.Valid {
			bad = append(bad, o.Key)
		}
	}
	switch {
	case out.Err != nil:
		f.checks.warn("policy", out.Err.Error(), "a part of policy", out.Err.Error())
	case len(bad) > 0:
		f.checks.warn("policy", "policies are not valid: "+strconv.Itoa(len(bad)), "what invalid policies ask for: "+few(bad),
			"they are quarantined, all others are in force; stentor policy get says what is wrong with them")
	default:
		f.checks.ok("policy", "revision "+strconv.FormatUint(out.Revision, 10))
	}
}

func (f *enforcer) reportNodes(count int, conflicts []string) {
	if len(conflicts) == 0 {
		f.checks.ok("nodes", strconv.Itoa(count)+" known")
		return
	}
	f.checks.warn("nodes", few(conflicts), "the way to what is claimed twice, on the node that claims it",
		"the node that had it first keeps it; correct the Node and CiliumNode objects")
}

// few names the first of a list that may be long.
func few(keys []string) string {
	const shown = 3
	if len(keys) <= shown {
		return strings.Join(keys, ", ")
	}
	return strings.Join(keys[:shown], ", ") + " and " + strconv.Itoa(len(keys)-shown) + " more"
}

func rowsOf[R any](t *table.Table[R]) []R {
	s := t.Snapshot()
	out := make([]R, 0, s.Len())
	for _, r := range s.All() {
		out = append(out, r)
	}
	return out
}
