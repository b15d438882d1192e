// SPDX-License-Identifier: Apache-2.0

// Package kubeapi asks a lab's API server what a lab needs to know.
package kubeapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// Client talks to one API server.
type Client struct {
	Config *rest.Config
	Set    kubernetes.Interface
	dyn    dynamic.Interface
	mapper *restmapper.DeferredDiscoveryRESTMapper
}

// New makes a client from a kubeconfig file. It does not connect.
func New(kubeconfig string) (*Client, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = 200, 400
	cfg.WarningHandler = rest.NoWarnings{}
	set, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	dyn, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(set.Discovery()))
	return &Client{Config: cfg, Set: set, dyn: dyn, mapper: mapper}, nil
}

// Interval is how often conditions are looked at.
const Interval = 100 * time.Millisecond

// Wait calls done until it says true. An error of done is kept, and told when
// ctx ends.
func Wait(ctx context.Context, what string, done func(context.Context) (bool, error)) error {
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	for {
		ok, err := done(ctx)
		if ok && err == nil {
			return nil
		}
		var fatal *FatalError
		if errors.As(err, &fatal) {
			return fatal.Err
		}
		select {
		case <-ctx.Done():
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("wait for %s: %w", what, err)
			}
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// FatalError ends Wait at once.
type FatalError struct{ Err error }

func (e *FatalError) Error() string { return e.Err.Error() }

// Ready says whether the API server answers and is ready.
func (c *Client) Ready(ctx context.Context) (bool, error) {
	_, err := c.Set.Discovery().RESTClient().Get().AbsPath("/readyz").Timeout(2 * time.Second).DoRaw(ctx)
	return err == nil, err
}

// Nodes lists the nodes.
func (c *Client) Nodes(ctx context.Context) ([]corev1.Node, error) {
	l, err := c.Set.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return l.Items, nil
}

// NodeReady says whether a node is Ready, and if not, why.
func NodeReady(n *corev1.Node) (bool, string) {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue, c.Message
		}
	}
	return false, "no status yet"
}

// PodCIDRs parses those of a node.
func PodCIDRs(n *corev1.Node) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range n.Spec.PodCIDRs {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", n.Name, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// Apply creates or updates every object of the YAML documents (server-side
// apply).
func (c *Client) Apply(ctx context.Context, manifests string) error {
	return each(manifests, func(u *unstructured.Unstructured) error {
		if err := c.applyOne(ctx, u); err != nil {
			return fmt.Errorf("apply %s %s: %w", u.GetKind(), u.GetName(), err)
		}
		return nil
	})
}

// each calls f for every object of the YAML documents, until an error.
func each(manifests string, f func(*unstructured.Unstructured) error) error {
	dec := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(manifests), 4096)
	for {
		u := new(unstructured.Unstructured)
		err := dec.Decode(u)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(u.Object) == 0 {
			continue
		}
		if err := f(u); err != nil {
			return err
		}
	}
}

// EstablishCRDs applies custom resource definitions and waits until the API
// server serves them all.
func (c *Client) EstablishCRDs(ctx context.Context, crds []string) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, crd := range crds {
		g.Go(func() error { return c.Apply(gctx, crd) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	crd := c.dyn.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	return Wait(ctx, "CRDs to be established", func(ctx context.Context) (bool, error) {
		l, err := crd.List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		established := 0
		for _, u := range l.Items {
			conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
			if slices.ContainsFunc(conditions, func(x any) bool {
				m, ok := x.(map[string]any)
				return ok && m["type"] == "Established" && m["status"] == "True"
			}) {
				established++
			}
		}
		c.mapper.Reset()
		return established == len(l.Items) && established >= len(crds), nil
	})
}

func (c *Client) applyOne(ctx context.Context, u *unstructured.Unstructured) error {
	r, err := c.resource(u.GroupVersionKind(), u.GetNamespace())
	if err != nil {
		return err
	}
	raw, err := u.MarshalJSON()
	if err != nil {
		return err
	}
	force := true
	_, err = r.Patch(ctx, u.GetName(), types.ApplyPatchType, raw, metav1.PatchOptions{FieldManager: "stentor-lab", Force: &force})
	return err
}

// DeploymentAvailable says whether all wanted replicas of the newest
// generation are available.
func (c *Client) DeploymentAvailable(ctx context.Context, namespace, name string) (bool, error) {
	d, err := c.Set.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	s := d.Status
	if s.ObservedGeneration < d.Generation || s.UpdatedReplicas < want || s.AvailableReplicas < want {
		return false, fmt.Errorf("deployment %s/%s: %d of %d available", namespace, name, s.AvailableReplicas, want)
	}
	return true, nil
}

// WorkloadsReady says whether every DaemonSet and Deployment of a namespace
// runs its newest form everywhere.
func (c *Client) WorkloadsReady(ctx context.Context, namespace string) (bool, error) {
	sets, err := c.Set.AppsV1().DaemonSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	for _, d := range sets.Items {
		s := d.Status
		if s.ObservedGeneration < d.Generation || s.UpdatedNumberScheduled < s.DesiredNumberScheduled || s.NumberReady < s.DesiredNumberScheduled {
			return false, fmt.Errorf("daemonset %s/%s: %d of %d ready", namespace, d.Name, s.NumberReady, s.DesiredNumberScheduled)
		}
	}
	deployments, err := c.Set.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	for _, d := range deployments.Items {
		if ok, err := c.DeploymentAvailable(ctx, namespace, d.Name); !ok {
			return false, err
		}
	}
	return true, nil
}
