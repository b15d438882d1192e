// SPDX-License-Identifier: Apache-2.0

// Package node knows the nodes of the cluster: their addresses, pod ranges and how to reach them.
package node

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/stentor-net/stentor/internal/table"
)

// Node is a node of the cluster, from its CiliumNode: a row of the table `nodes`.
type Node struct {
	Name       string
	Created    time.Time      // of the object: of two nodes that claim the same, the older one has it
	InternalIP []netip.Addr   // InternalIP addresses, at most one per family is used as underlay: the first
	ExternalIP []netip.Addr   // ExternalIP addresses
	Router     []netip.Addr   // CiliumInternalIP: the node's own address inside its pod ranges, one per family
	Health     []netip.Addr   // address of the health endpoint, one per family
	PodCIDRs   []netip.Prefix // ranges that this node gives to its pods
	Labels     map[string]string
	BootID     string
	Local      bool // this agent's own node
}

// Underlay returns the address by which other nodes reach this one, IPv4 before
// IPv6; invalid if there is none.
func (n Node) Underlay() netip.Addr {
	var six netip.Addr
	for _, a := range n.InternalIP {
		if a.Is4() {
			return a
		}
		if !six.IsValid() {
			six = a
		}
	}
	return six
}

// Addresses returns all of the node's own addresses.
func (n Node) Addresses() []netip.Addr {
	var out []netip.Addr
	for _, l := range [][]netip.Addr{n.InternalIP, n.ExternalIP, n.Router} {
		out = append(out, l...)
	}
	return out
}

// Machine is the Node object of this agent's own node: a row of the raw table
// `machine`. It tells only that something in it changed that counts.
type Machine struct {
	Name    string
	Says    string // equal as long as labels, addresses, ranges and boot are
	Leaving bool   // it is being deleted, or taken away by an autoscaler
}

// NewMachineTable makes the raw table `machine`.
func NewMachineTable() (*table.Table[Machine], *table.Writer[Machine]) {
	return table.New(table.Options[Machine]{
		Name: "machine",
		Key:  func(m Machine) string { return m.Name },
		Columns: []table.Column[Machine]{
			{Name: "NAME", Value: func(m Machine) string { return m.Name }},
			{Name: "SAYS", Value: func(m Machine) string { return m.Says }},
		},
	})
}

// NewTable makes the table `nodes`.
func NewTable() (*table.Table[Node], *table.Writer[Node]) {
	return table.New(table.Options[Node]{
		Name: "nodes",
		Key:  func(n Node) string { return n.Name },
		Columns: []table.Column[Node]{
			{Name: "NAME", Value: func(n Node) string { return n.Name }},
			{Name: "INTERNAL-IP", Value: func(n Node) string { return join(n.InternalIP) }},
			{Name: "ROUTER", Value: func(n Node) string { return join(n.Router) }},
			{Name: "POD-CIDRS", Value: func(n Node) string { return join(n.PodCIDRs) }},
			{Name: "LOCAL", Value: func(n Node) string { return fmt.Sprint(n.Local) }},
		},
	})
}

func join[T fmt.Stringer](list []T) string {
	var parts []string
	for _, x := range list {
		parts = append(parts, x.String())
	}
	return strings.Join(parts, ",")
}
