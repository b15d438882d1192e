// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/deploy/crds"
	"github.com/stentor-net/stentor/internal/k8s"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/table"
)

// realCluster connects to the cluster of STENTOR_TEST_KUBECONFIG, which may be
// used up by the test.
func realCluster(t *testing.T) *k8s.Client {
	t.Helper()
	path := os.Getenv("STENTOR_TEST_KUBECONFIG")
	if path == "" {
		t.Skip("STENTOR_TEST_KUBECONFIG names no cluster to try this on")
	}
	c, err := k8s.NewClient(k8s.Options{Kubeconfig: path})
	if err != nil {
		t.Fatal(err)
	}
	version, err := c.Version(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("API server %s", version)
	return c
}

// eventually asks until the answer is true; the API server tells nobody when to
// ask again about all kinds of things at once.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(30 * time.Second); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		<-ticker.C
	}
}

func TestARealAPIServerTakesWhatWeWrite(t *testing.T) {
	c := realCluster(t)
	const prefix = "st-operator-test-"
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		result <- run(ctx, Options{
			Namespace: "kube-system", Identity: "test", LeaseName: prefix + "lease", HealthAddress: "-",
			PodRanges: small(), IdentityGCInterval: 100 * time.Millisecond, IdentityTimeout: time.Second, EndpointGCInterval: 500 * time.Millisecond,
			Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		}, c, newMetrics("test"))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-result; err != nil {
			t.Errorf("operator ended with %v", err)
		}
		ctx := context.WithoutCancel(t.Context())
		_ = k8s.Leases.Delete(ctx, c, "kube-system", prefix+"lease", "")
		_ = k8s.CiliumNodes.Delete(ctx, c, "", prefix+"node", "")
		_ = k8s.CiliumEndpoints.Delete(ctx, c, "default", prefix+"pod", "")
		_ = k8s.Pods.Delete(ctx, c, "default", prefix+"pod", "")
	})

	for name := range crds.All() {
		name = strings.TrimSuffix(name, ".yaml") + ".cilium.io"
		eventually(t, name+" is established", func() bool {
			d, err := k8s.Definitions.Get(ctx, c, "", name)
			return err == nil && d.Established() && d.Labels[crds.SchemaVersionLabel] == crds.SchemaVersion
		})
	}
	testNode(t, c, prefix+"node")
	testEndpoint(t, c, prefix+"pod")
	testPolicies(t, c, prefix)
	testIdentities(t, c)
}

func testNode(t *testing.T, c *k8s.Client, name string) {
	// An orphan would go: it needs an owner, which need not exist at once.
	nodes, err := k8s.Nodes.List(t.Context(), c, "", metav1.ListOptions{})
	if err != nil || len(nodes) == 0 {
		t.Fatalf("no node: %v", err)
	}
	owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: nodes[0].Name, UID: nodes[0].UID}
	_, err = c.PublishNode(t.Context(), name, func(n *ciliumv2.CiliumNode) {
		n.OwnerReferences = []metav1.OwnerReference{owner}
		n.Spec.Addresses = []ciliumv2.NodeAddress{{Type: ciliumv2.AddressInternalIP, IP: "192.0.2.1"}}
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node has ranges", func() bool {
		n, err := k8s.CiliumNodes.Get(t.Context(), c, "", name)
		return err == nil && len(n.Spec.IPAM.PodCIDRs) == 2
	})
	if err := c.SetNetworkAvailable(t.Context(), nodes[0].Name, "StentorIsUp", "tried by a test"); err != nil {
		t.Error(err)
	}
	n, err := c.GetNode(t.Context(), nodes[0].Name)
	if err != nil {
		t.Fatal(err)
	}
	ready := 0
	for _, condition := range n.Status.Conditions {
		if condition.Type == corev1.NodeReady || condition.Type == corev1.NodeNetworkUnavailable {
			ready++
		}
	}
	if ready != 2 {
		t.Errorf("the patch of one condition changed others: %v", n.Status.Conditions)
	}
	if _, err := k8s.Nodes.Patch(t.Context(), c, "", n.Name, "", types.MergePatchType, map[string]any{
		"spec": map[string]any{"taints": append(n.Spec.Taints, corev1.Taint{Key: k8s.TaintAgentNotReady, Effect: corev1.TaintEffectNoSchedule})},
	}); err != nil {
		t.Fatal(err)
	}
	if was, err := c.RemoveTaint(t.Context(), n.Name, k8s.TaintAgentNotReady); err != nil || !was {
		t.Errorf("taint removed: %v, %v", was, err)
	}
}

