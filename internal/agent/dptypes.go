// SPDX-License-Identifier: Apache-2.0

package agent

import "github.com/stentor-net/stentor/internal/datapath"

// The rows that the agent and the datapath exchange.
type (
	PodLink       = datapath.PodLink
	EndpointBase  = datapath.EndpointBase
	NodeRow       = datapath.NodeRow
	MapInfo       = datapath.MapInfo
	MetricRow     = datapath.MetricRow
	SweepStats    = datapath.SweepStats
	ClosedSockets = datapath.ClosedSockets
	Event         = datapath.Event
)
