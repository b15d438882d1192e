// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"

	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/node"
)

// nodeIdentities numbers the label sets of other nodes, for rules that select
// nodes. The numbers mean something on this node only and never leave it. They
// follow from the labels, so that a restart finds the same ones.
type nodeIdentities struct {
	byKey  map[string]identity.ID // by label.Set.Key
	labels map[identity.ID]label.Set
}

// numberNodes numbers all label sets that an address of another node can have.
func numberNodes(nodes []node.Node) nodeIdentities {
	sets := map[string]label.Set{}
	for _, n := range nodes {
		if n.Local {
			continue
		}
		for _, apiServer := range []bool{false, true} {
			set := remoteNodeLabels(n, apiServer)
			sets[set.Key()] = set
		}
	}
	out := nodeIdentities{byKey: map[string]identity.ID{}, labels: map[identity.ID]label.Set{}}
	const span = 1<<24 - 1
	for _, key := range slices.Sorted(maps.Keys(sets)) {
		h := fnv.New32a()
		h.Write([]byte(key))
		n := h.Sum32() % span
		for out.labels[identity.LocalNode+1+identity.ID(n)] != nil { // the next free one, if two meet
			n = (n + 1) % span
		}
		id := identity.LocalNode + 1 + identity.ID(n)
		out.byKey[key], out.labels[id] = id, sets[key]
	}
	return out
}

// of is the identity of an address of another node; 0 if nodes are not numbered.
func (i nodeIdentities) of(n node.Node, apiServer bool) identity.ID {
	return i.byKey[remoteNodeLabels(n, apiServer).Key()]
}

func remoteNodeLabels(n node.Node, apiServer bool) label.Set {
	own := []label.Label{{Source: label.SourceReserved, Key: identity.LabelRemoteNode}}
	if apiServer {
		own = append(own, label.Label{Source: label.SourceReserved, Key: identity.LabelKubeAPIServer})
	}
	return withNodeLabels(label.NewSet(own...), n)
}

// withNodeLabels adds the labels of a node to those of an identity.
func withNodeLabels(set label.Set, n node.Node) label.Set {
	all := slices.Clone([]label.Label(set))
	for k, v := range n.Labels {
		all = append(all, label.Label{Source: label.SourceNode, Key: k, Value: v})
	}
	return label.NewSet(all...)
}

// identitiesOfNodes are those that addresses of nodes have, and the host with
// the labels of this node.
func identitiesOfNodes(nodes []node.Node, addresses []Address, apiServers []netip.Addr) map[identity.ID]label.Set {
	out := map[identity.ID]label.Set{}
	used := map[identity.ID]bool{}
	for _, a := range addresses {
		used[a.Identity] = true
	}
	for id, set := range numberNodes(nodes).labels {
		if used[id] {
			out[id] = set
		}
	}
	for _, n := range nodes {
		if n.Local {
			out[identity.Host] = withNodeLabels(reservedLabels(addresses, apiServers)[identity.Host], n)
		}
	}
	return out
}
