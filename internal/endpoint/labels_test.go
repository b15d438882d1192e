// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

var curl = Pod{
	Namespace: "default", Name: "curl", ServiceAccount: "default",
	Labels: map[string]string{"app": "curl", "pod-template-hash": "1234", "app.kubernetes.io/name": "curl", "batch.kubernetes.io/controller-uid": "x"},
}

var space = map[string]string{"kubernetes.io/metadata.name": "default"}

func TestAPodIsNumberedByItsLabelsNamespaceAccountAndCluster(t *testing.T) {
	f, err := NewFilter("")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"k8s:app=curl",
		"k8s:app.kubernetes.io/name=curl",
		"k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=default",
		"k8s:io.cilium.k8s.policy.cluster=default",
		"k8s:io.cilium.k8s.policy.serviceaccount=default",
		"k8s:io.kubernetes.pod.namespace=default",
	}
	if d := cmp.Diff(want, IdentityLabels(curl, space, "default", f).Strings()); d != "" {
		t.Error(d)
	}
}

func TestTheLabelsOptionIncludesAndExcludes(t *testing.T) {
	for _, c := range []struct {
		option string
		want   []string
	}{
		{"!app$", []string{"k8s:app.kubernetes.io/name=curl"}},
		{"k8s:app$", []string{"k8s:app=curl", "k8s:app.kubernetes.io/name=curl"}},
		{"any-other", []string{"k8s:app.kubernetes.io/name=curl"}},
	} {
		f, err := NewFilter(c.option)
		if err != nil {
			t.Fatal(err)
		}
		always := []string{
			"k8s:io.cilium.k8s.policy.cluster=c",
			"k8s:io.cilium.k8s.policy.serviceaccount=default",
			"k8s:io.kubernetes.pod.namespace=default",
		}
		if d := cmp.Diff(append(c.want, always...), IdentityLabels(curl, nil, "c", f).Strings()); d != "" {
			t.Errorf("%q: %s", c.option, d)
		}
	}
	if _, err := NewFilter("!("); err == nil {
		t.Error("a broken pattern was accepted")
	}
}
