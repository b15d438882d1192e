// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"slices"
	"time"

	"github.com/stentor-net/stentor/lab/internal/probe"
)

// policyKind is a policy and all that it decides.
type policyKind struct {
	name     string
	needs    string // manifest that comes before and stays
	manifest string
	verdicts func(s *setup, c crew) []verdict
}

const (
	ok     = probe.OK
	closed = probe.Timeout
)

// policyKinds: each kind of rule decides alike on both nodes and between them,
// over IPv4 and IPv6, and when its policy goes everything is open again.
func (s *setup) policyKinds() {
	s.needsAgent()
	c := s.signOn()
	s.decide("before any policy", c.open())
	for _, k := range slices.Concat(kindsOfPolicies, kindsOfRequestPolicies) {
		s.story(s.t, k.name, func(s *setup) {
			if k.needs != "" {
				s.apply(k.needs)
			}
			start := time.Now()
			s.apply(k.manifest)
			verdicts := k.verdicts(s, c)
			if s.decide("with the policy", verdicts) {
				s.t.Logf("%d verdicts in %.1f s", len(verdicts), time.Since(start).Seconds())
			}
			if err := s.kube.Delete(context.Background(), k.manifest); err != nil {
				s.t.Fatal(err)
			}
			s.decide("without the policy", c.open())
		})
	}
}

