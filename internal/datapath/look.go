// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"time"

	"github.com/stentor-net/stentor/internal/datapath/maps"
)

// MapInfo describes a table of the kernel.
type MapInfo struct {
	Name, Type           string
	Entries, Max, Memory int // rows in use (-1: not counted), rows possible, bytes
}

// MetricRow counts packets by what became of them.
type MetricRow struct {
	Reason         uint8 // 0: forwarded
	ReasonText     string
	Ingress        bool
	Packets, Bytes uint64
}

// SweepStats counts the looks for flows whose time is over.
type SweepStats struct {
	Runs, Failures uint64
	Alive, Deleted int           // flows, NAT rows and service flows that the last look found, and took
	Took           time.Duration // of the last look
}

// Swept tells of the looks for flows since Start.
func (d *Datapath) Swept() SweepStats {
	d.sweptMu.Lock()
	defer d.sweptMu.Unlock()
	return d.swept
}

// Maps describes every table.
func (d *Datapath) Maps() ([]MapInfo, error) {
	list, err := d.tables.Infos()
	var out []MapInfo
	for _, i := range list {
		out = append(out, MapInfo(i))
	}
	return out, err
}

// Metrics sums the counters of all CPUs; rows without packets are left out.
func (d *Datapath) Metrics() ([]MetricRow, error) {
	list, err := d.tables.Metrics()
	var out []MetricRow
	for _, m := range list {
		out = append(out, MetricRow(m))
	}
	return out, err
}

// Dump prints a table for `stentor bpf NAME list`: endpoint, ipcache, policy,
// ct, nat, metrics, lb, nodes.
func (d *Datapath) Dump(name string) (headings []string, rows [][]string, err error) {
	return d.tables.Dump(name)
}

// DumpNames are the tables that Dump knows.
func DumpNames() []string { return maps.DumpNames() }
