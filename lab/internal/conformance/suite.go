// SPDX-License-Identifier: Apache-2.0

// Package conformance runs Kubernetes' own network suite against a lab.
//
// The suite is bin/network.test, built in the module lab/conformance; Ginkgo's
// command spreads its specs over processes. They run in the fabric's network
// namespace, where the API server is, because some specs speak to nodes.
package conformance

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/lab/internal/plan"
)

// Suite is a choice of specs, by their full names.
type Suite struct {
	Name  string
	About string
	focus string // expression that names match
	skip  string // expression that they do not match; "" for none
	needs []need // of specs that cannot run everywhere

	// Nodes is how many the lab has, each in a zone of its own, unless somebody says
	// otherwise; 0: as every lab.
	Nodes int
}

// need is what a spec cannot run without.
type need struct {
	match  string // of the spec's full name
	reason string // told when missing
	here   func(*plan.Plan) bool
}

// never is for what no lab has.
func never(*plan.Plan) bool { return false }

var needSCTP = need{match: `\[Feature:SCTPConnectivity\]`, reason: "the kernel has no SCTP", here: kernelHasSCTP}

// Suites are all there are.
var Suites = []Suite{
	{
		Name: "network", About: "what a conformant cluster's network must do",
		focus: `\[sig-network\].*\[Conformance\]`,
		skip:  `Netpol|\[Serial\]|\[Disruptive\]`,
		needs: []need{needSCTP},
	},
	{
		Name: "netpol", About: "NetworkPolicy: reachability between pods of three namespaces",
		focus: `\[sig-network\] Netpol .*NetworkPolicy between server and client`,
		needs: []need{needSCTP},
	},
	{
		Name: "services", About: "all of services: types, ports, affinity, traffic policies, families, UDP flows that move",
		Nodes: 3,
		focus: `\[sig-network\] (Services|Service CIDRs|Conntrack|Connectivity Pod Lifecycle|HostPort|EndpointSlice|Networking|` +
			`NoSNAT|KubeProxy|LoadBalancers|Topology Hints|Traffic Distribution|\[Feature:IPv6DualStack\])`,
		skip: `\[Serial\]|\[Disruptive\]|\[Feature:Networking-Performance\]`,
		needs: []need{
			needSCTP,
			{`\[Feature:LoadBalancer\]`, "no cloud gives the lab load balancers", never},
			{`Internet connection`, "a lab has no way to the Internet", never},
			{`kube-proxy|KubeProxy`, "the lab has no kube-proxy", func(p *plan.Plan) bool { return p.KubeProxy != plan.ProxyNone }},
			{`\[Feature:KubeProxyNFAcct\]`, "kube-proxy counts so in its iptables mode alone, and the spec's image is not made", never},
			{`\[Feature:IPv6DualStack\]`, "the lab has one family", func(p *plan.Plan) bool { return p.IPFamily == plan.Dual }},
		},
	},
}

// Find returns the suite of that name.
func Find(name string) (Suite, error) {
	i := slices.IndexFunc(Suites, func(s Suite) bool { return s.Name == name })
	if i < 0 {
		var names []string
		for _, s := range Suites {
			names = append(names, s.Name)
		}
		return Suite{}, fmt.Errorf("suite %q: want one of %s", name, strings.Join(names, ", "))
	}
	return Suites[i], nil
}

// leftOut is a spec of the suite that cannot run here.
type leftOut struct{ name, reason string }

// choose picks the suite's specs whose names also match only, and sorts out
// those that cannot run here.
func (s Suite) choose(p *plan.Plan, all []string, only *regexp.Regexp) (run []string, out []leftOut) {
	focus := regexp.MustCompile(s.focus)
	for _, name := range all {
		if !focus.MatchString(name) || !only.MatchString(name) {
			continue
		}
		if s.skip != "" && regexp.MustCompile(s.skip).MatchString(name) {
			continue
		}
		if i := slices.IndexFunc(s.needs, func(n need) bool {
			return regexp.MustCompile(n.match).MatchString(name) && !n.here(p)
		}); i >= 0 {
			out = append(out, leftOut{name, s.needs[i].reason})
			continue
		}
		run = append(run, name)
	}
	return run, out
}

func kernelHasSCTP(*plan.Plan) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}
