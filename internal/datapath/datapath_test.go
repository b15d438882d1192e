// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/datapath/nstest"
	"github.com/stentor-net/stentor/internal/policy"
)

const echoPort = 7777

// modes runs a test with tunnels and with native routing.
func modes(t *testing.T, f func(t *testing.T, c *cluster)) {
	for _, m := range []struct {
		name   string
		tunnel bool
	}{{"vxlan", true}, {"native", false}} {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel() // tests mostly wait for silence
			f(t, newCluster(t, m.tunnel))
		})
	}
}

func (p *pod) addrs() (out []netip.Addr) {
	for _, a := range []netip.Addr{p.link.IPv4, p.link.IPv6} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// echo starts the echo server of a namespace.
func echo(t *testing.T, n *nstest.Namespace) (from func() []netip.AddrPort) {
	t.Helper()
	from, err := n.Echo(echoPort)
	if err != nil {
		t.Fatal(err)
	}
	return from
}

// reaches wants ping, TCP and UDP with small and large data to arrive and come back.
func (c *cluster) reaches(t *testing.T, from *nstest.Namespace, to ...netip.Addr) {
	t.Helper()
	c.reachesWith(t, 6000, from, to...)
}

// reachesWith is reaches with the size of the large datagram, which goes in fragments.
func (c *cluster) reachesWith(t *testing.T, datagram int, from *nstest.Namespace, to ...netip.Addr) {
	t.Helper()
	for _, a := range to {
		if err := from.Ping(a, nstest.Wait); err != nil {
			t.Errorf("%s: ping: %v\n%s", from.Name, err, c.state())
			return
		}
		for _, x := range []struct {
			network string
			size    int
		}{{"tcp", 100}, {"tcp", 300000}, {"udp", 100}, {"udp", datagram}} {
			if err := from.Call(x.network, netip.AddrPortFrom(a, echoPort), x.size, nstest.Wait); err != nil {
				t.Errorf("%s: %s with %d bytes to %s: %v\n%s", from.Name, x.network, x.size, a, err, c.state())
				return
			}
		}
	}
}

// refused wants silence.
func refused(t *testing.T, from *nstest.Namespace, network string, to netip.AddrPort) {
	t.Helper()
	if err := from.Call(network, to, 10, nstest.Silence); err == nil {
		t.Errorf("%s reaches %s %s", from.Name, network, to)
	}
}

func TestPodsReachEachOther(t *testing.T) {
	modes(t, func(t *testing.T, c *cluster) {
		a, b, far := c.nodes[0].pod(), c.nodes[0].pod(), c.nodes[1].pod()
		for _, p := range c.pods {
			echo(t, p.Namespace)
		}
		t.Run("on one node", func(t *testing.T) { c.reaches(t, a.Namespace, b.addrs()...) })
		t.Run("across nodes", func(t *testing.T) { c.reaches(t, a.Namespace, far.addrs()...) })
		t.Run("and back", func(t *testing.T) { c.reaches(t, far.Namespace, b.addrs()...) })
		t.Run("and themselves", func(t *testing.T) { c.reaches(t, a.Namespace, a.addrs()...) })
		for _, n := range c.nodes {
			if _, rows, _ := n.dp.Dump("ct"); len(rows) == 0 {
				t.Errorf("node %d has no flow: the programs did not see the traffic", n.n)
			}
		}
	})
}

func TestOneFamilyIsEnough(t *testing.T) {
	for _, x := range []struct {
		name string
		layout
	}{
		{"ipv4 vxlan", layout{tunnel: true, only4: true}}, {"ipv4 native", layout{only4: true}},
		{"ipv6 vxlan", layout{tunnel: true, only6: true}}, {"ipv6 native", layout{only6: true}},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			c := newClusterOf(t, x.layout)
			a, b, far := c.nodes[0].pod(), c.nodes[0].pod(), c.nodes[1].pod()
			for _, n := range []*nstest.Namespace{b.Namespace, far.Namespace, c.nodes[0].Namespace, c.outside} {
				echo(t, n)
			}
			if mtu, want := c.nodes[0].dp.MTU(), map[layout]int{{tunnel: true, only4: true}: 1450, {tunnel: true, only6: true}: 1430}[x.layout]; want != 0 && mtu != want {
				t.Errorf("MTU %d, want %d", mtu, want)
			}
			c.reaches(t, a.Namespace, append(b.addrs(), far.addrs()...)...)
			c.reaches(t, a.Namespace, keep(x.layout, nodeAddr(1))...)
			c.reaches(t, c.nodes[0].Namespace, far.addrs()...)
			c.reachesWith(t, 1200, a.Namespace, keep(x.layout, []netip.Addr{outside4, outside6})...)
		})
	}
}