func testEndpoint(t *testing.T, c *k8s.Client, name string) {
	pod, err := k8s.Pods.Create(t.Context(), c, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PodSpec{
			SchedulerName: "st-operator-test-nobody", // never started
			Containers:    []corev1.Container{{Name: "c", Image: "none"}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	disabled := ciliumv2.PolicyStateDisabled
	want := &ciliumv2.CiliumEndpoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, OwnerReferences: []metav1.OwnerReference{k8s.PodOwner(name, string(pod.UID))}},
		Status: ciliumv2.EndpointStatus{
			ID: 1234, State: ciliumv2.EndpointStateReady,
			Identity:   &ciliumv2.EndpointIdentity{ID: 4711, Labels: []string{"k8s:app=curl"}},
			Networking: &ciliumv2.EndpointNetworking{Addressing: []ciliumv2.AddressPair{{IPV4: "10.0.0.7"}}, NodeIP: "192.0.2.1"},
			Policy: &ciliumv2.EndpointPolicy{
				Ingress: &ciliumv2.EndpointPolicyDirection{State: disabled}, Egress: &ciliumv2.EndpointPolicyDirection{State: disabled},
			},
			VisibilityPolicyStatus: &disabled,
		},
	}
	for _, state := range []string{ciliumv2.EndpointStateRegenerating, ciliumv2.EndpointStateReady} {
		want.Status.State = state
		if err := c.PublishEndpoint(t.Context(), want.DeepCopy()); err != nil {
			t.Fatal(err)
		}
	}
	stored, err := k8s.CiliumEndpoints.Get(t.Context(), c, "default", name)
	if err != nil || stored.Status.State != ciliumv2.EndpointStateReady || stored.Status.ID != 1234 {
		t.Fatalf("%+v %v", stored, err)
	}
	if err := k8s.Pods.Delete(t.Context(), c, "default", name, pod.UID); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	eventually(t, "the endpoint is gone with its pod", func() bool {
		_, err := k8s.CiliumEndpoints.Get(t.Context(), c, "default", name)
		return apierrors.IsNotFound(err)
	})
}

func testPolicies(t *testing.T, c *k8s.Client, prefix string) {
	tab, w := policy.NewTable()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = k8s.ReflectPolicies(ctx, c, false, w) }()
	defer func() { cancel(); <-done }()
	<-tab.Synced()

	// Through the raw path of the client, as kubectl would.
	name := prefix + "policy"
	if err := c.CreatePolicy(t.Context(), []byte(fmt.Sprintf(`{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"namespace":"default","name":%q},
		"spec":{"endpointSelector":{},"ingress":[{"fromEndpoints":[]}]}}`, name))); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.DeletePolicy(context.WithoutCancel(t.Context()), "default", name); err != nil {
			t.Error(err)
		}
	}()
	key := "CiliumNetworkPolicy/default/" + name
	if err := tab.Wait(t.Context(), func(s table.Snapshot[policy.Object]) bool { _, ok := s.Get(key); return ok }); err != nil {
		t.Fatal(err)
	}
	row, _ := tab.Get(key)
	if o, ok := row.Spec.(*ciliumv2.CiliumNetworkPolicy); !ok || o.Spec.Ingress[0].FromEndpoints == nil {
		t.Errorf("the empty list was lost: %+v", row.Spec)
	}
	if err := c.PublishPolicyConditions(t.Context(), row, ciliumv2.PolicyCondition{Type: "Valid", Status: "True", Message: "tried by a test"}); err != nil {
		t.Error(err)
	}
	err := c.CreatePolicy(t.Context(), []byte(`{"apiVersion":"cilium.io/v2","kind":"CiliumClusterwideNetworkPolicy","metadata":{"name":"st-bad"},"spec":{"endpointSelector":{},"ingress":[{"fromEntities":["moon"]}]}}`))
	if !apierrors.IsInvalid(err) {
		t.Errorf("a wrong entity was answered with %v", err)
	}
}

func testIdentities(t *testing.T, c *k8s.Client) {
	const number = 65535
	if _, err := c.CreateIdentity(t.Context(), number, map[string]string{"k8s:app": "st-operator-test"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateIdentity(t.Context(), number, map[string]string{"k8s:app": "other"}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("the number was given twice: %v", err)
	}
	eventually(t, "the identity is marked", func() bool {
		o, err := k8s.CiliumIdentities.Get(t.Context(), c, "", fmt.Sprint(number))
		return err == nil && o.Annotations[k8s.AnnotationUnused] != ""
	})
	if err := c.KeepIdentity(t.Context(), number); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the unused identity is gone", func() bool {
		_, err := k8s.CiliumIdentities.Get(t.Context(), c, "", fmt.Sprint(number))
		return apierrors.IsNotFound(err)
	})
}
