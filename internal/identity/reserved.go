// SPDX-License-Identifier: Apache-2.0

package identity

import "github.com/stentor-net/stentor/internal/label"

// names of the reserved identities; the order is that of their numbers.
var names = map[ID]string{
	Host: "host", World: "world", Unmanaged: "unmanaged", Health: "health", Init: "init",
	RemoteNode: "remote-node", KubeAPIServer: "kube-apiserver", Ingress: "ingress",
	WorldIPv4: "world-ipv4", WorldIPv6: "world-ipv6",
}

// Name of a reserved identity, "" for others.
func (id ID) Name() string { return names[id] }

// Reserved returns the reserved identities with their labels.
func Reserved() map[ID]label.Set {
	out := make(map[ID]label.Set, len(names))
	for id, name := range names {
		out[id] = label.NewSet(label.Label{Source: label.SourceReserved, Key: name})
	}
	return out
}

// IsAllocated tells whether the number stands for the labels of pods.
func (id ID) IsAllocated() bool { return id >= MinAllocated && id < LocalCIDR }
