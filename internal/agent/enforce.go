// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/node"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/service"
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
	newEngine func(o policy.Options, s policy.State, before Engine) (Engine, error)

	engine   Engine
	astray   bool   // the kernel is not what the engine thinks: make another from its state
	mode     string // enable-policy and audit mode of the engine
	numbers  *numbering
	lastRows []NodeRow
	written  uint64 // revision of the endpoints after the last step, if nobody else wrote
	refs     references
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

// step carries out the tables as they are now.
func (f *enforcer) step() error {
	gone := f.endpoints.gone()
	before := f.tables.endpoints.Snapshot()
	subjects := subjectsOf(before)
	nodes := rowsOf(f.tables.nodes)
	if err := f.ensureEngine(); err != nil {
		return err
	}
	if f.numbers == nil {
		found, err := f.dp.NodeRows()
		if err != nil {
			return fmt.Errorf("read nodes of the datapath: %w", err)
		}
		f.numbers = newNumbering(found)
	}
	during, after := f.numbers.update(nodes)
	if err := f.setNodes(during); err != nil {
		return err
	}
	rows := f.deriveAddresses(subjects, nodes)
	f.addresses.Replace(rows, func(a, b Address) bool { return a == b })
	if f.opts.NodeLabels {
		f.nodeIDs = identitiesOfNodes(nodes, rows, service.APIServers(f.tables.slices.Snapshot()))
	}
	out := f.engine.Update(f.input(subjects, nodes, rows))
	err := f.dp.ApplyPolicy(out.Ops)
	if err != nil || len(out.Ops) > 0 {
		f.metrics.countPolicy(err)
	}
	if err != nil {
		f.astray = true
		return fmt.Errorf("carry out policy: %w", err)
	}
	if err := f.setNodes(after); err != nil {
		return err
	}
	f.numbers.settled()
	f.past.add(out.Explainer, time.Now())
	local := map[identity.ID]label.Set{}
	maps.Copy(local, out.LocalIdentities)
	maps.Copy(local, f.nodeIDs)
	f.ids.setLocal(local)
	f.verdicts.Replace(out.Objects, func(a, b policy.ObjectStatus) bool { return a == b })
	f.endpoints.forgotten(gone)
	f.report(out)
	commits, err := f.endpoints.realize(subjects, out)
	f.written = before.Revision() + commits
	return err
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
	f.engine, f.astray, f.mode = engine, false, mode
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

func (f *enforcer) deriveAddresses(subjects []endpoint.Endpoint, nodes []node.Node) []Address {
	var native []netip.Prefix
	for _, p := range []netip.Prefix{f.opts.NativeCIDR4, f.opts.NativeCIDR6} {
		if p.IsValid() {
			native = append(native, p)
		}
	}
	return deriveAddresses(addressInput{
		Endpoints: subjects, Remotes: rowsOf(f.tables.remotes), Nodes: nodes, Index: f.numbers.byName,
		HostIPs: rowsOf(f.tables.hostAddresses), APIServers: service.APIServers(f.tables.slices.Snapshot()),
		IPv4: f.opts.IPv4, IPv6: f.opts.IPv6, Tunnel: f.opts.Routing == RoutingTunnel, Native: native,
		NodeLabels: f.opts.NodeLabels,
	})
}

func (f *enforcer) input(subjects []endpoint.Endpoint, nodes []node.Node, rows []Address) policy.Input {
	in := policy.Input{
		Identities: f.ids.known(),
		Namespaces: map[string]map[string]string{},
		Ports:      map[netip.Addr][]endpoint.Port{},
		Objects:    rowsOf(f.tables.policies),
		References: f.refs.update(f.tables),
		Addresses:  make([]policy.Address, 0, len(rows)),
	}
	for id, labels := range reservedLabels(rows, service.APIServers(f.tables.slices.Snapshot())) {
		in.Identities[id] = labels
	}
	maps.Copy(in.Identities, f.nodeIDs)
	for ip, r := range claims(rowsOf(f.tables.remotes), nodes) {
		if len(r.Ports) > 0 {
			in.Ports[ip] = r.Ports
		}
	}
	for _, n := range f.tables.namespaces.Snapshot().All() {
		in.Namespaces[n.Name] = n.Labels
	}
	for _, a := range rows {
		in.Addresses = append(in.Addresses, a.Address)
	}
	for _, e := range subjects {
		s := policy.Subject{Endpoint: e.ID, Incarnation: e.Incarnation, Identity: e.Identity, Labels: e.Labels, Ports: e.Ports, Audit: e.Audit}
		own := func(a netip.Addr) policy.Address {
			if !a.IsValid() {
				return policy.Address{}
			}
			return policy.Address{Prefix: host(a), Identity: e.Identity, Node: localNode, Flags: policy.AddressPod}
		}
		s.IPv4, s.IPv6 = own(e.IPv4), own(e.IPv6)
		delete(in.Ports, e.IPv4) // of a pod elsewhere that had the address before
		delete(in.Ports, e.IPv6)
		in.Subjects = append(in.Subjects, s)
		in.Identities[e.Identity] = e.Labels // also if its object was deleted by mistake
	}
	return in
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
