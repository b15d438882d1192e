// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cni/rundir"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/proxy/wire"
)

// world is everything outside of this package that an agent works with.
type world struct {
	cluster       Cluster
	startDatapath func(ctx context.Context, p place) (Datapath, error)
	newEngine     func(o policy.Options, s policy.State, before Engine) (Engine, error)
	metrics       *metrics                     // nil: the agent's own
	hostAddresses func() ([]netip.Addr, error) // nil: those of the process's network namespace
	askEvery      time.Duration                // 0: apiServerEvery
}

// Agent is one node's agent.
type Agent struct {
	log     *slog.Logger
	opts    Options
	world   world
	started time.Time

	tables *tables
	raw    RawWriters
	own    derivedWriters
	checks *checks

	metrics   *metrics
	census    *census
	ids       *allocator
	endpoints *endpoints
	cni       *cni
	monitor   *monitor
	observer  *observer    // nil: flows are not kept
	proxies   *wire.Server // nil: L7 rules are not carried out
	past      *past
	server    *server
	prober    *prober

	datapathUp chan struct{} // closed when dp is set
	dp         Datapath
	restored   chan struct{} // closed when the endpoints from before are adopted
	enforced   chan struct{} // closed when the first policy is in force
	ready      chan struct{} // closed when pods can be attached
}

// parts of the agent that say how they are, in the order of a start.
var parts = []string{"kubernetes", "node", "nodes", "datapath", "endpoints", "identities", "policy", "services", "ciliumendpoints", "cni", "health", "maps"}

func newAgent(log *slog.Logger, o Options, w world) *Agent {
	a := &Agent{
		log: log, opts: o, world: w, started: time.Now(), past: &past{},
		datapathUp: make(chan struct{}), restored: make(chan struct{}), enforced: make(chan struct{}), ready: make(chan struct{}),
	}
	if a.metrics = w.metrics; a.metrics == nil {
		a.metrics = newMetrics()
	}
	a.census = &census{agent: a}
	a.metrics.Census(measured, a.census.count)
	a.tables, a.raw, a.own = newTables()
	a.own.settings.Upsert(settings(o)...)
	a.checks = newChecks(a.own.checks, parts...)
	a.ids = newAllocator(w.cluster, a.tables.identities)
	a.endpoints = newEndpoints(log, o, a.metrics, a.own.endpoints)
	a.cni = &cni{
		log: log, opts: o, tables: a.tables, cluster: w.cluster, ids: a.ids, endpoints: a.endpoints,
		queue: rundir.Dir(filepath.Dir(o.SocketPath)), ready: a.ready, restored: a.restored,
	}
	a.monitor = newMonitor(a.tables, o.NodeName)
	a.monitor.policiesOf = a.endpoints.policiesOf
	if o.Flows {
		a.observer = newObserver(o, a.tables)
	}
	if o.L7Proxy {
		a.proxies = wire.NewServer()
		a.proxies.Record = a.request
	}
	a.server = &server{agent: a}
	a.prober = &prober{opts: o, metrics: a.metrics, tables: a.tables, writer: a.own.health, checks: a.checks}
	return a
}

