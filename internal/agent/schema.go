// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stentor-net/stentor/internal/service"
)

// Key is one option of the schema.
type Key struct {
	Name    string // as in the ConfigMap, --NAME and STENTOR_NAME
	Default string
	Help    string
	// For says who reads it: "agent", or "operator", whose options stand in
	// the same ConfigMap.
	For string
	set func(o *Options, value string) error
}

// Schema lists every key that the agent's ConfigMap may hold.
func Schema() []Key { return slices.Clone(schema) }

var schema = []Key{
	flag("debug", "false", "Log at debug level.", func(o *Options) *bool { return &o.Debug }),
	text("node-name", "", "Name of the Kubernetes node; empty: the variable K8S_NODE_NAME.", func(o *Options) *string { return &o.NodeName }),
	text("k8s-api-server", "", "URL of the API server; empty: as the pod's environment says. Never a Service that this agent carries out.", func(o *Options) *string { return &o.APIServer }),
	text("k8s-kubeconfig-path", "", "Kubeconfig file; empty: the pod's service account.", func(o *Options) *string { return &o.Kubeconfig }),
	text("cluster-name", "default", "Name of the cluster, part of each pod's identity.", func(o *Options) *string { return &o.ClusterName }),
	only("cluster-id", "0", "Number of the cluster in a mesh.", "0"),
	only("identity-allocation-mode", "crd", "Where identities are kept: CiliumIdentity objects.", "crd"),

	flag("enable-ipv4", "true", "Give pods IPv4 addresses.", func(o *Options) *bool { return &o.IPv4 }),
	flag("enable-ipv6", "false", "Give pods IPv6 addresses.", func(o *Options) *bool { return &o.IPv6 }),
	choice("ipam", IPAMClusterPool, "Who gives pod ranges to nodes: the operator (cluster-pool) or Kubernetes (kubernetes).", func(o *Options) *string { return &o.IPAM }, IPAMClusterPool, IPAMKubernetes),
	duration("ipam-rest", "30s", "How long the address of a pod that is gone is kept back.", func(o *Options) *time.Duration { return &o.AddressRest }),

	choice("routing-mode", RoutingTunnel, "How packets reach pods of other nodes: in a tunnel, or routed by the network (native).", func(o *Options) *string { return &o.Routing }, RoutingTunnel, RoutingNative),
	only("tunnel-protocol", "vxlan", "Protocol of the tunnel.", "vxlan", "disabled"),
	port("tunnel-port", "8472", "UDP port of the tunnel.", func(o *Options) *uint16 { return &o.TunnelPort }),
	flag("auto-direct-node-routes", "false", "With native routing: add routes to the pod ranges of nodes on the same link.", func(o *Options) *bool { return &o.AutoDirectNodeRoutes }),
	prefix("ipv4-native-routing-cidr", "Destinations that pods reach with their own address, without masquerading.", func(o *Options) *netip.Prefix { return &o.NativeCIDR4 }),
	prefix("ipv6-native-routing-cidr", "The same for IPv6.", func(o *Options) *netip.Prefix { return &o.NativeCIDR6 }),
	flag("enable-ipv4-masquerade", "true", "Give packets that leave the cluster the node's IPv4 address.", func(o *Options) *bool { return &o.Masquerade4 }),
	flag("enable-ipv6-masquerade", "true", "The same for IPv6.", func(o *Options) *bool { return &o.Masquerade6 }),
	only("enable-bpf-masquerade", "true", "Masquerade in eBPF.", "true"),
	list("devices", "", "Uplinks, separated by blanks or commas; empty: the devices of the node's addresses.", func(o *Options) *[]string { return &o.Devices }),
	number("mtu", "0", "MTU of the uplink in bytes; 0: as the device says.", func(o *Options) *int { return &o.MTU }),

	flag("kube-proxy-replacement", "false", "Carry out all kinds of Services, for clients inside and outside; otherwise only ClusterIP for pods, beside kube-proxy.", func(o *Options) *bool { return &o.Service.AllKinds }),
	flag("bpf-lb-sock", "true", "Translate services when a socket connects.", func(o *Options) *bool { return &o.SocketLB }),
	flag("bpf-lb-sock-hostns-only", "false", "Translate sockets of the host only; pods' packets are translated on the wire (for meshes and other kernels inside pods).", func(o *Options) *bool { return &o.Service.HostSocketsOnly }),
	list("nodeport-addresses", "", "Prefixes of the node's addresses on which NodePorts and host ports are served; empty: all of its own.", func(o *Options) *[]string { return &o.Service.nodePortText }),
	text("node-port-range", "30000,32767", "First and last NodePort; the API server's --service-node-port-range.", func(o *Options) *string { return &o.Service.portRangeText }),
	flag("node-port-bind-protection", "true", "Refuse to let programs bind to ports of NodePorts.", func(o *Options) *bool { return &o.Service.BindProtection }),
	flag("enable-auto-protect-node-port-range", "true", "Add the NodePorts to net.ipv4.ip_local_reserved_ports of the node where they overlap with the ports that the kernel gives to sockets.", func(o *Options) *bool { return &o.Service.ReservePorts }),
	choice("bpf-lb-algorithm", "random", "How backends are chosen for connections from outside.", func(o *Options) *string { return &o.Service.Algorithm }, "random", "maglev"),
	number("bpf-lb-maglev-table-size", "16381", "Positions of a Maglev table: 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521 or 131071.", func(o *Options) *int { return &o.Service.MaglevSize }),
	text("bpf-lb-maglev-hash-seed", service.DefaultMaglevSeed, "Seed of Maglev tables, the same on all nodes.", func(o *Options) *string { return &o.Service.MaglevSeed }),
	choice("bpf-lb-mode", "snat", "How connections from outside reach backends of other nodes: with this node's address (snat), with the client's, which they answer themselves (dsr), or TCP with dsr and UDP with snat (hybrid). dsr needs native routing; in a tunnel it is snat.", func(o *Options) *string { return &o.Service.Mode }, "snat", "dsr", "hybrid"),
	only("bpf-lb-dsr-dispatch", "opt", "How the backend's node learns with dsr what the client asked for: by an IP option.", "opt"),
	flag("bpf-lb-external-clusterip", "false", "Serve ClusterIPs to clients outside, too.", func(o *Options) *bool { return &o.Service.ExternalClusterIP }),
	flag("bpf-lb-source-range-all-types", "false", "loadBalancerSourceRanges limit NodePorts, too.", func(o *Options) *bool { return &o.Service.RangesForAll }),
	choice("service-no-backend-response", "reject", "What connections to a service without backends get: an answer (reject) or nothing (drop).", func(o *Options) *string { return &o.Service.NoBackend }, "reject", "drop"),
	flag("enable-service-topology", "true", "Carry out trafficDistribution and topology hints.", func(o *Options) *bool { return &o.Service.Topology }),
	text("k8s-service-proxy-name", "", "Value of the label service.kubernetes.io/service-proxy-name of the Services that are carried out; empty: those without it.", func(o *Options) *string { return &o.Service.ProxyName }),

	flag("enable-local-redirect-policy", "false", "Carry out CiliumLocalRedirectPolicies: who may write one redirects traffic of every pod of a node.", func(o *Options) *bool { return &o.Service.Redirects }),
	list("lrp-address-matcher-cidrs", "", "Prefixes of the addresses that local redirect policies may redirect; empty: all.", func(o *Options) *[]string { return &o.Service.redirectText }),
	flag("bpf-lb-sock-terminate-pod-connections", "true", "Close connected UDP sockets of pods, and not only those of the host, when the backend that their service chose is gone.", func(o *Options) *bool { return &o.Service.CloseSockets }),
	flag("bpf-lb-sock-terminate-all-protos", "false", "Close TCP sockets then, too.", func(o *Options) *bool { return &o.Service.CloseTCP }),
	text("kube-proxy-replacement-healthz-bind-address", "", "Where the agent answers /healthz and /livez as kube-proxy does, such as 0.0.0.0:10256; empty: nowhere.", func(o *Options) *string { return &o.Service.HealthzAddr }),

	choice("enable-policy", "default", "Enforce policy on endpoints that one selects (default), on all (always) or none (never).", func(o *Options) *string { return &o.Enforcement }, "default", "always", "never"),
	flag("policy-audit-mode", "false", "Let pass what policy denies, and tell it as a verdict.", func(o *Options) *bool { return &o.PolicyAudit }),
	flag("enable-k8s-cluster-network-policy", "false", "Carry out ClusterNetworkPolicy objects (policy.networking.k8s.io/v1alpha2), once their kind is defined.", func(o *Options) *bool { return &o.ClusterPolicies }),
	flag("enable-node-selector-labels", "false", "Give each set of labels of nodes an identity, so that fromNodes and toNodes can select them.", func(o *Options) *bool { return &o.NodeLabels }),
	list("policy-cidr-match-mode", "", "What CIDR rules match besides the world: nodes, pods.", func(o *Options) *[]string { return &o.CIDRMatch }),
	choice("allow-localhost", "auto", "Whether a node always reaches its own pods (auto, always) or only as policy says (policy).", func(o *Options) *string { return &o.AllowLocalhost }, "auto", "always", "policy"),
	text("labels", "", "Labels that count for identities: key prefixes as regular expressions, separated by blanks, ! excludes.", func(o *Options) *string { return &o.LabelFilterText }),

	flag("enable-l7-proxy", "true", "Carry out L7 rules by the proxy of the node; otherwise what they would allow is denied.", func(o *Options) *bool { return &o.L7Proxy }),

	choice("monitor-aggregation", "medium", "How much of traffic is told: every packet (none) or connections (low, medium, maximum).", func(o *Options) *string { return &o.MonitorAggregation }, "none", "low", "medium", "maximum"),

	flag("enable-hubble", "true", "Keep the flows of the node in memory and serve them.", func(o *Options) *bool { return &o.Flows }),
	text("hubble-socket-path", "", "Unix socket on which the agent serves flows; empty: hubble.sock beside socket-path.", func(o *Options) *string { return &o.FlowSocket }),
	text("hubble-listen-address", "", "host:port on which the agent serves flows to a relay, such as :4244; empty: none.", func(o *Options) *string { return &o.FlowListen }),
	number("hubble-event-buffer-capacity", "4095", "How many flows are kept in memory.", func(o *Options) *int { return &o.FlowBuffer }),
	flag("hubble-disable-tls", "false", "Serve flows on hubble-listen-address without TLS.", func(o *Options) *bool { return &o.FlowPlain }),
	text("hubble-tls-cert-file", "", "Certificate of hubble-listen-address (PEM).", func(o *Options) *string { return &o.FlowCert }),
	text("hubble-tls-key-file", "", "Its key (PEM).", func(o *Options) *string { return &o.FlowKey }),
	text("hubble-tls-client-ca-files", "", "Authorities of the certificates that clients need (PEM); empty: they need none.", func(o *Options) *string { return &o.FlowClientCAs }),

	text("write-cni-conf-when-ready", "/host/etc/cni/net.d/05-stentor.conflist", "Where the CNI configuration is written once pods can be attached; empty: nowhere.", func(o *Options) *string { return &o.CNIConfFile }),
	choice("cni-chaining-mode", ChainingPortmap, "Plugin that runs after ours: portmap (for hostPort) or none.", func(o *Options) *string { return &o.CNIChaining }, ChainingNone, ChainingPortmap),
	flag("cni-exclusive", "true", "Put other CNI configurations aside, so that ours is used.", func(o *Options) *bool { return &o.CNIExclusive }),
	flag("custom-cni-conf", "false", "Leave the CNI configuration to somebody else.", func(o *Options) *bool { return &o.CustomCNIConf }),
	duration("cni-add-timeout", "60s", "How long an ADD may wait for an identity and for policy.", func(o *Options) *time.Duration { return &o.AddTimeout }),

	text("socket-path", "/var/run/stentor/stentor.sock", "Unix socket on which the agent serves its API.", func(o *Options) *string { return &o.SocketPath }),
	text("state-dir", "/var/run/stentor", "Where the agent keeps what a restart must find again.", func(o *Options) *string { return &o.RunDir }),
	text("bpf-root", "/sys/fs/bpf", "bpffs of the node.", func(o *Options) *string { return &o.BPFRoot }),
	text("procfs", "/proc", "procfs of the node; sys/net in it must be writable, which a container's own is not.", func(o *Options) *string { return &o.ProcFS }),
	text("cgroup-root", "", "cgroup v2 root of the node; empty: found in /proc/mounts.", func(o *Options) *string { return &o.CgroupRoot }),
	port("agent-health-port", "9879", "TCP port of /healthz on the loopback address.", func(o *Options) *uint16 { return &o.HealthPort }),
	port("cluster-health-port", "4240", "TCP port on which nodes answer each other's probes; 0: no probes.", func(o *Options) *uint16 { return &o.ProbePort }),
	duration("health-probe-interval", "10s", "Time between two probes of the same node.", func(o *Options) *time.Duration { return &o.ProbeInterval }),

	text("prometheus-serve-addr", "", "Where Prometheus scrapes /metrics, such as :9962; empty: nowhere.", func(o *Options) *string { return &o.MetricsAddr }),

	operator("cluster-pool-ipv4-cidr", "10.0.0.0/8", "Ranges of the cluster out of which nodes get theirs."),
	operator("cluster-pool-ipv4-mask-size", "24", "Length of a node's range."),
	operator("cluster-pool-ipv6-cidr", "fd00::/104", "Ranges of the cluster out of which nodes get theirs."),
	operator("cluster-pool-ipv6-mask-size", "120", "Length of a node's range."),
	operator("identity-gc-interval", "15m0s", "Time between looks for identities that no pod has; 0: never."),
	operator("identity-heartbeat-timeout", "30m0s", "How long an identity that no pod has is kept."),
	operator("cilium-endpoint-gc-interval", "5m0s", "Time between looks for CiliumEndpoints without pods and CiliumNodes without nodes; 0: never."),
	operator("enable-lb-ipam", "true", "Give addresses of CiliumLoadBalancerIPPools to Services of type LoadBalancer."),
	operator("default-lb-service-ipam", "lbipam", "Who gives addresses to Services without loadBalancerClass: the operator (lbipam) or nobody here (none)."),
	operator("skip-crd-creation", "false", "Leave the CustomResourceDefinitions to somebody else."),
	operator("remove-cilium-node-taints", "false", "Remove the taint of nodes that have pod ranges, for agents without the right to change nodes."),
	operator("k8s-namespace", "", "Namespace of the operator's Lease; empty: the variable K8S_NAMESPACE."),
	operator("operator-prometheus-serve-addr", "", "Where Prometheus scrapes /metrics of the operator, such as :9963; empty: nowhere."),
	operator("operator-api-serve-addr", "127.0.0.1:9234", "Where the operator answers /healthz and /readyz; -: nowhere."),
}

