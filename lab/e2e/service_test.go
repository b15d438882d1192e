// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/stentor-net/stentor/lab/internal/probe"
)

// services: what is not a plain ClusterIP with pods behind it works too.
func (s *setup) services() {
	ns := s.namespace("kinds")
	s.apply(pod(ns, "a", "node1") + pod(ns, "c", "node2") + fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {namespace: %[1]s, name: a}
spec:
  type: NodePort
  selector: {app: a}
  ipFamilyPolicy: PreferDualStack
  ports: [{name: http, port: 80, nodePort: 30080}, {name: echo-udp, port: 7, protocol: UDP, nodePort: 30007}]
---
apiVersion: v1
kind: Pod
metadata: {namespace: %[1]s, name: onhost, labels: {app: onhost}}
spec: {nodeName: node2, hostNetwork: true, terminationGracePeriodSeconds: 0, containers: [{name: c, image: "stentor-app:dev", imagePullPolicy: Never, args: [serve, -offset, "9000"]}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: %[1]s, name: onhost}
spec:
  selector: {app: onhost}
  ipFamilyPolicy: PreferDualStack
  ports: [{name: http, port: 80, targetPort: 9080}, {name: echo-udp, port: 7, targetPort: 9007, protocol: UDP}]
---
apiVersion: v1
kind: Pod
metadata: {namespace: %[1]s, name: port, labels: {app: port}}
spec: {nodeName: node1, terminationGracePeriodSeconds: 0, containers: [{name: c, image: "stentor-app:dev", imagePullPolicy: Never, args: [serve], ports: [{containerPort: 80, hostPort: 8088}]}]}
`, ns))
	s.running(ns, "a", "c", "onhost", "port")
	both := []from{from(ns + "/a"), from(ns + "/c")}
	for _, ip := range s.vips(ns, "a") {
		// Of the two, a is its own backend.
		s.reachFrom(both, target{"ClusterIP", "http://" + netip.AddrPortFrom(ip, 80).String() + "/hostname", "a"},
			target{"ClusterIP, UDP", "udp://" + netip.AddrPortFrom(ip, 7).String(), ""})
	}
	for _, ip := range s.vips(ns, "onhost") {
		s.reachFrom(both, target{"backend on a node's network", "http://" + netip.AddrPortFrom(ip, 80).String() + "/healthz", "ok"},
			target{"backend on a node's network, UDP", "udp://" + netip.AddrPortFrom(ip, 7).String(), ""})
	}
	// The API server tells those who speak HTTP to speak HTTPS.
	for _, ip := range s.vips("default", "kubernetes") {
		for _, at := range both {
			s.eventually(at, 5*time.Second, probe.Status, "http://"+netip.AddrPortFrom(ip, 443).String()+"/")
		}
	}
	everywhere := append(both, "node1", "node2", "outside")
	for _, n := range s.plan.Nodes {
		for _, ip := range addrs(n.Addrs) {
			s.reachFrom(everywhere, target{"NodePort of " + n.Name, "http://" + netip.AddrPortFrom(ip, 30080).String() + "/hostname", "a"},
				target{"NodePort of " + n.Name + ", UDP", "udp://" + netip.AddrPortFrom(ip, 30007).String(), ""})
		}
	}
	for _, ip := range addrs(s.plan.Nodes[0].Addrs) {
		s.reachFrom([]from{"outside", "node2", from(ns + "/c")}, target{"host port", "http://" + netip.AddrPortFrom(ip, 8088).String() + "/hostname", "port"})
	}
}

// reachFrom tries targets from each place until they are reached, for at most
// five seconds.
func (s *setup) reachFrom(places []from, targets ...target) {
	s.t.Helper()
	for _, at := range places {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		left, why := targets, []string(nil)
		for len(left) > 0 && ctx.Err() == nil {
			left, why = s.reachOnce(at, left)
		}
		cancel()
		for _, w := range why {
			s.t.Errorf("from %s, not reached: %s", at, w)
		}
	}
}

// running connections: a policy that comes cuts those that it does not allow,
// and its going lets them go on.
func (s *setup) runningConnections() {
	ns := s.namespace("cut")
	s.apply(pod(ns, "client", "node1") + pod(ns, "near", "node1") + pod(ns, "far", "node2"))
	pods := s.running(ns, "client", "near", "far")
	at := from(ns + "/client")
	for _, n := range []string{"near", "far"} {
		s.eventually(at, 5*time.Second, probe.OK, web(pods[n][0]))
		end := s.stream(at, pods[n][0], "-rate", "100")
		s.apply(onlyFriends(ns, n))
		s.eventually(at, 5*time.Second, probe.Timeout, web(pods[n][0]))
		// What it allows, or does not, holds for packets that are on their way too.
		s.eventually(at, 2*time.Second, probe.Timeout, "udp://"+netip.AddrPortFrom(pods[n][0], 7).String())
		if err := s.kube.Delete(context.Background(), onlyFriends(ns, n)); err != nil {
			s.t.Fatal(err)
		}
		s.eventually(at, 5*time.Second, probe.OK, web(pods[n][0]))
		r := end()
		s.t.Logf("stream to the %s pod: %d sent, forth %+v", n, r.Sent, r.Forth)
		if r.Forth.LongestGap < 20 {
			s.t.Errorf("stream to the %s pod while a policy denied it: %+v, want a gap", n, r)
		}
		if r.Forth.Lost != r.Forth.LongestGap {
			s.t.Errorf("stream to the %s pod: %d packets lost, %d of them in one gap, want no other", n, r.Forth.Lost, r.Forth.LongestGap)
		}
	}
}
