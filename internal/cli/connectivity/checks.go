// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/stentor-net/stentor/internal/cli/connectivity/probe"
)

// check is one line of the report.
type check struct {
	name  string
	about string
	// needs says what is missing for it; "" if nothing is.
	needs func(*trial) string
	// alone names what no other check may use at the same time.
	alone string
	run   func(context.Context, *trial)
}

func twoNodes(t *trial) string {
	if t.far == "" {
		return "the cluster has one usable node"
	}
	return ""
}

func anExternalTarget(t *trial) string {
	switch {
	case len(t.external) > 0:
		return ""
	case t.unreachable:
		return "node " + t.near + " reaches no --external-target itself"
	}
	return "no --external-target is given"
}

// settle is how long services may take to answer after they were made.
const settle = 15 * time.Second

// all checks in the order of the report.
func all() []check { return slices.Concat(pathChecks, sizeChecks, policyChecks) }

var pathChecks = []check{
	{name: "pod-to-pod-same-node", about: "pods of one node reach each other with their own addresses", run: func(ctx context.Context, t *trial) {
		t.expect(ctx, seesSource(t.toPod(visitor, serverNear, probe.Ping, probe.HTTP, probe.TCP, probe.UDP))...)
	}},
	{name: "pod-to-pod-other-node", about: "pods of two nodes reach each other with their own addresses", needs: twoNodes, run: func(ctx context.Context, t *trial) {
		t.expect(ctx, slices.Concat(
			seesSource(t.toPod(visitor, serverFar, probe.Ping, probe.HTTP, probe.TCP, probe.UDP)),
			seesSource(t.toPod(serverFar, visitor, probe.Ping, probe.HTTP, probe.TCP, probe.UDP)))...)
	}},
	{name: "pod-to-service-address", about: "a pod reaches services by their ClusterIPs", run: func(ctx context.Context, t *trial) {
		t.converge(ctx, settle, t.eachService(func(name string) []try { return t.toService(visitor, name, probe.HTTP, probe.TCP, probe.UDP) })...)
	}},
	{name: "pod-to-service-name", about: "a pod reaches services by their names", run: func(ctx context.Context, t *trial) {
		t.converge(ctx, settle, t.eachService(func(name string) []try { return t.toName(visitor, name, probe.HTTP, probe.TCP, probe.UDP) })...)
	}},
	{name: "pod-to-own-service", about: "a pod reaches itself through its service", run: func(ctx context.Context, t *trial) {
		t.converge(ctx, settle, t.toService(serverNear, serverNear, probe.HTTP)...)
	}},
	{name: "pod-to-own-node", about: "a pod reaches its node", run: func(ctx context.Context, t *trial) {
		t.expect(ctx, t.toPod(visitor, hostNear, probe.Ping, probe.HTTP, probe.TCP, probe.UDP)...)
	}},
	{name: "pod-to-other-node", about: "a pod reaches another node", needs: twoNodes, run: func(ctx context.Context, t *trial) {
		t.expect(ctx, t.toPod(visitor, hostFar, probe.Ping, probe.HTTP, probe.TCP, probe.UDP)...)
	}},
	{name: "node-to-pod-same-node", about: "a node reaches its pods", run: func(ctx context.Context, t *trial) {
		t.expect(ctx, t.toPod(hostNear, serverNear, probe.Ping, probe.HTTP, probe.TCP, probe.UDP)...)
	}},
	{name: "node-to-pod-other-node", about: "a node reaches pods of another node", needs: twoNodes, run: func(ctx context.Context, t *trial) {
		t.expect(ctx, t.toPod(hostNear, serverFar, probe.Ping, probe.HTTP, probe.TCP, probe.UDP)...)
	}},
	{name: "node-to-service", about: "a node reaches services by their ClusterIPs", run: func(ctx context.Context, t *trial) {
		t.converge(ctx, settle, t.eachService(func(name string) []try { return t.toService(hostNear, name, probe.HTTP, probe.TCP) })...)
	}},
	{name: "node-to-node", about: "the nodes reach each other, whatever the pod network does", needs: twoNodes, run: func(ctx context.Context, t *trial) {
		t.expect(ctx, t.toPod(hostNear, hostFar, probe.Ping, probe.HTTP)...)
	}},
	{name: "dns-name", about: "the cluster's DNS knows services", run: func(ctx context.Context, t *trial) {
		t.converge(ctx, settle, t.eachService(func(name string) []try {
			ips := t.services[name]
			return []try{{
				from: t.pods[visitor], to: "name of service " + name,
				req: probe.Request{Kind: probe.Resolve, Host: name + "." + t.namespace + ".svc"},
				good: func(a probe.Answer) string {
					if !sameAddresses(a.Addresses, ips) {
						return fmt.Sprintf("DNS says %v, the service has %v", a.Addresses, ips)
					}
					return ""
				},
			}}
		})...)
	}},
	{name: "dns-no-name", about: "the cluster's DNS says no to names that are not there", run: func(ctx context.Context, t *trial) {
		t.expect(ctx, try{
			from: t.pods[visitor], to: "a name that is not there", unresolved: true,
			req: probe.Request{Kind: probe.Resolve, Host: "no-such-service." + t.namespace + ".svc"},
		})
	}},
	{name: "pod-to-outside", about: "a pod reaches what is outside of the cluster", needs: anExternalTarget, run: func(ctx context.Context, t *trial) {
		t.expect(ctx, t.toOutside(visitor)...)
	}},
}

