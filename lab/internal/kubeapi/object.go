// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// ErrNoKind is returned for a kind that the API server does not know.
var ErrNoKind = errors.New("the API server does not know this kind")

// resource finds the objects of a kind; an empty namespace is "default".
func (c *Client) resource(gvk schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	m, err := c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		c.mapper.Reset() // the kind may be new
		if meta.IsNoMatchError(err) {
			return nil, fmt.Errorf("%w: %s of %s", ErrNoKind, gvk.Kind, gvk.GroupVersion())
		}
		return nil, err
	}
	if m.Scope.Name() != meta.RESTScopeNameNamespace {
		return c.dyn.Resource(m.Resource), nil
	}
	if namespace == "" {
		namespace = "default"
	}
	return c.dyn.Resource(m.Resource).Namespace(namespace), nil
}

// List gets all objects of a kind; the namespace counts for kinds that have one.
func (c *Client) List(ctx context.Context, apiVersion, kind, namespace string) ([]unstructured.Unstructured, error) {
	r, err := c.resource(schema.FromAPIVersionAndKind(apiVersion, kind), namespace)
	if err != nil {
		return nil, err
	}
	l, err := r.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return l.Items, nil
}

// Get gets one object.
func (c *Client) Get(ctx context.Context, apiVersion, kind, namespace, name string) (*unstructured.Unstructured, error) {
	r, err := c.resource(schema.FromAPIVersionAndKind(apiVersion, kind), namespace)
	if err != nil {
		return nil, err
	}
	return r.Get(ctx, name, metav1.GetOptions{})
}

// Merge changes an object by a JSON merge patch (RFC 7386).
func (c *Client) Merge(ctx context.Context, apiVersion, kind, namespace, name, patch string) error {
	r, err := c.resource(schema.FromAPIVersionAndKind(apiVersion, kind), namespace)
	if err != nil {
		return err
	}
	_, err = r.Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: "stentor-lab"})
	return err
}

// Delete removes every object of the YAML documents. The first that is not
// there ends it with the API server's error.
func (c *Client) Delete(ctx context.Context, manifests string) error {
	return each(manifests, func(u *unstructured.Unstructured) error {
		r, err := c.resource(u.GroupVersionKind(), u.GetNamespace())
		if err != nil {
			return err
		}
		if err := r.Delete(ctx, u.GetName(), metav1.DeleteOptions{}); err != nil {
			return fmt.Errorf("delete %s %s: %w", u.GetKind(), u.GetName(), err)
		}
		return nil
	})
}

// PodReady says whether a pod has the Ready condition.
func PodReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// PodAddrs are a pod's addresses, in Kubernetes' order.
func PodAddrs(p *corev1.Pod) []netip.Addr {
	var out []netip.Addr
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			out = append(out, a)
		}
	}
	return out
}
