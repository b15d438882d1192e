// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"net/http/httptest"
	"testing"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/metric/metrictest"
)

// namedByOthers break a rule of Prometheus, but dashboards know them.
var namedByOthers = []string{"cilium_endpoint", "cilium_identity"}

func TestAScrapeTellsWhatTheAgentMeasures(t *testing.T) {
	l := newLab(t).start()
	p := pod("curl", "app", "curl")
	l.bind(p)
	l.mustAdd(p)
	l.agent.own.health.Upsert(rest.NodeHealth{Name: "n1", Local: true, Node: rest.Probe{OK: true}, Endpoint: rest.Probe{OK: true}},
		rest.NodeHealth{Name: "n2", Node: rest.Probe{OK: true}, Endpoint: rest.Probe{}})
	l.agent.metrics.countCall("api", "GET", 200)
	l.agent.metrics.countEvent("Pod", "create")
	l.agent.metrics.countPolicy(errors.New("no"))
	l.agent.metrics.probes.Observe(0.001, "default", "n1", reachNode, "icmp", "primary")
	w := httptest.NewRecorder()
	l.agent.metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	families := metrictest.Families(t, w.Body.Bytes(), namedByOthers...)
	list := get[[]rest.Metric](t, l, rest.PathMetrics)
	for _, want := range []struct {
		name  string
		label string // key=value
		value float64
	}{
		{"cilium_endpoint", "", 1}, {"cilium_endpoint_state", "ready", 1}, {"cilium_ip_addresses", "ipv4", 1}, {"cilium_ip_addresses", "ipv6", 1},
		{"cilium_ipam_capacity", "ipv4", 253}, {"cilium_ipam_events_total", "allocate", 1}, {"cilium_identity", "cluster_local", 1},
		{"cilium_drop_count_total", "Policy denied", 3}, {"cilium_bpf_map_capacity", "endpoints", 4096}, {"cilium_policy_endpoint_enforcement_status", "none", 1},
		{"cilium_unreachable_nodes", "", 0}, {"cilium_unreachable_health_endpoints", "", 1}, {"cilium_k8s_client_api_calls_total", "GET", 1},
		{"cilium_kubernetes_events_total", "Pod", 1}, {"cilium_policy_change_total", "fail", 1}, {"cilium_datapath_conntrack_gc_entries", "alive", 5},
		{"cilium_datapath_conntrack_gc_runs_total", "completed", 2},
	} {
		found := false
		for _, m := range families[want.name].GetMetric() {
			match := want.label == ""
			for _, l := range m.GetLabel() {
				match = match || l.GetValue() == want.label
			}
			if match && m.GetGauge().GetValue()+m.GetCounter().GetValue() == want.value {
				found = true
			}
		}
		if !found {
			t.Errorf("scrape: %s of %s is not %v: %v", want.name, want.label, want.value, families[want.name])
		}
		found = false
		for _, m := range list {
			match := want.label == ""
			for _, v := range m.Labels {
				match = match || v == want.label
			}
			found = found || m.Name == want.name && match && m.Value == want.value
		}
		if !found {
			t.Errorf("list: %s of %s is not %v", want.name, want.label, want.value)
		}
	}
	for _, name := range []string{
		"cilium_version", "cilium_policy", "cilium_policy_max_revision", "cilium_controllers_failing", "cilium_bpf_map_pressure",
		"cilium_bpf_maps_virtual_memory_max_bytes", "cilium_node_health_connectivity_status", "cilium_node_health_connectivity_latency_seconds",
		"process_resident_memory_bytes", "go_goroutines",
	} {
		if families[name] == nil {
			t.Errorf("scrape: %s is missing", name)
		}
	}
}

func TestMetricsAddressesAreChecked(t *testing.T) {
	for text, ok := range map[string]bool{"": true, ":9962": true, "127.0.0.1:0": true, "[::1]:9962": true, "9962": false, ":x": false, ":99999": false} {
		if err := checkMetricsAddr(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestFullTablesOfTheKernelAreNamed(t *testing.T) {
	got := fullMaps([]MapInfo{{Name: "a", Entries: 89, Max: 100}, {Name: "b", Entries: 90, Max: 100}, {Name: "c", Entries: -1, Max: 0}})
	if len(got) != 1 || got[0] != "b (90 of 100)" {
		t.Errorf("got %q", got)
	}
}