func TestNodesAndPodsReachEachOther(t *testing.T) {
	modes(t, func(t *testing.T, c *cluster) {
		near, far := c.nodes[0].pod(), c.nodes[1].pod()
		for _, n := range []*nstest.Namespace{near.Namespace, far.Namespace, c.nodes[0].Namespace, c.nodes[1].Namespace} {
			echo(t, n)
		}
		t.Run("node to its pod", func(t *testing.T) { c.reaches(t, c.nodes[0].Namespace, near.addrs()...) })
		t.Run("node to a pod of another", func(t *testing.T) { c.reaches(t, c.nodes[0].Namespace, far.addrs()...) })
		t.Run("pod to its node", func(t *testing.T) { c.reaches(t, near.Namespace, append(nodeAddr(1), podAddr(1, 1)...)...) })
		t.Run("pod to another node", func(t *testing.T) { c.reaches(t, near.Namespace, nodeAddr(2)...) })
		t.Run("pod to a server of its node that listens on every address", func(t *testing.T) {
			if err := c.nodes[0].EchoAnywhere(echoPort + 1); err != nil {
				t.Fatal(err)
			}
			for _, a := range nodeAddr(1) {
				if err := near.Call("udp", netip.AddrPortFrom(a, echoPort+1), 100, nstest.Wait); err != nil {
					t.Error(err)
				}
			}
		})
		t.Run("pod to another node's router address", func(t *testing.T) { c.reaches(t, near.Namespace, podAddr(2, 1)...) })
	})
}

func TestTheWorldSeesTheNodesAddress(t *testing.T) {
	modes(t, func(t *testing.T, c *cluster) {
		if c.nodes[0].dp.tables.Map(abi.MapNAT) == nil {
			t.Skip("the programs of this version do not masquerade yet")
		}
		p := c.nodes[0].pod()
		from := echo(t, c.outside)
		// Full IPv6 fragments of the world do not fit through the smaller MTU of
		// pods behind a tunnel: the first datagram tells the world so.
		_ = p.Call("udp", netip.AddrPortFrom(outside6, echoPort), 6000, nstest.Silence)
		c.reaches(t, p.Namespace, outside4, outside6)
		for _, a := range from() {
			if !slices.Contains(nodeAddr(1), a.Addr()) {
				t.Errorf("the world saw %s, want an address of the node", a)
			}
		}
	})
}

// restrict gives both directions of a pod slot 1 and makes its answer for
// everybody that of the rows. Both: a connection that lost its row is judged for
// either side as its opener.
func (n *node) restrict(p *pod, rows ...policy.SetRow) {
	n.c.t.Helper()
	st, err := n.dp.PolicyState()
	if err != nil {
		n.c.t.Fatal(err)
	}
	r := st.Endpoints[p.id]
	r.Ingress, r.Egress = 1, 1
	n.apply([]policy.Op{policy.WriteSet{Set: 2, Rows: rows}, policy.SetCell{Class: classAll, Slot: 1, Set: 2},
		policy.SetEndpoint{Endpoint: p.id, Row: r}, policy.BumpEndpoint{Endpoint: p.id}})
}

var onlyTCP = policy.SetRow{Protocol: 6, Port: echoPort, PortBits: 16, Verdict: policy.Allow}

func TestPolicyHoldsForNewAndForRunningConnections(t *testing.T) {
	modes(t, func(t *testing.T, c *cluster) {
		near, server, far := c.nodes[0].pod(), c.nodes[0].pod(), c.nodes[1].pod()
		echo(t, server.Namespace)
		for _, client := range []*pod{near, far} {
			for _, a := range server.addrs() {
				to := netip.AddrPortFrom(a, echoPort)
				c.nodes[0].restrict(server, onlyTCP)
				conn, err := client.Dial("tcp", to, nstest.Wait)
				if err != nil {
					t.Fatalf("allowed TCP: %v\n%s", err, c.state())
				}
				defer conn.Close()
				if err := nstest.Exchange(conn, 1000, nstest.Wait); err != nil {
					t.Errorf("allowed TCP: %v", err)
				}
				refused(t, client.Namespace, "udp", to)
				if client.Ping(a, nstest.Silence) == nil {
					t.Errorf("%s pings %s although only TCP is allowed", client.Name, a)
				}
				c.nodes[0].restrict(server) // no row: nothing
				if err := nstest.Exchange(conn, 10, nstest.Silence); err == nil {
					t.Error("a running connection survives the policy that denies it")
				}
				refused(t, client.Namespace, "tcp", to)
				c.nodes[0].restrict(server, onlyTCP)
				if err := client.Call("tcp", to, 1000, nstest.Wait); err != nil {
					t.Errorf("allowed again: %v", err)
				}
			}
		}
	})
}

