// SPDX-License-Identifier: Apache-2.0

package service

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/stentor-net/stentor/internal/table"
)

// Frontends derives the virtual addresses of all Services with the backends
// that take new connections on the named node. It depends on the content of
// the tables alone, not on the order in which it came.
func Frontends(services table.Snapshot[Service], slicesOf table.Snapshot[Slice], node string) []Frontend {
	var out []Frontend
	seen := map[string]bool{}
	for key, s := range services.All() {
		if s.Headless || s.Type == "ExternalName" {
			continue
		}
		for _, p := range s.Ports {
			backends := backendsOf(s, p, slicesOf, key, node)
			for _, ip := range s.ClusterIPs {
				f := Frontend{
					Service: key, PortName: p.Name, Addr: ip, Port: p.Port, Protocol: p.Protocol,
					Kind: ClusterIP, Affinity: s.AffinitySeconds,
					Backends: family(backends, ip.Is4()),
				}
				// The API server gives an address to one Service; while one
				// goes and another comes, both may be in the table.
				if k := f.Key(); !seen[k] {
					seen[k] = true
					out = append(out, f)
				}
			}
		}
	}
	return out
}

// backendsOf collects the endpoints of one port of a Service: those that are
// ready, else those that still serve while they end.
func backendsOf(s Service, p Port, all table.Snapshot[Slice], key, node string) []Backend {
	var ready, ending []Backend
	for _, slice := range all.Index("service", key) {
		for _, sp := range slice.Ports {
			if sp.Name != p.Name || sp.Protocol != p.Protocol {
				continue
			}
			for _, e := range slice.Endpoints {
				if s.InternalLocal && e.NodeName != node {
					continue
				}
				switch {
				case e.Ready:
					ready = appendBackends(ready, e, sp.Port)
				case e.Serving && e.Terminating:
					ending = appendBackends(ending, e, sp.Port)
				}
			}
		}
	}
	if len(ready) == 0 {
		ready = ending
	}
	slices.SortFunc(ready, func(a, b Backend) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port))
	})
	return slices.Compact(ready)
}

func appendBackends(list []Backend, e SliceEndpoint, port uint16) []Backend {
	for _, a := range e.Addresses {
		list = append(list, Backend{Addr: a, Port: port, State: Active, Weight: DefaultWeight})
	}
	return list
}

func family(all []Backend, four bool) []Backend {
	var out []Backend
	for _, b := range all {
		if b.Addr.Is4() == four {
			out = append(out, b)
		}
	}
	return out
}

// APIServers are the addresses behind the Service of the API server itself.
func APIServers(all table.Snapshot[Slice]) []netip.Addr {
	var out []netip.Addr
	for _, slice := range all.Index("service", "default/kubernetes") {
		for _, e := range slice.Endpoints {
			out = append(out, e.Addresses...)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}
