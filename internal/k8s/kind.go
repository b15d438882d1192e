// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"encoding/json"
	"fmt"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
)

// Object is a Kubernetes object of one kind.
type Object interface {
	runtime.Object
	metav1.Object
}

// Kind is a kind of API object, with the requests for it.
type Kind[T Object] struct {
	group schema.GroupVersion
	name  string // CamelCase
	path  string // plural, as in URLs
	fresh func() T
	list  func() runtime.Object
}

// The kinds.
var (
	Pods            = Kind[*corev1.Pod]{corev1.SchemeGroupVersion, "Pod", "pods", func() *corev1.Pod { return &corev1.Pod{} }, func() runtime.Object { return &corev1.PodList{} }}
	Nodes           = Kind[*corev1.Node]{corev1.SchemeGroupVersion, "Node", "nodes", func() *corev1.Node { return &corev1.Node{} }, func() runtime.Object { return &corev1.NodeList{} }}
	Namespaces      = Kind[*corev1.Namespace]{corev1.SchemeGroupVersion, "Namespace", "namespaces", func() *corev1.Namespace { return &corev1.Namespace{} }, func() runtime.Object { return &corev1.NamespaceList{} }}
	Services        = Kind[*corev1.Service]{corev1.SchemeGroupVersion, "Service", "services", func() *corev1.Service { return &corev1.Service{} }, func() runtime.Object { return &corev1.ServiceList{} }}
	EndpointSlices  = Kind[*discoveryv1.EndpointSlice]{discoveryv1.SchemeGroupVersion, "EndpointSlice", "endpointslices", func() *discoveryv1.EndpointSlice { return &discoveryv1.EndpointSlice{} }, func() runtime.Object { return &discoveryv1.EndpointSliceList{} }}
	NetworkPolicies = Kind[*networkingv1.NetworkPolicy]{networkingv1.SchemeGroupVersion, "NetworkPolicy", "networkpolicies", func() *networkingv1.NetworkPolicy { return &networkingv1.NetworkPolicy{} }, func() runtime.Object { return &networkingv1.NetworkPolicyList{} }}
	Events          = Kind[*corev1.Event]{corev1.SchemeGroupVersion, "Event", "events", func() *corev1.Event { return &corev1.Event{} }, func() runtime.Object { return &corev1.EventList{} }}
	Leases          = Kind[*coordinationv1.Lease]{coordinationv1.SchemeGroupVersion, "Lease", "leases", func() *coordinationv1.Lease { return &coordinationv1.Lease{} }, func() runtime.Object { return &coordinationv1.LeaseList{} }}

	CiliumEndpoints       = Kind[*ciliumv2.CiliumEndpoint]{ciliumGroup, "CiliumEndpoint", "ciliumendpoints", func() *ciliumv2.CiliumEndpoint { return &ciliumv2.CiliumEndpoint{} }, func() runtime.Object { return &ciliumv2.CiliumEndpointList{} }}
	CiliumIdentities      = Kind[*ciliumv2.CiliumIdentity]{ciliumGroup, "CiliumIdentity", "ciliumidentities", func() *ciliumv2.CiliumIdentity { return &ciliumv2.CiliumIdentity{} }, func() runtime.Object { return &ciliumv2.CiliumIdentityList{} }}
	CiliumNodes           = Kind[*ciliumv2.CiliumNode]{ciliumGroup, "CiliumNode", "ciliumnodes", func() *ciliumv2.CiliumNode { return &ciliumv2.CiliumNode{} }, func() runtime.Object { return &ciliumv2.CiliumNodeList{} }}
	CIDRGroups            = Kind[*ciliumv2.CiliumCIDRGroup]{ciliumGroup, "CiliumCIDRGroup", "ciliumcidrgroups", func() *ciliumv2.CiliumCIDRGroup { return &ciliumv2.CiliumCIDRGroup{} }, func() runtime.Object { return &ciliumv2.CiliumCIDRGroupList{} }}
	LocalRedirectPolicies = Kind[*ciliumv2.CiliumLocalRedirectPolicy]{ciliumGroup, "CiliumLocalRedirectPolicy", "ciliumlocalredirectpolicies", func() *ciliumv2.CiliumLocalRedirectPolicy { return &ciliumv2.CiliumLocalRedirectPolicy{} }, func() runtime.Object { return &ciliumv2.CiliumLocalRedirectPolicyList{} }}
	LoadBalancerIPPools   = Kind[*ciliumv2.CiliumLoadBalancerIPPool]{ciliumGroup, "CiliumLoadBalancerIPPool", "ciliumloadbalancerippools", func() *ciliumv2.CiliumLoadBalancerIPPool { return &ciliumv2.CiliumLoadBalancerIPPool{} }, func() runtime.Object { return &ciliumv2.CiliumLoadBalancerIPPoolList{} }}
	Definitions           = Kind[*Definition]{definitionGroup, "CustomResourceDefinition", "customresourcedefinitions", func() *Definition { return &Definition{} }, func() runtime.Object { return &DefinitionList{} }}

	clusterPolicies           = Kind[*rawPolicy]{policyGroup, "ClusterNetworkPolicy", "clusternetworkpolicies", func() *rawPolicy { return &rawPolicy{} }, func() runtime.Object { return &rawPolicyList{} }}
	ciliumPolicies            = Kind[*rawPolicy]{ciliumGroup, "CiliumNetworkPolicy", "ciliumnetworkpolicies", func() *rawPolicy { return &rawPolicy{} }, func() runtime.Object { return &rawPolicyList{} }}
	ciliumClusterwidePolicies = Kind[*rawPolicy]{ciliumGroup, "CiliumClusterwideNetworkPolicy", "ciliumclusterwidenetworkpolicies", func() *rawPolicy { return &rawPolicy{} }, func() runtime.Object { return &rawPolicyList{} }}
)

