// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/stentor-net/stentor/internal/datapath"
	"github.com/stentor-net/stentor/internal/service"
)

// ServiceOptions are those of load balancing.
type ServiceOptions struct {
	AllKinds          bool // kube-proxy-replacement
	HostSocketsOnly   bool
	BindProtection    bool
	ReservePorts      bool
	Algorithm         string // random, maglev
	MaglevSize        int
	MaglevSeed        string
	Mode              string // snat, dsr, hybrid
	ExternalClusterIP bool
	RangesForAll      bool
	NoBackend         string // reject, drop
	Topology          bool
	ProxyName         string
	Redirects         bool   // carry out CiliumLocalRedirectPolicies
	CloseSockets      bool   // close connected UDP sockets of pods whose backend is gone; those of the host are in any case
	CloseTCP          bool   // and TCP sockets
	HealthzAddr       string // host:port of kube-proxy's healthz; empty: nowhere

	redirectText   []string
	redirectRanges []netip.Prefix
	nodePortText   []string
	nodePortRanges []netip.Prefix
	portRangeText  string
	portMin        uint16
	portMax        uint16
}

// parse reads what consists of parts, and checks what one key alone does not show.
func (o *ServiceOptions) parse() error {
	if o.portRangeText == "" { // options made by hand
		o.portRangeText, o.MaglevSize, o.MaglevSeed = "30000,32767", service.DefaultMaglevSize, service.DefaultMaglevSeed
	}
	o.nodePortRanges = nil
	for _, text := range o.nodePortText {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("nodeport-addresses: %q is not a prefix such as 192.0.2.0/24", text)
		}
		o.nodePortRanges = append(o.nodePortRanges, p.Masked())
	}
	o.redirectRanges = nil
	for _, text := range o.redirectText {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("lrp-address-matcher-cidrs: %q is not a prefix such as 169.254.0.0/16", text)
		}
		o.redirectRanges = append(o.redirectRanges, p.Masked())
	}
	if o.HealthzAddr != "" {
		if _, _, err := net.SplitHostPort(o.HealthzAddr); err != nil {
			return fmt.Errorf("kube-proxy-replacement-healthz-bind-address: %q is not an address such as 0.0.0.0:10256", o.HealthzAddr)
		}
	}
	first, last, _ := strings.Cut(o.portRangeText, ",")
	low, err := strconv.ParseUint(strings.TrimSpace(first), 10, 16)
	high, err2 := strconv.ParseUint(strings.TrimSpace(last), 10, 16)
	if err != nil || err2 != nil || low == 0 || low > high {
		return fmt.Errorf("node-port-range: %q is not two ports such as 30000,32767", o.portRangeText)
	}
	if high >= natPortMin {
		return fmt.Errorf("node-port-range: %q reaches into the ports from %d on, which connections of the node's clients get", o.portRangeText, natPortMin)
	}
	o.portMin, o.portMax = uint16(low), uint16(high)
	if !slices.Contains(service.MaglevSizes, o.MaglevSize) {
		return fmt.Errorf("bpf-lb-maglev-table-size: %d is not one of %v", o.MaglevSize, service.MaglevSizes)
	}
	return nil
}

// datapath says to the programs what they carry out. Without translation of pods'
// sockets the host's are translated all the same: its packets pass no other hook.
func (o *ServiceOptions) datapath(sockets bool) datapath.Services {
	return datapath.Services{
		AllKinds: o.AllKinds, HostOnly: o.AllKinds && (o.HostSocketsOnly || !sockets), BindProtection: o.BindProtection,
		ReservePorts: o.ReservePorts,
		Silent:       o.NoBackend == "drop", PortMin: o.portMin, PortMax: o.portMax, MaglevSeed: service.MaglevSeed(o.MaglevSeed),
	}
}

// natPortMin is the first port that masquerading uses.
const natPortMin = 61000

// nodePortAddresses are those of the node on which NodePorts are served.
func (o *ServiceOptions) nodePortAddresses(all []netip.Addr) []netip.Addr {
	if len(o.nodePortRanges) == 0 {
		return all
	}
	var out []netip.Addr
	for _, a := range all {
		if slices.ContainsFunc(o.nodePortRanges, func(p netip.Prefix) bool { return p.Contains(a) }) {
			out = append(out, a)
		}
	}
	return out
}
