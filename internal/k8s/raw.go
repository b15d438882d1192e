// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// rawPolicy is a policy as text. One object that does not decode must not stop
// the watch for all others, so decoding is left to the conversion into a row.
type rawPolicy struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	text []byte
}

type rawPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []rawPolicy `json:"items"`
}

// head is the part of an object that is the same for all kinds.
type head struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        metav1.ObjectMeta `json:"metadata"`
}

func (p *rawPolicy) UnmarshalJSON(text []byte) error {
	var h head
	if err := json.Unmarshal(text, &h); err != nil {
		return err
	}
	*p = rawPolicy{TypeMeta: h.TypeMeta, ObjectMeta: h.Metadata, text: bytes.Clone(text)}
	return nil
}

func (p rawPolicy) MarshalJSON() ([]byte, error) { return p.text, nil }

func (p *rawPolicy) DeepCopyObject() runtime.Object {
	return &rawPolicy{TypeMeta: p.TypeMeta, ObjectMeta: *p.ObjectMeta.DeepCopy(), text: bytes.Clone(p.text)}
}

func (l *rawPolicyList) DeepCopyObject() runtime.Object {
	out := &rawPolicyList{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for i := range l.Items {
		out.Items = append(out.Items, *l.Items[i].DeepCopyObject().(*rawPolicy))
	}
	return out
}

// Definition is a CustomResourceDefinition; of its content only what decides
// about an upgrade is decoded.
type Definition struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              json.RawMessage  `json:"spec,omitempty"`
	Status            DefinitionStatus `json:"status,omitzero"`
}

// DefinitionStatus is what the API server says about a definition.
type DefinitionStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// DefinitionList is a list of definitions.
type DefinitionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []Definition `json:"items"`
}

// Established says whether objects of the defined kind can be stored.
func (d *Definition) Established() bool {
	for _, condition := range d.Status.Conditions {
		if condition.Type == "Established" {
			return condition.Status == metav1.ConditionTrue
		}
	}
	return false
}

// DeepCopyObject implements runtime.Object.
func (d *Definition) DeepCopyObject() runtime.Object {
	out := &Definition{TypeMeta: d.TypeMeta, ObjectMeta: *d.ObjectMeta.DeepCopy(), Spec: bytes.Clone(d.Spec)}
	for _, condition := range d.Status.Conditions {
		out.Status.Conditions = append(out.Status.Conditions, *condition.DeepCopy())
	}
	return out
}

// DeepCopyObject implements runtime.Object.
func (l *DefinitionList) DeepCopyObject() runtime.Object {
	out := &DefinitionList{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for i := range l.Items {
		out.Items = append(out.Items, *l.Items[i].DeepCopyObject().(*Definition))
	}
	return out
}

func gitVersion(raw []byte) (string, error) {
	var version struct {
		GitVersion string `json:"gitVersion"`
	}
	err := json.Unmarshal(raw, &version)
	return version.GitVersion, err
}

// CreatePolicy stores a CiliumNetworkPolicy, or a clusterwide one if it has no
// namespace, given as JSON.
func (c *Client) CreatePolicy(ctx context.Context, text []byte) error {
	object := &rawPolicy{}
	if err := object.UnmarshalJSON(text); err != nil {
		return fmt.Errorf("decode policy: %w", err)
	}
	_, err := policyKind(object.Namespace).Create(ctx, c, object)
	return err
}

// DeletePolicy removes a CiliumNetworkPolicy, or a clusterwide one if there is
// no namespace.
func (c *Client) DeletePolicy(ctx context.Context, namespace, name string) error {
	return policyKind(namespace).Delete(ctx, c, namespace, name, "")
}

func policyKind(namespace string) Kind[*rawPolicy] {
	if namespace == "" {
		return ciliumClusterwidePolicies
	}
	return ciliumPolicies
}
