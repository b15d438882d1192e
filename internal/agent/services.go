// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/service"
	"github.com/stentor-net/stentor/internal/table"
)

// balancer derives frontends and backends from Services, EndpointSlices and the
// pods of this node, and gives them to the datapath.
type balancer struct {
	log       *slog.Logger
	opts      Options
	tables    *tables
	frontends *table.Writer[service.Frontend]
	backends  *table.Writer[service.Backend]
	problems  *table.Writer[problem]
	checks    *checks
	dp        Datapath
	changed   func() // told after each change of the kernel's services

	balance *service.Balance
	at      service.Place
	whole   bool // the datapath has everything that Balance told before
}

// Pace of the balancer.
const (
	balanceEvery = 10 * time.Millisecond
	balanceRetry = time.Second
)

func (b *balancer) Run(ctx context.Context) error {
	t := b.tables
	if err := waitSynced(ctx, t.services, t.slices, t.redirects, t.pods, t.hostAddresses); err != nil {
		return err
	}
	b.balance = service.NewBalance()
	services, slicesSeen, pods := t.services.Changes(), t.slices.Changes(), t.pods.Changes()
	redirects, endpoints := t.redirects.Changes(), t.endpoints.Changes()
	defer redirects.Close()
	defer endpoints.Close()
	defer services.Close()
	defer slicesSeen.Close()
	defer pods.Close()
	of := owners{}
	for {
		place := watch(t.nodes, t.hostAddresses)
		dirty := map[string]bool{}
		changedServices, servicesChanged := services.Next()
		for _, c := range changedServices {
			dirty[c.Key] = true
		}
		changedSlices, slicesChanged := slicesSeen.Next()
		for _, c := range changedSlices {
			of.touch(c, dirty)
		}
		changedPods, podsChanged := pods.Next()
		for _, c := range changedPods {
			dirty[podOwner+c.Key] = true
		}
		changedRedirects, redirectsChanged := redirects.Next()
		for _, c := range changedRedirects {
			dirty[redirectOwner+c.Key] = true
		}
		changedEndpoints, endpointsChanged := endpoints.Next()
		for _, c := range changedEndpoints {
			dirty[podOwner+c.Row.PodKey()] = true
		}
		if err := b.step(dirty); err != nil {
			b.checks.warn("services", err.Error(), "changes of services", "they are given to the datapath again every second")
			b.log.Warn("services are not carried out", "error", err)
			if err := pause(ctx, balanceRetry); err != nil {
				return err
			}
			continue
		}
		if err := pause(ctx, balanceEvery); err != nil {
			return err
		}
		if err := waitAny(ctx, append(place, servicesChanged, slicesChanged, podsChanged, redirectsChanged, endpointsChanged)...); err != nil {
			return err
		}
	}
}

// podOwner comes before the name of a pod that has host ports.
const podOwner = "pod/"

// place is what frontends depend on besides objects.
func (b *balancer) place() service.Place {
	o := b.opts.Service
	self := localRow(b.tables)
	var own []netip.Addr
	for _, a := range b.tables.hostAddresses.Snapshot().All() {
		own = append(own, a)
	}
	slices.SortFunc(own, netip.Addr.Compare)
	served := slices.DeleteFunc(slices.Clone(own), func(a netip.Addr) bool { return slices.Contains(self.Router, a) })
	return service.Place{
		Node: b.opts.NodeName, Labels: self.Labels, Zone: self.Labels["topology.kubernetes.io/zone"],
		Addresses: own, NodePort: o.nodePortAddresses(served), IPv4: b.opts.IPv4, IPv6: b.opts.IPv6,
		AllKinds: o.AllKinds, Topology: o.Topology, ExternalClusterIP: o.ExternalClusterIP, RangesForAll: o.RangesForAll,
		ProxyName: o.ProxyName, Algorithm: service.Algorithm(o.Algorithm), Forwarding: o.Mode,
		Tunnel:         b.opts.Routing == RoutingTunnel,
		RedirectRanges: o.redirectRanges, Around: b.around(),
	}
}

// kubeletPort is the TCP port of every kubelet.
const kubeletPort = 10250

// around is what Services may not take traffic from.
func (b *balancer) around() service.Around {
	out := service.Around{APIServers: service.APIServerSockets(b.tables.slices.Snapshot()), NodePorts: []uint16{kubeletPort},
		PortMin: b.opts.Service.portMin, PortMax: b.opts.Service.portMax}
	if b.opts.ProbePort != 0 {
		out.NodePorts = append(out.NodePorts, b.opts.ProbePort)
	}
	for _, n := range b.tables.nodes.Snapshot().All() {
		out.PodRanges = append(out.PodRanges, n.PodCIDRs...)
		out.Nodes = append(append(out.Nodes, n.InternalIP...), n.ExternalIP...)
	}
	return out
}

