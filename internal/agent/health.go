// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/node"
	"github.com/stentor-net/stentor/internal/ping"
	"github.com/stentor-net/stentor/internal/table"
)

// prober asks every node for a connection and for a ping, by its own addresses
// and by those in the pod network, and answers the probes of others.
type prober struct {
	opts    Options
	metrics *metrics
	tables  *tables
	writer  *table.Writer[rest.NodeHealth]
	checks  *checks
	dial    func(ctx context.Context, a netip.AddrPort) error // default dialTCP
	ping    func(ctx context.Context, a netip.Addr) error     // default ping.Echo

	busy sync.Mutex // one step at a time
}

const (
	probeTimeout = 3 * time.Second
	probeAgain   = time.Second // while a node does not answer
	probesAtOnce = 16
)

func (p *prober) Run(ctx context.Context) error {
	if p.opts.ProbePort == 0 {
		p.checks.disabled("health", "cluster-health-port is 0")
		<-ctx.Done()
		return context.Cause(ctx)
	}
	for {
		wait := p.opts.ProbeInterval
		if !p.step(ctx) {
			wait = min(wait, probeAgain)
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// step probes every node once, and reports whether all answer.
func (p *prober) step(ctx context.Context) bool {
	p.busy.Lock()
	defer p.busy.Unlock()
	nodes := rowsOf(p.tables.nodes)
	rows := make([]rest.NodeHealth, len(nodes))
	slots := make(chan struct{}, probesAtOnce)
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			rows[i] = p.probe(ctx, n)
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return false
	}
	p.writer.Replace(rows, nil)
	var bad []string
	for _, r := range rows {
		if !r.Local && !r.OK() {
			bad = append(bad, r.Name)
		}
	}
	switch {
	case len(bad) > 0:
		text := "node " + bad[0] + " does not answer"
		if len(bad) > 1 {
			text = fmt.Sprintf("%d nodes do not answer: %s", len(bad), someOf(bad))
		}
		p.checks.warn("health", text, "traffic to its pods, perhaps", "see the list of nodes")
		return false
	case len(rows) == 0:
		return false // no node is known yet
	}
	p.checks.ok("health", fmt.Sprintf("%d nodes answer", len(rows)))
	return true
}

// someOf names a few of many.
func someOf(names []string) string {
	const few = 5
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return strings.Join(names[:few], ", ") + fmt.Sprintf(" and %d more", len(names)-few)
}

func (p *prober) probe(ctx context.Context, n node.Node) rest.NodeHealth {
	h := rest.NodeHealth{Name: n.Name, Local: n.Local, LastProbe: time.Now().UTC().Format(time.RFC3339)}
	for _, r := range n.PodCIDRs {
		h.PodCIDRs = append(h.PodCIDRs, r.String())
	}
	var both sync.WaitGroup
	both.Go(func() { h.Node, h.NodeOthers = p.each(ctx, n.Name, reachNode, p.perFamily(n.InternalIP)) })
	both.Go(func() { h.Endpoint, h.EndpointOthers = p.each(ctx, n.Name, reachEndpoint, p.perFamily(n.Router)) })
	both.Wait()
	return h
}

// perFamily is the first address of each family in use, IPv4 before IPv6. Nodes
// may have addresses of a family that pods do not: one is enough then.
func (p *prober) perFamily(list []netip.Addr) (out []netip.Addr) {
	for _, f := range p.opts.families() {
		if i := slices.IndexFunc(list, func(a netip.Addr) bool { return familyOf(a) == f }); i >= 0 {
			out = append(out, list[i])
		}
	}
	if len(out) == 0 && len(list) > 0 {
		out = list[:1]
	}
	return out
}

func (p *prober) each(ctx context.Context, name, kind string, list []netip.Addr) (first rest.Probe, others []rest.Probe) {
	if len(list) == 0 {
		return rest.Probe{Error: "the node has not published its address"}, nil
	}
	probes := make([]rest.Probe, len(list))
	var all sync.WaitGroup
	for i, a := range list {
		all.Go(func() {
			primary := "primary"
			if i > 0 {
				primary = "secondary"
			}
			probes[i] = p.one(ctx, a, func(protocol string, took time.Duration) {
				p.metrics.probes.Observe(took.Seconds(), p.opts.ClusterName, p.opts.NodeName, kind, protocol, primary)
			})
		})
	}
	all.Wait()
	return probes[0], probes[1:]
}

// one tries an address, and observes what is answered.
func (p *prober) one(ctx context.Context, a netip.Addr, observe func(protocol string, took time.Duration)) rest.Probe {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	out := rest.Probe{IP: a.String(), Ping: &rest.Ping{}}
	var both sync.WaitGroup
	both.Go(func() {
		echo := p.ping
		if echo == nil {
			echo = func(ctx context.Context, a netip.Addr) error { return ping.Echo(ctx, a, 0) }
		}
		out.Ping.OK, out.Ping.Latency, out.Ping.Error = timed(func() error { return echo(ctx, a) })
	})
	dial := p.dial
	if dial == nil {
		dial = dialTCP
	}
	out.OK, out.Latency, out.Error = timed(func() error { return dial(ctx, netip.AddrPortFrom(a, p.opts.ProbePort)) })
	both.Wait()
	if out.OK {
		observe("http", time.Duration(out.Latency))
	}
	if out.Ping.OK {
		observe("icmp", time.Duration(out.Ping.Latency))
	}
	return out
}

// timed tells how a try went, and how long it took in nanoseconds if it went well.
func timed(try func() error) (ok bool, took int64, text string) {
	start := time.Now()
	if err := try(); err != nil {
		return false, 0, err.Error()
	}
	return true, time.Since(start).Nanoseconds(), ""
}

func dialTCP(ctx context.Context, a netip.AddrPort) error {
	var d net.Dialer
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, "tcp", a.String())
	if err != nil {
		return err
	}
	return conn.Close()
}
