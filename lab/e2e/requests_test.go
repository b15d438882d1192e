// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"slices"

	"github.com/stentor-net/stentor/lab/internal/probe"
)

// requests are the verdicts of all sources to all destinations about one request.
func (c crew) requests(sources, destinations []from, method, path, want string) (out []verdict) {
	for _, src := range sources {
		for _, dst := range destinations {
			if src == dst {
				continue
			}
			for _, ip := range c[dst] {
				out = append(out, verdict{src, "http://" + netip.AddrPortFrom(ip, 80).String() + path + "#method=" + method, want})
			}
		}
	}
	return out
}

// answered is what becomes of requests that rules deny: the proxy says so.
const answered = probe.Status + " 403"

// kindsOfRequestPolicies are rules about HTTP: for the server, for the client,
// and for both at once, on one node and over both.
var kindsOfRequestPolicies = []policyKind{
	{
		name: "http-ingress",
		manifest: `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: crew, name: landing}
spec:
  endpointSelector: {matchLabels: {group: red}}
  ingress:
  - fromEndpoints: [{matchLabels: {group: blue}}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{method: POST, path: /v1/request-landing}]}
`,
		verdicts: func(_ *setup, c crew) []verdict {
			return slices.Concat(
				c.requests(allBlues, allReds, "POST", "/v1/request-landing", ok),
				c.requests(allBlues, allReds, "PUT", "/v1/exhaust-port", answered),
				c.requests(allBlues, allReds, "GET", "/v1/request-landing", answered),
				c.requests(allBlues, allReds, "POST", "/v1/request-landing/../exhaust-port", answered),
				c.between(allBlues, allReds, []way{byTCP, byUDP, byPing}, closed),
				c.requests(allGuests, allReds, "POST", "/v1/request-landing", closed),
				c.between(allCrew, allBlues, anyWay, ok))
		},
	},
	{
		name: "http-egress",
		manifest: `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: crew, name: only-health}
spec:
  endpointSelector: {matchLabels: {group: blue}}
  egress:
  - toEndpoints: [{matchLabels: {group: red}}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{method: GET, path: "/health.*"}]}
  - toCIDR: [172.31.0.0/16, "fd00:31::/32"]
    toPorts:
    - ports: [{port: "8080", protocol: TCP}]
      rules: {http: [{method: GET, path: /healthz}]}
`,
		verdicts: func(s *setup, c crew) []verdict {
			return slices.Concat(
				c.requests(allBlues, allReds, "GET", "/healthz", ok),
				c.requests(allBlues, allReds, "POST", "/v1/request-landing", answered),
				c.between(allBlues, allGuests, anyWay, closed),
				toHosts(allBlues, addrs(s.plan.Outside), []way{byWeb}, ok),
				c.between(allReds, allCrew, anyWay, ok))
		},
	},
	{
		name: "http-both-sides",
		manifest: `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: crew, name: server-side}
spec:
  endpointSelector: {matchLabels: {group: red}}
  ingress:
  - fromEndpoints: [{}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{method: POST}, {path: /healthz}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: crew, name: client-side}
spec:
  endpointSelector: {matchLabels: {group: blue}}
  egress:
  - toEndpoints: [{}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{method: GET}, {path: /v1/request-landing}]}
`,
		verdicts: func(_ *setup, c crew) []verdict {
			return slices.Concat(
				c.requests(allBlues, allReds, "GET", "/healthz", ok),
				c.requests(allBlues, allReds, "POST", "/v1/request-landing", ok),
				c.requests(allBlues, allReds, "GET", "/v1/", answered),
				c.requests(allBlues, allReds, "PUT", "/v1/exhaust-port", answered),
				c.requests(allReds, allReds, "POST", "/v1/request-landing", ok),
				c.requests(allReds, allReds, "GET", "/v1/", answered))
		},
	},
}
