// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/node"
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// twoNodes is this node and another one, which runs the API server, with a pod each.
func twoNodes() addressInput {
	return addressInput{
		Endpoints: []endpoint.Endpoint{{ID: 7, Namespace: "default", Pod: "own", Identity: 300, IPv4: addrs("10.0.1.2")[0]}},
		Remotes: []endpoint.Remote{
			{Namespace: "default", Name: "far", NodeIP: addrs("172.30.0.12")[0], Identity: 301, IPs: addrs("10.0.2.2", "fd00:2::2"), State: endpoint.StateReady},
			{Namespace: "default", Name: "own", NodeIP: addrs("172.30.0.11")[0], Identity: 999, IPs: addrs("10.0.1.2"), State: endpoint.StateReady},
			{Namespace: "default", Name: "ended", NodeIP: addrs("172.30.0.12")[0], Identity: 302, IPs: addrs("10.0.2.2"), State: endpoint.StateDisconnected},
			{Namespace: "default", Name: "zombie", NodeIP: addrs("172.30.0.12")[0], IPs: addrs("10.0.2.9")},
		},
		Nodes: []node.Node{
			{Name: "n1", InternalIP: addrs("172.30.0.11"), Router: addrs("10.0.1.1"), PodCIDRs: prefixes("10.0.1.0/24"), Local: true},
			{Name: "n2", InternalIP: addrs("172.30.0.12"), Router: addrs("10.0.2.1"), PodCIDRs: prefixes("10.0.2.0/24")},
			{Name: "new", InternalIP: addrs("172.30.0.13"), PodCIDRs: prefixes("10.0.3.0/24")}, // has no number yet
		},
		Index:      map[string]uint16{"n1": 1, "n2": 2},
		HostIPs:    addrs("172.30.0.11", "192.168.9.9"),
		APIServers: addrs("172.30.0.12", "203.0.113.5"),
		IPv4:       true, Tunnel: true,
	}
}

func printed(list []Address) []string {
	var out []string
	for _, a := range list {
		out = append(out, fmt.Sprintf("%s identity %d node %d flags %d %s %s", a.Prefix, a.Identity, a.Node, a.Flags, a.Source, strings.TrimPrefix(a.Namespace+"/"+a.Name, "/")))
	}
	return out
}

func TestAddressesSayWhoIsBehindEachPrefix(t *testing.T) {
	want := []string{
		"0.0.0.0/0 identity 2 node 0 flags 0 world ",
		"10.0.1.0/24 identity 0 node 1 flags 8 podcidr n1",
		"10.0.1.1/32 identity 1 node 1 flags 1 host n1",
		"10.0.1.2/32 identity 300 node 1 flags 4 endpoint default/own",
		"10.0.2.0/24 identity 0 node 2 flags 48 podcidr n2",
		"10.0.2.1/32 identity 6 node 2 flags 34 node n2",
		"10.0.2.2/32 identity 301 node 2 flags 36 ciliumendpoint default/far",
		"172.30.0.11/32 identity 1 node 1 flags 1 host n1",
		"172.30.0.12/32 identity 7 node 2 flags 2 node n2",
		"192.168.9.9/32 identity 1 node 1 flags 1 host n1",
		"203.0.113.5/32 identity 7 node 0 flags 0 kube-apiserver ",
	}
	if d := cmp.Diff(want, printed(deriveAddresses(twoNodes()))); d != "" {
		t.Error(d)
	}
}

func TestAddressesDoNotDependOnTheOrderOfNews(t *testing.T) {
	want := printed(deriveAddresses(twoNodes()))
	r := rand.New(rand.NewPCG(1, 1))
	for range 50 {
		in := twoNodes()
		r.Shuffle(len(in.Remotes), func(i, j int) { in.Remotes[i], in.Remotes[j] = in.Remotes[j], in.Remotes[i] })
		r.Shuffle(len(in.Nodes), func(i, j int) { in.Nodes[i], in.Nodes[j] = in.Nodes[j], in.Nodes[i] })
		slices.Reverse(in.HostIPs)
		slices.Reverse(in.APIServers)
		if d := cmp.Diff(want, printed(deriveAddresses(in))); d != "" {
			t.Fatal(d)
		}
	}
}

