// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stentor-net/stentor/internal/metric"
)

// metrics is what Prometheus scrapes. Names are those that dashboards for such
// operators know.
type metrics struct {
	*metric.Set
	calls   *metric.Counter // host, method, return_code
	events  *metric.Counter // scope, action
	removed *metric.Counter // kind: what the collectors took away
	runs    *metric.Counter // outcome: looks for unused identities

	leader atomic.Bool
	view   atomic.Pointer[view] // while this replica leads
}

const metricPrefix = "cilium_operator_"

var (
	descVersion    = metric.Gauge(metricPrefix+"version", "Version of the operator.", "version")
	descLeader     = metric.Gauge(metricPrefix+"leader", "1 if this replica does the work.")
	descIdentities = metric.Gauge(metricPrefix+"identity_gc_entries", "Identities by whether an endpoint has them.", "status")
	descNodes      = metric.Gauge(metricPrefix+"ipam_nodes", "Nodes by whether they have pod ranges.", "category")
	descPoolFree   = metric.Gauge(metricPrefix+"lbipam_ips_available", "Addresses of a pool that no load balancer has.", "pool")
	descPoolUsed   = metric.Gauge(metricPrefix+"lbipam_ips_used", "Addresses of a pool that a load balancer has.", "pool")
	descConflicts  = metric.Gauge(metricPrefix+"lbipam_conflicting_pools", "Pools that give out no address because they overlap, or cannot be read.")
	descBalanced   = metric.Gauge(metricPrefix+"lbipam_services_matching", "Load balancers that get addresses from pools.")
	descUnserved   = metric.Gauge(metricPrefix+"lbipam_services_unsatisfied", "Load balancers that lack an address.")
	descEndpoints  = metric.Gauge(metricPrefix+"endpoints", "Endpoints of the cluster.")
)

func newMetrics(version string) *metrics {
	s := metric.New()
	m := &metrics{
		Set:     s,
		calls:   s.Counter(metricPrefix+"k8s_client_api_calls_total", "Requests to the API server, by method and status; 0: no answer.", "host", "method", "return_code"),
		events:  s.Counter(metricPrefix+"kubernetes_events_total", "Changes of objects that the API server told.", "scope", "action"),
		removed: s.Counter(metricPrefix+"gc_removed_total", "Objects that nobody used and that were removed.", "kind"),
		runs:    s.Counter(metricPrefix+"identity_gc_runs_total", "Looks for identities that nobody uses.", "outcome"),
	}
	s.Census([]*metric.Desc{descVersion, descLeader, descIdentities, descNodes, descEndpoints,
		descPoolFree, descPoolUsed, descConflicts, descBalanced, descUnserved}, func(tell metric.Tell) error {
		tell(descVersion, 1, version)
		leads := 0.0
		if m.leader.Load() {
			leads = 1
		}
		tell(descLeader, leads)
		if v := m.view.Load(); v != nil {
			v.count(tell)
			v.countPools(tell)
		}
		return nil
	})
	return m
}

func (m *metrics) countCall(host, method string, code int) {
	m.calls.Inc(host, method, strconv.Itoa(code))
}

func (m *metrics) countEvent(kind, action string) { m.events.Inc(kind, action) }

// count tells what the cluster has.
func (v *view) count(tell metric.Tell) {
	used := map[uint64]bool{}
	endpoints := v.endpoints.Snapshot()
	for _, e := range endpoints.All() {
		used[e.Identity] = true
	}
	tell(descEndpoints, float64(endpoints.Len()))
	alive, unused := 0, 0
	for _, i := range v.identities.Snapshot().All() {
		if used[i.Number] {
			alive++
		} else {
			unused++
		}
	}
	tell(descIdentities, float64(alive), "alive")
	tell(descIdentities, float64(unused), "unused")
	with, without := 0, 0
	for _, n := range v.nodes.Snapshot().All() {
		if len(n.Ranges) > 0 {
			with++
		} else {
			without++
		}
	}
	tell(descNodes, float64(with), "with-ranges")
	tell(descNodes, float64(without), "without-ranges")
}

// countPools tells what became of pools and load balancers.
func (v *view) countPools(tell metric.Tell) {
	out := v.pooled.Load()
	if out == nil {
		return
	}
	conflicts, unserved := 0, 0
	for name, s := range out.Pools {
		free, _ := new(big.Float).SetInt(s.Available).Float64()
		used, _ := new(big.Float).SetInt(s.Used).Float64()
		tell(descPoolFree, free, name)
		tell(descPoolUsed, used, name)
		if s.Conflict != "" {
			conflicts++
		}
	}
	for _, s := range out.Services {
		if s.Condition.Status == metav1.ConditionFalse {
			unserved++
		}
	}
	tell(descConflicts, float64(conflicts))
	tell(descBalanced, float64(len(out.Services)))
	tell(descUnserved, float64(unserved))
}

// serveMetrics answers Prometheus until ctx ends.
func (op *operator) serveMetrics(ctx context.Context) error {
	if op.MetricsAddress == "" {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	listener, err := config.Listen(ctx, "tcp", op.MetricsAddress)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", op.metrics.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return context.Cause(ctx)
}
