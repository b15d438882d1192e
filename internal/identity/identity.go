// SPDX-License-Identifier: Apache-2.0

// Package identity numbers label sets, so that policy and packets carry a number instead of labels.
package identity

import (
	"strconv"

	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/table"
)

// ID is the number of a label set. See Scope for the ranges.
type ID uint32

// Reserved identities. The numbers are part of the API.
const (
	Unknown       ID = 0
	Host          ID = 1
	World         ID = 2
	Unmanaged     ID = 3
	Health        ID = 4
	Init          ID = 5
	RemoteNode    ID = 6
	KubeAPIServer ID = 7
	Ingress       ID = 8
	WorldIPv4     ID = 9
	WorldIPv6     ID = 10

	MinAllocated ID = 256   // first number for label sets of pods
	MaxAllocated ID = 65535 // last number of a cluster with id 0

	LocalCIDR ID = 0x01000000 // node-local numbers of prefixes and names: this and up
	LocalNode ID = 0x02000000 // node-local numbers of other nodes: this and up
)

// String gives the number in decimal.
func (id ID) String() string { return strconv.FormatUint(uint64(id), 10) }

// Identity is a number with its labels: a row of the table `identities`.
type Identity struct {
	ID     ID
	Labels label.Set
	// Unused says that the operator found nobody who uses the number, and will
	// remove it unless somebody does.
	Unused bool
}

// Namespace is a Kubernetes namespace: a row of the raw table `namespaces`.
type Namespace struct {
	Name   string
	Labels map[string]string
}

// NewTable makes the table `identities`: every identity known on this node. Index "labels": label.Set.Key.
func NewTable() (*table.Table[Identity], *table.Writer[Identity]) {
	return table.New(table.Options[Identity]{
		Name:    "identities",
		Key:     func(i Identity) string { return i.ID.String() },
		Indexes: map[string]func(Identity) []string{"labels": func(i Identity) []string { return []string{i.Labels.Key()} }},
		Columns: []table.Column[Identity]{
			{Name: "ID", Value: func(i Identity) string { return i.ID.String() }},
			{Name: "LABELS", Value: func(i Identity) string { return i.Labels.Key() }},
		},
	})
}

// NewNamespaceTable makes the raw table `namespaces`.
func NewNamespaceTable() (*table.Table[Namespace], *table.Writer[Namespace]) {
	return table.New(table.Options[Namespace]{
		Name:    "namespaces",
		Key:     func(n Namespace) string { return n.Name },
		Columns: []table.Column[Namespace]{{Name: "NAME", Value: func(n Namespace) string { return n.Name }}},
	})
}
