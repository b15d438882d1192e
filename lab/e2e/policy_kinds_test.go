// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/stentor-net/stentor/lab/internal/probe"
)

// cleared deletes what a story made in the cluster, when it ends.
func (s *setup) cleared(manifests string) {
	s.t.Cleanup(func() {
		if err := s.kube.Delete(context.Background(), manifests); err != nil && !strings.Contains(err.Error(), "not found") {
			s.t.Error(err)
		}
	})
}

// egressOf is the policy "p" of the pod client: what it may reach.
func egressOf(ns, rules string) string {
	return fmt.Sprintf(`---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: %s, name: p}
spec: {endpointSelector: {matchLabels: {app: client}}, egress: [%s]}
`, ns, rules)
}

// namedPeers: policies that name CIDR groups, Services and nodes follow those
// when they change.
func (s *setup) namedPeers() {
	s.needsAgent()
	ns := s.namespace("named")
	s.apply(pod(ns, "client", "node1", "app: client") + pod(ns, "server", "node2", "app: server") + service(ns, "server"))
	pods := s.running(ns, "client", "server")
	s.serveOn("outside", 0)
	client, server, outside := from(ns+"/client"), web(pods["server"][0]), web(s.plan.Outside[0].Addr())

	group := func(cidr, zone string) string {
		return fmt.Sprintf("---\napiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: %s-partners, labels: {zone: %s}}\nspec: {externalCIDRs: [%s]}\n", ns, zone, cidr)
	}
	s.cleared(group("192.0.2.0/24", "a"))
	s.apply(egressOf(ns, fmt.Sprintf("{toCIDRSet: [{cidrGroupRef: %s-partners}]}", ns)))
	s.eventually(client, 5*time.Second, probe.Timeout, outside)
	s.apply(group(s.plan.Outside[0].Masked().String(), "a"))
	s.eventually(client, 5*time.Second, probe.OK, outside)
	s.all(client, probe.Timeout, []target{{"a pod", server, ""}})
	s.apply(egressOf(ns, "{toCIDRSet: [{cidrGroupSelector: {matchLabels: {zone: b}}}]}"))
	s.eventually(client, 5*time.Second, probe.Timeout, outside)
	s.apply(group(s.plan.Outside[0].Masked().String(), "b"))
	s.eventually(client, 5*time.Second, probe.OK, outside)

	s.apply(egressOf(ns, "{toServices: [{k8sService: {serviceName: server}}]}"))
	s.eventually(client, 5*time.Second, probe.OK, server)
	s.all(client, probe.Timeout, []target{{"outside", outside, ""}})
	byHand := func(addr string) string {
		return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {namespace: %[1]s, name: byhand, labels: {use: outside}}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {namespace: %[1]s, name: byhand-1, labels: {kubernetes.io/service-name: byhand}}
ports: [{port: 80}]
endpoints: [{addresses: [%[2]s]}]
`, ns, addr)
	}
	s.apply(byHand("192.0.2.1") + egressOf(ns, "{toServices: [{k8sServiceSelector: {selector: {matchLabels: {use: outside}}}}]}"))
	s.eventually(client, 5*time.Second, probe.Timeout, server)
	s.all(client, probe.Timeout, []target{{"outside", outside, ""}})
	s.apply(byHand(s.plan.Outside[0].Addr().String()))
	s.eventually(client, 5*time.Second, probe.OK, outside)

	s.apply(egressOf(ns, "{toNodes: [{matchLabels: {kubernetes.io/hostname: node2}}]}"))
	far, own := "ping://"+s.plan.Nodes[1].Addrs[0].Addr().String(), "ping://"+s.plan.Nodes[0].Addrs[0].Addr().String()
	s.eventually(client, 5*time.Second, probe.OK, far)
	s.all(client, probe.Timeout, []target{{"the own node", own, ""}})
	s.apply(egressOf(ns, "{toNodes: [{matchLabels: {e2e-zone: a}}]}"))
	s.eventually(client, 5*time.Second, probe.Timeout, far)
	s.label("node1", `"a"`)
	defer s.label("node1", "null")
	s.eventually(client, 10*time.Second, probe.OK, own)
	s.all(client, probe.Timeout, []target{{"another node", far, ""}})
}

func (s *setup) label(node, value string) {
	s.t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{"e2e-zone":%s}}}`, value)
	if err := s.kube.Merge(context.Background(), "v1", "Node", "", node, patch); err != nil {
		s.t.Error(err)
	}
}

