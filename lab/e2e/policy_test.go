// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/stentor-net/stentor/lab/internal/probe"
)

// onlyFriends is a network policy that lets pods with role=friend of the same
// namespace reach a server, and nobody else.
func onlyFriends(ns, server string) string {
	return fmt.Sprintf(`---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: %s, name: friends-of-%s}
spec:
  podSelector: {matchLabels: {app: %[2]s}}
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]
`, ns, server)
}

func web(ip netip.Addr) string {
	return "http://" + netip.AddrPortFrom(ip, 80).String() + "/hostname"
}

// within fails the story if a change takes longer than it may.
func (s *setup) within(what string, took, limit time.Duration) {
	s.t.Helper()
	s.t.Logf("%s after %d ms", what, took.Milliseconds())
	if took > limit {
		s.t.Errorf("%s after %d ms, want at most %d", what, took.Milliseconds(), limit.Milliseconds())
	}
}

// labelChange: a pod's new label changes its access within a second, and none
// of its other connections.
func (s *setup) labelChange() {
	ns := s.namespace("friends")
	s.apply(pod(ns, "client", "node1", "role: friend") + pod(ns, "far", "node2", "role: friend") +
		pod(ns, "guarded", "node1") + pod(ns, "open", "node2") + onlyFriends(ns, "guarded"))
	pods := s.running(ns, "client", "far", "guarded", "open")
	for _, client := range []string{"client", "far"} {
		at := from(ns + "/" + client)
		for _, ip := range pods["guarded"] {
			s.eventually(at, 5*time.Second, probe.OK, web(ip))
		}
		endStream := s.stream(at, pods["open"][0], "-tcp", "-rate", "200")
		for _, role := range []string{"foe", "friend"} {
			want := map[string]string{"foe": probe.Timeout, "friend": probe.OK}[role]
			if err := s.kube.Merge(context.Background(), "v1", "Pod", ns, client, `{"metadata":{"labels":{"role":"`+role+`"}}}`); err != nil {
				s.t.Fatal(err)
			}
			changed := time.Now()
			for _, ip := range pods["guarded"] {
				s.eventually(at, 5*time.Second, want, web(ip))
			}
			s.within(fmt.Sprintf("%s became a %s", client, role), time.Since(changed)-lastProbe(want, len(pods["guarded"])), time.Second)
		}
		r := endStream()
		s.t.Logf("other connection of %s: %+v", client, r)
		if r.Error != "" || r.Back.Lost > 0 || r.Back.MaxSilenceMS > 500 {
			s.t.Errorf("the other TCP connection of %s: %+v, want no error, nothing lost, no silence above 500 ms", client, r)
		}
	}
}

// lastProbe is what of a measured time is the probes' own: one that is dropped
// takes its whole timeout.
func lastProbe(outcome string, probes int) time.Duration {
	if outcome == probe.Timeout {
		return time.Duration(probes) * eventuallyTimeout
	}
	return 0
}

// defaultDeny: a policy that selects all pods and allows nothing closes their
// namespace in its direction; the other direction and the kubelet's probes go on.
func (s *setup) defaultDeny() {
	ns := s.namespace("closed")
	other := s.namespace("nearby")
	s.apply(pod(ns, "in1", "node1") + pod(ns, "in2", "node2") + service(ns, "in2") +
		pod(other, "out1", "node1") + pod(other, "out2", "node2"))
	in, out := s.running(ns, "in1", "in2"), s.running(other, "out1", "out2")
	policy := func(kind string) string {
		return fmt.Sprintf(`---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: %s, name: nothing}
spec: {podSelector: {}, policyTypes: [%s]}
`, ns, kind)
	}
	s.apply(policy("Ingress"))
	for _, at := range []from{from(ns + "/in2"), from(other + "/out1"), from(other + "/out2")} {
		s.eventually(at, 5*time.Second, probe.Timeout, web(in["in1"][0]))
		s.all(at, probe.Timeout, podTargets("closed pod", "in1", in["in1"]))
	}
	s.all(from(ns+"/in1"), probe.OK, podTargets("pod nearby", "out2", out["out2"]))
	// The host may always reach its pods, so that probes go on.
	s.all("node1", probe.OK, []target{{"host to closed pod", web(in["in1"][0]), ""}})

	s.apply(policy("Egress"))
	s.eventually(from(ns+"/in1"), 5*time.Second, probe.Timeout, web(out["out2"][0]))
	s.all(from(ns+"/in1"), probe.Timeout, podTargets("pod nearby", "out2", out["out2"]))
	s.eventually(from(ns+"/in1"), 2*time.Second, probe.Timeout, "http://in2."+ns+".svc.cluster.local/")
	s.all(from(other+"/out1"), probe.OK, podTargets("pod that may not send", "in1", in["in1"]))
	if err := s.kube.Delete(context.Background(), policy("Egress")); err != nil {
		s.t.Fatal(err)
	}
	s.eventually(from(ns+"/in1"), 5*time.Second, probe.OK, web(out["out2"][0]))
}

// all fails the story for every target with another outcome.
func (s *setup) all(at from, want string, targets []target) {
	s.t.Helper()
	var urls []string
	for _, t := range targets {
		urls = append(urls, t.url)
	}
	limit := 2 * time.Second
	if want == probe.Timeout {
		limit = 500 * time.Millisecond
	}
	results, err := s.probe(context.Background(), at, limit, urls...)
	if err != nil {
		s.t.Error(err)
		return
	}
	for i, r := range results {
		if r.Outcome != want {
			s.t.Errorf("from %s to %s, %s: %s %s, want %s", at, targets[i].what, r.Target, r.Outcome, r.Error, want)
		}
	}
}

// namespaceLabels: a policy that admits namespaces by label follows the label.
func (s *setup) namespaceLabels() {
	ns := s.namespace("blue-only")
	team := s.namespace("team", "team: blue")
	s.apply(pod(ns, "server", "node1") + pod(team, "near", "node1") + pod(team, "far", "node2") + fmt.Sprintf(`---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: %s, name: blue}
spec:
  podSelector: {}
  ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}], ports: [{port: 80}]}]
`, ns))
	server := s.running(ns, "server")["server"]
	s.running(team, "near", "far")
	for _, color := range []string{"blue", "red", "blue"} {
		if err := s.kube.Merge(context.Background(), "v1", "Namespace", "", team, `{"metadata":{"labels":{"team":"`+color+`"}}}`); err != nil {
			s.t.Fatal(err)
		}
		want := map[string]string{"blue": probe.OK, "red": probe.Timeout}[color]
		for _, at := range []from{from(team + "/near"), from(team + "/far")} {
			for _, ip := range server {
				s.eventually(at, 5*time.Second, want, web(ip))
			}
			// Another port is closed to everybody.
			s.all(at, probe.Timeout, []target{{"another port", "tcp://" + netip.AddrPortFrom(server[0], 7).String(), ""}})
		}
	}
}
