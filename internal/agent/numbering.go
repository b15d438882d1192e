// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"slices"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/node"
)

// numbering gives each node its number in the datapath: this node is 1, others
// keep theirs while they are known, also over a restart. The number of a node
// that is gone comes back as late as possible.
type numbering struct {
	byName map[string]uint16
	rows   map[uint16]NodeRow
	gone   map[uint16]NodeRow    // of nodes that are gone, until addresses no longer lead to them
	found  map[netip.Addr]uint16 // underlay -> number, before the restart
	last   uint16
}

func newNumbering(found []NodeRow) *numbering {
	n := &numbering{byName: map[string]uint16{}, rows: map[uint16]NodeRow{}, gone: map[uint16]NodeRow{}, found: map[netip.Addr]uint16{}, last: localNode}
	for _, r := range found {
		if !r.Local && r.Index > localNode {
			n.found[r.Underlay] = r.Index
			n.last = max(n.last, r.Index)
		}
	}
	return n
}

// update numbers the nodes. It returns the rows to hold while addresses change
// (old and new nodes), and those to hold after that, when settled must be called.
func (n *numbering) update(nodes []node.Node) (during, after []NodeRow) {
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b node.Node) int { return compareText(a.Name, b.Name) })
	wanted := map[string]bool{}
	for _, x := range nodes {
		wanted[x.Name] = true
	}
	for name, i := range n.byName {
		if !wanted[name] {
			n.gone[i] = n.rows[i]
			delete(n.byName, name)
			delete(n.rows, i)
		}
	}
	for _, x := range nodes {
		i := n.number(x)
		if i == 0 {
			continue // more nodes than there are numbers: without one it is not reached
		}
		row := NodeRow{Index: i, Underlay: x.Underlay(), Addresses: x.Addresses(), PodCIDRs: x.PodCIDRs, Local: x.Local}
		n.rows[i] = row
		after = append(after, row)
	}
	during = slices.Clone(after)
	for _, row := range n.gone {
		during = append(during, row)
	}
	slices.SortFunc(after, byIndex)
	slices.SortFunc(during, byIndex)
	return during, after
}

// settled says that no address leads to nodes that are gone any more: their
// numbers may come back. A step that failed before asks for the same rows again.
func (n *numbering) settled() { clear(n.gone) }

func (n *numbering) number(x node.Node) uint16 {
	if i, ok := n.byName[x.Name]; ok {
		return i
	}
	free := func(i uint16) bool {
		_, used := n.rows[i]
		_, resting := n.gone[i]
		return !used && !resting
	}
	i := uint16(0)
	if x.Local {
		i = localNode
	} else if old, ok := n.found[x.Underlay()]; ok && free(old) {
		i = old
		delete(n.found, x.Underlay())
	} else {
		for range abi.NodesMax {
			if n.last++; n.last >= abi.NodesMax {
				n.last = localNode + 1
			}
			if free(n.last) {
				i = n.last
				break
			}
		}
	}
	if i != 0 {
		n.byName[x.Name] = i
	}
	return i
}

func byIndex(a, b NodeRow) int { return int(a.Index) - int(b.Index) }

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
