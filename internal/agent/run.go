// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"

	"github.com/stentor-net/stentor/internal/datapath"
	"github.com/stentor-net/stentor/internal/k8s"
	"github.com/stentor-net/stentor/internal/policy"
)

// Run is the agent of one node, until ctx ends. What is in the kernel then goes
// on working; the next agent adopts it.
func Run(ctx context.Context, log *slog.Logger, o Options) error {
	if err := o.validate(); err != nil {
		return err
	}
	k8s.LogTo(log)
	m := newMetrics()
	cluster, err := newKubeCluster(o, m)
	if err != nil {
		return fmt.Errorf("reach the API server: %w", err)
	}
	log.Info("agent starts", "version", o.Version, "node", o.NodeName, "apiServer", cluster.Host())
	if o.Service.Mode != "snat" && o.Routing == RoutingTunnel {
		log.Warn("direct return needs routing-mode native: connections from outside reach backends of other nodes with this node's address (snat)", "bpf-lb-mode", o.Service.Mode)
	}
	return newAgent(log, o, world{
		cluster: cluster, metrics: m,
		startDatapath: func(ctx context.Context, p place) (Datapath, error) {
			return datapath.Start(ctx, log, o.datapathConfig(p))
		},
		newEngine: newPolicyEngine,
	}).Run(ctx)
}

// newPolicyEngine makes an engine over the kernel's state. Before is the one that
// it replaces, nil for the first.
func newPolicyEngine(o policy.Options, s policy.State, before Engine) (Engine, error) {
	e, err := policy.New(o, s)
	if err != nil {
		return nil, err
	}
	if old, ok := before.(*policy.Engine); ok {
		e.Inherit(old)
	}
	return e, nil
}

// Cleanup removes everything that an agent with these options made on the node:
// pods lose their network.
func Cleanup(ctx context.Context, o Options) error {
	if o.CNIConfFile != "" && !o.CustomCNIConf {
		if err := RemoveCNIConf(o.CNIConfFile); err != nil {
			return err
		}
	}
	if err := datapath.Cleanup(ctx, o.datapathConfig(place{})); err != nil {
		return fmt.Errorf("clean up the datapath: %w", err)
	}
	return stateDir(o.RunDir).removeAll()
}

func (o *Options) datapathConfig(p place) datapath.Config {
	c := datapath.Config{
		BPFDir: filepath.Join(o.BPFRoot, "stentor"), CgroupRoot: o.CgroupRoot, ProcSys: filepath.Join(o.ProcFS, "sys"),
		IPv4: o.IPv4, IPv6: o.IPv6,
		Tunnel: o.Routing == RoutingTunnel, TunnelPort: o.TunnelPort, DirectRoutes: o.AutoDirectNodeRoutes,
		Devices: o.Devices, NodeIPs: p.InternalIP, Router: p.routers(), PodCIDRs: p.PodCIDRs,
		MTU: o.MTU, Masquerade4: o.IPv4 && o.Masquerade4, Masquerade6: o.IPv6 && o.Masquerade6,
		SocketLB: o.SocketLB || o.Service.AllKinds, Proxy: o.L7Proxy, MonitorAggregation: o.MonitorAggregation,
		Services: o.Service.datapath(o.SocketLB), MaglevSize: o.Service.MaglevSize,
	}
	for _, r := range []netip.Prefix{o.NativeCIDR4, o.NativeCIDR6} {
		if r.IsValid() {
			c.NativeCIDRs = append(c.NativeCIDRs, r)
		}
	}
	return c
}