func TestAnEndpointIsSilentUntilItIsEnabled(t *testing.T) {
	c := newCluster(t, true)
	a, b := c.nodes[0].pod(), c.nodes[0].pod()
	echo(t, b.Namespace)
	if err := c.nodes[0].dp.RemoveEndpoint(b.id); err != nil {
		t.Fatal(err)
	}
	for _, to := range b.addrs() {
		if a.Ping(to, nstest.Silence) == nil {
			t.Errorf("%s answers without its row", to)
		}
	}
	err := c.nodes[0].dp.PutEndpoint(EndpointBase{ID: b.id, Incarnation: 99, IfIndex: b.link.IfIndex, MAC: b.link.MAC, NodeMAC: b.link.NodeMAC, IPv4: b.link.IPv4, IPv6: b.link.IPv6})
	if err != nil {
		t.Fatal(err)
	}
	c.nodes[0].apply(c.nodes[0].podOps(b, peerPods+1))
	if a.Ping(b.link.IPv4, nstest.Silence) == nil {
		t.Error("the pod answers before it is enabled")
	}
	if err := c.nodes[0].dp.EnableEndpoint(b.id); err != nil {
		t.Fatal(err)
	}
	c.reaches(t, a.Namespace, b.addrs()...)
}

func TestARemovedEndpointLeavesNoFlow(t *testing.T) {
	modes(t, func(t *testing.T, c *cluster) {
		a, b, far := c.nodes[0].pod(), c.nodes[0].pod(), c.nodes[1].pod()
		for _, p := range c.pods {
			echo(t, p.Namespace)
		}
		c.reaches(t, a.Namespace, b.addrs()...)
		c.reaches(t, far.Namespace, b.addrs()...)
		if err := c.nodes[0].dp.RemoveEndpoint(b.id); err != nil {
			t.Fatal(err)
		}
		if err := c.nodes[0].dp.DelPodLink(context.Background(), b.link); err != nil {
			t.Fatal(err)
		}
		for _, table := range []string{"ct", "nat", "endpoint"} {
			_, rows, err := c.nodes[0].dp.Dump(table)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				if line := strings.Join(r, " "); strings.Contains(line, b.link.IPv4.String()+":") || strings.Contains(line, b.link.IPv6.String()+"]") || table == "endpoint" && r[0] == fmt.Sprint(b.id) {
					t.Errorf("%s still has %s", table, line)
				}
			}
		}
	})
}

