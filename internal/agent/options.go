// SPDX-License-Identifier: Apache-2.0

// Package agent owns the network of one node: it wires the tables from the API server to the datapath.
//
// See README.md of this folder for the flow of data.
package agent

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/policy"
)

// Values of options.
const (
	RoutingTunnel = "tunnel"
	RoutingNative = "native"

	IPAMClusterPool = "cluster-pool"
	IPAMKubernetes  = "kubernetes"

	ChainingNone    = "none"
	ChainingPortmap = "portmap"
)

// Options of an agent; Load fills them from the schema in schema.go.
type Options struct {
	NodeName   string // name of the Kubernetes node; required
	Version    string // of the program, for status
	ConfigDir  string // where the options came from; shown in status
	APIServer  string // URL; empty: from the pod's environment
	Kubeconfig string // path; empty: the pod's service account
	Debug      bool

	ClusterName string
	ClusterID   int

	IPv4, IPv6           bool
	Routing              string // Routing*
	TunnelPort           uint16
	AutoDirectNodeRoutes bool
	NativeCIDR4          netip.Prefix // zero: none
	NativeCIDR6          netip.Prefix
	Masquerade4          bool
	Masquerade6          bool
	Devices              []string
	MTU                  int // bytes; 0: found out
	SocketLB             bool
	Service              ServiceOptions
	MonitorAggregation   string

	Flows         bool   // keep and serve flows
	FlowSocket    string // unix socket of the observer; empty: beside SocketPath
	FlowListen    string // host:port; empty: not reached from other nodes
	FlowBuffer    int    // records in memory
	FlowPlain     bool   // FlowListen without TLS
	FlowCert      string // PEM files
	FlowKey       string
	FlowClientCAs string // empty: clients need no certificate

	IPAM            string // IPAM*
	AddressRest     time.Duration
	Enforcement     string   // policy.Enforce*
	AllowLocalhost  string   // auto, always, policy
	CIDRMatch       []string // nodes, pods
	PolicyAudit     bool
	ClusterPolicies bool // ClusterNetworkPolicy
	NodeLabels      bool // identities of nodes have their labels
	LabelFilterText string
	L7Proxy         bool // L7 rules are carried out by the proxy of the node

	SocketPath    string
	RunDir        string // state that a restart must find again
	BPFRoot       string
	CgroupRoot    string
	ProcFS        string // of which sys/net is written
	CNIConfFile   string // written when ready; empty: none
	CNIChaining   string // Chaining*
	CNIExclusive  bool
	CustomCNIConf bool
	MetricsAddr   string // host:port where Prometheus scrapes; empty: nowhere
	HealthPort    uint16 // of healthz on the loopback address
	ProbePort     uint16 // on which nodes answer each other's probes; 0: no probes
	ProbeInterval time.Duration
	AddTimeout    time.Duration // of a CNI ADD

	labels endpoint.Filter
	byKey  map[string]string // every key of the schema with its value
}

// validate checks what one key alone does not show.
func (o *Options) validate() error {
	switch {
	case o.NodeName == "":
		return fmt.Errorf("node-name is empty: set it, or K8S_NODE_NAME in the environment")
	case !o.IPv4 && !o.IPv6:
		return fmt.Errorf("enable-ipv4 and enable-ipv6 are both false")
	case o.AllowLocalhost != "auto" && o.AllowLocalhost != "always" && o.AllowLocalhost != "policy":
		return fmt.Errorf("allow-localhost: %q is not one of auto, always, policy", o.AllowLocalhost)
	case !filepath.IsAbs(o.RunDir) || !filepath.IsAbs(o.SocketPath):
		return fmt.Errorf("state-dir and socket-path must be absolute paths")
	case o.NativeCIDR4.IsValid() && !o.NativeCIDR4.Addr().Is4():
		return fmt.Errorf("ipv4-native-routing-cidr: %s is not an IPv4 prefix", o.NativeCIDR4)
	case o.NativeCIDR6.IsValid() && !o.NativeCIDR6.Addr().Is6():
		return fmt.Errorf("ipv6-native-routing-cidr: %s is not an IPv6 prefix", o.NativeCIDR6)
	}
	for _, m := range o.CIDRMatch {
		if m != "nodes" && m != "pods" {
			return fmt.Errorf("policy-cidr-match-mode: %q is not one of nodes, pods", m)
		}
	}
	if o.MTU != 0 && (o.MTU < 1280 || o.MTU > 65535) {
		return fmt.Errorf("mtu: %d is not within 1280..65535", o.MTU)
	}
	if err := checkMetricsAddr(o.MetricsAddr); err != nil {
		return err
	}
	if err := o.Service.parse(); err != nil {
		return err
	}
	var err error
	o.labels, err = endpoint.NewFilter(o.LabelFilterText)
	if err != nil {
		return fmt.Errorf("labels: %w", err)
	}
	return nil
}

func (o *Options) policyOptions() policy.Options {
	return policy.Options{
		Enforcement: o.Enforcement, AllowLocalhost: o.AllowLocalhost, Cluster: o.ClusterName,
		CIDRMatchNodes: slices.Contains(o.CIDRMatch, "nodes"), CIDRMatchPods: slices.Contains(o.CIDRMatch, "pods"),
		NodeLabels: o.NodeLabels, Audit: o.PolicyAudit, Carry: o.carry(),
		IPv4: o.IPv4, IPv6: o.IPv6,
	}
}

// carry says what the proxy carries out; the rest is refused by what it allows.
func (o *Options) carry() policy.Carry {
	if !o.L7Proxy {
		return policy.Carry{}
	}
	return policy.Carry{HTTP: policy.Redirected}
}

// Families in use, as 4 and 6.
func (o *Options) families() []int {
	var out []int
	if o.IPv4 {
		out = append(out, 4)
	}
	if o.IPv6 {
		out = append(out, 6)
	}
	return out
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}
