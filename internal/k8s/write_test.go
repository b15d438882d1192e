// SPDX-License-Identifier: Apache-2.0

package k8s_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/k8s"
	"github.com/stentor-net/stentor/internal/k8s/k8stest"
	"github.com/stentor-net/stentor/internal/policy"
)

const endpoints = "apis/cilium.io/v2/namespaces/default/ciliumendpoints/"

func cep(podUID, state string) *ciliumv2.CiliumEndpoint {
	return &ciliumv2.CiliumEndpoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a", OwnerReferences: []metav1.OwnerReference{k8s.PodOwner("a", podUID)}},
		Status:     ciliumv2.EndpointStatus{ID: 7, State: state},
	}
}

func TestAnEndpointIsPublishedChangedAndReplacedForANewPod(t *testing.T) {
	s := k8stest.New(t)
	c := s.Client()
	state := func() string { return fmt.Sprint(s.Object(endpoints + "a")["status"]) }
	for _, want := range []string{"regenerating", "ready"} {
		if err := c.PublishEndpoint(t.Context(), cep("u1", want)); err != nil {
			t.Fatal(err)
		}
		if got := state(); !strings.Contains(got, "state:"+want) {
			t.Errorf("want %s, got %s", want, got)
		}
	}
	uid := func() any { return s.Object(endpoints + "a")["metadata"].(k8stest.Object)["uid"] }
	first := uid()
	if err := c.PublishEndpoint(t.Context(), cep("u2", "ready")); err != nil {
		t.Fatal(err)
	}
	if uid() == first {
		t.Error("the object of the earlier pod was kept")
	}
	if err := c.DeleteEndpoint(t.Context(), "default", "a", "u1"); err != nil {
		t.Fatal(err)
	}
	if s.Object(endpoints+"a") == nil {
		t.Error("the late deletion of the earlier pod removed the object of the new one")
	}
	for range 2 { // the second time it is absent
		if err := c.DeleteEndpoint(t.Context(), "default", "a", "u2"); err != nil {
			t.Fatal(err)
		}
	}
	if s.Object(endpoints+"a") != nil {
		t.Error("the object is still there")
	}
}

