// SPDX-License-Identifier: Apache-2.0

// Package plan derives every name, address and path of a lab from its options.
package plan

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
)

// Families of addresses a lab can have.
const (
	Dual = "dual"
	IPv4 = "ipv4"
	IPv6 = "ipv6"
)

// Ways a lab can get its pod network.
const (
	CNIStentor = "stentor"
	CNIBridge  = "bridge"
)

// Modes of kube-proxy; ProxyNone starts none.
const (
	ProxyNone     = "none"
	ProxyNftables = "nftables"
	ProxyIptables = "iptables"
)

// APIPort is the port of the API server at the fabric's address.
const APIPort = 6443

// MaxNodes is how many nodes one lab can have.
const MaxNodes = 5

// NarrowMTU is smaller than that of any pod, and allows IPv6.
const NarrowMTU = 1300

// Options are the choices a person makes for a lab. The zero value of each
// field stands for its default.
type Options struct {
	Name        string   `json:"name"`        // default "stentor"
	Nodes       int      `json:"nodes"`       // 1-5, default 2
	IPFamily    string   `json:"ipFamily"`    // Dual, IPv4 or IPv6; default Dual
	CNI         string   `json:"cni"`         // CNIStentor or CNIBridge; default CNIStentor
	KubeProxy   string   `json:"kubeProxy"`   // ProxyNone, ProxyNftables or ProxyIptables; default ProxyNone with CNIStentor, else ProxyNftables
	RoutingMode string   `json:"routingMode"` // "tunnel" or "native"; default "tunnel"
	PodRoutes   bool     `json:"podRoutes"`   // the fabric has routes to the pods; default: it knows nothing of them
	Set         []string `json:"set"`         // chart overrides, key=value
	Values      []string `json:"values"`      // files with chart overrides
	StateRoot   string   `json:"stateRoot"`   // default /var/lib/stentor-lab
}

// What the names of a lab's cgroup and network namespaces start with, before
// the lab's own name.
const (
	CgroupPrefix = "stentor-lab-"
	NetNSPrefix  = "st-"
)

// DefaultStateRoot is where labs keep their files, one folder each.
const DefaultStateRoot = "/var/lib/stentor-lab"

// ValidName tells whether a lab may have the name.
func ValidName(name string) bool { return nameRE.MatchString(name) }

