// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// soakServicesEnv asks for the stories about services that take long (make soak-services).
const soakServicesEnv = "STENTOR_SOAK_SERVICES"

func soaksServices(t *testing.T) {
	t.Helper()
	if os.Getenv(soakServicesEnv) == "" {
		t.Skipf("takes long: make soak-services (%s=1)", soakServicesEnv)
	}
}

// loadReport is what `stentor-app load` says.
type loadReport struct {
	Requests  int            `json:"requests"`
	Fresh     int            `json:"fresh"`
	Seconds   float64        `json:"seconds"`
	Failures  map[string]int `json:"failures"`
	Examples  []string       `json:"examples"`
	ServedBy  map[string]int `json:"servedBy"`
	LongestMS float64        `json:"longestMs"`
}

// underLoad does something to a service while a pod and the outside ask it, and tells
// what came of their requests.
func (s *setup) underLoad(what string, at from, inside, outside string, do func()) (reports [2]loadReport) {
	s.t.Helper()
	load := []string{"stentor-app", "load", "-until", "-requests", "10000", "-rate", "1000"}
	in := s.start(at, append(load, inside)...)
	out := s.on("outside", "stentor-app", "load", "-until", "-requests", "2000", "-rate", "200", outside)
	var text strings.Builder
	out.Stdout, out.Stderr = &text, &text
	if err := out.Start(); err != nil {
		s.t.Fatal(err)
	}
	do()
	_ = out.Process.Signal(os.Interrupt)
	first := in.endAfter(time.Minute)
	_ = out.Wait()
	for i, said := range []string{first, text.String()} {
		place := []string{"a pod", "outside"}[i]
		if err := json.Unmarshal([]byte(said), &reports[i]); err != nil {
			s.t.Fatalf("%s, load of %s: %v: %s", what, place, err, said)
		}
		r := reports[i]
		s.t.Logf("%s, from %s: %d requests in %.1f s, %d of them on connections of their own, %d servers, longest %.0f ms, failures %v %q",
			what, place, r.Requests, r.Seconds, r.Fresh, len(r.ServedBy), r.LongestMS, r.Failures, r.Examples)
	}
	return reports
}

// without fails the story for every request that failed.
func (s *setup) without(what string, reports [2]loadReport, failures bool) {
	s.t.Helper()
	for _, r := range reports {
		if len(r.Failures) > 0 && !failures {
			s.t.Errorf("%s: %d requests, failed: %v %q", what, r.Requests, r.Failures, r.Examples)
		}
	}
}

// replicated is a Deployment of three servers with a service. Those that are ended
// stay for grace seconds, in which they are taken out of the service, and then
// answer what they have begun.
func replicated(namespace string, grace int) string {
	stop := ""
	if grace > 0 {
		stop = fmt.Sprintf("lifecycle: {preStop: {sleep: {seconds: %d}}},", grace)
	}
	return fmt.Sprintf(`---
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: %[1]s, name: web}
spec:
  replicas: 3
  strategy: {rollingUpdate: {maxUnavailable: 1, maxSurge: 2}}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 10
      topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: web}}}]
      containers: [{name: c, image: "stentor-app:dev", imagePullPolicy: Never, args: [http, -quiet], %[2]s readinessProbe: {httpGet: {path: /healthz, port: 80}, periodSeconds: 1}}]
---
apiVersion: v1
kind: Service
metadata: {namespace: %[1]s, name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{name: http, port: 80, nodePort: 30180}]}
`, namespace, stop)
}

// rolledOut waits until every server is the newest one.
func (s *setup) rolledOut(namespace string) {
	s.t.Helper()
	s.wait(90*time.Second, "the servers to be replaced", func(ctx context.Context) (bool, error) {
		d, err := s.kube.Set.AppsV1().Deployments(namespace).Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		n := *d.Spec.Replicas
		pods, err := s.kube.Set.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
		if err != nil {
			return false, err
		}
		done := d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == n && d.Status.AvailableReplicas == n && len(pods.Items) == int(n)
		return done, fmt.Errorf("%d of %d are new, %d pods", d.Status.UpdatedReplicas, n, len(pods.Items))
	})
}

