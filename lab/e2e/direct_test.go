// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/stentor-net/stentor/lab/internal/probe"
)

// clientAddresses: a client outside asks a NodePort of the node that has the only
// backend, and of the one that has not. Which address the backend sees depends on
// the traffic policy, on how connections are forwarded, and on the node.
func (s *setup) clientAddresses(direct bool) {
	ns := s.namespace("sources")
	yaml := pod(ns, "a", "node1")
	type kind struct{ policy, mode string }
	var kinds []kind
	for _, policy := range []string{"Cluster", "Local"} {
		for _, mode := range []string{"snat", "dsr", "hybrid"} {
			yaml += fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {namespace: %s, name: %s, annotations: {service.cilium.io/forwarding-mode: %s}}
spec:
  type: NodePort
  externalTrafficPolicy: %s
  selector: {app: a}
  ipFamilyPolicy: PreferDualStack
  ports: [{name: http, port: 80, nodePort: %d}, {name: echo, port: 7, nodePort: %[6]d}, {name: echo-udp, port: 7, protocol: UDP, nodePort: %[6]d}]
`, ns, strings.ToLower(policy)+"-"+mode, mode, policy, 30100+10*len(kinds), 30107+10*len(kinds))
			kinds = append(kinds, kind{policy, mode})
		}
	}
	s.apply(yaml)
	s.running(ns, "a")
	outside := addrs(s.plan.Outside)
	var reached, silent []target
	for i, k := range kinds {
		for n, node := range s.plan.Nodes {
			for family, ip := range addrs(node.Addrs) {
				at := func(scheme, rest string, port int) string {
					return scheme + "://" + netip.AddrPortFrom(ip, uint16(30100+10*i+port)).String() + rest
				}
				what := fmt.Sprintf("%s, %s, by %s", k.policy, k.mode, node.Name)
				sees := outside[family].String()
				if n != 0 && (!direct || k.mode == "snat") {
					sees = ip.String()
				}
				if k.policy == "Local" && n != 0 {
					silent = append(silent, target{what, at("http", "/ip", 0), ""}, target{what, at("udp", "", 7), ""})
					continue
				}
				reached = append(reached, target{what, at("http", "/ip", 0), sees}, target{what + ", 200 kB", at("tcp", "#size=200000", 7), ""},
					target{what + ", UDP", at("udp", "", 7), ""}, target{what + ", UDP in fragments", at("udp", "#size=4000", 7), ""})
			}
		}
	}
	s.reachFrom([]from{"outside"}, reached...)
	for range 3 { // again and again, by other ports
		if left, why := s.reachOnce("outside", reached); len(left) > 0 {
			s.t.Errorf("not reached:\n%s", indent(strings.Join(why, "\n")))
		}
	}
	s.all("outside", probe.Timeout, silent)
	if !direct {
		return
	}
	// The policy at the backend is about the client that it sees.
	s.apply(fmt.Sprintf(`---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: %s, name: only-outside}
spec:
  podSelector: {}
  ingress: [{from: [{ipBlock: {cidr: %s/32}}]}]
`, ns, outside[0]))
	port := func(i int) string {
		return "http://" + netip.AddrPortFrom(s.plan.Nodes[1].Addrs[0].Addr(), uint16(30100+10*i)).String() + "/ip"
	}
	s.eventually("outside", 5*time.Second, probe.Timeout, port(0))
	s.all("outside", probe.OK, []target{{"with its own address", port(1), ""}})
}
