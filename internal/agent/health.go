// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/node"
	"github.com/stentor-net/stentor/internal/table"
)

// prober asks every node for a connection, by its own address and by its address
// in the pod network, and answers the probes of others.
type prober struct {
	opts   Options
	tables *tables
	writer *table.Writer[rest.NodeHealth]
	checks *checks
	dial   func(ctx context.Context, a netip.AddrPort) error // default dialTCP
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
	if p.dial == nil {
		p.dial = dialTCP
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
	bad := ""
	for _, r := range rows {
		if !r.Local && (!r.Node.OK || !r.Endpoint.OK) {
			bad = r.Name
		}
	}
	if bad != "" {
		p.checks.warn("health", "node "+bad+" does not answer", "traffic to its pods, perhaps", "see the list of nodes")
		return false
	}
	if len(rows) == 0 {
		return false // no node is known yet
	}
	p.checks.ok("health", fmt.Sprintf("%d nodes answer", len(rows)))
	return true
}

func (p *prober) probe(ctx context.Context, n node.Node) rest.NodeHealth {
	h := rest.NodeHealth{Name: n.Name, Local: n.Local, LastProbe: time.Now().UTC().Format(time.RFC3339)}
	for _, r := range n.PodCIDRs {
		h.PodCIDRs = append(h.PodCIDRs, r.String())
	}
	h.Node = p.one(ctx, n.Underlay())
	var router netip.Addr
	if len(n.Router) > 0 {
		router = n.Router[0]
	}
	h.Endpoint = p.one(ctx, router)
	return h
}

func (p *prober) one(ctx context.Context, a netip.Addr) rest.Probe {
	if !a.IsValid() {
		return rest.Probe{Error: "the node has not published its address"}
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	start := time.Now()
	if err := p.dial(ctx, netip.AddrPortFrom(a, p.opts.ProbePort)); err != nil {
		return rest.Probe{IP: a.String(), Error: err.Error()}
	}
	return rest.Probe{IP: a.String(), OK: true, Latency: time.Since(start).Nanoseconds()}
}

func dialTCP(ctx context.Context, a netip.AddrPort) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", a.String())
	if err != nil {
		return err
	}
	return conn.Close()
}

// serveHTTP serves until ctx ends.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return context.Cause(ctx)
	}
	return err
}

// answerProbes accepts connections of other nodes on every address of this one.
func (a *Agent) answerProbes(ctx context.Context) error {
	if a.opts.ProbePort == 0 {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	l, err := listen(ctx, net.JoinHostPort("", strconv.Itoa(int(a.opts.ProbePort))))
	if err != nil {
		return err
	}
	return serveHTTP(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
}

// serveHealthz answers kubelet's probes: 200 while the agent works.
func (a *Agent) serveHealthz(ctx context.Context) error {
	if a.opts.HealthPort == 0 {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := a.healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("ok\n"))
	})
	host := "127.0.0.1"
	if !a.opts.IPv4 {
		host = "::1"
	}
	l, err := listen(ctx, net.JoinHostPort(host, strconv.Itoa(int(a.opts.HealthPort))))
	if err != nil {
		return err
	}
	return serveHTTP(ctx, l, mux)
}

// listen opens a TCP socket without MPTCP, which does not go well with eBPF.
func listen(ctx context.Context, address string) (net.Listener, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	return c.Listen(ctx, "tcp", address)
}
