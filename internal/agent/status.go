// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/identity"
)

// status sums up the agent. Brief leaves lists out.
func (a *Agent) status(brief bool) rest.StatusResponse {
	own := a.stentorStatus(brief)
	out := rest.StatusResponse{
		Cilium:       overall(own),
		KVStore:      &rest.Status{State: rest.StateDisabled},
		CNIFile:      checkStatus(own.Checks, "cni"),
		CNIChaining:  &rest.CNIChainingStatus{Mode: a.opts.CNIChaining},
		HostFirewall: &rest.HostFirewall{Mode: rest.StateDisabled},
		Hubble:       &rest.HubbleStatus{State: rest.StateDisabled, Msg: "not carried out yet"},
		Stentor:      own,
	}
	if k := checkStatus(own.Checks, "kubernetes"); k != nil {
		out.Kubernetes = &rest.K8sStatus{State: k.State, Msg: k.Msg}
	}
	if brief {
		return out
	}
	mode := "False"
	if a.opts.SocketLB {
		mode = "Partial"
	}
	all := a.opts.Service.AllKinds
	if all {
		mode = "True"
	}
	out.KubeProxyReplacement = &rest.KubeProxyReplacement{
		Mode: mode, Devices: a.opts.Devices,
		Features: &rest.KubeProxyReplFeature{SocketLB: &rest.Enabled{Enabled: a.opts.SocketLB}, NodePort: &rest.Enabled{Enabled: all}, HostPort: &rest.Enabled{Enabled: all}},
	}
	out.IPAM = a.ipamStatus()
	out.Cluster = &rest.ClusterStatus{Self: a.opts.NodeName, Nodes: a.nodeElements(), CiliumHealth: checkStatus(own.Checks, "health")}
	out.IdentityRange = &rest.IdentityRange{MinIdentity: int64(identity.MinAllocated), MaxIdentity: int64(identity.MaxAllocated)}
	out.BandwidthManager = &rest.BandwidthManager{}
	out.HostRouting = &rest.HostRouting{Mode: "BPF"}
	out.ClockSource = &rest.ClockSource{Mode: "jiffies"}
	out.Encryption = &rest.EncryptionStatus{Mode: rest.StateDisabled}
	out.NodeMonitor = &rest.MonitorStatus{Lost: a.monitor.lostSoFar()}
	out.Masquerading = &rest.Masquerading{
		Enabled:          a.opts.Masquerade4 || a.opts.Masquerade6,
		EnabledProtocols: &rest.Families{IPv4: a.opts.Masquerade4, IPv6: a.opts.Masquerade6}, Mode: "BPF",
		SNATExclusionCIDRv4: prefixText(a.opts.NativeCIDR4), SNATExclusionCIDRv6: prefixText(a.opts.NativeCIDR6),
	}
	return out
}

func (a *Agent) stentorStatus(brief bool) *rest.StentorStatus {
	s := &rest.StentorStatus{
		Version: a.opts.Version, Node: a.opts.NodeName, Uptime: time.Since(a.started).Round(time.Second).String(),
		Ready: isClosed(a.ready), Checks: rowsOf(a.tables.checks), Endpoints: map[string]int{},
		Identities: a.tables.identities.Snapshot().Len(), Policies: a.tables.policies.Snapshot().Len(),
		Services: a.tables.services.Snapshot().Len(), Nodes: []rest.NodeHealth{}, Pods: a.podCount(),
	}
	slices.SortFunc(s.Checks, func(x, y rest.Check) int { return slices.Index(parts, x.Name) - slices.Index(parts, y.Name) })
	for _, e := range a.tables.endpoints.Snapshot().All() {
		s.Endpoints[string(e.State)]++
		s.PolicyRevision = max(s.PolicyRevision, e.PolicyRevision)
	}
	if dp, err := a.datapath(); err == nil {
		s.MTU = dp.MTU()
	}
	if brief {
		return s
	}
	s.Nodes = append(s.Nodes, rowsOf(a.tables.health)...)
	if list, err := a.bpfMaps(); err == nil {
		s.Maps = list
	}
	return s
}

// overall is the worst of all checks.
func overall(s *rest.StentorStatus) *rest.Status {
	out := &rest.Status{State: rest.StateOk, Msg: s.Version}
	var bad []string
	for _, c := range s.Checks {
		switch c.State {
		case rest.StateFailure:
			out.State = rest.StateFailure
		case rest.StateWarning:
			if out.State == rest.StateOk {
				out.State = rest.StateWarning
			}
		default:
			continue
		}
		bad = append(bad, c.Name+": "+c.Msg)
	}
	if len(bad) > 0 {
		out.Msg = strings.Join(bad, "; ")
	}
	return out
}

func checkStatus(list []rest.Check, name string) *rest.Status {
	for _, c := range list {
		if c.Name == name {
			return &rest.Status{State: c.State, Msg: c.Msg}
		}
	}
	return nil
}

// podCount counts the pods of this node. Those with hostNetwork have the node's
// network and are nobody's to manage; those that have ended have none.
func (a *Agent) podCount() rest.Pods {
	managed := map[string]bool{}
	for _, e := range a.tables.endpoints.Snapshot().All() {
		managed[e.PodKey()] = true
	}
	var out rest.Pods
	for key, p := range a.tables.pods.Snapshot().All() {
		switch {
		case p.Phase == "Succeeded" || p.Phase == "Failed":
		case p.HostNetwork:
			out.HostNetwork++
		case managed[key]:
			out.Managed++
			out.Total++
		default:
			out.Total++
			if len(p.IPs) > 0 { // it runs, with somebody else's network
				out.Unmanaged = append(out.Unmanaged, key)
			}
		}
	}
	return out
}

func (a *Agent) ipamStatus() *rest.IPAMStatus {
	out := &rest.IPAMStatus{Allocations: map[string]string{}, IPv4: []string{}, IPv6: []string{}}
	taken := a.endpoints.taken()
	list := make([]netip.Addr, 0, len(taken))
	for ip := range taken {
		list = append(list, ip)
	}
	slices.SortFunc(list, netip.Addr.Compare)
	for _, ip := range list {
		pod, _, _ := strings.Cut(taken[ip], " ")
		out.Allocations[ip.String()] = pod
		if ip.Is4() {
			out.IPv4 = append(out.IPv4, ip.String())
		} else {
			out.IPv6 = append(out.IPv6, ip.String())
		}
	}
	var ranges []string
	for _, r := range localRow(a.tables).PodCIDRs {
		ranges = append(ranges, r.String())
	}
	out.Status = fmt.Sprintf("%d addresses in use of %s", len(list), strings.Join(ranges, ", "))
	return out
}

func prefixText(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func restMap(m MapInfo) rest.BPFMap {
	return rest.BPFMap{Name: m.Name, Type: m.Type, Entries: int64(m.Entries), MaxEntries: int64(m.Max), Memory: int64(m.Memory)}
}
