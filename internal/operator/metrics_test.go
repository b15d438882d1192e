// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stentor-net/stentor/internal/k8s/k8stest"
	"github.com/stentor-net/stentor/internal/metric/metrictest"
)

func TestTheLeaderTellsWhatTheClusterHas(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	s := k8stest.New(t)
	s.Put(nodes+"/a", `{"spec":{"ipam":{"podCIDRs":["10.0.1.0/24","fd00::100/120"]}}}`)
	s.Put(identities+"/300", `{"security-labels":{"k8s:app":"x"}}`)
	start(t, s, Options{PodRanges: small(), MetricsAddress: address, Version: "v9"})
	want := map[string]float64{
		"cilium_operator_leader": 1, "cilium_operator_ipam_nodes with-ranges": 1, "cilium_operator_ipam_nodes without-ranges": 0,
		"cilium_operator_identity_gc_entries unused": 1, "cilium_operator_version v9": 1, "cilium_operator_identity_gc_runs_total success": 1,
	}
	s.Wait("the metrics say so", func() bool {
		got := values(t, address)
		for name, v := range want {
			if have, ok := got[name]; !ok || have != v {
				return false
			}
		}
		return true
	})
}

// values of a scrape by name and labels.
func values(t *testing.T, address string) map[string]float64 {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil // it does not listen yet
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for name, f := range metrictest.Families(t, text) {
		for _, m := range f.GetMetric() {
			key := name
			for _, l := range m.GetLabel() {
				key += fmt.Sprint(" ", l.GetValue())
			}
			out[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}
