// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/ipam/lbipam"
	"github.com/stentor-net/stentor/internal/k8s"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/table"
)

// nodeRow is what the operator reads of a CiliumNode.
type nodeRow struct {
	Name, UID, Version string
	Created            time.Time
	Ranges             []netip.Prefix
	Error              string // status.ipam.operator-status.error
	Owned              bool   // Kubernetes removes it after its Node
}

// identityRow is what the operator reads of a CiliumIdentity.
type identityRow struct {
	Number  uint64
	Version string
	Labels  string // equal for equal label sets
	Created time.Time
	Unused  time.Time // since, as marked; zero is used
	object  *ciliumv2.CiliumIdentity
}

// endpointRow is what the operator reads of a CiliumEndpoint.
type endpointRow struct {
	Namespace, Name, UID string
	PodUID               string // of the owner
	Identity             uint64
}

// podRow is what the operator reads of a Pod.
type podRow struct {
	Key, UID string
	Gone     bool // ended; its address may have another owner by now
}

// kubeNodeRow is what the operator reads of a Node.
type kubeNodeRow struct {
	Name    string
	Tainted bool // with TaintAgentNotReady
}

// view is the cluster as the operator sees it: raw tables.
type view struct {
	clusterPolicies bool // ClusterNetworkPolicies count, too

	nodes      *table.Table[nodeRow]
	identities *table.Table[identityRow]
	endpoints  *table.Table[endpointRow]
	pods       *table.Table[podRow]
	kubeNodes  *table.Table[kubeNodeRow]
	policies   *table.Table[policy.Object]
	reports    *table.Table[k8s.NodeReport]
	pools      *table.Table[lbipam.Pool]
	balanced   *table.Table[lbipam.Service] // those of type LoadBalancer

	nodeWriter     *table.Writer[nodeRow]
	identityWriter *table.Writer[identityRow]
	endpointWriter *table.Writer[endpointRow]
	podWriter      *table.Writer[podRow]
	kubeNodeWriter *table.Writer[kubeNodeRow]
	policyWriter   *table.Writer[policy.Object]
	reportWriter   *table.Writer[k8s.NodeReport]
	poolWriter     *table.Writer[lbipam.Pool]
	balancedWriter *table.Writer[lbipam.Service]

	pooled atomic.Pointer[lbipam.Outcome] // what became of pools and Services; nil: nothing yet
}

func newView() *view {
	v := &view{}
	v.nodes, v.nodeWriter = newTable("ciliumnodes", nodeKey)
	v.identities, v.identityWriter = newTable("ciliumidentities", identityKey)
	v.endpoints, v.endpointWriter = newTable("ciliumendpoints", endpointKey)
	v.pods, v.podWriter = newTable("pods", podKey)
	v.kubeNodes, v.kubeNodeWriter = newTable("nodes", kubeNodeKey)
	v.policies, v.policyWriter = policy.NewTable()
	v.reports, v.reportWriter = newTable("policyreports", reportKey)
	v.pools, v.poolWriter = newTable("pools", func(p lbipam.Pool) string { return p.Name })
	v.balanced, v.balancedWriter = newTable("loadbalancers", func(s lbipam.Service) string { return s.ObjectKey() })
	return v
}

func newTable[R any](name string, key func(R) string) (*table.Table[R], *table.Writer[R]) {
	return table.New(table.Options[R]{Name: name, Key: key, Columns: []table.Column[R]{{Name: "KEY", Value: key}}})
}

func nodeKey(r nodeRow) string         { return r.Name }
func identityKey(r identityRow) string { return strconv.FormatUint(r.Number, 10) }
func endpointKey(r endpointRow) string { return r.Namespace + "/" + r.Name }
func podKey(r podRow) string           { return r.Key }
func kubeNodeKey(r kubeNodeRow) string { return r.Name }

