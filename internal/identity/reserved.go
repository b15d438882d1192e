// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"maps"

	"github.com/stentor-net/stentor/internal/label"
)

// Names of the reserved labels.
const (
	LabelHost          = "host"
	LabelWorld         = "world"
	LabelWorldIPv4     = "world-ipv4"
	LabelWorldIPv6     = "world-ipv6"
	LabelUnmanaged     = "unmanaged"
	LabelHealth        = "health"
	LabelInit          = "init"
	LabelRemoteNode    = "remote-node"
	LabelKubeAPIServer = "kube-apiserver"
	LabelIngress       = "ingress"
)

func reservedSet(names ...string) label.Set {
	labels := make([]label.Label, len(names))
	for i, n := range names {
		labels[i] = label.Label{Source: label.SourceReserved, Key: n}
	}
	return label.NewSet(labels...)
}

var reserved = map[ID]label.Set{
	Host:          reservedSet(LabelHost),
	World:         reservedSet(LabelWorld),
	Unmanaged:     reservedSet(LabelUnmanaged),
	Health:        reservedSet(LabelHealth),
	Init:          reservedSet(LabelInit),
	RemoteNode:    reservedSet(LabelRemoteNode),
	KubeAPIServer: reservedSet(LabelKubeAPIServer, LabelRemoteNode),
	Ingress:       reservedSet(LabelIngress),
	WorldIPv4:     reservedSet(LabelWorldIPv4),
	WorldIPv6:     reservedSet(LabelWorldIPv6),
}

// Reserved are the identities that every node knows, with their labels. A
// kube-apiserver beside which an agent runs is a node as well; on this node
// that is the host with the label kube-apiserver, see HostLabels.
func Reserved() map[ID]label.Set { return maps.Clone(reserved) }

// HostLabels are the labels of this node.
func HostLabels(kubeAPIServer bool) label.Set {
	if kubeAPIServer {
		return reservedSet(LabelHost, LabelKubeAPIServer)
	}
	return reserved[Host]
}

// Scope tells where the number of an identity means something.
type Scope uint8

// Scopes of numbers.
const (
	ScopeReserved   Scope = iota // the same everywhere
	ScopeCluster                 // in a cluster, or in a mesh with the cluster's number above the low 16 bits
	ScopeLocalCIDR               // on one node: prefixes and names
	ScopeRemoteNode              // on one node: other nodes
	ScopeInvalid
)

// Scope of a number.
func (id ID) Scope() Scope {
	switch {
	case id < MinAllocated:
		return ScopeReserved
	case id < LocalCIDR:
		return ScopeCluster
	case id < LocalNode:
		return ScopeLocalCIDR
	case id < LocalNode+0x01000000:
		return ScopeRemoteNode
	}
	return ScopeInvalid
}

// Crosses tells whether a number may stand in a tunnel header.
func (id ID) Crosses() bool { return id != Unknown && id.Scope() <= ScopeCluster }

// names of the reserved identities, as users know them.
var names = map[ID]string{
	Host: LabelHost, World: LabelWorld, Unmanaged: LabelUnmanaged, Health: LabelHealth, Init: LabelInit,
	RemoteNode: LabelRemoteNode, KubeAPIServer: LabelKubeAPIServer, Ingress: LabelIngress,
	WorldIPv4: LabelWorldIPv4, WorldIPv6: LabelWorldIPv6,
}

// Name of a reserved identity, "" for others.
func (id ID) Name() string { return names[id] }

// IsAllocated tells whether the number stands for the labels of pods.
func (id ID) IsAllocated() bool { return id >= MinAllocated && id < LocalCIDR }
