// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/metric"
)

// census reads the tables and the kernel for the registry.
type census struct {
	agent *Agent

	mu   sync.Mutex // guards what follows
	maps []MapInfo
	read time.Time
}

// mapsEvery bounds how often the rows of the kernel's tables are counted: some
// have half a million.
const mapsEvery = 10 * time.Second

var (
	descVersion     = metric.Gauge(metricPrefix+"version", "Version of the agent.", "version")
	descEndpoints   = metric.Gauge(metricPrefix+"endpoint", "Endpoints of this node.")
	descStates      = metric.Gauge(metricPrefix+"endpoint_state", "Endpoints by state.", "endpoint_state")
	descEnforcement = metric.Gauge(metricPrefix+"policy_endpoint_enforcement_status", "Endpoints by the directions in which policy limits them.", "enforcement")
	descIdentities  = metric.Gauge(metricPrefix+"identity", "Identities that the agent knows.", "type")
	descPolicies    = metric.Gauge(metricPrefix+"policy", "Policies that are carried out.")
	descRevision    = metric.Gauge(metricPrefix+"policy_max_revision", "Highest revision of policy that the agent carried out.")
	descQuarantined = metric.Gauge("stentor_policy_quarantined", "Policies that are refused.")
	descChecks      = metric.Gauge(metricPrefix+"controllers_failing", "Parts of the agent that are not well.")
	descAddresses   = metric.Gauge(metricPrefix+"ip_addresses", "Addresses in use on this node.", "family")
	descCapacity    = metric.Gauge(metricPrefix+"ipam_capacity", "Addresses that this node has for pods.", "family")
	descDropCount   = metric.Count(metricPrefix+"drop_count_total", "Packets dropped.", "reason", "direction")
	descDropBytes   = metric.Count(metricPrefix+"drop_bytes_total", "Bytes of packets dropped.", "reason", "direction")
	descPassCount   = metric.Count(metricPrefix+"forward_count_total", "Packets forwarded.", "direction")
	descPassBytes   = metric.Count(metricPrefix+"forward_bytes_total", "Bytes of packets forwarded.", "direction")
	descMapPressure = metric.Gauge(metricPrefix+"bpf_map_pressure", "Used part of a table of the kernel.", "map_name")
	descMapCapacity = metric.Gauge(metricPrefix+"bpf_map_capacity", "Rows that a table of the kernel has room for.", "map_group")
	descMapMemory   = metric.Gauge(metricPrefix+"bpf_maps_virtual_memory_max_bytes", "Memory of all tables of the kernel.")
	descGCRuns      = metric.Count(metricPrefix+"datapath_conntrack_gc_runs_total", "Looks for flows whose time is over.", "status")
	descGCEntries   = metric.Gauge(metricPrefix+"datapath_conntrack_gc_entries", "Flows that the last look found.", "status")
	descGCSeconds   = metric.Gauge(metricPrefix+"datapath_conntrack_gc_duration_seconds", "Time of the last look for flows whose time is over.")
	descLost        = metric.Count(metricPrefix+"event_lost_total", "Events of the datapath that nobody could be told.")
	descNodesAway   = metric.Gauge(metricPrefix+"unreachable_nodes", "Nodes that do not answer at their own address.")
	descHealthAway  = metric.Gauge(metricPrefix+"unreachable_health_endpoints", "Nodes that do not answer at their address in the pod network.")
	descReach       = metric.Gauge(metricPrefix+"node_health_connectivity_status", "Nodes by whether they answer.", "source_cluster", "source_node_name", "type", "status")
)

var measured = []*metric.Desc{
	descVersion, descEndpoints, descStates, descEnforcement, descIdentities, descPolicies, descRevision, descQuarantined, descChecks,
	descAddresses, descCapacity, descDropCount, descDropBytes, descPassCount, descPassBytes, descMapPressure, descMapCapacity,
	descMapMemory, descGCRuns, descGCEntries, descGCSeconds, descLost, descNodesAway, descHealthAway, descReach,
}

func (c *census) count(tell metric.Tell) error {
	tell(descVersion, 1, c.agent.opts.Version)
	tell(descLost, float64(c.agent.monitor.lostSoFar()))
	c.endpoints(tell)
	c.health(tell)
	dp, err := c.agent.datapath()
	if err != nil {
		return nil // it is not up yet
	}
	swept := dp.Swept()
	tell(descGCRuns, float64(swept.Runs), "completed")
	tell(descGCRuns, float64(swept.Failures), "failed")
	tell(descGCSeconds, swept.Took.Seconds())
	tell(descGCEntries, float64(swept.Alive), "alive")
	tell(descGCEntries, float64(swept.Deleted), "deleted")
	return errors.Join(c.packets(dp, tell), c.tables(dp, tell))
}

