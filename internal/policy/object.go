// SPDX-License-Identifier: Apache-2.0

// Package policy turns policy objects into the cells that the kernel looks up.
//
// See README.md of this folder for the flow of data.
package policy

import (
	"fmt"

	"github.com/stentor-net/stentor/internal/table"
)

// Kind of a policy object.
type Kind string

// Kinds of policy objects.
const (
	KindNetworkPolicy                  Kind = "NetworkPolicy"
	KindCiliumNetworkPolicy            Kind = "CiliumNetworkPolicy"
	KindCiliumClusterwideNetworkPolicy Kind = "CiliumClusterwideNetworkPolicy"
	KindClusterNetworkPolicy           Kind = "ClusterNetworkPolicy" // policy.networking.k8s.io/v1alpha2
)

// AnnotationAudit on a policy, with the value "true", makes it an audit.
const AnnotationAudit = "policy.stentor.io/audit-mode"

// Object is a policy object as the API gave it: a row of the raw table `policies`.
type Object struct {
	Kind            Kind
	Namespace, Name string
	UID             string
	ResourceVersion string
	Generation      int64
	// Audit says that what the policy denies is only told: AnnotationAudit.
	Audit bool
	// Spec is *networkingv1.NetworkPolicy, *ciliumv2.CiliumNetworkPolicy,
	// *ciliumv2.CiliumClusterwideNetworkPolicy or *npa.ClusterNetworkPolicy; nil if it did not decode.
	Spec any
	// Err says why the object did not decode. Such a policy is quarantined.
	Err string
}

// Key is kind/namespace/name.
func (o Object) Key() string { return fmt.Sprintf("%s/%s/%s", o.Kind, o.Namespace, o.Name) }

// NewTable makes the raw table `policies`.
func NewTable() (*table.Table[Object], *table.Writer[Object]) {
	return table.New(table.Options[Object]{
		Name: "policies",
		Key:  Object.Key,
		Columns: []table.Column[Object]{
			{Name: "KIND", Value: func(o Object) string { return string(o.Kind) }},
			{Name: "NAMESPACE", Value: func(o Object) string { return o.Namespace }},
			{Name: "NAME", Value: func(o Object) string { return o.Name }},
			{Name: "GENERATION", Value: func(o Object) string { return fmt.Sprint(o.Generation) }},
			{Name: "ERROR", Value: func(o Object) string { return o.Err }},
		},
	})
}
