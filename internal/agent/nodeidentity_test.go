// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"maps"
	"slices"
	"testing"

	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/node"
)

func labelled() []node.Node {
	return []node.Node{
		{Name: "n1", InternalIP: addrs("172.30.0.11"), Labels: map[string]string{"zone": "a"}, Local: true},
		{Name: "n2", InternalIP: addrs("172.30.0.12"), Router: addrs("10.0.2.1"), Labels: map[string]string{"zone": "b"}},
		{Name: "n3", InternalIP: addrs("172.30.0.13"), Labels: map[string]string{"zone": "b"}},
	}
}

func TestNodesHaveIdentitiesByTheirLabelsIfAskedFor(t *testing.T) {
	in := addressInput{Nodes: labelled(), Index: map[string]uint16{"n1": 1, "n2": 2, "n3": 3}, APIServers: addrs("172.30.0.13"), IPv4: true}
	of := func() map[string]identity.ID {
		out := map[string]identity.ID{}
		for _, a := range deriveAddresses(in) {
			out[a.Prefix.String()] = a.Identity
		}
		return out
	}
	if got := of(); got["172.30.0.12/32"] != identity.RemoteNode || got["172.30.0.13/32"] != identity.KubeAPIServer {
		t.Errorf("without the option: %v", got)
	}
	in.NodeLabels = true
	got := of()
	n2, router, n3 := got["172.30.0.12/32"], got["10.0.2.1/32"], got["172.30.0.13/32"]
	if n2 < identity.LocalNode || n2 != router || n3 < identity.LocalNode || n3 == n2 || got["172.30.0.11/32"] != identity.Host {
		t.Errorf("got %v", got)
	}
	known := identitiesOfNodes(in.Nodes, deriveAddresses(in), in.APIServers)
	want := map[identity.ID][]string{
		identity.Host: {"node:zone=a", "reserved:host"},
		n2:            {"node:zone=b", "reserved:remote-node"},
		n3:            {"node:zone=b", "reserved:kube-apiserver", "reserved:remote-node"},
	}
	have := map[identity.ID][]string{}
	for id, set := range known {
		have[id] = set.Strings()
	}
	if !maps.EqualFunc(have, want, slices.Equal) {
		t.Errorf("got %v, want %v", have, want)
	}
}

func TestTheNumbersOfNodesFollowFromTheirLabelsAlone(t *testing.T) {
	all := numberNodes(labelled())
	list := labelled()
	slices.Reverse(list)
	if again := numberNodes(list[:2]); !maps.Equal(all.byKey, again.byKey) {
		t.Errorf("got %v, then %v", all.byKey, again.byKey)
	}
}