// tiers: ClusterNetworkPolicies stand before and after the others; their kind is
// defined while the agents run.
func (s *setup) tiers() {
	s.needsAgent()
	ns := s.namespace("tiers")
	s.apply(pod(ns, "client", "node1", "app: client") + pod(ns, "server", "node2", "app: server"))
	pods := s.running(ns, "client", "server")
	client, server := from(ns+"/client"), web(pods["server"][0])
	s.all(client, probe.OK, []target{{"the server", server, ""}})
	s.apply(clusterPolicyDefinition(s))
	policy := func(name, tier, action string) string {
		return fmt.Sprintf(`---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: %[1]s-%[2]s}
spec:
  tier: %[3]s
  priority: 5
  subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: %[1]s}}}
  ingress: [{action: %[4]s, from: [{namespaces: {}}]}]
`, ns, name, tier, action)
	}
	s.cleared(policy("base", "Baseline", "Deny") + policy("first", "Admin", "Deny"))
	s.apply(policy("base", "Baseline", "Deny"))
	s.eventually(client, 30*time.Second, probe.Timeout, server) // the definition is looked for every ten seconds
	allow := fmt.Sprintf(`---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: %s, name: allow}
spec: {podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {}}]}]}
`, ns)
	s.apply(allow)
	s.eventually(client, 5*time.Second, probe.OK, server)
	s.apply(policy("first", "Admin", "Deny"))
	s.eventually(client, 5*time.Second, probe.Timeout, server)
	s.apply(policy("first", "Admin", "Pass"))
	s.eventually(client, 5*time.Second, probe.OK, server)
}

// clusterPolicyDefinition is the CRD as its authors publish it, out of the module
// that the product is built with.
func clusterPolicyDefinition(s *setup) string {
	s.t.Helper()
	list := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/network-policy-api")
	list.Dir = filepath.Join("..", "..")
	dir, err := list.Output()
	if err != nil {
		s.t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "config", "crd", "experimental", "policy.networking.k8s.io_clusternetworkpolicies.yaml"))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// audit: what only an audited policy or an audited endpoint denies passes, and
// the monitor tells it.
func (s *setup) audit() {
	s.needsAgent()
	ns := s.namespace("audit")
	s.apply(pod(ns, "client", "node1", "app: client") + pod(ns, "server", "node2", "app: server"))
	pods := s.running(ns, "client", "server")
	client, server := from(ns+"/client"), web(pods["server"][0])
	closed := func(audit string) string {
		return fmt.Sprintf(`---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: %s, name: closed, annotations: {policy.stentor.io/audit-mode: "%s"}}
spec: {podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress]}
`, ns, audit)
	}
	s.apply(closed("false"))
	s.eventually(client, 5*time.Second, probe.Timeout, server)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	told := make(chan string, 1)
	monitor := s.cli(ctx, "monitor", "--verdict", "audit", "--to", ns+"/server", "--count", "1")
	go func() {
		out, _ := monitor.CombinedOutput()
		told <- string(out)
	}()
	s.apply(closed("true"))
	s.eventually(client, 5*time.Second, probe.OK, server)
	s.wait(20*time.Second, "the monitor to tell the audit", func(context.Context) (bool, error) {
		select {
		case out := <-told:
			if !strings.Contains(out, "AUDIT") {
				s.t.Errorf("the monitor says %q", out)
			}
			return true, nil
		default: // it may have listened too late for the first connection
			_, err := s.probe(ctx, client, time.Second, server)
			return false, err
		}
	})
	s.apply(closed("false"))
	s.eventually(client, 5*time.Second, probe.Timeout, server)
	set := func(value string) {
		if out, err := s.cli(ctx, "endpoint", "config", ns+"/server", "PolicyAuditMode="+value).CombinedOutput(); err != nil {
			s.t.Errorf("%v: %s", err, out)
		}
	}
	set("Enabled")
	s.eventually(client, 5*time.Second, probe.OK, server)
	set("Disabled")
	s.eventually(client, 5*time.Second, probe.Timeout, server)
}