// endpoints counts what the tables of this node hold.
func (c *census) endpoints(tell metric.Tell) {
	t := c.agent.tables
	states, enforcement := map[endpoint.State]int{}, map[string]int{"none": 0, "ingress": 0, "egress": 0, "both": 0}
	all := t.endpoints.Snapshot()
	for _, e := range all.All() {
		states[e.State]++
		enforcement[enforcementName(e)]++
	}
	tell(descEndpoints, float64(all.Len()))
	for s, n := range states {
		tell(descStates, float64(n), string(s))
	}
	for name, n := range enforcement {
		tell(descEnforcement, float64(n), name)
	}
	tell(descRevision, float64(c.agent.past.revision()))
	tell(descQuarantined, float64(c.agent.quarantined()))
	tell(descPolicies, float64(t.policies.Snapshot().Len()))
	types := map[string]int{"cluster_local": 0, "node_local": 0, "reserved": len(identity.Reserved())}
	for id := range c.agent.ids.known() {
		if kind := identityType(id); kind != "reserved" {
			types[kind]++
		}
	}
	for name, n := range types {
		tell(descIdentities, float64(n), name)
	}
	failing := 0
	for _, check := range t.checks.Snapshot().All() {
		if check.State == rest.StateFailure || check.State == rest.StateWarning {
			failing++
		}
	}
	tell(descChecks, float64(failing))
	for _, u := range c.agent.endpoints.usage() {
		tell(descAddresses, float64(u.taken), familyName(u.family))
		tell(descCapacity, u.size, familyName(u.family))
	}
}

func enforcementName(e endpoint.Endpoint) string {
	switch {
	case e.Ingress.Enforcing && e.Egress.Enforcing:
		return "both"
	case e.Ingress.Enforcing:
		return "ingress"
	case e.Egress.Enforcing:
		return "egress"
	}
	return "none"
}

func identityType(id identity.ID) string {
	switch id.Scope() {
	case identity.ScopeReserved:
		return "reserved"
	case identity.ScopeCluster:
		return "cluster_local"
	}
	return "node_local"
}

// Types of node_health_connectivity metrics.
const (
	reachNode     = "node"     // the node's own address
	reachEndpoint = "endpoint" // its address in the pod network
)

// health tells how this node reaches all nodes.
func (c *census) health(tell metric.Tell) {
	counts := map[string]map[string]int{reachNode: {}, reachEndpoint: {}}
	known := 0
	for _, h := range c.agent.tables.health.Snapshot().All() {
		known++
		node, endpoint := h.Probes()
		for kind, list := range map[string][]rest.Probe{reachNode: node, reachEndpoint: endpoint} {
			if slices.ContainsFunc(list, func(p rest.Probe) bool { return !p.OK }) {
				counts[kind]["unreachable"]++
			} else {
				counts[kind]["reachable"]++
			}
		}
	}
	unknown := max(0, c.agent.tables.nodes.Snapshot().Len()-known)
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		counts[kind]["unknown"] = unknown
		for _, status := range []string{"reachable", "unreachable", "unknown"} {
			tell(descReach, float64(counts[kind][status]), c.agent.opts.ClusterName, c.agent.opts.NodeName, kind, status)
		}
	}
	tell(descNodesAway, float64(counts[reachNode]["unreachable"]))
	tell(descHealthAway, float64(counts[reachEndpoint]["unreachable"]))
}

// packets tells what became of them.
func (c *census) packets(dp Datapath, tell metric.Tell) error {
	rows, err := dp.Metrics()
	if err != nil {
		return err
	}
	for _, r := range rows {
		direction := "EGRESS"
		if r.Ingress {
			direction = "INGRESS"
		}
		if r.Reason == 0 {
			tell(descPassCount, float64(r.Packets), direction)
			tell(descPassBytes, float64(r.Bytes), direction)
			continue
		}
		tell(descDropCount, float64(r.Packets), r.ReasonText, direction)
		tell(descDropBytes, float64(r.Bytes), r.ReasonText, direction)
	}
	return nil
}

// tables tells how full those of the kernel are.
func (c *census) tables(dp Datapath, tell metric.Tell) error {
	list, err := c.mapList(dp)
	if err != nil {
		return err
	}
	memory := 0
	for _, m := range list {
		memory += m.Memory
		tell(descMapCapacity, float64(m.Max), m.Name)
		if m.Entries >= 0 && m.Max > 0 {
			tell(descMapPressure, float64(m.Entries)/float64(m.Max), m.Name)
		}
	}
	tell(descMapMemory, float64(memory))
	return nil
}

func (c *census) mapList(dp Datapath) ([]MapInfo, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.maps != nil && time.Since(c.read) < mapsEvery {
		return c.maps, nil
	}
	list, err := dp.Maps()
	if err == nil {
		c.maps, c.read = list, time.Now()
	}
	return list, err
}

// Pressure of a table of the kernel above which somebody should act.
const (
	highPressure  = 0.9
	pressureEvery = 30 * time.Second
)

// watchPressure keeps the check of the kernel's tables.
func (c *census) watchPressure(ctx context.Context, dp Datapath, checks *checks) error {
	for {
		list, err := c.mapList(dp)
		if err != nil {
			checks.warn("maps", err.Error(), "how full the tables of the kernel are", "it is tried again")
		} else {
			full := fullMaps(list)
			if len(full) == 0 {
				checks.ok("maps", fmt.Sprintf("%d tables in the kernel, none nearly full", len(list)))
			} else {
				checks.warn("maps", "nearly full: "+strings.Join(full, ", "), "rows that do not fit", "see `stentor map list`")
			}
		}
		if err := pause(ctx, pressureEvery); err != nil {
			return err
		}
	}
}

func fullMaps(list []MapInfo) (out []string) {
	for _, m := range list {
		if m.Max > 0 && float64(m.Entries) >= highPressure*float64(m.Max) {
			out = append(out, fmt.Sprintf("%s (%d of %d)", m.Name, m.Entries, m.Max))
		}
	}
	return out
}
