// SPDX-License-Identifier: Apache-2.0

package service

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/stentor-net/stentor/internal/table"
)

// candidate is an endpoint of a port of a service, with the clients it is meant for.
type candidate struct {
	Backend
	zones, nodes []string
}

// rank orders states: where slices say different things about an endpoint, the
// better one holds.
var rank = map[State]int{Active: 0, Terminating: 1, Maintenance: 2, NotReady: 3}

// candidates are the endpoints of one port, sorted, each once. An endpoint may be
// in two slices while it moves; shared names the addresses that two pods have.
func candidates(s Service, p Port, all table.Snapshot[Slice]) (out []candidate, shared []string) {
	for _, slice := range all.Index("service", s.Key()) {
		weight := slice.weight()
		for _, sp := range slice.Ports {
			if sp.Name != p.Name || sp.Protocol != p.Protocol {
				continue
			}
			for _, e := range slice.Endpoints {
				c := candidate{zones: e.HintZones, nodes: e.HintNodes}
				c.Backend = Backend{Service: s.Key(), PortName: p.Name, Port: sp.Port, Protocol: p.Protocol,
					State: e.state(s.PublishNotReady, weight), Weight: weight, Node: e.NodeName, Zone: e.Zone}
				if e.PodName != "" {
					c.Pod = e.PodNamespace + "/" + e.PodName
				}
				for _, a := range e.Addresses {
					c.Addr = a
					out = append(out, c)
				}
			}
		}
	}
	slices.SortStableFunc(out, func(a, b candidate) int {
		return cmp.Or(compareBackends(a.Backend, b.Backend), cmp.Compare(rank[a.State], rank[b.State]), cmp.Compare(b.Weight, a.Weight),
			cmp.Compare(a.Node, b.Node), cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Pod, b.Pod))
	})
	for i := range out[min(1, len(out)):] {
		a, b := out[i], out[i+1]
		if compareBackends(a.Backend, b.Backend) == 0 && a.Pod != b.Pod && a.State == Active && b.State == Active {
			shared = append(shared, fmt.Sprintf("%s is of pod %s and of pod %s", a.Socket(), cmp.Or(a.Pod, "?"), cmp.Or(b.Pod, "?")))
		}
	}
	return slices.CompactFunc(out, func(a, b candidate) bool { return compareBackends(a.Backend, b.Backend) == 0 }), shared
}

// weight of the slice's endpoints. A value that is no number counts as none;
// Problems tells of it.
func (s Slice) weight() uint16 {
	if n, err := strconv.ParseUint(s.Weight, 10, 16); err == nil {
		return uint16(n)
	}
	return DefaultWeight
}

func (e SliceEndpoint) state(publishNotReady bool, weight uint16) State {
	ready := e.Ready || publishNotReady && !e.Terminating
	switch {
	case weight == 0 && (ready || e.Serving):
		return Maintenance
	case ready:
		return Active
	case e.Serving && e.Terminating:
		return Terminating
	}
	return NotReady
}

// onNode leaves those that run on the node, or that have its address.
func onNode(list []candidate, at Place) []candidate {
	var out []candidate
	for _, c := range list {
		if c.Node == at.Node || c.Node == "" && slices.Contains(at.Addresses, c.Addr) {
			out = append(out, c)
		}
	}
	return out
}

// near leaves those that are meant for clients here, by the hints in the slices.
// Where hints are missing, or none is for here, all stay.
func near(list []candidate, distribution string, at Place) []candidate {
	active := 0
	var here, zone []candidate
	zones := true
	for _, c := range list {
		if c.State != Active {
			continue
		}
		active++
		if slices.Contains(c.nodes, at.Node) || len(c.nodes) == 0 && c.Node == at.Node {
			here = append(here, c)
		}
		if len(c.zones) == 0 {
			zones = false
		}
		if at.Zone != "" && slices.Contains(c.zones, at.Zone) {
			zone = append(zone, c)
		}
	}
	chosen := list
	switch {
	case active == 0:
	case distribution == PreferSameNode && len(here) > 0:
		chosen = here
	case distribution != "" && zones && len(zone) > 0:
		chosen = zone
	}
	if len(chosen) == len(list) {
		return list
	}
	// The others stay for their connections, without new ones.
	out := slices.Clone(list)
	for i := range out {
		if out[i].State == Active && !slices.ContainsFunc(chosen, func(c candidate) bool { return compareBackends(c.Backend, out[i].Backend) == 0 }) {
			out[i].State = Elsewhere
		}
	}
	return out
}

// frontendBackends are the candidates of a family as a frontend has them. UDP has
// no connections that a backend would have to keep once it is not ready.
func frontendBackends(list []candidate, four bool) []Backend {
	var out []Backend
	for _, c := range list {
		if c.Addr.Is4() == four && (c.State != NotReady || c.Protocol == protocolTCP) {
			out = append(out, c.Backend)
		}
	}
	return out
}

// why tells people why a frontend has no backend for new connections.
func why(s Service, p Port, all table.Snapshot[Slice], everywhere, here []candidate, four, local bool) string {
	family := map[bool]string{true: "IPv4", false: "IPv6"}[four]
	count := func(list []candidate) (n int, states map[State]int) {
		states = map[State]int{}
		for _, c := range list {
			if c.Addr.Is4() == four {
				n++
				states[c.State]++
			}
		}
		return n, states
	}
	slicesSeen, ports := 0, map[string]bool{}
	for _, slice := range all.Index("service", s.Key()) {
		slicesSeen++
		for _, sp := range slice.Ports {
			ports[fmt.Sprintf("%q/%s", sp.Name, protocol(sp.Protocol))] = true
		}
	}
	total, states := count(everywhere)
	onThis, _ := count(here)
	switch {
	case slicesSeen == 0 && len(s.Selector) == 0:
		return "no EndpointSlice: the Service has no selector, so somebody must write one"
	case slicesSeen == 0:
		return "no EndpointSlice yet"
	case total == 0 && len(everywhere) > 0:
		return "no endpoint has an " + family + " address"
	case total == 0 && !ports[fmt.Sprintf("%q/%s", p.Name, protocol(p.Protocol))] && len(ports) > 0:
		return fmt.Sprintf("no EndpointSlice has port %q/%s: does the target port exist in the pods?", p.Name, protocol(p.Protocol))
	case total == 0:
		return "no pod matches the selector"
	case local && onThis == 0:
		return fmt.Sprintf("traffic policy Local: none of %d endpoints is on this node", total)
	case states[Maintenance] > 0:
		return fmt.Sprintf("%d endpoints have weight 0, %d are not ready", states[Maintenance], states[NotReady])
	}
	return fmt.Sprintf("none of %d endpoints is ready", total)
}