// step derives what follows from the changed objects, and passes it on.
func (b *balancer) step(dirty map[string]bool) error {
	b.move(b.place(), dirty)
	b.affected(dirty)
	all := b.tables.slices.Snapshot()
	for owner := range dirty {
		b.derive(owner, all)
	}
	c := b.balance.Take()
	if !c.Empty() {
		b.show(c)
	}
	return b.pass(c)
}

// move takes over where this node is, and adds what depends on it. Nodes that come
// and go matter only to addresses that people write.
func (b *balancer) move(at service.Place, dirty map[string]bool) {
	if reflect.DeepEqual(at, b.at) {
		return
	}
	same := at
	same.Around = b.at.Around
	whole := !reflect.DeepEqual(same, b.at)
	b.at = at
	for key, s := range b.tables.services.Snapshot().All() {
		if whole || len(s.ExternalIPs)+len(s.Ingress) > 0 {
			dirty[key] = true
		}
	}
	for key := range b.tables.redirects.Snapshot().All() {
		dirty[redirectOwner+key] = true
	}
	if !whole {
		return
	}
	for key := range b.tables.pods.Snapshot().All() {
		dirty[podOwner+key] = true
	}
}

func (b *balancer) derive(owner string, all table.Snapshot[service.Slice]) {
	var d service.Derived
	if pod, ok := strings.CutPrefix(owner, podOwner); ok {
		if p, ok := b.tables.pods.Get(pod); ok && len(p.HostPorts) > 0 {
			d = service.OfPod(b.withAddresses(p), b.at)
		}
	} else if policy, ok := strings.CutPrefix(owner, redirectOwner); ok {
		if r, ok := b.tables.redirects.Get(policy); ok {
			d = b.redirect(r)
		}
	} else if s, ok := b.tables.services.Get(owner); ok {
		d = service.Of(s, all, b.at)
	}
	b.balance.Set(owner, d)
}

// withAddresses gives a pod the addresses of its endpoint while its status lacks them.
func (b *balancer) withAddresses(p endpoint.Pod) endpoint.Pod {
	for _, e := range b.tables.endpoints.Snapshot().Index("pod", p.Key()) {
		for _, a := range []netip.Addr{e.IPv4, e.IPv6} {
			if a.IsValid() && !slices.Contains(p.IPs, a) {
				p.IPs = append(slices.Clone(p.IPs), a)
			}
		}
	}
	return p
}

// show puts the change into the tables that people and other parts read.
func (b *balancer) show(c service.Change) {
	b.frontends.Update(func(tx *table.Tx[service.Frontend]) {
		for _, f := range c.Remove {
			tx.Delete(f.Key())
		}
		for _, f := range c.Put {
			tx.Upsert(f)
		}
	})
	b.problems.Update(func(tx *table.Tx[problem]) {
		for owner, texts := range c.Problems {
			if len(texts) == 0 {
				tx.Delete(owner)
				continue
			}
			tx.Upsert(b.tables.problemOf(owner, texts))
			b.log.Warn("something of a service is not carried out", "service", owner, "problems", strings.Join(texts, "; "))
		}
	})
	b.backends.Update(func(tx *table.Tx[service.Backend]) {
		for _, x := range c.RemoveBackends {
			tx.Delete(x.Key())
		}
		for _, x := range c.PutBackends {
			tx.Upsert(x)
		}
	})
}

// pass gives the change to the datapath; all frontends the first time and after a failure.
func (b *balancer) pass(c service.Change) error {
	var err error
	if b.whole {
		var remove []service.FrontendKey
		for _, f := range c.Remove {
			remove = append(remove, f.ID())
		}
		if len(c.Put)+len(remove) > 0 {
			err = b.dp.ChangeFrontends(c.Put, remove)
		}
	} else {
		err = b.dp.SetFrontends(b.balance.All())
	}
	b.whole = err == nil
	if err != nil {
		return fmt.Errorf("set frontends: %w", err)
	}
	if b.changed != nil {
		b.changed()
	}
	b.checks.ok("services", fmt.Sprintf("%d frontends, %d backends", b.tables.frontends.Snapshot().Len(), b.tables.backends.Snapshot().Len()))
	return nil
}