func TestAnAddressWithoutAPodNeverLeavesByTheDefaultRoute(t *testing.T) {
	modes(t, func(t *testing.T, c *cluster) {
		p := c.nodes[0].pod()
		ghosts := append(podAddr(1, 200), podAddr(2, 200)...)
		escaped, marks := c.outside.Count(t, ghosts...), c.outside.Count(t, outside4)
		for _, from := range []*nstest.Namespace{p.Namespace, c.nodes[0].Namespace} {
			for _, ghost := range ghosts {
				if from.Ping(ghost, nstest.Silence) == nil {
					t.Errorf("%s answers", ghost)
				}
			}
		}
		// What was sent before a packet that has been seen has been seen, too.
		if err := c.nodes[0].Ping(outside4, nstest.Wait); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the default gateway sees what is for it", func() bool { return marks() > 0 })
		if n := escaped(); n > 0 {
			t.Errorf("the default gateway received %d packets", n)
		}
	})
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(nstest.Wait); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// restart is what an update of the agent does.
func (n *node) restart() {
	n.c.t.Helper()
	n.Do(func() {
		if err := n.dp.Close(); err != nil {
			n.c.t.Error(err)
		}
	})
	n.start()
}

func TestARestartLosesNothing(t *testing.T) {
	modes(t, func(t *testing.T, c *cluster) {
		a, b, far := c.nodes[0].pod(), c.nodes[0].pod(), c.nodes[1].pod()
		for _, p := range c.pods {
			echo(t, p.Namespace)
		}
		c.nodes[0].restrict(b, policy.SetRow{Verdict: policy.Allow})
		c.reaches(t, a.Namespace, b.link.IPv4, far.link.IPv4)
		conn, err := a.Dial("tcp", netip.AddrPortFrom(far.link.IPv6, echoPort), nstest.Wait)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		streams := map[string]*nstest.Stream{}
		for _, to := range append(b.addrs(), far.addrs()...) {
			streams["ping "+to.String()] = a.PingStream(to, 2*time.Millisecond)
			streams["udp "+to.String()] = a.UDPStream(netip.AddrPortFrom(to, echoPort), time.Millisecond)
		}
		for range 3 {
			for _, n := range c.nodes {
				before, err := n.dp.PolicyState()
				if err != nil {
					t.Fatal(err)
				}
				n.restart()
				n.setNodes()
				after, err := n.dp.PolicyState()
				if err != nil {
					t.Fatal(err)
				}
				if fmt.Sprint(before.Peers, before.Addresses, before.Endpoints) != fmt.Sprint(after.Peers, after.Addresses, after.Endpoints) {
					t.Errorf("node %d: policy state differs after a restart", n.n)
				}
				if err := nstest.Exchange(conn, 10000, nstest.Wait); err != nil {
					t.Errorf("TCP over a restart of node %d: %v", n.n, err)
				}
			}
		}
		for name, s := range streams {
			s.Stop()
			if s.Err != nil || s.Sent < 50 || s.Received != s.Sent {
				t.Errorf("%s: %d sent, %d came back, %v", name, s.Sent, s.Received, s.Err)
			}
		}
	})
}

func TestEventsTellOfVerdictsAndDrops(t *testing.T) {
	c := newCluster(t, true)
	a, b := c.nodes[0].pod(), c.nodes[0].pod()
	echo(t, b.Namespace)
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	var seen []Event
	done := make(chan error)
	go func() {
		done <- c.nodes[0].dp.Events(ctx, func(e Event) { mu.Lock(); seen = append(seen, e); mu.Unlock() })
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	c.nodes[0].restrict(b, onlyTCP)
	if err := a.Call("tcp", netip.AddrPortFrom(b.link.IPv4, echoPort), 10, nstest.Wait); err != nil {
		t.Fatal(err)
	}
	refused(t, a.Namespace, "udp", netip.AddrPortFrom(b.link.IPv6, echoPort))
	want := func(what string, f func(Event) bool) {
		t.Helper()
		eventually(t, "an event of "+what, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return slices.ContainsFunc(seen, f)
		})
	}
	want("the allowed connection", func(e Event) bool {
		return e.Type == abi.EventVerdict && e.Verdict == abi.VerdictAllow && e.Protocol == 6 && e.Destination == netip.AddrPortFrom(b.link.IPv4, echoPort) &&
			e.SourceIdentity == uint32(a.identity) && e.DestinationIdentity == uint32(b.identity) && e.Ingress && e.Endpoint == b.id && e.Slot == 1
	})
	want("the drop", func(e Event) bool {
		return e.Type == abi.EventDrop && e.ReasonText == "Policy denied" && e.Protocol == 17 && e.Source.Addr() == a.link.IPv6
	})
	metrics, err := c.nodes[0].dp.Metrics()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(metrics, func(m MetricRow) bool { return m.Reason == abi.ReasonPolicyDenied && m.Packets > 0 && m.Ingress }) {
		t.Errorf("the drop is not counted: %+v", metrics)
	}
}

func TestCleanupLeavesNothing(t *testing.T) {
	c := newCluster(t, true)
	n := c.nodes[0]
	n.pod()
	n.cleanup()
	for _, look := range []string{"ip -o link", "ip route show table all", "ip -6 route show table all", "tc qdisc show", "tc filter show dev eth0 ingress", "tc filter show dev eth0 egress", "ls " + n.cfg.BPFDir} {
		out, _ := n.Output(look)
		for _, line := range strings.Split(out, "\n") {
			if strings.Contains(line, "stentor") || strings.Contains(line, "stp") || strings.Contains(line, "proto 83") || strings.Contains(line, "clsact") {
				t.Errorf("%s: left: %s", look, line)
			}
		}
	}
	n.start() // as the cleanup of the test expects it
}

func TestWithoutABPFFileSystemTheStartSaysWhatToDo(t *testing.T) {
	nstest.RequireRoot(t)
	_, err := Start(context.Background(), nil, Config{BPFDir: t.TempDir(), NodeIPs: nodeAddr(1), IPv4: true})
	if err == nil || !strings.Contains(err.Error(), "mount -t bpf") {
		t.Errorf("error %v", err)
	}
}
