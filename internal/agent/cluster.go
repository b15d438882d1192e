// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/k8s"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/policy/report"
)

// kubeCluster is the real Cluster: the API server by internal/k8s.
type kubeCluster struct {
	client *k8s.Client
	node   string
	// clusterPolicies: ClusterNetworkPolicies are carried out.
	clusterPolicies bool
	redirects       bool         // CiliumLocalRedirectPolicies are
	uid             atomic.Value // string: of the Node object, once it was read
}

func newKubeCluster(o Options, m *metrics) (*kubeCluster, error) {
	client, err := k8s.NewClient(k8s.Options{APIServer: o.APIServer, Kubeconfig: o.Kubeconfig, UserAgent: "stentor-agent/" + o.Version,
		OnCall: m.countCall, OnObject: m.countEvent})
	if err != nil {
		return nil, err
	}
	return &kubeCluster{client: client, node: o.NodeName, clusterPolicies: o.ClusterPolicies, redirects: o.Service.Redirects}, nil
}

func (c *kubeCluster) Tell(ctx context.Context, n Notice) error {
	uid, _ := c.uid.Load().(string)
	if uid == "" {
		m, err := c.Machine(ctx)
		if err != nil {
			return err
		}
		uid = m.UID
		c.uid.Store(uid)
	}
	return c.client.TellEvent(ctx, k8s.NodeEvent{
		Node: c.node, NodeUID: uid, From: "stentor-agent",
		Warning: n.Warning, Reason: n.Reason, Message: n.Message, First: n.First, Count: n.Count,
	})
}

func (c *kubeCluster) Warn(ctx context.Context, w Warning) error {
	about := corev1.ObjectReference{APIVersion: "v1", Kind: w.Kind, Namespace: w.Namespace, Name: w.Name, UID: types.UID(w.UID)}
	if w.Kind == k8s.LocalRedirectPolicies.Name() {
		about.APIVersion = ciliumv2.Group + "/" + ciliumv2.Version
	}
	return c.client.Warn(ctx, about, "stentor-agent", w.Reason, w.Message)
}

func (c *kubeCluster) Host() string { return c.client.Host() }

func (c *kubeCluster) Version(ctx context.Context) (string, error) { return c.client.Version(ctx) }

func (c *kubeCluster) Reflect(ctx context.Context, raw RawWriters) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return k8s.ReflectPods(ctx, c.client, c.node, raw.Pods) })
	g.Go(func() error { return k8s.ReflectNamespaces(ctx, c.client, raw.Namespaces) })
	g.Go(func() error { return k8s.ReflectIdentities(ctx, c.client, raw.Identities) })
	g.Go(func() error { return k8s.ReflectNodes(ctx, c.client, c.node, raw.Nodes) })
	g.Go(func() error { return k8s.ReflectMachine(ctx, c.client, c.node, raw.Machine) })
	g.Go(func() error { return k8s.ReflectPolicies(ctx, c.client, c.clusterPolicies, raw.Policies) })
	g.Go(func() error { return k8s.ReflectGroups(ctx, c.client, raw.Groups) })
	g.Go(func() error { return k8s.ReflectServices(ctx, c.client, raw.Services) })
	g.Go(func() error { return k8s.ReflectSlices(ctx, c.client, raw.Slices) })
	if c.redirects {
		g.Go(func() error { return k8s.ReflectRedirects(ctx, c.client, raw.Redirects) })
	} else {
		raw.Redirects.MarkSynced()
	}
	g.Go(func() error { return k8s.ReflectEndpoints(ctx, c.client, raw.Remotes) })
	return g.Wait()
}

func (c *kubeCluster) Pod(ctx context.Context, namespace, name string) (endpoint.Pod, error) {
	p, err := c.client.GetPod(ctx, namespace, name)
	if apierrors.IsNotFound(err) {
		return endpoint.Pod{}, fmt.Errorf("%w: pod %s/%s", ErrNotFound, namespace, name)
	}
	if err != nil {
		return endpoint.Pod{}, err
	}
	return k8s.PodRow(p), nil
}

func (c *kubeCluster) Machine(ctx context.Context) (Machine, error) {
	n, err := c.client.GetNode(ctx, c.node)
	if err != nil {
		return Machine{}, err
	}
	m := Machine{UID: string(n.UID), BootID: n.Status.NodeInfo.BootID, Labels: n.Labels}
	for _, a := range n.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if err != nil {
			continue // host names
		}
		switch a.Type {
		case corev1.NodeInternalIP:
			m.InternalIP = append(m.InternalIP, ip)
		case corev1.NodeExternalIP:
			m.ExternalIP = append(m.ExternalIP, ip)
		}
	}
	if len(m.InternalIP) == 0 {
		return m, fmt.Errorf("the Node object %s has no InternalIP yet", c.node)
	}
	ranges := n.Spec.PodCIDRs
	if len(ranges) == 0 && n.Spec.PodCIDR != "" {
		ranges = []string{n.Spec.PodCIDR}
	}
	for _, text := range ranges {
		r, err := netip.ParsePrefix(text)
		if err != nil {
			return m, fmt.Errorf("pod range of the Node object: %w", err)
		}
		m.PodCIDRs = append(m.PodCIDRs, r.Masked())
	}
	return m, nil
}

func (c *kubeCluster) PublishNode(ctx context.Context, edit func(*ciliumv2.CiliumNode)) error {
	_, err := c.client.PublishNode(ctx, c.node, edit)
	return err
}

func (c *kubeCluster) CreateIdentity(ctx context.Context, id identity.ID, labels label.Set) error {
	values := make(map[string]string, len(labels))
	for _, l := range labels {
		values[l.Source+":"+l.Key] = l.Value
	}
	_, err := c.client.CreateIdentity(ctx, uint32(id), values)
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("%w: %d", ErrTaken, id)
	}
	return err
}

func (c *kubeCluster) KeepIdentity(ctx context.Context, id identity.ID) error {
	err := c.client.KeepIdentity(ctx, uint32(id))
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%w: identity %d", ErrNotFound, id)
	}
	return err
}

func (c *kubeCluster) PublishEndpoint(ctx context.Context, e *ciliumv2.CiliumEndpoint) error {
	return c.client.PublishEndpoint(ctx, e)
}

func (c *kubeCluster) DeleteEndpoint(ctx context.Context, namespace, name, podUID string) error {
	return c.client.DeleteEndpoint(ctx, namespace, name, podUID)
}

// reasonUp is the reason of the condition NetworkUnavailable once the agent was ready.
const reasonUp = "StentorIsUp"

func (c *kubeCluster) MarkReady(ctx context.Context) error {
	n, err := c.client.GetNode(ctx, c.node)
	if err != nil {
		return err
	}
	said := slices.ContainsFunc(n.Status.Conditions, func(o corev1.NodeCondition) bool {
		return o.Type == corev1.NodeNetworkUnavailable && o.Status == corev1.ConditionFalse && o.Reason == reasonUp
	})
	if !said { // saying it again would move the time of the transition
		if err := c.client.SetNetworkAvailable(ctx, c.node, reasonUp, "Stentor is running on this node"); err != nil {
			return err
		}
	}
	_, err = c.client.RemoveTaint(ctx, c.node, k8s.TaintAgentNotReady)
	return err
}

func (c *kubeCluster) PublishReport(ctx context.Context, r report.Report) error {
	return c.client.PublishReport(ctx, c.node, r)
}
