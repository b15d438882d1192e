// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"

	"github.com/stentor-net/stentor/internal/metric"
)

// metrics is the one source of what the agent measures: Prometheus scrapes it,
// and `stentor metrics list` shows it. Names are those that dashboards for such
// agents know.
type metrics struct {
	*metric.Set
	calls     *metric.Counter // host, method, return_code
	events    *metric.Counter // scope, action, status
	policies  *metric.Counter // outcome
	addresses *metric.Counter // action, family
	sockets   *metric.Counter // protocol
	unclosed  *metric.Counter
	probes    *metric.Histogram // source_cluster, source_node_name, type, protocol, address_type
}

const metricPrefix = "cilium_"

func newMetrics() *metrics {
	s := metric.New()
	return &metrics{
		Set:       s,
		calls:     s.Counter(metricPrefix+"k8s_client_api_calls_total", "Requests to the API server, by method and status; 0: no answer.", "host", "method", "return_code"),
		events:    s.Counter(metricPrefix+"kubernetes_events_total", "Changes of objects that the API server told.", "scope", "action", "status"),
		policies:  s.Counter(metricPrefix+"policy_change_total", "Steps that changed the policy in the kernel, by outcome.", "outcome"),
		addresses: s.Counter(metricPrefix+"ipam_events_total", "Addresses given to endpoints and taken back.", "action", "family"),
		sockets:   s.Counter("stentor_sockets_closed_total", "Sockets closed because the backend of their service is gone.", "protocol"),
		unclosed:  s.Counter("stentor_sockets_close_failures_total", "Looks for such sockets that failed, at least in part."),
		probes: s.Histogram(metricPrefix+"node_health_connectivity_latency_seconds", "Time until a node answered a probe.",
			metric.Buckets(0.0001, 4, 9), // 0.1 ms to 6.5 s
			"source_cluster", "source_node_name", "type", "protocol", "address_type"),
	}
}

// countCall counts one request to the API server.
func (m *metrics) countCall(host, method string, code int) {
	m.calls.Inc(host, method, strconv.Itoa(code))
}

// countEvent counts one change of an object.
func (m *metrics) countEvent(kind, action string) {
	m.events.Inc(kind, action, "success")
}

// countSockets counts sockets that were closed.
func (m *metrics) countSockets(c ClosedSockets) {
	m.sockets.Add(float64(c.UDP), "UDP")
	m.sockets.Add(float64(c.TCP), "TCP")
}

// countPolicy counts one step of policy.
func (m *metrics) countPolicy(err error) {
	outcome := "success"
	if err != nil {
		outcome = "fail"
	}
	m.policies.Inc(outcome)
}

func (m *metrics) countAddress(action string, family int) {
	m.addresses.Inc(action, familyName(family))
}

func familyName(family int) string { return "ipv" + strconv.Itoa(family) }

// metricList is what a scrape would get: also if a part of it could not be read.
func (a *Agent) metricList() (any, error) {
	list, err := a.metrics.List()
	if err != nil && len(list) > 0 {
		a.log.Warn("some metrics are missing", "error", err)
		err = nil
	}
	return list, err
}

// serveMetrics answers Prometheus.
func (a *Agent) serveMetrics(ctx context.Context) error {
	if a.opts.MetricsAddr == "" {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	l, err := listen(ctx, a.opts.MetricsAddr)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", a.metrics.Handler())
	return serveHTTP(ctx, l, mux)
}

// checkMetricsAddr refuses what cannot be listened on.
func checkMetricsAddr(text string) error {
	if text == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(text)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return errors.New("prometheus-serve-addr: " + strconv.Quote(text) + " is not an address such as :9962")
	}
	return nil
}
