// SPDX-License-Identifier: Apache-2.0

// Package operator does what is done once per cluster.
//
// See README.md of this folder.
package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stentor-net/stentor/internal/ipam"
	"github.com/stentor-net/stentor/internal/ipam/lbipam"
	"github.com/stentor-net/stentor/internal/k8s"
)

// IPAM modes: who gives pod ranges to nodes.
const (
	IPAMClusterPool = "cluster-pool" // the operator
	IPAMKubernetes  = "kubernetes"   // Kubernetes itself; the agent reads Node.spec.podCIDRs
)

// Options of the operator. Names in brackets are keys of the ConfigMap.
type Options struct {
	// Kubernetes says how to reach the API server.
	// [k8s-api-server, k8s-kubeconfig-path]
	Kubernetes k8s.Options
	// Namespace holds the Lease. Required. [k8s-namespace]
	Namespace string
	// Identity tells this replica from the others. Required: the pod's name.
	Identity string
	// LeaseName of the election. Optional: "stentor-operator".
	LeaseName string

	// IPAM is the mode. Optional: IPAMClusterPool. [ipam]
	IPAM string
	// PodRanges are the cluster's ranges in cluster-pool mode. Optional:
	// 10.0.0.0/8 and fd00::/104 if both families are empty.
	// [cluster-pool-ipv4-cidr, -mask-size, cluster-pool-ipv6-cidr, -mask-size]
	PodRanges ipam.ClusterOptions

	// SkipDefinitions leaves the CustomResourceDefinitions to somebody else.
	// [skip-crd-creation]
	SkipDefinitions bool

	// IdentityGCInterval is the time between looks for unused identities.
	// Optional: 15 minutes; negative turns it off. [identity-gc-interval]
	IdentityGCInterval time.Duration
	// IdentityTimeout is how long an identity stays unused before it goes.
	// Optional: 30 minutes. [identity-heartbeat-timeout]
	IdentityTimeout time.Duration
	// DuplicateTimeout is the same for an identity whose labels have a lower
	// number, too. Optional: 1 minute.
	DuplicateTimeout time.Duration
	// EndpointGCInterval is the time between looks for endpoints and nodes
	// that outlived their pod or node. Optional: 5 minutes; negative turns it
	// off. [cilium-endpoint-gc-interval]
	EndpointGCInterval time.Duration

	// RemoveTaint removes node.cilium.io/agent-not-ready from nodes whose
	// CiliumNode exists. Agents do it themselves; this is for agents without
	// the right to change nodes. [remove-cilium-node-taints]
	RemoveTaint bool

	// ClusterPolicies says that agents carry out ClusterNetworkPolicies, whose
	// status is then written, too. [enable-k8s-cluster-network-policy]
	ClusterPolicies bool

	// LoadBalancers gives addresses of CiliumLoadBalancerIPPools to Services.
	// [enable-lb-ipam]
	LoadBalancers bool
	// LoadBalancerDefault gives them to Services without loadBalancerClass, too.
	// [default-lb-service-ipam]
	LoadBalancerDefault bool

	// HealthAddress serves /healthz and /readyz. Optional: 127.0.0.1:9234; "-"
	// turns it off. [operator-api-serve-addr]
	HealthAddress string

	// MetricsAddress serves /metrics. Optional; empty is nowhere.
	// [operator-prometheus-serve-addr]
	MetricsAddress string
	// Version of the program, for metrics. Optional.
	Version string

	// Log is told what changes. Optional.
	Log *slog.Logger
}