var kindsOfPolicies = []policyKind{
	{
		name: "namespace-isolation",
		manifest: `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: crew, name: own-namespace}
spec:
  endpointSelector: {}
  ingress: [{fromEndpoints: [{}]}]
`,
		verdicts: func(_ *setup, c crew) []verdict {
			ours := slices.Concat(allReds, allBlues)
			return slices.Concat(
				c.between(ours, ours, anyWay, ok), c.between(allGuests, ours, anyWay, closed),
				c.between(ours, allGuests, anyWay, ok), c.between(allGuests, allGuests, anyWay, ok))
		},
	},
	{
		name: "deny-over-allow",
		manifest: `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: crew, name: blues-but-one}
spec:
  endpointSelector: {matchLabels: {group: red}}
  ingress: [{fromEndpoints: [{matchLabels: {group: blue}}]}]
  ingressDeny:
  - fromEndpoints: [{matchLabels: {app: blue2}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
`,
		verdicts: func(_ *setup, c crew) []verdict {
			return slices.Concat(
				c.between([]from{blue1}, allReds, anyWay, ok),
				c.between([]from{blue2}, allReds, []way{byWeb}, closed), c.between([]from{blue2}, allReds, []way{byTCP, byUDP}, ok),
				c.between(allReds, allReds, anyWay, closed), c.between(allGuests, allReds, anyWay, closed),
				c.between(allCrew, allBlues, anyWay, ok))
		},
	},
	{
		name: "egress-to-cidr",
		manifest: `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: crew, name: wide-ways}
spec:
  endpointSelector: {matchLabels: {group: red}}
  egress:
  - toCIDRSet:
    - {cidr: 172.31.0.0/16, except: [172.31.1.0/24]}
    - {cidr: "fd00:31::/32", except: ["fd00:31:1::/64"]}
  - toCIDR: [10.244.0.0/16, "fd00:10:244::/56"]
`,
		verdicts: func(s *setup, c crew) []verdict {
			return slices.Concat(
				toHosts(allReds, addrs(s.plan.Outside), anyWay, ok), toHosts(allReds, addrs(s.plan.Narrow), anyWay, closed),
				// Pods are known by their labels, not by their addresses.
				c.between(allReds, allCrew, anyWay, closed),
				toHosts(allBlues, addrs(s.plan.Narrow), []way{byWeb, byPing}, ok), c.between(allCrew[2:], allReds, anyWay, ok))
		},
	},
	{
		name: "cidr-group",
		manifest: `
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: outside-hosts}
spec: {externalCIDRs: [172.31.0.10/32, "fd00:31::10/128"]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: crew, name: to-group}
spec:
  endpointSelector: {matchLabels: {group: red}}
  egress: [{toCIDRSet: [{cidrGroupRef: outside-hosts}], toPorts: [{ports: [{port: "8080", protocol: TCP}]}]}]
`,
		verdicts: func(s *setup, c crew) []verdict {
			return slices.Concat(
				toHosts(allReds, addrs(s.plan.Outside), []way{byWeb}, ok), toHosts(allReds, addrs(s.plan.Outside), []way{byTCP, byUDP, byPing}, closed),
				toHosts(allReds, addrs(s.plan.Narrow), []way{byWeb}, closed), c.between(allReds, allCrew, anyWay, closed))
		},
	},
	{
		name: "named-port",
		manifest: `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: crew, name: named}
spec:
  endpointSelector: {matchLabels: {group: red}}
  ingress: [{fromEndpoints: [{}], toPorts: [{ports: [{port: web, protocol: TCP}, {port: echo, protocol: UDP}]}]}]
`,
		verdicts: func(_ *setup, c crew) []verdict {
			return slices.Concat(
				c.between(allBlues, allReds, []way{byWeb, byUDP}, ok), c.between(allBlues, allReds, []way{byTCP, byPing}, closed),
				c.between(allGuests, allReds, anyWay, closed))
		},
	},
	{
		name: "port-range",
		manifest: `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: crew, name: range}
spec:
  endpointSelector: {matchLabels: {group: red}}
  egress: [{toEndpoints: [{matchLabels: {group: blue}}], toPorts: [{ports: [{port: "1", endPort: 79, protocol: TCP}, {port: "5", endPort: 80, protocol: UDP}]}]}]
`,
		verdicts: func(_ *setup, c crew) []verdict {
			return slices.Concat(
				c.between(allReds, allBlues, []way{byTCP, byUDP}, ok), c.between(allReds, allBlues, []way{byWeb, byPing}, closed),
				c.between(allReds, allGuests, anyWay, closed), c.between(allGuests, allBlues, anyWay, ok))
		},
	},
	{
		name: "icmp",
		manifest: `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: crew, name: echo-requests}
spec:
  endpointSelector: {matchLabels: {group: red}}
  ingress: [{fromEndpoints: [{matchLabels: {group: blue}}], icmps: [{fields: [{type: 8, family: IPv4}, {type: EchoRequest, family: IPv6}]}]}]
`,
		verdicts: func(_ *setup, c crew) []verdict {
			return slices.Concat(
				c.between(allBlues, allReds, []way{byPing}, ok), c.between(allBlues, allReds, []way{byWeb, byTCP, byUDP}, closed),
				c.between(allGuests, allReds, anyWay, closed))
		},
	},
	{
		name: "entity-host",
		manifest: `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: crew, name: own-host}
spec:
  endpointSelector: {matchLabels: {group: red}}
  egress: [{toEntities: [host]}]
`,
		verdicts: func(s *setup, c crew) []verdict {
			one, two := addrs(s.plan.Nodes[0].Addrs), addrs(s.plan.Nodes[1].Addrs)
			return slices.Concat(
				toHosts([]from{red1}, one, anyWay, ok), toHosts([]from{red1}, two, anyWay, closed),
				toHosts([]from{red2}, two, anyWay, ok), toHosts([]from{red2}, one, anyWay, closed),
				toHosts(allReds, addrs(s.plan.Outside), anyWay, closed), c.between(allReds, allCrew, anyWay, closed))
		},
	},
	{
		name: "entity-cluster",
		manifest: `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: crew, name: cluster}
spec:
  endpointSelector: {matchLabels: {group: red}}
  egress: [{toEntities: [cluster]}]
`,
		verdicts: func(s *setup, c crew) []verdict {
			nodes := slices.Concat(addrs(s.plan.Nodes[0].Addrs), addrs(s.plan.Nodes[1].Addrs))
			return slices.Concat(
				toHosts(allReds, nodes, anyWay, ok), c.between(allReds, allCrew, anyWay, ok),
				toHosts(allReds, addrs(s.plan.Outside), anyWay, closed))
		},
	},
	{
		name: "entity-world",
		manifest: `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: crew, name: world}
spec:
  endpointSelector: {matchLabels: {group: red}}
  egress: [{toEntities: [world]}]
`,
		verdicts: func(s *setup, c crew) []verdict {
			nodes := slices.Concat(addrs(s.plan.Nodes[0].Addrs), addrs(s.plan.Nodes[1].Addrs))
			return slices.Concat(
				toHosts(allReds, addrs(s.plan.Outside), anyWay, ok),
				toHosts(allReds, nodes, anyWay, closed), c.between(allReds, allCrew, anyWay, closed))
		},
	},
	{
		name: "clusterwide-deny",
		manifest: `
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: no-guests}
spec:
  endpointSelector: {matchLabels: {group: red}}
  ingress: [{fromEntities: [all]}]
  ingressDeny: [{fromEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": guests}}]}]
`,
		verdicts: func(_ *setup, c crew) []verdict {
			return slices.Concat(
				c.between(allGuests, allReds, anyWay, closed), c.between(allBlues, allReds, anyWay, ok),
				c.between(allGuests, allBlues, anyWay, ok))
		},
	},
	{
		name:  "tiers",
		needs: clusterNetworkPolicyKind,
		manifest: `
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: above}
spec:
  tier: Admin
  priority: 10
  subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: crew}}, podSelector: {matchLabels: {group: red}}}}
  ingress:
  - {action: Accept, from: [{namespaces: {matchLabels: {visits: crew}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}
  - {action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {group: blue}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: crew, name: between-reds}
spec:
  podSelector: {matchLabels: {group: red}}
  ingress: [{from: [{podSelector: {matchLabels: {group: blue}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: crew, name: between-blues}
spec:
  podSelector: {matchLabels: {app: blue2}}
  ingress: [{from: [{namespaceSelector: {matchLabels: {visits: crew}}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: below}
spec:
  tier: Baseline
  priority: 10
  subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: crew}}, podSelector: {matchLabels: {group: blue}}}}
  ingress: [{action: Deny, from: [{namespaces: {matchLabels: {visits: crew}}}]}]
`,
		verdicts: func(_ *setup, c crew) []verdict {
			return slices.Concat(
				// The tier above decides, then the NetworkPolicy.
				c.between(allGuests, allReds, []way{byWeb}, ok), c.between(allGuests, allReds, []way{byTCP, byUDP, byPing}, closed),
				c.between(allBlues, allReds, anyWay, closed), c.between(allReds, allReds, anyWay, closed),
				// The tier below decides only where no NetworkPolicy selects.
				c.between(allGuests, []from{blue1}, anyWay, closed), c.between(allReds, []from{blue1}, anyWay, ok),
				c.between(allGuests, []from{blue2}, anyWay, ok), c.between(allReds, []from{blue2}, anyWay, closed))
		},
	},
}

// clusterNetworkPolicyKind defines the kind, whose own project brings it to a
// cluster, without its validation.
const clusterNetworkPolicyKind = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: clusternetworkpolicies.policy.networking.k8s.io
  annotations: {api-approved.kubernetes.io: "unapproved, for a test"}
spec:
  group: policy.networking.k8s.io
  names: {kind: ClusterNetworkPolicy, listKind: ClusterNetworkPolicyList, plural: clusternetworkpolicies, singular: clusternetworkpolicy}
  scope: Cluster
  versions:
  - name: v1alpha2
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`
