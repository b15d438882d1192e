// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/l7"
	"github.com/stentor-net/stentor/internal/node"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/service"
	"github.com/stentor-net/stentor/internal/table"
)

// RawWriters are the handles of the tables that the API server fills.
type RawWriters struct {
	Pods       *table.Writer[endpoint.Pod] // of this node
	Namespaces *table.Writer[identity.Namespace]
	Identities *table.Writer[identity.Identity]
	Nodes      *table.Writer[node.Node]
	Machine    *table.Writer[node.Machine] // the Node object of this node
	Policies   *table.Writer[policy.Object]
	Groups     *table.Writer[policy.Group]
	Services   *table.Writer[service.Service]
	Slices     *table.Writer[service.Slice]
	Redirects  *table.Writer[service.Redirect]
	Remotes    *table.Writer[endpoint.Remote]
}

// tables holds the reading side of every table.
type tables struct {
	pods       *table.Table[endpoint.Pod]
	namespaces *table.Table[identity.Namespace]
	identities *table.Table[identity.Identity]
	nodes      *table.Table[node.Node]
	machine    *table.Table[node.Machine]
	policies   *table.Table[policy.Object]
	groups     *table.Table[policy.Group]
	services   *table.Table[service.Service]
	slices     *table.Table[service.Slice]
	redirects  *table.Table[service.Redirect]
	remotes    *table.Table[endpoint.Remote]

	hostAddresses *table.Table[netip.Addr]
	settings      *table.Table[Setting]

	endpoints *table.Table[endpoint.Endpoint]
	addresses *table.Table[Address]
	verdicts  *table.Table[policy.ObjectStatus]
	frontends *table.Table[service.Frontend]
	backends  *table.Table[service.Backend]
	problems  *table.Table[problem]
	health    *table.Table[rest.NodeHealth]
	checks    *table.Table[rest.Check]
	l7rules   *table.Table[l7.Source]
}

// derivedWriters are the handles of the tables that the agent itself fills.
type derivedWriters struct {
	hostAddresses *table.Writer[netip.Addr]
	settings      *table.Writer[Setting]

	endpoints *table.Writer[endpoint.Endpoint]
	addresses *table.Writer[Address]
	verdicts  *table.Writer[policy.ObjectStatus]
	frontends *table.Writer[service.Frontend]
	backends  *table.Writer[service.Backend]
	problems  *table.Writer[problem]
	health    *table.Writer[rest.NodeHealth]
	checks    *table.Writer[rest.Check]
	l7rules   *table.Writer[l7.Source]
}

func newTables() (*tables, RawWriters, derivedWriters) {
	var t tables
	var raw RawWriters
	var own derivedWriters
	t.pods, raw.Pods = endpoint.NewPodTable()
	t.namespaces, raw.Namespaces = identity.NewNamespaceTable()
	t.identities, raw.Identities = identity.NewTable()
	t.nodes, raw.Nodes = node.NewTable()
	t.machine, raw.Machine = node.NewMachineTable()
	t.policies, raw.Policies = policy.NewTable()
	t.groups, raw.Groups = policy.NewGroupTable()
	t.services, raw.Services = service.NewServiceTable()
	t.slices, raw.Slices = service.NewSliceTable()
	t.redirects, raw.Redirects = service.NewRedirectTable()
	t.remotes, raw.Remotes = endpoint.NewRemoteTable()
	t.endpoints, own.endpoints = endpoint.NewTable()
	t.addresses, own.addresses = newAddressTable()
	t.hostAddresses, own.hostAddresses = newHostAddressTable()
	t.settings, own.settings = newSettingTable()
	t.frontends, own.frontends = service.NewFrontendTable()
	t.backends, own.backends = service.NewBackendTable()
	t.l7rules, own.l7rules = newL7Table()
	t.problems, own.problems = newProblemTable()
	t.verdicts, own.verdicts = table.New(table.Options[policy.ObjectStatus]{
		Name: "policystatuses",
		Key:  func(s policy.ObjectStatus) string { return s.Key },
		Columns: []table.Column[policy.ObjectStatus]{
			{Name: "POLICY", Value: func(s policy.ObjectStatus) string { return s.Key }},
			{Name: "VALID", Value: func(s policy.ObjectStatus) string { return yesNo(s.Valid) }},
			{Name: "REASON", Value: func(s policy.ObjectStatus) string { return s.Reason }},
		},
	})
	t.health, own.health = table.New(table.Options[rest.NodeHealth]{
		Name: "nodehealth",
		Key:  func(h rest.NodeHealth) string { return h.Name },
		Columns: []table.Column[rest.NodeHealth]{
			{Name: "NODE", Value: func(h rest.NodeHealth) string { return h.Name }},
			{Name: "NODE-ADDRESS", Value: func(h rest.NodeHealth) string { return h.Node.IP + " " + yesNo(h.Node.OK) + " " + h.Node.Error }},
			{Name: "POD-NETWORK", Value: func(h rest.NodeHealth) string {
				return h.Endpoint.IP + " " + yesNo(h.Endpoint.OK) + " " + h.Endpoint.Error
			}},
			{Name: "PROBED", Value: func(h rest.NodeHealth) string { return h.LastProbe }},
		},
	})
	t.checks, own.checks = table.New(table.Options[rest.Check]{
		Name: "checks",
		Key:  func(c rest.Check) string { return c.Name },
		Columns: []table.Column[rest.Check]{
			{Name: "CHECK", Value: func(c rest.Check) string { return c.Name }},
			{Name: "STATE", Value: func(c rest.Check) string { return c.State }},
			{Name: "MESSAGE", Value: func(c rest.Check) string { return c.Msg }},
			{Name: "MISSING", Value: func(c rest.Check) string { return c.Missing }},
			{Name: "WHY", Value: func(c rest.Check) string { return c.Why }},
		},
	})
	return &t, raw, own
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// anyTable is a table whatever its rows are.
type anyTable interface {
	Name() string
	Revision() uint64
	Describe() (headings []string, rows [][]string)
	Changed() <-chan struct{}
	Synced() <-chan struct{}
}

// all lists every table, by name.
func (t *tables) all() []anyTable {
	list := []anyTable{
		t.pods, t.namespaces, t.identities, t.nodes, t.machine, t.policies, t.groups, t.services, t.slices, t.redirects, t.remotes, t.hostAddresses, t.settings,
		t.endpoints, t.addresses, t.verdicts, t.l7rules, t.frontends, t.backends, t.problems, t.health, t.checks,
	}
	slices.SortFunc(list, func(a, b anyTable) int {
		if a.Name() < b.Name() {
			return -1
		}
		return 1
	})
	return list
}

// waitSynced returns when the first complete content of each table is in.
func waitSynced(ctx context.Context, list ...anyTable) error {
	for _, t := range list {
		select {
		case <-t.Synced():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// watch returns the channels that close at the next change of each table. Take
// them before reading the tables, so that no change is missed.
func watch(list ...anyTable) []<-chan struct{} {
	out := make([]<-chan struct{}, 0, len(list))
	for _, t := range list {
		out = append(out, t.Changed())
	}
	return out
}

// waitAny returns when one of the channels is ready, or with the cause when ctx ends.
func waitAny(ctx context.Context, chans ...<-chan struct{}) error {
	cases := []reflect.SelectCase{{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(ctx.Done())}}
	for _, c := range chans {
		cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(c)})
	}
	if i, _, _ := reflect.Select(cases); i == 0 {
		return context.Cause(ctx)
	}
	return nil
}

// pause waits for d, or returns the cause when ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
