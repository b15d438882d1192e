// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"

	npa "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/policy"
)

// Manifest is what a file says, as far as policy depends on it.
type Manifest struct {
	Policies   []policy.Object
	Texts      []json.RawMessage // of the policies, as JSON
	Pods       []corev1.Pod
	Namespaces []corev1.Namespace
	Others     []string // kinds that do not count
}

// ReadManifest reads documents of YAML or JSON, lists among them. An object of
// a kind that does not count is no error, since files hold all sorts of things.
func ReadManifest(text []byte) (Manifest, error) {
	var m Manifest
	reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for n := 1; ; n++ {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return m, nil
		}
		if err == nil {
			doc, err = yaml.ToJSON(doc)
		}
		if err == nil && string(bytes.TrimSpace(doc)) != "null" {
			err = m.add(doc)
		}
		if err != nil {
			return m, fmt.Errorf("document %d: %w", n, err)
		}
	}
}

func (m *Manifest) add(doc []byte) error {
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        metav1.ObjectMeta `json:"metadata"`
		Items           []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(doc, &head); err != nil {
		return err
	}
	if head.Kind == "" {
		return errors.New("no kind")
	}
	if len(head.Items) > 0 {
		for i, item := range head.Items {
			if err := m.add(item); err != nil {
				return fmt.Errorf("items[%d]: %w", i, err)
			}
		}
		return nil
	}
	o := policy.Object{Kind: policy.Kind(head.Kind), Namespace: head.Metadata.Namespace, Name: head.Metadata.Name,
		UID: string(head.Metadata.UID), Generation: head.Metadata.Generation,
		Audit: head.Metadata.Annotations[policy.AnnotationAudit] == "true"}
	switch head.APIVersion + " " + head.Kind {
	case "v1 Pod":
		return decodeInto(doc, &m.Pods)
	case "v1 Namespace":
		return decodeInto(doc, &m.Namespaces)
	case "networking.k8s.io/v1 NetworkPolicy":
		m.policy(o, doc, &networkingv1.NetworkPolicy{}, true)
	case "cilium.io/v2 CiliumNetworkPolicy":
		m.policy(o, doc, &ciliumv2.CiliumNetworkPolicy{}, true)
	case "cilium.io/v2 CiliumClusterwideNetworkPolicy":
		m.policy(o, doc, &ciliumv2.CiliumClusterwideNetworkPolicy{}, false)
	case "policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy":
		m.policy(o, doc, &npa.ClusterNetworkPolicy{}, false)
	default:
		m.Others = append(m.Others, head.APIVersion+" "+head.Kind)
	}
	return nil
}

// policy adds an object as the watch would give it: one that does not decode
// stays, with the reason.
func (m *Manifest) policy(o policy.Object, doc []byte, spec any, namespaced bool) {
	switch {
	case namespaced && o.Namespace == "":
		o.Namespace = "default"
	case !namespaced:
		o.Namespace = ""
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(doc, spec); err != nil {
		o.Err = err.Error()
	} else {
		o.Spec = spec
	}
	m.Policies, m.Texts = append(m.Policies, o), append(m.Texts, bytes.Clone(doc))
}

func decodeInto[T any](doc []byte, list *[]T) error {
	var one T
	if err := json.Unmarshal(doc, &one); err != nil {
		return err
	}
	*list = append(*list, one)
	return nil
}
