// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stentor-net/stentor/lab/internal/probe"
)

// nodeLocalDNS: a cache on each node answers what its clients ask of the cluster's
// DNS, and asks that itself by a Service of its own. Without the cache the clients
// ask it, too.
func (s *setup) nodeLocalDNS() {
	ns := s.namespace("localdns")
	upstream := `---
apiVersion: v1
kind: Service
metadata: {namespace: kube-system, name: story-upstream}
spec: {selector: {k8s-app: kube-dns}, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}]}
`
	s.apply(upstream)
	caches := upstream + `---
apiVersion: cilium.io/v2
kind: CiliumLocalRedirectPolicy
metadata: {namespace: kube-system, name: story-cache}
spec:
  redirectFrontend: {serviceMatcher: {serviceName: kube-dns, namespace: kube-system}}
  redirectBackend:
    localEndpointSelector: {matchLabels: {app: story-cache}}
    toPorts: [{name: dns, port: "53", protocol: UDP}, {name: dns-tcp, port: "53", protocol: TCP}]
`
	var pods []string
	for i, node := range []string{"node1", "node2"} {
		caches += fmt.Sprintf(`---
apiVersion: v1
kind: ConfigMap
metadata: {namespace: kube-system, name: story-cache-%[1]s}
data: {Corefile: ".:53 {\n  errors\n  ready\n  hosts {\n    192.0.2.%[2]d who.story\n    fallthrough\n  }\n  forward . %[3]s\n}\n"}
`, node, i+1, s.vips("kube-system", "story-upstream")[0])
		pods = append(pods, fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {namespace: kube-system, name: story-cache-%[1]s, labels: {app: story-cache}}
spec:
  nodeName: %[1]s
  dnsPolicy: Default
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: "coredns:dev"
    imagePullPolicy: Never
    args: ["-conf", "/etc/coredns/Corefile"]
    ports: [{containerPort: 53, name: dns, protocol: UDP}, {containerPort: 53, name: dns-tcp}]
    readinessProbe: {httpGet: {path: /ready, port: 8181}, periodSeconds: 1}
    volumeMounts: [{name: c, mountPath: /etc/coredns}]
  volumes: [{name: c, configMap: {name: story-cache-%[1]s}}]
`, node))
	}
	s.apply(caches + strings.Join(pods, ""))
	s.t.Cleanup(func() {
		if err := s.kube.Delete(context.Background(), caches+pods[1]); err != nil { // the other one goes in the story
			s.t.Error(err)
		}
	})
	s.apply(pod(ns, "node1", "node1") + pod(ns, "node2", "node2"))
	s.running(ns, "node1", "node2")
	s.running("kube-system", "story-cache-node1", "story-cache-node2")
	answers := func(pod, name, want string, flags ...string) {
		s.t.Helper()
		var out, errs string
		s.wait(15*time.Second, fmt.Sprintf("%s to get %q for %s", pod, want, name), func(ctx context.Context) (bool, error) {
			var err error
			out, errs, err = s.kube.Exec(ctx, ns, pod, append(append([]string{"stentor-app", "dns"}, flags...), name)...)
			if want == "" {
				return unless(err != nil, "got %s", out)
			}
			return unless(err == nil && strings.Contains(out, want), "%s%s %v", out, errs, err)
		})
	}
	for i, node := range []string{"node1", "node2"} {
		own := fmt.Sprintf("192.0.2.%d", i+1)
		answers(node, "who.story.", own)
		answers(node, "who.story.", own, "-tcp")
		answers(node, "kubernetes.default.svc.cluster.local.", s.vips("default", "kubernetes")[0].String())
	}
	out, err := s.said(context.Background(), "lrp", "list", "--node", "node1")
	if err != nil || !strings.Contains(out, "kube-system/story-cache") || !strings.Contains(out, "clusterIP + all svc ports") {
		s.t.Errorf("lrp list: %v\n%s", err, out)
	}
	s.remove("kube-system", "story-cache-node1")
	answers("node1", "who.story.", "")
	answers("node1", "kubernetes.default.svc.cluster.local.", s.vips("default", "kubernetes")[0].String())
	answers("node2", "who.story.", "192.0.2.2")
}

// loadBalancers: a Service gets addresses of a pool, is reached by them from
// outside, and gives them back.
func (s *setup) loadBalancers() {
	ns := s.namespace("balanced")
	pool := `---
apiVersion: cilium.io/v2
kind: CiliumLoadBalancerIPPool
metadata: {name: story}
spec:
  blocks: [{cidr: 203.0.113.0/28}, {cidr: "fd00:203::/120"}]
  serviceSelector: {matchLabels: {io.kubernetes.service.namespace: balanced}}
`
	s.apply(pool)
	s.t.Cleanup(func() {
		if err := s.kube.Delete(context.Background(), pool); err != nil {
			s.t.Error(err)
		}
	})
	web := fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {namespace: %[1]s, name: web}
spec:
  type: LoadBalancer
  selector: {app: web}
  ipFamilyPolicy: PreferDualStack
  ports: [{name: http, port: 80}, {name: echo-udp, port: 7, protocol: UDP}]
`, ns)
	s.apply(web + pod(ns, "web", "node2"))
	s.running(ns, "web")
	var given []netip.Addr
	s.wait(15*time.Second, "the Service to have addresses", func(ctx context.Context) (bool, error) {
		svc, err := s.kube.Set.CoreV1().Services(ns).Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		given = nil
		for _, in := range svc.Status.LoadBalancer.Ingress {
			given = append(given, netip.MustParseAddr(in.IP))
		}
		return unless(len(given) == len(s.plan.Outside), "%v %v", svc.Status.LoadBalancer.Ingress, svc.Status.Conditions)
	})
	route := func(verb string, ip netip.Addr, via netip.Addr) {
		s.t.Helper()
		if out, err := exec.Command("ip", "-n", s.plan.FabricNS, "route", verb, netip.PrefixFrom(ip, ip.BitLen()).String(), "via", via.String()).CombinedOutput(); err != nil {
			s.t.Errorf("ip route %s %s: %v %s", verb, ip, err, out)
		}
	}
	for i, ip := range given {
		via := s.plan.Nodes[0].Addrs[i].Addr() // the node without the pod
		route("add", ip, via)
		s.reachFrom([]from{"outside", "node1", "node2", from(ns + "/web")},
			target{"load balancer", "http://" + netip.AddrPortFrom(ip, 80).String() + "/hostname", "web"},
			target{"load balancer, UDP", "udp://" + netip.AddrPortFrom(ip, 7).String(), ""})
		s.all("outside", probe.Timeout, []target{{"another port of it", "http://" + netip.AddrPortFrom(ip, 81).String() + "/", ""}})
		route("del", ip, via)
	}
	if err := s.kube.Delete(context.Background(), web); err != nil {
		s.t.Fatal(err)
	}
	s.wait(15*time.Second, "the pool to have its addresses back", func(ctx context.Context) (bool, error) {
		out, err := s.kube.Set.CoreV1().RESTClient().Get().AbsPath("/apis/cilium.io/v2/ciliumloadbalancerippools/story").DoRaw(ctx)
		text := string(out)
		return unless(err == nil && strings.Contains(text, `"message":"0"`) && strings.Contains(text, "cilium.io/IPsUsed"), "%s %v", text, err)
	})
}

// unless is what a condition gives: done, or what was seen instead.
func unless(done bool, format string, args ...any) (bool, error) {
	if done {
		return true, nil
	}
	return false, fmt.Errorf(format, args...)
}
