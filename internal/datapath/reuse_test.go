// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stentor-net/stentor/internal/datapath/nstest"
	"github.com/stentor-net/stentor/internal/policy"
)

func TestAReusedAddressNeverInheritsAVerdict(t *testing.T) {
	modes(t, func(t *testing.T, c *cluster) {
		near, old, far := c.nodes[0].pod(), c.nodes[0].pod(), c.nodes[1].pod()
		echo(t, old.Namespace)
		c.reaches(t, near.Namespace, old.addrs()...)
		var streams []*nstest.Stream
		for _, from := range []*pod{near, far} {
			for _, a := range old.addrs() {
				streams = append(streams, from.UDPStream(netip.AddrPortFrom(a, echoPort), time.Millisecond))
			}
		}
		n := c.nodes[0]
		for range 5 {
			if err := n.dp.RemoveEndpoint(old.id); err != nil {
				t.Fatal(err)
			}
			if err := n.dp.DelPodLink(context.Background(), old.link); err != nil {
				t.Fatal(err)
			}
			next := &pod{Namespace: nstest.New(t, "reused"+time.Now().Format("05.000")), node: n, id: old.id + 1, identity: old.identity + 500}
			next.link = PodLink{NetNS: next.Path, IPv4: old.link.IPv4, IPv6: old.link.IPv6}
			n.addLink(next)
			inside := next.CountUDP(t, echoPort)
			err := n.dp.PutEndpoint(EndpointBase{ID: next.id, Incarnation: uint32(next.id) + 1000, IfIndex: next.link.IfIndex,
				MAC: next.link.MAC, NodeMAC: next.link.NodeMAC, IPv4: next.link.IPv4, IPv6: next.link.IPv6})
			if err != nil {
				t.Fatal(err)
			}
			peer := uint32(1000 + int(next.id))
			ops := append(n.podOps(next, peer), policy.WriteSet{Set: 2, Rows: []policy.SetRow{onlyTCP}}, policy.SetCell{Class: classAll, Slot: 1, Set: 2},
				policy.SetEndpoint{Endpoint: next.id, Row: policy.EndpointRow{Identity: next.identity, Peer4: peer, Peer6: peer, Egress: 1, Ingress: 1}},
				policy.BumpEndpoint{Endpoint: next.id})
			n.apply(ops)
			if err := n.dp.EnableEndpoint(next.id); err != nil {
				t.Fatal(err)
			}
			echoTCP(t, next)
			if err := near.Call("tcp", netip.AddrPortFrom(next.link.IPv4, echoPort), 100, nstest.Wait); err != nil {
				t.Errorf("%v\n%s", err, c.state())
			}
			for _, s := range streams {
				before := s.Progress()
				eventually(t, "the senders go on", func() bool { return s.Progress() > before+20 })
			}
			if got := inside(); got > 0 {
				t.Errorf("the pod that got the address received %d datagrams that only its predecessor was allowed", got)
			}
			old = next
		}
		for _, s := range streams {
			if s.Stop(); s.Err != nil {
				t.Errorf("the sender stopped after %d datagrams: %v", s.Sent, s.Err)
			}
		}
	})
}

func echoTCP(t *testing.T, p *pod) {
	t.Helper()
	if err := p.EchoTCP(echoPort); err != nil {
		t.Fatal(err)
	}
}

// Policy of one direction only, as NetworkPolicies usually are.
func TestADeniedConnectionIsNotPickedUpAsItsReverse(t *testing.T) {
	c := newCluster(t, true)
	client, server := c.nodes[0].pod(), c.nodes[0].pod()
	echo(t, server.Namespace)
	conn, err := client.Dial("tcp", netip.AddrPortFrom(server.link.IPv4, echoPort), nstest.Wait)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	st, err := c.nodes[0].dp.PolicyState()
	if err != nil {
		t.Fatal(err)
	}
	r := st.Endpoints[server.id]
	r.Ingress = 1 // cells of slot 1: deny
	c.nodes[0].apply([]policy.Op{policy.SetCell{Class: classAll, Slot: 1, Set: policy.SetDeny},
		policy.SetEndpoint{Endpoint: server.id, Row: r}, policy.BumpEndpoint{Endpoint: server.id}})
	if nstest.Exchange(conn, 100, nstest.Wait) == nil {
		t.Error("the connection survives a policy that denies it")
	}
}