func TestAnAPIServerIsAlsoWhatItRunsOn(t *testing.T) {
	in := twoNodes()
	rows := deriveAddresses(in)
	if got := reservedLabels(rows, in.APIServers)[identity.KubeAPIServer].Strings(); !slices.Equal(got, []string{"reserved:kube-apiserver", "reserved:remote-node", "reserved:world"}) {
		t.Errorf("got %v", got)
	}
	in.APIServers = addrs("172.30.0.11")
	if got := reservedLabels(deriveAddresses(in), in.APIServers)[identity.Host].Strings(); !slices.Equal(got, []string{"reserved:host", "reserved:kube-apiserver"}) {
		t.Errorf("got %v", got)
	}
}

func TestNodesKeepTheirNumbers(t *testing.T) {
	n1 := node.Node{Name: "n1", InternalIP: addrs("172.30.0.11"), Local: true}
	n2 := node.Node{Name: "n2", InternalIP: addrs("172.30.0.12")}
	n3 := node.Node{Name: "n3", InternalIP: addrs("172.30.0.13")}
	index := func(rows []NodeRow) (out []uint16) {
		for _, r := range rows {
			out = append(out, r.Index)
		}
		return out
	}
	first := newNumbering(nil)
	_, rows := first.update([]node.Node{n3, n2, n1})
	if got := index(rows); !slices.Equal(got, []uint16{1, 2, 3}) {
		t.Fatalf("got %v", got)
	}
	during, after := first.update([]node.Node{n1, n3})
	if !slices.Equal(index(during), []uint16{1, 2, 3}) || !slices.Equal(index(after), []uint16{1, 3}) {
		t.Errorf("a node that goes: %v, then %v", index(during), index(after))
	}
	if during, _ = first.update([]node.Node{n1, n3}); !slices.Equal(index(during), []uint16{1, 2, 3}) {
		t.Errorf("after a step that failed, addresses lead to a node without a row: %v", index(during))
	}
	first.settled()
	if during, _ = first.update([]node.Node{n1, n3}); !slices.Equal(index(during), []uint16{1, 3}) {
		t.Errorf("a node that is gone stays: %v", index(during))
	}
	if _, after = first.update([]node.Node{n1, n2, n3}); first.byName["n2"] == 2 || first.byName["n3"] != 3 {
		t.Errorf("numbers %v", first.byName)
	}
	second := newNumbering(after)
	second.update([]node.Node{n1, n3, n2})
	if d := cmp.Diff(first.byName, second.byName); d != "" {
		t.Errorf("after a restart: %s", d)
	}
}

func TestAnAddressAndItsNamedPortsComeFromTheSamePod(t *testing.T) {
	nodes := []node.Node{{Name: "n1", InternalIP: addrs("172.30.0.11"), Local: true}, {Name: "n2", InternalIP: addrs("172.30.0.12")}}
	pod := func(name, nodeIP string, id identity.ID, state endpoint.State) endpoint.Remote {
		return endpoint.Remote{Namespace: "default", Name: name, NodeIP: netip.MustParseAddr(nodeIP), Identity: id, IPs: addrs("10.0.2.9"), State: state}
	}
	for want, list := range map[string][]endpoint.Remote{
		"b": {pod("a", "172.30.0.12", 300, endpoint.StateReady), pod("b", "172.30.0.12", 301, endpoint.StateReady)},
		"a": {pod("a", "172.30.0.12", 300, endpoint.StateReady), pod("b", "172.30.0.12", 301, endpoint.StateWaitingToRegenerate)},
		"c": {pod("c", "172.30.0.12", 300, endpoint.StateReady), pod("d", "172.30.0.11", 301, endpoint.StateReady), pod("e", "172.30.0.12", identity.Unknown, endpoint.StateReady)},
	} {
		for range 2 {
			slices.Reverse(list)
			if got := claims(list, nodesByIP(nodes)); len(got) != 1 || got[list[0].IPs[0]].Name != want {
				t.Errorf("got %v, want %s", got, want)
			}
		}
	}
}
