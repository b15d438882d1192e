// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/stentor-net/stentor/internal/cli/connectivity/probe"
)

// enforced is how long a policy may take until it is in force everywhere.
const enforced = 20 * time.Second

// Pods that one policy at a time may select.
const (
	guardedPods = "guarded"
	captivePod  = "captive"
)

// guards are the pods that have policies at their ingress.
func (t *trial) guards() []string {
	if t.far == "" {
		return []string{guardedNear}
	}
	return []string{guardedNear, guardedFar}
}

func (t *trial) servers() []string {
	if t.far == "" {
		return []string{serverNear}
	}
	return []string{serverNear, serverFar}
}

// toGuards makes tries from a pod to all guarded pods.
func (t *trial) toGuards(from string, kinds ...string) (out []try) {
	for _, to := range t.guards() {
		out = append(out, t.toPod(from, to, kinds...)...)
	}
	return out
}

func (t *trial) toServers(from string, kinds ...string) (out []try) {
	for _, to := range t.servers() {
		out = append(out, t.toPod(from, to, kinds...)...)
	}
	return out
}

// ingress makes a check of a policy at the ingress of the guarded pods.
func ingress(name, about string, tries func(*trial) []try) check {
	return check{name: "policy-" + name, about: about, alone: guardedPods, run: func(ctx context.Context, t *trial) {
		v := values{"Namespace": t.namespace, "Other": t.other, "Port": podPort}
		open := slices.Concat(t.toGuards(visitor, probe.HTTP), t.toGuards(stranger, probe.HTTP), t.toGuards(outsider, probe.HTTP))
		t.withPolicies(ctx, []string{name}, v, open, func() { t.converge(ctx, enforced, tries(t)...) })
	}}
}

// egress makes a check of a policy at the egress of the captive.
func egress(name, about string, needs func(*trial) string, tries func(*trial) []try) check {
	return check{name: "policy-" + name, about: about, alone: captivePod, needs: needs, run: func(ctx context.Context, t *trial) {
		v := values{"Namespace": t.namespace, "Port": podPort, "Prefixes": t.externalPrefixes()}
		t.withPolicies(ctx, []string{name}, v, t.toServers(captive, probe.HTTP, probe.UDP), func() { t.converge(ctx, enforced, tries(t)...) })
	}}
}

var policyChecks = []check{
	ingress("ingress-allow", "who is allowed gets in, others do not", func(t *trial) []try {
		return slices.Concat(t.toGuards(visitor, probe.HTTP, probe.Ping), denied(t.toGuards(stranger, probe.HTTP, probe.Ping)))
	}),
	ingress("ingress-default-deny", "a rule that allows nobody keeps all pods out", func(t *trial) []try {
		return denied(slices.Concat(t.toGuards(visitor, probe.HTTP, probe.UDP, probe.Ping), t.toGuards(outsider, probe.HTTP)))
	}),
	ingress("ingress-port", "an allowed port is open, others are not", func(t *trial) []try {
		return slices.Concat(t.toGuards(stranger, probe.HTTP), denied(t.toGuards(stranger, probe.TCP, probe.UDP, probe.Ping)))
	}),
	ingress("ingress-deny-over-allow", "deny rules win over allow rules", func(t *trial) []try {
		return slices.Concat(t.toGuards(visitor, probe.HTTP), denied(t.toGuards(stranger, probe.HTTP)))
	}),
	ingress("ingress-namespace", "selectors of a policy mean its own namespace", func(t *trial) []try {
		return slices.Concat(t.toGuards(stranger, probe.HTTP), denied(t.toGuards(outsider, probe.HTTP)))
	}),
	ingress("ingress-other-namespace", "a NetworkPolicy allows another namespace by its labels", func(t *trial) []try {
		return slices.Concat(t.toGuards(outsider, probe.HTTP), denied(t.toGuards(stranger, probe.HTTP)))
	}),
	ingress("ingress-entity", "nodes are allowed by their entities, pods are not", func(t *trial) []try {
		out := slices.Concat(t.toGuards(hostNear, probe.HTTP), denied(t.toGuards(visitor, probe.HTTP)))
		if t.far != "" {
			out = append(out, t.toGuards(hostFar, probe.HTTP)...)
		}
		return out
	}),
	egress("egress-allow", "a pod gets out to who is allowed, and to nobody else", nil, func(t *trial) []try {
		return slices.Concat(t.toServers(captive, probe.HTTP), denied(t.toServers(captive, probe.TCP)), denied(t.toPod(captive, stranger, probe.HTTP)))
	}),
	egress("egress-default-deny", "a rule that allows nobody keeps a pod in, and from DNS", nil, func(t *trial) []try {
		dns := try{from: t.pods[captive], to: "the cluster's DNS", denied: true, req: probe.Request{Kind: probe.Resolve, Host: "kubernetes.default.svc"}}
		return slices.Concat(denied(t.toServers(captive, probe.HTTP, probe.UDP)), []try{dns})
	}),
	egress("egress-cidr", "a prefix opens the way outside, not to pods", anExternalAddress, func(t *trial) []try {
		return slices.Concat(t.toOutside(captive), denied(t.toServers(captive, probe.HTTP)))
	}),
}

func anExternalAddress(t *trial) string {
	if t.externalPrefixes() == "" {
		return "no --external-target is given as an address"
	}
	return ""
}

// externalPrefixes are the targets' addresses as a list for a manifest; "" if
// one is a name.
func (t *trial) externalPrefixes() string {
	var out []string
	for _, e := range t.external {
		ip, err := netip.ParseAddr(e.host)
		if err != nil {
			return ""
		}
		out = append(out, fmt.Sprintf("%q", netip.PrefixFrom(ip, ip.BitLen())))
	}
	return strings.Join(out, ", ")
}
