// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/stentor-net/stentor/internal/datapath/link"
	"github.com/stentor-net/stentor/internal/datapath/maps"
	"github.com/stentor-net/stentor/internal/service"
)

// NodeRow is a node of the cluster by the number that ipcache rows carry. 0 is
// unused, this node is 1; the caller gives the others.
type NodeRow struct {
	Index     uint16
	Underlay  netip.Addr   // by which other nodes reach it
	Addresses []netip.Addr // all of its own
	PodCIDRs  []netip.Prefix
	Local     bool
}

// SetNodes makes the kernel's nodes, their addresses and the routes to their
// pods exactly those of the list; what is there already stays untouched.
func (d *Datapath) SetNodes(list []NodeRow) error {
	var rows []maps.Node
	for _, n := range list {
		rows = append(rows, maps.Node{Index: n.Index, Underlay: n.Underlay, Addresses: n.Addresses})
	}
	return d.withRoom(nil, func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.nodes = slices.Clone(list)
		return errors.Join(d.tables.SetNodes(rows), d.setRemotes())
	})
}

// setRemotes makes the routes to the pods of other nodes; none are touched
// before the nodes are known.
func (d *Datapath) setRemotes() error {
	if d.nodes == nil {
		return nil
	}
	var remotes []link.Remote
	for _, n := range d.nodes {
		if n.Local {
			continue
		}
		for _, p := range n.PodCIDRs {
			remotes = append(remotes, link.Remote{Range: p, NextHop: n.nextHop(p.Addr().Is4())})
		}
	}
	return d.links.SetRemotes(remotes)
}

// nextHop is an address of the node outside its own pod ranges.
func (n NodeRow) nextHop(four bool) netip.Addr {
	if n.Underlay.IsValid() && n.Underlay.Is4() == four {
		return n.Underlay
	}
	for _, a := range n.Addresses {
		if a.Is4() == four && !n.ownPod(a) {
			return a
		}
	}
	return netip.Addr{}
}

func (n NodeRow) ownPod(a netip.Addr) bool {
	for _, p := range n.PodCIDRs {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// NodeRows are the nodes that the kernel knows; their pod ranges are not kept there.
func (d *Datapath) NodeRows() ([]NodeRow, error) {
	list, err := d.tables.Nodes()
	var out []NodeRow
	for _, n := range list {
		out = append(out, NodeRow{Index: n.Index, Underlay: n.Underlay, Addresses: n.Addresses, Local: n.Index == LocalNode})
	}
	return out, err
}

// SetFrontends makes the kernel's services exactly those of the list. Numbers of
// services stay over changes and restarts.
func (d *Datapath) SetFrontends(list []service.Frontend) error {
	return d.withRoom(list, func() error { return d.tables.SetFrontends(list) })
}

// ChangeFrontends puts frontends and removes others.
func (d *Datapath) ChangeFrontends(put []service.Frontend, remove []service.FrontendKey) error {
	return d.withRoom(put, func() error { return d.tables.ChangeFrontends(put, remove) })
}

// withRoom repeats a change with larger tables while it finds one full. They are
// made large enough for the frontends, too.
func (d *Datapath) withRoom(put []service.Frontend, change func() error) error {
	for {
		err := change()
		var full *maps.FullError
		if !errors.As(err, &full) {
			return err
		}
		if err := d.grow(d.tables.Room(full, put)); err != nil {
			return err
		}
	}
}

// grow replaces tables by larger ones, and the programs by such that use them.
func (d *Datapath) grow(sizes map[string]uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.tables.Grow(sizes); err != nil {
		return err
	}
	if err := d.apply(context.Background(), d.cfg); err != nil {
		d.tables.Shrink()
		return fmt.Errorf("load programs with larger tables: %w", err)
	}
	for name := range sizes {
		d.log.Info("table is larger now", "map", name, "rows", d.tables.Map(name).MaxEntries())
	}
	return errors.Join(d.tables.Grown(), d.setRemotes())
}