// reflect keeps the tables.
func (v *view) reflect(ctx context.Context, c *k8s.Client) error {
	return together(ctx,
		func(ctx context.Context) error {
			return k8s.Reflect(ctx, c, k8s.CiliumNodes, k8s.Mapping[*ciliumv2.CiliumNode, nodeRow]{Row: nodeFrom, Key: nodeKey}, v.nodeWriter)
		},
		func(ctx context.Context) error {
			return k8s.Reflect(ctx, c, k8s.CiliumIdentities, k8s.Mapping[*ciliumv2.CiliumIdentity, identityRow]{Row: identityFrom, Key: identityKey}, v.identityWriter)
		},
		func(ctx context.Context) error {
			return k8s.Reflect(ctx, c, k8s.CiliumEndpoints, k8s.Mapping[*ciliumv2.CiliumEndpoint, endpointRow]{Row: endpointFrom, Key: endpointKey}, v.endpointWriter)
		},
		func(ctx context.Context) error {
			return k8s.Reflect(ctx, c, k8s.Pods, k8s.Mapping[*corev1.Pod, podRow]{Row: podFrom, Key: podKey}, v.podWriter)
		},
		func(ctx context.Context) error { return k8s.ReflectPolicies(ctx, c, v.clusterPolicies, v.policyWriter) },
		func(ctx context.Context) error { return k8s.ReflectReports(ctx, c, v.reportWriter) },
		func(ctx context.Context) error {
			return k8s.Reflect(ctx, c, k8s.Nodes, k8s.Mapping[*corev1.Node, kubeNodeRow]{Row: kubeNodeFrom, Key: kubeNodeKey}, v.kubeNodeWriter)
		},
	)
}

// reflectLoadBalancers keeps the tables of pools and of Services that have, or
// had, to do with load balancers.
func (v *view) reflectLoadBalancers(ctx context.Context, c *k8s.Client) error {
	return together(ctx,
		func(ctx context.Context) error {
			return k8s.Reflect(ctx, c, k8s.LoadBalancerIPPools, k8s.Mapping[*ciliumv2.CiliumLoadBalancerIPPool, lbipam.Pool]{
				Row: func(o *ciliumv2.CiliumLoadBalancerIPPool) (lbipam.Pool, bool) { return lbipam.ReadPool(o), true },
				Key: func(p lbipam.Pool) string { return p.Name },
			}, v.poolWriter)
		},
		func(ctx context.Context) error {
			return k8s.Reflect(ctx, c, k8s.Services, k8s.Mapping[*corev1.Service, lbipam.Service]{
				Row: lbipam.ReadService, Key: func(s lbipam.Service) string { return s.ObjectKey() },
			}, v.balancedWriter)
		},
	)
}

func nodeFrom(o *ciliumv2.CiliumNode) (nodeRow, bool) {
	return nodeRow{
		Name: o.Name, UID: string(o.UID), Version: o.ResourceVersion,
		Created: o.CreationTimestamp.Time,
		Ranges:  k8s.NodeRow(o).PodCIDRs,
		Error:   o.Status.IPAM.OperatorStatus.Error,
		Owned:   len(o.OwnerReferences) > 0,
	}, true
}

func identityFrom(o *ciliumv2.CiliumIdentity) (identityRow, bool) {
	row, ok := k8s.IdentityRow(o)
	if !ok {
		return identityRow{}, false
	}
	// A mark that does not parse counts from the beginning of time: it was
	// meant, and the identity has had the interval to be used.
	unused := time.Time{}
	if mark, marked := o.Annotations[k8s.AnnotationUnused]; marked {
		var err error
		if unused, err = time.Parse(time.RFC3339, mark); err != nil {
			unused = o.CreationTimestamp.Time
		}
	}
	return identityRow{
		Number: uint64(row.ID), Version: o.ResourceVersion, Labels: row.Labels.Key(),
		Created: o.CreationTimestamp.Time, Unused: unused, object: o,
	}, true
}

func endpointFrom(o *ciliumv2.CiliumEndpoint) (endpointRow, bool) {
	row := endpointRow{Namespace: o.Namespace, Name: o.Name, UID: string(o.UID)}
	for _, owner := range o.OwnerReferences {
		if owner.Kind == "Pod" {
			row.PodUID = string(owner.UID)
		}
	}
	if o.Status.Identity != nil {
		row.Identity = uint64(o.Status.Identity.ID)
	}
	return row, true
}

func podFrom(o *corev1.Pod) (podRow, bool) {
	return podRow{
		Key: o.Namespace + "/" + o.Name, UID: string(o.UID),
		Gone: o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed,
	}, true
}

func kubeNodeFrom(o *corev1.Node) (kubeNodeRow, bool) {
	row := kubeNodeRow{Name: o.Name}
	for _, taint := range o.Spec.Taints {
		row.Tainted = row.Tainted || taint.Key == k8s.TaintAgentNotReady
	}
	return row, true
}