// Run works until ctx ends. What is in the kernel stays as it is then.
func (a *Agent) Run(ctx context.Context) error {
	socket, err := listenUnix(a.opts.SocketPath)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	tell := &herald{log: a.log, opts: a.opts, tables: a.tables, cluster: a.world.cluster}
	g.Go(func() error { return a.world.cluster.Reflect(ctx, a.raw) })
	hosts := &hostAddresses{writer: a.own.hostAddresses, read: a.world.hostAddresses}
	g.Go(func() error { return a.insist(ctx, "read addresses of the node", hosts.Run) })
	g.Go(func() error { return a.watchAPIServer(ctx) })
	g.Go(func() error { return a.insist(ctx, "answer probes of other nodes", a.answerProbes) })
	g.Go(func() error { return a.insist(ctx, "serve healthz", a.serveHealthz) })
	g.Go(func() error { return a.insist(ctx, "serve metrics", a.serveMetrics) })
	g.Go(func() error { return a.insist(ctx, "serve kube-proxy's healthz", a.serveProxyHealth) })
	g.Go(func() error { return tell.Run(ctx) })
	g.Go(func() error { return a.insist(ctx, "serve the health API", a.serveHealth) })
	g.Go(func() error { return serveHTTP(ctx, socket, a.server.handler()) })
	if a.observer != nil {
		g.Go(func() error { return a.insist(ctx, "serve flows", a.observer.Run) })
	}
	if a.proxies != nil {
		g.Go(func() error { return a.insist(ctx, "serve the proxy", a.serveProxy) })
	}
	g.Go(func() error { return a.boot(ctx, g) })
	err = g.Wait()
	select {
	case <-a.datapathUp:
		err = errors.Join(err, a.dp.Close())
	default:
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// boot brings the parts up in their order: each needs those before it.
func (a *Agent) boot(ctx context.Context, g *errgroup.Group) error {
	n := &nodeAgent{log: a.log, opts: a.opts, tables: a.tables, cluster: a.world.cluster, checks: a.checks}
	p, err := n.settle(ctx)
	if err != nil {
		return err
	}
	if err := a.endpoints.setPools(p.PodCIDRs); err != nil {
		return fmt.Errorf("pod ranges %v: %w", p.PodCIDRs, err)
	}
	dp, err := a.world.startDatapath(ctx, p)
	if err != nil {
		return fmt.Errorf("start datapath: %w", err)
	}
	a.dp, a.endpoints.dp = dp, dp
	close(a.datapathUp)
	a.checks.ok("datapath", fmt.Sprintf("MTU %d", dp.MTU()))
	if err := a.endpoints.restore(ctx); err != nil {
		return fmt.Errorf("adopt endpoints: %w", err)
	}
	close(a.restored)
	g.Go(func() error { return dp.Run(ctx) })
	g.Go(func() error { return n.run(ctx, p) })
	a.runDerivations(ctx, g)
	select {
	case <-a.enforced:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	close(a.ready)
	a.checks.ok("endpoints", "pods can be attached")
	a.log.Info("agent is ready", "after", time.Since(a.started).Round(time.Millisecond))
	g.Go(func() error { return a.beat(ctx) })
	g.Go(func() error { a.endpoints.checkLinks(ctx); return nil })
	g.Go(func() error { return (&sweeper{log: a.log, endpoints: a.endpoints}).Run(ctx) })
	g.Go(func() error { return (&cniConf{opts: a.opts, checks: a.checks}).Run(ctx) })
	g.Go(func() error { return a.markReady(ctx) })
	return nil
}

// runDerivations starts what turns tables into other tables, the kernel's
// content and objects of the API.
func (a *Agent) runDerivations(ctx context.Context, g *errgroup.Group) {
	enforce := &enforcer{
		log: a.log, opts: a.opts, tables: a.tables, addresses: a.own.addresses, verdicts: a.own.verdicts,
		endpoints: a.endpoints, ids: a.ids, checks: a.checks, metrics: a.metrics, dp: a.dp, first: a.enforced,
		newEngine: a.world.newEngine, past: a.past,
	}
	if a.proxies != nil {
		enforce.rules = &l7Rules{log: a.log, writer: a.own.l7rules, server: a.proxies}
	}
	identify := &identifier{log: a.log, opts: a.opts, tables: a.tables, ids: a.ids, endpoints: a.endpoints, checks: a.checks}
	balance := &balancer{log: a.log, opts: a.opts, tables: a.tables, frontends: a.own.frontends, backends: a.own.backends, problems: a.own.problems, checks: a.checks, dp: a.dp}
	sockets := &socketCloser{log: a.log, opts: a.opts, tables: a.tables, metrics: a.metrics, dp: a.dp, wake: make(chan struct{}, 1)}
	if a.opts.SocketLB || a.opts.Service.AllKinds {
		balance.changed = sockets.changed
	}
	warn := &warner{log: a.log, tables: a.tables, cluster: a.world.cluster}
	publish := &publisher{log: a.log, tables: a.tables, cluster: a.world.cluster, checks: a.checks}
	policies := &policyReporter{log: a.log, tables: a.tables, cluster: a.world.cluster, revision: a.past.revision}
	g.Go(func() error { return enforce.Run(ctx) })
	g.Go(func() error { return identify.Run(ctx) })
	g.Go(func() error { return balance.Run(ctx) })
	g.Go(func() error { return warn.Run(ctx) })
	g.Go(func() error { return sockets.Run(ctx) })
	if a.opts.Service.AllKinds {
		ports := newHealthCheckPorts(a.log, a.tables)
		g.Go(func() error { return ports.Run(ctx) })
	}
	g.Go(func() error { return publish.Run(ctx) })
	g.Go(func() error { return policies.Run(ctx) })
	g.Go(func() error { return a.prober.Run(ctx) })
	g.Go(func() error { return a.census.watchPressure(ctx, a.dp, a.checks) })
	g.Go(func() error {
		return a.insist(ctx, "read events", func(ctx context.Context) error { return a.dp.Events(ctx, a.event) })
	})
}

// event tells one of the datapath's events to all who listen.
func (a *Agent) event(e Event) {
	a.monitor.tell(e)
	if a.observer != nil {
		a.observer.recorder.record(e)
	}
}

// insistEvery is how long insist waits after a failure.
const insistEvery = 5 * time.Second

// insist runs a part that the node can do without for a while, again and again.
func (a *Agent) insist(ctx context.Context, what string, part func(context.Context) error) error {
	for {
		err := part(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		a.log.Warn("part of the agent failed and is started again", "part", what, "error", err)
		if err := pause(ctx, insistEvery); err != nil {
			return err
		}
	}
}

// healthy says why the agent should not get pods, or be started again. The API
// server is not a reason: the node goes on without it.
func (a *Agent) healthy() error {
	if !isClosed(a.ready) {
		return errors.New("starting: " + a.cni.notReadyBecause())
	}
	for _, name := range []string{"datapath", "policy"} {
		if c, _ := a.tables.checks.Get(name); c.State == rest.StateFailure {
			return errors.New(name + ": " + c.Msg)
		}
	}
	return nil
}

// apiServerEvery is how often the API server is asked for its version.
const apiServerEvery = 10 * time.Second

// watchAPIServer keeps the check of the connection to the API server.
func (a *Agent) watchAPIServer(ctx context.Context) error {
	every := apiServerEvery
	if a.world.askEvery > 0 {
		every = a.world.askEvery
	}
	for {
		ask, cancel := context.WithTimeout(ctx, apiServerEvery)
		version, err := a.world.cluster.Version(ask)
		cancel()
		wait := every
		if err != nil {
			a.checks.fail("kubernetes", err.Error(), "changes of pods and policies", "pods that run go on; "+a.world.cluster.Host()+" is asked again every second")
			wait = time.Second
		} else {
			a.checks.ok("kubernetes", version+" at "+a.world.cluster.Host())
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// beat shows the CNI plugin that the agent is alive, and carries out the
// deletions that it queued.
func (a *Agent) beat(ctx context.Context) error {
	dir := a.cni.queue
	for {
		if err := dir.Beat(); err != nil {
			a.log.Warn("beat is not written", "error", err)
		}
		err := dir.DrainDeletions(func(r rest.CNIRequest) error { return a.cni.Del(ctx, r) })
		if err != nil && ctx.Err() == nil {
			a.log.Warn("queued deletions are left", "error", err)
		}
		if err := pause(ctx, rundir.BeatEvery); err != nil {
			return err
		}
	}
}

// markReady tells Kubernetes that pods may come.
func (a *Agent) markReady(ctx context.Context) error {
	for {
		err := a.world.cluster.MarkReady(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		a.log.Warn("node is not marked as ready", "error", err)
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}
