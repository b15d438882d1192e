// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"strings"
	"time"
)

// measured: Prometheus gets what the command line shows, of agents and operator.
func (s *setup) measured() {
	s.needsAgent()
	var list []struct{ Name string }
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := s.said(ctx, "metrics", "list", "--node", "node1", "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &list)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, m := range list {
		shown[m.Name] = true
	}
	scraped := s.scrape("node1", "9962")
	for name := range scraped {
		if !strings.HasSuffix(name, "_bucket") && !shown[name] && !strings.HasPrefix(name, "go_gc_duration") {
			s.t.Errorf("the scrape has %s, the command line does not", name)
		}
	}
	for name := range shown {
		if !scraped[name] {
			s.t.Errorf("the command line has %s, the scrape does not", name)
		}
	}
	for _, name := range []string{
		"cilium_endpoint_state", "cilium_forward_count_total", "cilium_bpf_map_pressure", "cilium_k8s_client_api_calls_total", "cilium_kubernetes_events_total",
		"cilium_node_health_connectivity_latency_seconds_count", "cilium_ip_addresses", "cilium_policy_change_total",
	} {
		if !scraped[name] {
			s.t.Errorf("%s is not scraped", name)
		}
	}
	if a, b := s.scrape("node1", "9963"), s.scrape("node2", "9963"); !a["cilium_operator_leader"] && !b["cilium_operator_leader"] {
		s.t.Error("no operator is scraped")
	}
}

// scrape returns the names that Prometheus would get from a port of a node.
func (s *setup) scrape(node, port string) map[string]bool {
	s.t.Helper()
	names := map[string]bool{}
	out, _ := s.output(node, "curl", "-s", "http://127.0.0.1:"+port+"/metrics") // nothing listens: no names
	for line := range strings.Lines(out) {
		if name := strings.FieldsFunc(line, func(r rune) bool { return r == '{' || r == ' ' || r == '\n' }); len(name) > 0 && name[0] != "#" {
			names[name[0]] = true
		}
	}
	return names
}

// health: nodes reach each other by every way, and the names of old runbooks work
// in the agents' pods.
func (s *setup) health() {
	s.needsAgent()
	s.wait(30*time.Second, "all ways", func(ctx context.Context) (bool, error) {
		out, err := s.said(ctx, "status", "--verbose")
		if err != nil {
			return false, err
		}
		ways := 0
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			if len(f) >= 6 && f[0] == "node1" && f[1] == "node2" {
				tcp, terr := time.ParseDuration(f[len(f)-2])
				ping, perr := time.ParseDuration(f[len(f)-1])
				if terr == nil && perr == nil && tcp > 0 && ping > 0 {
					ways++
				}
			}
		}
		return ways == 2*len(s.plan.Nodes[0].Addrs), nil
	})
	agents := s.agents(context.Background())
	if len(agents) == 0 {
		s.t.Fatal("no agents")
	}
	a := agents[0]
	for _, command := range []string{"cilium status --brief", "cilium-dbg endpoint list", "cilium-dbg bpf policy get", "hubble observe --last 1", "curl"} {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		_, errs, err := s.kube.Exec(ctx, a.Namespace, a.Name, strings.Fields(command)...)
		cancel()
		if (err != nil) != (command == "curl") { // the image has no other programs
			s.t.Errorf("%s: %v %s", command, err, errs)
		}
	}
}