func (s *setup) restart(namespace string, round int) {
	s.t.Helper()
	patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"round":"%d"}}}}}`, round)
	if _, err := s.kube.Set.AppsV1().Deployments(namespace).Patch(context.Background(), "web", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		s.t.Fatal(err)
	}
	s.rolledOut(namespace)
}

// servicesUnderLoad: no request fails while servers are replaced gracefully, a node
// is drained, or agents are killed.
func (s *setup) servicesUnderLoad() {
	s.needsAgent()
	soaksServices(s.t)
	ns := s.namespace("load")
	s.apply(replicated(ns, 3) + pod(ns, "client", "node1"))
	s.running(ns, "client")
	s.rolledOut(ns)
	at := from(ns + "/client")
	inside := "http://" + netip.AddrPortFrom(s.vips(ns, "web")[0], 80).String() + "/hostname"
	outside := "http://" + netip.AddrPortFrom(addrs(s.plan.Nodes[0].Addrs)[0], 30180).String() + "/hostname"
	s.reachFrom([]from{at, "outside"}, target{"service", inside, ""})
	s.without("rolling update, preStop of 3 s", s.underLoad("rolling update, preStop of 3 s", at, inside, outside, func() { s.restart(ns, 1) }), false)
	s.without("agents killed", s.underLoad("agents killed", at, inside, outside, func() { s.killAgent("node1"); s.killAgent("node2") }), false)
	s.without("node drained", s.underLoad("node drained", at, inside, outside, func() { s.drain(ns, "node2") }), false)
	s.apply(replicated(ns, 0))
	s.rolledOut(ns)
	// Told, not judged: servers that end at once may be asked before anybody knows.
	s.without("", s.underLoad("rolling update without preStop", at, inside, outside, func() { s.restart(ns, 2) }), true)
}

// drain moves the servers of a node elsewhere, as kubectl does, and opens it again.
func (s *setup) drain(namespace, node string) {
	s.t.Helper()
	ctx := context.Background()
	cordon := func(on bool) {
		patch := fmt.Sprintf(`{"spec":{"unschedulable":%v}}`, on)
		if _, err := s.kube.Set.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			s.t.Fatal(err)
		}
	}
	cordon(true)
	defer cordon(false)
	pods, err := s.kube.Set.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=web", FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		s.t.Fatal(err)
	}
	if len(pods.Items) == 0 {
		s.t.Fatalf("no server is on %s", node)
	}
	var names []string
	for _, p := range pods.Items {
		names = append(names, p.Name)
		e := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: p.Name}}
		if err := s.kube.Set.CoreV1().Pods(namespace).EvictV1(ctx, e); err != nil {
			s.t.Fatal(err)
		}
	}
	s.rolledOut(namespace)
	left, err := s.kube.Set.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range left.Items {
		if slices.Contains(names, p.Name) || p.Spec.NodeName == node {
			s.t.Errorf("%s is on %s after the drain", p.Name, node)
		}
	}
}

// noRules: nothing of ours is in iptables or nftables of any node; what is there is
// the kubelet's, which makes chains so that others find out when rules are gone.
func (s *setup) noRules() {
	s.needsAgent()
	soaksServices(s.t)
	for _, n := range s.plan.Nodes {
		for _, list := range [][]string{{"nft", "list", "ruleset"}, {"iptables-save"}, {"ip6tables-save"}, {"iptables-legacy-save"}, {"ip6tables-legacy-save"}} {
			text, err := s.output(n.Name, list...)
			if err != nil {
				s.t.Errorf("%s on %s: %v: %s", list[0], n.Name, err, text)
				continue
			}
			for line := range strings.Lines(text) {
				line = strings.TrimSpace(line)
				rule := strings.HasPrefix(line, "-A") || strings.Contains(line, "counter packets")
				if rule && !strings.Contains(line, "KUBE-KUBELET") && !strings.Contains(line, "KUBE-FIREWALL") {
					s.t.Errorf("%s on %s has the rule %q", list[0], n.Name, line)
				}
				if lower := strings.ToLower(line); strings.Contains(lower, "stentor") || strings.Contains(lower, "kube-proxy") || strings.Contains(lower, "kube-svc") {
					s.t.Errorf("%s on %s says %q", list[0], n.Name, line)
				}
			}
		}
		if out, err := s.output(n.Name, "pgrep", "-f", "kube-proxy"); err == nil {
			s.t.Errorf("kube-proxy runs on %s: %s", n.Name, out)
		}
	}
}