// Name is the kind's name, such as Pod.
func (k Kind[T]) Name() string { return k.name }

// Get reads one object. The namespace is empty for objects without one.
func (k Kind[T]) Get(ctx context.Context, c *Client, namespace, name string) (T, error) {
	return k.do(ctx, c, "get", namespace, name, func(group rest.Interface) *rest.Request {
		return group.Get().NamespaceIfScoped(namespace, namespace != "").Resource(k.path).Name(name)
	})
}

// List reads all objects that the options select; namespace "" is all.
func (k Kind[T]) List(ctx context.Context, c *Client, namespace string, o metav1.ListOptions) ([]T, error) {
	group, err := c.group(k.group)
	if err != nil {
		return nil, err
	}
	list := k.list()
	err = group.Get().NamespaceIfScoped(namespace, namespace != "").Resource(k.path).
		VersionedParams(&o, c.params).Do(ctx).Into(list)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", k.path, err)
	}
	items, err := meta.ExtractList(list)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", k.path, err)
	}
	out := make([]T, 0, len(items))
	for _, item := range items {
		if object, ok := item.(T); ok {
			out = append(out, object)
		}
	}
	return out, nil
}

// Create makes an object and returns it as stored.
func (k Kind[T]) Create(ctx context.Context, c *Client, object T) (T, error) {
	k.stamp(object)
	return k.do(ctx, c, "create", object.GetNamespace(), object.GetName(), func(group rest.Interface) *rest.Request {
		return group.Post().NamespaceIfScoped(object.GetNamespace(), object.GetNamespace() != "").Resource(k.path).Body(object)
	})
}

// Update replaces an object, if its resource version is still the stored one.
func (k Kind[T]) Update(ctx context.Context, c *Client, object T) (T, error) {
	return k.update(ctx, c, object, "")
}

// UpdateStatus replaces the status of an object, if its resource version is
// still the stored one.
func (k Kind[T]) UpdateStatus(ctx context.Context, c *Client, object T) (T, error) {
	return k.update(ctx, c, object, "status")
}

func (k Kind[T]) update(ctx context.Context, c *Client, object T, subresource string) (T, error) {
	k.stamp(object)
	return k.do(ctx, c, "update", object.GetNamespace(), object.GetName(), func(group rest.Interface) *rest.Request {
		return group.Put().NamespaceIfScoped(object.GetNamespace(), object.GetNamespace() != "").
			Resource(k.path).Name(object.GetName()).SubResource(path(subresource)...).Body(object)
	})
}

// Patch changes a part of an object; patch is encoded as JSON.
func (k Kind[T]) Patch(ctx context.Context, c *Client, namespace, name, subresource string, kind types.PatchType, patch any) (T, error) {
	body, err := json.Marshal(patch)
	if err != nil {
		var none T
		return none, fmt.Errorf("patch %s %s: %w", k.name, key(namespace, name), err)
	}
	return k.do(ctx, c, "patch", namespace, name, func(group rest.Interface) *rest.Request {
		return group.Patch(kind).NamespaceIfScoped(namespace, namespace != "").
			Resource(k.path).Name(name).SubResource(path(subresource)...).Body(body)
	})
}

// Delete removes an object, if it still has the given UID; an empty UID is any.
func (k Kind[T]) Delete(ctx context.Context, c *Client, namespace, name string, uid types.UID) error {
	return k.delete(ctx, c, namespace, name, metav1.Preconditions{UID: pointer(uid)})
}

// DeleteVersion removes an object, if nobody changed it since it was read.
func (k Kind[T]) DeleteVersion(ctx context.Context, c *Client, object T) error {
	version := object.GetResourceVersion()
	return k.delete(ctx, c, object.GetNamespace(), object.GetName(),
		metav1.Preconditions{UID: pointer(object.GetUID()), ResourceVersion: &version})
}

func (k Kind[T]) delete(ctx context.Context, c *Client, namespace, name string, only metav1.Preconditions) error {
	group, err := c.group(k.group)
	if err != nil {
		return err
	}
	err = group.Delete().NamespaceIfScoped(namespace, namespace != "").Resource(k.path).Name(name).
		Body(&metav1.DeleteOptions{Preconditions: &only}).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("delete %s %s: %w", k.name, key(namespace, name), err)
	}
	return nil
}

func (k Kind[T]) do(ctx context.Context, c *Client, verb, namespace, name string, request func(rest.Interface) *rest.Request) (T, error) {
	var none T
	group, err := c.group(k.group)
	if err != nil {
		return none, err
	}
	object := k.fresh()
	if err := request(group).Do(ctx).Into(object); err != nil {
		return none, fmt.Errorf("%s %s %s: %w", verb, k.name, key(namespace, name), err)
	}
	return object, nil
}

// stamp sets apiVersion and kind, which decoded objects have lost.
func (k Kind[T]) stamp(object T) {
	object.GetObjectKind().SetGroupVersionKind(k.group.WithKind(k.name))
}

func path(subresource string) []string {
	if subresource == "" {
		return nil
	}
	return []string{subresource}
}

func key(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

func pointer(uid types.UID) *types.UID {
	if uid == "" {
		return nil
	}
	return &uid
}
