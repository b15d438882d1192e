// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"time"

	"github.com/stentor-net/stentor/internal/datapath/load"
	"github.com/stentor-net/stentor/internal/datapath/maps"
)

// How often Run does what.
const (
	settleEvery = 100 * time.Millisecond
	sweepEvery  = 10 * time.Second
	watchEvery  = 10 * time.Second
	firstWatch  = time.Second // when the start is over
)

// Run keeps house until ctx ends: generations are bumped once more after a grace
// period, tables grown ahead of need, expired rows swept, and what someone else
// has changed put right: programs, routes, addresses, sysctls, a replaced
// uplink. It must be called in the network namespace of Start.
func (d *Datapath) Run(ctx context.Context) error {
	settle, sweep, watch := time.NewTicker(settleEvery), time.NewTicker(sweepEvery), time.NewTimer(firstWatch)
	defer settle.Stop()
	defer sweep.Stop()
	defer watch.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-settle.C:
			if _, err := d.tables.Policy().Settle(); err != nil {
				d.log.Warn("generations not settled", "error", err)
			}
			if err := d.tables.GrowBanks(); err != nil {
				d.log.Warn("no room for more classes", "error", err)
			}
		case <-sweep.C:
			d.sweep()
		case <-watch.C:
			if err := d.Repair(ctx); err != nil {
				d.log.Warn("datapath not repaired", "error", err)
			}
			watch.Reset(watchEvery)
		}
	}
}

func (d *Datapath) sweep() {
	d.tables.SettleServices()
	start := time.Now()
	r, err := d.tables.Sweep()
	d.countSweep(r, time.Since(start), err)
	if err != nil {
		d.log.Warn("tables not swept", "error", err)
		return
	}
	if r.Early > 0 {
		d.log.Warn("flow table is nearly full: unanswered flows ended early", "flows", r.Flows, "ended", r.Early)
	}
	d.log.Debug("swept", "flows", r.Flows, "nat", r.NAT, "serviceFlows", r.ServiceFlows, "expired", r.Expired)
}

func (d *Datapath) countSweep(r maps.Swept, took time.Duration, err error) {
	d.sweptMu.Lock()
	defer d.sweptMu.Unlock()
	if err != nil {
		d.swept.Failures++
		return
	}
	d.swept.Runs++
	d.swept.Alive, d.swept.Deleted, d.swept.Took = r.Flows+r.NAT+r.ServiceFlows, r.Expired+r.Early, took
}

// Repair puts right what someone else has changed; Run calls it regularly.
func (d *Datapath) Repair(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	devices, err := d.links.Ensure()
	if err != nil {
		return err
	}
	if !d.same(devices) {
		d.log.Info("devices changed: loading programs again", "uplinks", names(devices.Uplinks), "mtu", devices.MTU)
		if err := d.apply(ctx, d.cfg); err != nil {
			return err
		}
		return d.setRemotes()
	}
	if err := d.setRemotes(); err != nil {
		return err
	}
	return d.reattach()
}

// reattach looks whether someone has taken our programs off a device.
func (d *Datapath) reattach() error {
	lost, err := d.programs.Lost(d.programs.NodeDevices()...)
	if err != nil {
		return err
	}
	if lost {
		d.log.Warn("programs were removed from a device of the node: attaching them again")
		if err := d.programs.AttachNode(); err != nil {
			return err
		}
	}
	pods, err := d.links.Pods()
	if err != nil {
		return err
	}
	for _, e := range d.tables.Endpoints() {
		if !pods[e.IfIndex] {
			continue
		}
		lost, err := d.programs.Lost(e.IfIndex)
		if err != nil {
			return err
		}
		if lost {
			d.log.Warn("programs were removed from a pod's device: attaching them again", "endpoint", e.ID)
			if err := d.programs.AttachEndpoint(e.IfIndex); err != nil {
				return err
			}
		}
	}
	return d.tellForeign(pods)
}

// tellForeign tells once of each program of somebody else on our hooks. What
// comes before ours keeps packets from policy: whether it may is for a person to say.
func (d *Datapath) tellForeign(pods map[int]bool) error {
	devices := d.programs.NodeDevices()
	for _, e := range d.tables.Endpoints() {
		if pods[e.IfIndex] {
			devices = append(devices, e.IfIndex)
		}
	}
	found, err := d.programs.Foreign(devices...)
	if err != nil {
		return err
	}
	now := map[load.Foreign]bool{}
	for _, f := range found {
		now[f] = true
		switch {
		case d.foreign[f]:
		case f.IsBefore:
			d.log.Warn("a program of somebody else sees packets before ours does: what it passes or drops is past policy; remove it unless that is wanted",
				"device", f.Device, "program", f.String())
		default:
			d.log.Info("a program of somebody else shares a hook with ours", "device", f.Device, "program", f.String())
		}
	}
	d.foreign = now
	return nil
}