func flag(name, def, help string, field func(*Options) *bool) Key {
	return Key{name, def, help, "agent", func(o *Options, v string) error {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", v)
		}
		*field(o) = b
		return nil
	}}
}

func text(name, def, help string, field func(*Options) *string) Key {
	return Key{name, def, help, "agent", func(o *Options, v string) error {
		*field(o) = v
		return nil
	}}
}

func choice(name, def, help string, field func(*Options) *string, values ...string) Key {
	return Key{name, def, help, "agent", func(o *Options, v string) error {
		if !slices.Contains(values, v) {
			return fmt.Errorf("%q is not one of %s", v, strings.Join(values, ", "))
		}
		*field(o) = v
		return nil
	}}
}

// only is a key of which other values are not carried out.
func only(name, def, help string, values ...string) Key {
	return Key{name, def, help, "agent", func(_ *Options, v string) error {
		if !slices.Contains(values, v) {
			return fmt.Errorf("%q is not carried out yet, only %s", v, strings.Join(values, ", "))
		}
		return nil
	}}
}

func operator(name, def, help string) Key {
	return Key{name, def, help, "operator", func(*Options, string) error { return nil }}
}

func duration(name, def, help string, field func(*Options) *time.Duration) Key {
	return Key{name, def, help, "agent", func(o *Options, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d <= 0 {
			return fmt.Errorf("%q is not a duration such as 30s", v)
		}
		*field(o) = d
		return nil
	}}
}