func sameAddresses(texts []string, ips []netip.Addr) bool {
	for _, text := range texts {
		if !isOneOf(text, ips) {
			return false
		}
	}
	return len(texts) == len(ips)
}

// Sizes of datagrams that need fragments: a few, and as many as there can be.
const (
	fewFragments  = 4000
	manyFragments = 60000
)

// longEnough for networks that lose a fragment now and then.
const longEnough = 5 * time.Second

func patient(tries []try) []try {
	for i := range tries {
		tries[i].req.Timeout = longEnough
	}
	return tries
}

var sizeChecks = []check{
	{name: "fragments-same-node", about: "datagrams of 4,000 and 60,000 bytes arrive on the same node", run: func(ctx context.Context, t *trial) {
		t.fragments(ctx, serverNear)
	}},
	{name: "fragments-other-node", about: "datagrams of 4,000 and 60,000 bytes arrive on another node", needs: twoNodes, run: func(ctx context.Context, t *trial) {
		t.fragments(ctx, serverFar)
	}},
	{name: "fragments-to-node", about: "datagrams of 4,000 and 60,000 bytes arrive in the network of another node", needs: twoNodes, run: func(ctx context.Context, t *trial) {
		t.fragments(ctx, hostFar)
	}},
	{name: "path-mtu-same-node", about: "a packet as large as the route says arrives on the same node, uncut", run: func(ctx context.Context, t *trial) {
		t.fullMTU(ctx, serverNear)
	}},
	{name: "path-mtu-other-node", about: "a packet as large as the route says arrives on another node, uncut", needs: twoNodes, run: func(ctx context.Context, t *trial) {
		t.fullMTU(ctx, serverFar)
	}},
	{name: "bulk-other-node", about: "a megabyte goes to a pod of another node and back over TCP", needs: twoNodes, run: func(ctx context.Context, t *trial) {
		t.expect(ctx, patient(sized(1<<20, t.toPod(visitor, serverFar, probe.TCP)))...)
	}},
	{name: "path-mtu-outside", about: "large pings go outside and back, by whatever path", needs: anExternalTarget, run: func(ctx context.Context, t *trial) {
		var tries []try
		for _, x := range sized(3000, t.toOutside(visitor)) {
			x.req.Kind, x.req.Timeout = probe.Ping, longEnough // the first may be lost to discovery
			tries = append(tries, x)
		}
		t.expect(ctx, tries...)
	}},
}

func (t *trial) fragments(ctx context.Context, to string) {
	t.expect(ctx, patient(slices.Concat(
		sized(fewFragments, t.toPod(visitor, to, probe.UDP)), sized(manyFragments, t.toPod(visitor, to, probe.UDP))))...)
}

func (t *trial) fullMTU(ctx context.Context, to string) {
	tries := t.toPod(visitor, to, probe.FullMTU)
	for i := range tries {
		tries[i].good = func(a probe.Answer) string {
			t.note("%d bytes", a.Size)
			return ""
		}
	}
	t.expect(ctx, tries...)
}
