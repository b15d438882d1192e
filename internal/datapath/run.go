// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"time"
)

// How often Run does what.
const (
	settleEvery = 100 * time.Millisecond
	sweepEvery  = 10 * time.Second
)

// Run keeps house until ctx ends: expired rows are swept, generations bumped
// once more after a grace period, tables grown ahead of need, programs put back
// on devices that lost them. It runs in the namespace of Start.
func (d *Datapath) Run(ctx context.Context) error {
	settle, sweep := time.NewTicker(settleEvery), time.NewTicker(sweepEvery)
	defer settle.Stop()
	defer sweep.Stop()
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
			d.reattach()
		}
	}
}

func (d *Datapath) sweep() {
	d.tables.SettleServices()
	r, err := d.tables.Sweep()
	if err != nil {
		d.log.Warn("tables not swept", "error", err)
		return
	}
	d.log.Debug("swept", "flows", r.Flows, "nat", r.NAT, "serviceFlows", r.ServiceFlows, "expired", r.ExpiredTotal)
}

// reattach looks whether someone has taken our programs off a device.
func (d *Datapath) reattach() {
	missing, err := d.programs.Missing()
	if err != nil {
		d.log.Warn("programs not checked", "error", err)
		return
	}
	if len(missing) == 0 {
		return
	}
	d.log.Warn("programs were removed from a device", "hooks", missing)
	if err := d.programs.AttachNode(); err != nil {
		d.log.Warn("programs not attached again", "error", err)
	}
}