func number(name, def, help string, field func(*Options) *int) Key {
	return Key{name, def, help, "agent", func(o *Options, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return fmt.Errorf("%q is not a number", v)
		}
		*field(o) = n
		return nil
	}}
}

func port(name, def, help string, field func(*Options) *uint16) Key {
	return Key{name, def, help, "agent", func(o *Options, v string) error {
		n, err := strconv.ParseUint(v, 10, 16)
		if err != nil {
			return fmt.Errorf("%q is not a port", v)
		}
		*field(o) = uint16(n)
		return nil
	}}
}

func prefix(name, help string, field func(*Options) *netip.Prefix) Key {
	return Key{name, "", help, "agent", func(o *Options, v string) error {
		if v == "" {
			*field(o) = netip.Prefix{}
			return nil
		}
		p, err := netip.ParsePrefix(v)
		if err != nil {
			return fmt.Errorf("%q is not a prefix such as 10.0.0.0/8", v)
		}
		*field(o) = p.Masked()
		return nil
	}}
}

func list(name, def, help string, field func(*Options) *[]string) Key {
	return Key{name, def, help, "agent", func(o *Options, v string) error {
		*field(o) = strings.FieldsFunc(v, func(r rune) bool { return r == ' ' || r == ',' || r == '\n' })
		return nil
	}}
}
