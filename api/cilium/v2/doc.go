// SPDX-License-Identifier: Apache-2.0

// Package v2 holds the Go types of the cilium.io/v2 Kubernetes objects that
// Stentor reads or writes.
//
// The types are contracts: JSON names, limits and enumerations are those that
// existing manifests and clients use. A list that is absent (nil) means
// something else than a list that is present but empty in a policy rule; every
// list of a rule therefore survives a JSON round trip in both forms.
//
// +kubebuilder:object:generate=true
// +groupName=cilium.io
package v2

// Group, Version name the API group that all types of this package belong to.
const (
	Group   = "cilium.io"
	Version = "v2"
)
