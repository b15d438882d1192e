// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/stentor-net/stentor/internal/node"
)

// settleClaims takes from nodes what an earlier one has: an address, or a pod
// range that overlaps one of its. This node comes first, then the older one, so
// that a newcomer with a wrong object takes nothing away from those that work. A
// node that loses its last InternalIP is not reached. conflicts has a line for
// each loss; nodes come back in the order of the claims.
func settleClaims(nodes []node.Node) (settled []node.Node, conflicts []string) {
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b node.Node) int {
		if a.Local != b.Local {
			if a.Local {
				return -1
			}
			return 1
		}
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name))
	})
	owner := map[netip.Addr]string{}
	// Nodes behind one gateway share an ExternalIP: no mistake, but one of them has it here.
	take := func(n node.Node, kind string, list []netip.Addr) (kept []netip.Addr) {
		for _, a := range list {
			had, taken := owner[a]
			switch {
			case !taken || had == n.Name:
				owner[a] = n.Name
				kept = append(kept, a)
			case kind != "":
				conflicts = append(conflicts, fmt.Sprintf("node %s claims the %s %s of node %s", n.Name, kind, a, had))
			}
		}
		return kept
	}
	var ranges []node.Node // with the ranges that each keeps
	for _, n := range nodes {
		had := len(n.InternalIP)
		n.InternalIP = take(n, "address", n.InternalIP)
		n.Router = take(n, "router address", n.Router)
		n.ExternalIP = take(n, "", n.ExternalIP)
		var kept []netip.Prefix
		for _, p := range n.PodCIDRs {
			if other, q, overlaps := overlapping(p, ranges); overlaps {
				conflicts = append(conflicts, fmt.Sprintf("node %s has the pod range %s, which overlaps %s of node %s", n.Name, p, q, other))
			} else {
				kept = append(kept, p)
			}
		}
		n.PodCIDRs = kept
		if had > 0 && len(n.InternalIP) == 0 {
			continue
		}
		ranges = append(ranges, n)
		settled = append(settled, n)
	}
	return settled, conflicts
}

func overlapping(p netip.Prefix, nodes []node.Node) (name string, with netip.Prefix, overlaps bool) {
	for _, n := range nodes {
		for _, q := range n.PodCIDRs {
			if p.Overlaps(q) {
				return n.Name, q, true
			}
		}
	}
	return "", with, false
}
