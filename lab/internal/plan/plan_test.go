// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strings"
	"testing"
)

func TestDefaultsGiveADualStackLabOfTwoNodes(t *testing.T) {
	p, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ what, got, want string }{
		{"folder", p.Dir, "/var/lib/stentor-lab/stentor"},
		{"cgroup", p.Cgroup, "stentor-lab-stentor"},
		{"fabric", p.FabricNS, "st-stentor-fabric"},
		{"node", p.Nodes[1].Name + " " + p.Nodes[1].NetNS, "node2 st-stentor-node2"},
		{"node's addresses", Join(p.Nodes[1].Addrs), "172.30.0.12/24,fd00:30::12/64"},
		{"API server", p.APIServer(), "https://172.30.0.1:6443"},
		{"pods", Join(p.PodCIDRs), "10.244.0.0/16,fd00:10:244::/56"},
		{"services", Join(p.ServiceCIDRs), "10.96.0.0/16,fd00:10:96::/112"},
		{"DNS", p.DNS[0].String() + " " + p.DNS[1].String(), "10.96.0.10 fd00:10:96::a"},
		{"outside", JoinAddrs(p.Outside), "172.31.0.10,fd00:31::10"},
	} {
		if c.got != c.want {
			t.Errorf("%s is %s, want %s", c.what, c.got, c.want)
		}
	}
	if len(p.Nodes) != 2 {
		t.Errorf("%d nodes, want 2", len(p.Nodes))
	}
}

func TestOneFamilyLeavesTheOtherOut(t *testing.T) {
	for family, foreign := range map[string]string{IPv4: ":", IPv6: "."} {
		p, err := New(Options{IPFamily: family})
		if err != nil {
			t.Fatal(err)
		}
		all := Join(p.Fabric) + Join(p.Outside) + Join(p.PodCIDRs) + Join(p.ServiceCIDRs) + Join(p.NodeCIDRs) + Join(p.Nodes[0].Addrs)
		if strings.Contains(all, foreign) {
			t.Errorf("%s: %s has addresses of the other family", family, all)
		}
	}
}

func TestTheAPIServersURLHasBracketsAroundIPv6(t *testing.T) {
	p, err := New(Options{IPFamily: IPv6})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.APIServer(), "https://[fd00:30::1]:6443"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestWrongOptionsAreNamedByTheirFlag(t *testing.T) {
	for flag, o := range map[string]Options{
		"--name":         {Name: "Not_A_Name"},
		"--nodes":        {Nodes: 6},
		"--ip-family":    {IPFamily: "ipv5"},
		"--cni":          {CNI: "none"},
		"--kube-proxy":   {KubeProxy: "ipvs"},
		"--routing-mode": {RoutingMode: "geneve"},
		"--state-dir":    {StateRoot: "relative"},
	} {
		if _, err := New(o); err == nil || !strings.HasPrefix(err.Error(), flag) {
			t.Errorf("%+v gives %v, want an error that starts with %s", o, err, flag)
		}
	}
}

func TestANodeIsFoundByItsNameAndItsNumber(t *testing.T) {
	p, err := New(Options{Nodes: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"node2", "n2", "2"} {
		if n, ok := p.Node(name); !ok || n.Name != "node2" {
			t.Errorf("%s finds %v %v, want node2", name, n.Name, ok)
		}
	}
	if _, ok := p.Node("node3"); ok {
		t.Error("node3 is found in a lab of two nodes")
	}
}

func TestNamesOfLabsSideBySideNeverMeet(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"a", "a-fabric", "a-node1", "b"} {
		p, err := New(Options{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		for _, ns := range p.AllNetNS() {
			if other, ok := seen[ns]; ok {
				t.Errorf("labs %s and %s both have %s", name, other, ns)
			}
			seen[ns] = name
		}
	}
}