func (o *Options) complete() error {
	if o.Namespace == "" || o.Identity == "" {
		return errors.New("operator: namespace and identity are required")
	}
	if o.IPAM == "" {
		o.IPAM = IPAMClusterPool
	}
	if o.IPAM != IPAMClusterPool && o.IPAM != IPAMKubernetes {
		return fmt.Errorf("operator: ipam %q: want %s or %s", o.IPAM, IPAMClusterPool, IPAMKubernetes)
	}
	if len(o.PodRanges.IPv4) == 0 && len(o.PodRanges.IPv6) == 0 {
		o.PodRanges.IPv4 = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		o.PodRanges.IPv6 = []netip.Prefix{netip.MustParsePrefix("fd00::/104")}
	}
	if o.LeaseName == "" {
		o.LeaseName = "stentor-operator"
	}
	if o.HealthAddress == "" {
		o.HealthAddress = "127.0.0.1:9234"
	}
	for _, d := range []struct {
		value     *time.Duration
		otherwise time.Duration
	}{
		{&o.IdentityGCInterval, 15 * time.Minute},
		{&o.IdentityTimeout, 30 * time.Minute},
		{&o.DuplicateTimeout, time.Minute},
		{&o.EndpointGCInterval, 5 * time.Minute},
	} {
		if *d.value == 0 {
			*d.value = d.otherwise
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// operator is one running replica.
type operator struct {
	Options
	client  *k8s.Client
	metrics *metrics
	// leader and ready are what the health server tells.
	leader, ready atomic.Bool
}

// Run takes part in the election, and does the work while this replica is the
// leader, until ctx ends. It returns an error if the replica lost the
// leadership: the process should end then, and start afresh.
func Run(ctx context.Context, o Options) error {
	if o.Log != nil {
		k8s.LogTo(o.Log)
	}
	m := newMetrics(o.Version)
	o.Kubernetes.OnCall, o.Kubernetes.OnObject = m.countCall, m.countEvent
	client, err := k8s.NewClient(o.Kubernetes)
	if err != nil {
		return fmt.Errorf("operator: %w", err)
	}
	return run(ctx, o, client, m)
}

func run(ctx context.Context, o Options, client *k8s.Client, m *metrics) error {
	if err := o.complete(); err != nil {
		return err
	}
	var pool *ipam.ClusterPool
	if o.IPAM == IPAMClusterPool {
		var err error
		if pool, err = ipam.NewClusterPool(o.PodRanges); err != nil {
			return fmt.Errorf("operator: %w", err)
		}
	}
	op := &operator{Options: o, client: client, metrics: m}
	election := k8s.Election{Namespace: o.Namespace, Name: o.LeaseName, Identity: o.Identity, Log: o.Log}
	return together(ctx,
		op.serveHealth,
		op.serveMetrics,
		func(ctx context.Context) error {
			return election.Run(ctx, client, func(ctx context.Context) error { return op.lead(ctx, pool) })
		},
	)
}

// lead does the work of the leader.
func (op *operator) lead(ctx context.Context, pool *ipam.ClusterPool) error {
	op.leader.Store(true)
	op.metrics.leader.Store(true)
	defer op.leader.Store(false)
	defer op.metrics.leader.Store(false)
	if !op.SkipDefinitions {
		if err := op.installDefinitions(ctx); err != nil {
			return err
		}
	}
	op.ready.Store(true)
	view := newView()
	view.clusterPolicies = op.ClusterPolicies
	op.metrics.view.Store(view)
	defer op.metrics.view.Store(nil)
	work := []func(context.Context) error{
		func(ctx context.Context) error { return view.reflect(ctx, op.client) },
	}
	work = append(work, func(ctx context.Context) error { return newPolicyWriter(op, view).run(ctx) })
	if op.LoadBalancers {
		l := &loadBalancers{client: op.client, view: view, log: op.Log, options: lbipam.Options{Default: op.LoadBalancerDefault}, written: map[string]*written{}}
		work = append(work, func(ctx context.Context) error { return view.reflectLoadBalancers(ctx, op.client) }, l.run)
	}
	if pool != nil {
		r := &ranges{client: op.client, pool: pool, log: op.Log, given: map[string]*gift{}}
		work = append(work, func(ctx context.Context) error { return r.run(ctx, view.nodes) })
	}
	if op.IdentityGCInterval > 0 {
		work = append(work, func(ctx context.Context) error { return op.collectIdentities(ctx, view) })
	}
	if op.EndpointGCInterval > 0 {
		work = append(work, func(ctx context.Context) error { return op.collectOrphans(ctx, view) })
	}
	if op.RemoveTaint {
		work = append(work, func(ctx context.Context) error { return op.removeTaints(ctx, view) })
	}
	return together(ctx, work...)
}

// together runs everything until one ends; the others are told to end, too. It
// returns the first error, nil if the given context ended.
func together(outer context.Context, work ...func(context.Context) error) error {
	ctx, stop := context.WithCancelCause(outer)
	defer stop(nil)
	errs := make(chan error, len(work))
	var running sync.WaitGroup
	for _, do := range work {
		running.Go(func() {
			err := do(ctx)
			stop(err)
			errs <- err
		})
	}
	running.Wait()
	if outer.Err() != nil {
		return nil
	}
	return <-errs
}

// pause waits for a time or the end of the context.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