var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$`)

// WithDefaults fills empty fields.
func (o Options) WithDefaults() Options {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&o.Name, "stentor")
	set(&o.IPFamily, Dual)
	set(&o.CNI, CNIStentor)
	if o.CNI == CNIStentor {
		set(&o.KubeProxy, ProxyNone)
	}
	set(&o.KubeProxy, ProxyNftables)
	set(&o.RoutingMode, "tunnel")
	set(&o.StateRoot, DefaultStateRoot)
	if o.Nodes == 0 {
		o.Nodes = 2
	}
	return o
}

func (o Options) validate() error {
	if !ValidName(o.Name) {
		return fmt.Errorf("--name %q: want 1 to 20 of a-z, 0-9 and '-', with a letter or digit at both ends", o.Name)
	}
	if o.Nodes < 1 || o.Nodes > MaxNodes {
		return fmt.Errorf("--nodes %d: want 1 to %d", o.Nodes, MaxNodes)
	}
	for _, c := range []struct {
		flag, value string
		allowed     []string
	}{
		{"--ip-family", o.IPFamily, []string{Dual, IPv4, IPv6}},
		{"--cni", o.CNI, []string{CNIStentor, CNIBridge}},
		{"--kube-proxy", o.KubeProxy, []string{ProxyNone, ProxyNftables, ProxyIptables}},
		{"--routing-mode", o.RoutingMode, []string{"tunnel", "native"}},
	} {
		if !slices.Contains(c.allowed, c.value) {
			return fmt.Errorf("%s %q: want one of %v", c.flag, c.value, c.allowed)
		}
	}
	if !filepath.IsAbs(o.StateRoot) {
		return fmt.Errorf("--state-dir %q: want an absolute path", o.StateRoot)
	}
	return nil
}

// Node is one machine of the lab.
type Node struct {
	Name  string         `json:"name"`  // node1, node2, ...: its name in Kubernetes
	NetNS string         `json:"netns"` // name under /run/netns
	Addrs []netip.Prefix `json:"addrs"` // on the fabric, IPv4 first
}

// Plan is a lab as it is to be made.
type Plan struct {
	Options
	Dir       string // all files of the lab
	Cgroup    string // name of the lab's cgroup in every hierarchy
	FabricNS  string
	OutsideNS string

	Fabric       []netip.Prefix // addresses of the nodes' gateway, which is also the API server's
	OutsideGW    []netip.Prefix // the fabric's addresses on the outside segment
	Outside      []netip.Prefix // addresses of the outside host
	NarrowGW     []netip.Prefix // the fabric's addresses on a second segment, whose MTU is NarrowMTU
	Narrow       []netip.Prefix // addresses of the outside host there
	NodeCIDRs    []netip.Prefix
	PodCIDRs     []netip.Prefix
	ServiceCIDRs []netip.Prefix
	DNS          []netip.Addr // ClusterIPs of the cluster's DNS service
	Nodes        []Node
}

// New checks the options and lays the lab out.
func New(o Options) (*Plan, error) {
	o = o.WithDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	p := &Plan{
		Options:   o,
		Dir:       filepath.Join(o.StateRoot, o.Name),
		Cgroup:    CgroupPrefix + o.Name,
		FabricNS:  NetNSPrefix + o.Name + "-fabric",
		OutsideNS: NetNSPrefix + o.Name + "-outside",
	}
	p.Fabric = p.family("172.30.0.1/24", "fd00:30::1/64")
	p.OutsideGW = p.family("172.31.0.1/24", "fd00:31::1/64")
	p.Outside = p.family("172.31.0.10/24", "fd00:31::10/64")
	p.NarrowGW = p.family("172.31.1.1/24", "fd00:31:1::1/64")
	p.Narrow = p.family("172.31.1.10/24", "fd00:31:1::10/64")
	p.NodeCIDRs = p.family("172.30.0.0/24", "fd00:30::/64")
	p.PodCIDRs = p.family("10.244.0.0/16", "fd00:10:244::/56")
	p.ServiceCIDRs = p.family("10.96.0.0/16", "fd00:10:96::/112")
	for _, d := range p.family("10.96.0.10/32", "fd00:10:96::a/128") {
		p.DNS = append(p.DNS, d.Addr())
	}
	for i := 1; i <= o.Nodes; i++ {
		name := fmt.Sprintf("node%d", i)
		p.Nodes = append(p.Nodes, Node{
			Name:  name,
			NetNS: NetNSPrefix + o.Name + "-" + name,
			Addrs: p.family(fmt.Sprintf("172.30.0.1%d/24", i), fmt.Sprintf("fd00:30::1%d/64", i)),
		})
	}
	return p, nil
}

// family keeps the prefixes of the lab's address families, IPv4 first.
func (p *Plan) family(v4, v6 string) []netip.Prefix {
	var out []netip.Prefix
	if p.IPFamily != IPv6 {
		out = append(out, netip.MustParsePrefix(v4))
	}
	if p.IPFamily != IPv4 {
		out = append(out, netip.MustParsePrefix(v6))
	}
	return out
}

// APIHost is the address of the API server for nodes and pods.
func (p *Plan) APIHost() netip.Addr { return p.Fabric[0].Addr() }

// APIServer is the URL of the API server for nodes and pods.
func (p *Plan) APIServer() string {
	return "https://" + netip.AddrPortFrom(p.APIHost(), APIPort).String()
}

// Node finds a node by its name; "n1" and "1" are short for "node1".
func (p *Plan) Node(name string) (Node, bool) {
	for i, n := range p.Nodes {
		if name == n.Name || name == fmt.Sprintf("n%d", i+1) || name == fmt.Sprint(i+1) {
			return n, true
		}
	}
	return Node{}, false
}

// AllNetNS are the names of every network namespace a lab of this name can
// have, whatever its number of nodes, so that leftovers are found too.
func (p *Plan) AllNetNS() []string {
	out := []string{p.FabricNS, p.OutsideNS}
	for i := 1; i <= MaxNodes; i++ {
		out = append(out, fmt.Sprintf(NetNSPrefix+"%s-node%d", p.Name, i))
	}
	return out
}

// Path is a path in the lab's folder.
func (p *Plan) Path(elem ...string) string {
	return filepath.Join(append([]string{p.Dir}, elem...)...)
}

// Kubeconfig is the administrator's kubeconfig, for the machine the lab runs on.
func (p *Plan) Kubeconfig() string { return p.Path("kubeconfig") }

// Join prints prefixes as Kubernetes' flags want them.
func Join(prefixes []netip.Prefix) string {
	s := ""
	for i, p := range prefixes {
		if i > 0 {
			s += ","
		}
		s += p.String()
	}
	return s
}

// JoinAddrs prints the addresses of prefixes, separated by commas.
func JoinAddrs(prefixes []netip.Prefix) string {
	s := ""
	for i, p := range prefixes {
		if i > 0 {
			s += ","
		}
		s += p.Addr().String()
	}
	return s
}