func TestANodeIsCreatedOnceAndItsEditKeepsWhatOthersWrote(t *testing.T) {
	s := k8stest.New(t)
	c := s.Client()
	address := func(ip string) func(*ciliumv2.CiliumNode) {
		return func(n *ciliumv2.CiliumNode) {
			n.Spec.Addresses = []ciliumv2.NodeAddress{{Type: ciliumv2.AddressInternalIP, IP: ip}}
		}
	}
	if _, err := c.PublishNode(t.Context(), "n1", address("1.1.1.1")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.PublishNode(t.Context(), "n1", func(n *ciliumv2.CiliumNode) { n.Spec.IPAM.PodCIDRs = []ciliumv2.CIDR{"10.0.0.0/24"} }); err != nil {
		t.Fatal(err)
	}
	raced := false
	stored, err := c.PublishNode(t.Context(), "n1", func(n *ciliumv2.CiliumNode) {
		if !raced { // somebody is quicker, once
			raced = true
			if _, err := k8s.CiliumNodes.Update(t.Context(), c, n.DeepCopy()); err != nil {
				t.Error(err)
			}
		}
		address("2.2.2.2")(n)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(stored.Spec.Addresses, stored.Spec.IPAM.PodCIDRs); got != "[{InternalIP 2.2.2.2}] [10.0.0.0/24]" {
		t.Error(got)
	}
}

func TestANumberIsGivenToOneLabelSetOnly(t *testing.T) {
	s := k8stest.New(t)
	c := s.Client()
	o, err := c.CreateIdentity(t.Context(), 300, map[string]string{"k8s:app": "a", "k8s:io.kubernetes.pod.namespace": "ns"})
	if err != nil {
		t.Fatal(err)
	}
	if o.Labels["io.kubernetes.pod.namespace"] != "ns" {
		t.Errorf("labels of the object: %v", o.Labels)
	}
	if _, err = c.CreateIdentity(t.Context(), 300, map[string]string{"k8s:app": "b"}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("want AlreadyExists, got %v", err)
	}
}

func TestOnlyTheOneTaintIsRemoved(t *testing.T) {
	s := k8stest.New(t)
	c := s.Client()
	s.Put("api/v1/nodes/n1", `{"spec":{"taints":[{"key":"other","effect":"NoSchedule"},{"key":"node.cilium.io/agent-not-ready","effect":"NoExecute"}]}}`)
	for _, want := range []bool{true, false} {
		was, err := c.RemoveTaint(t.Context(), "n1", k8s.TaintAgentNotReady)
		if err != nil || was != want {
			t.Fatalf("want %v, got %v, %v", want, was, err)
		}
	}
	n, err := c.GetNode(t.Context(), "n1")
	if err != nil || len(n.Spec.Taints) != 1 || n.Spec.Taints[0].Key != "other" {
		t.Errorf("%v %v", n.Spec.Taints, err)
	}
	if err := c.SetNetworkAvailable(t.Context(), "n1", "StentorIsUp", "ready"); err != nil {
		t.Fatal(err)
	}
	n, err = c.GetNode(t.Context(), "n1")
	if err != nil || n.Status.Conditions[0].Type != corev1.NodeNetworkUnavailable || n.Status.Conditions[0].Status != corev1.ConditionFalse {
		t.Errorf("%v %v", n.Status.Conditions, err)
	}
}

func TestAPolicyLearnsWhetherItWasAccepted(t *testing.T) {
	s := k8stest.New(t)
	const path = "apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies/p"
	s.Put(path, `{"spec":{"endpointSelector":{},"ingress":[{}]}}`)
	if err := s.Client().PublishPolicyConditions(t.Context(), policy.Object{Kind: policy.KindCiliumNetworkPolicy, Namespace: "default", Name: "p"},
		ciliumv2.PolicyCondition{Type: "Valid", Status: "False", Message: "no such thing"}); err != nil {
		t.Fatal(err)
	}
	o := s.Object(path)
	if got := fmt.Sprint(o["status"]); !strings.Contains(got, "status:False") || !strings.Contains(got, "no such thing") {
		t.Error(got)
	}
	if o["spec"] == nil {
		t.Error("the spec is gone")
	}
}

func TestAConditionThatStaysKeepsItsTimeAndOthersStay(t *testing.T) {
	s := k8stest.New(t)
	const path = "apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies/p"
	s.Put(path, `{"spec":{"endpointSelector":{},"ingress":[{}]},"status":{"conditions":[
		{"type":"Valid","status":"True","reason":"PolicyValid","lastTransitionTime":"2020-01-01T00:00:00Z"},
		{"type":"Theirs","status":"True","lastTransitionTime":"2020-01-01T00:00:00Z"},
		{"type":"Enforced","status":"False","message":"in force on 1 of 2 nodes","lastTransitionTime":"2020-01-01T00:00:00Z"}]}}`)
	o := policy.Object{Kind: policy.KindCiliumNetworkPolicy, Namespace: "default", Name: "p"}
	write := func(message string) string {
		t.Helper()
		if err := s.Client().PublishPolicyConditions(t.Context(), o,
			ciliumv2.PolicyCondition{Type: "Valid", Status: "True", Reason: "PolicyValid"},
			ciliumv2.PolicyCondition{Type: "Enforced", Status: "False", Message: message}); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(s.Object(path)["status"])
	}
	got := write("in force on 1 of 3 nodes")
	if strings.Count(got, "2020-01-01") != 3 || !strings.Contains(got, "Theirs") || !strings.Contains(got, "1 of 3") {
		t.Errorf("no status changed, but got %s", got)
	}
	before := s.Object(path)["metadata"].(k8stest.Object)["resourceVersion"]
	write("in force on 1 of 3 nodes")
	if after := s.Object(path)["metadata"].(k8stest.Object)["resourceVersion"]; after != before {
		t.Error("what stands there already was written again")
	}
	o.UID = "another one"
	if got := write("in force on 9 of 9 nodes"); strings.Contains(got, "9 of 9") {
		t.Error("the status of another object of that name was written")
	}
}

func TestAClusterNetworkPolicyLearnsItInAConditionWithAMessage(t *testing.T) {
	s := k8stest.New(t)
	const path = "apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies/p"
	s.Put(path, `{"spec":{"tier":"Admin"}}`)
	if err := s.Client().PublishPolicyConditions(t.Context(), policy.Object{Kind: policy.KindClusterNetworkPolicy, Name: "p"}, ciliumv2.PolicyCondition{Type: "Valid", Status: "True"}); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(s.Object(path)["status"]); !strings.Contains(got, "status:True") || !strings.Contains(got, "message:the policy is in force") {
		t.Error(got)
	}
}
