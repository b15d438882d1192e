// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"

	"github.com/stentor-net/stentor/internal/datapath/nstest"
	"github.com/stentor-net/stentor/internal/service"
)

const nodePort = 30080

// newServingCluster carries every kind of service out.
func newServingCluster(t *testing.T, l layout) *cluster {
	c := newClusterOf(t, l)
	for _, n := range c.nodes {
		n.cfg.Services = Services{AllKinds: true, PortMin: 30000, PortMax: 32767}
		n.restart()
	}
	return c
}

// nodePorts makes one NodePort of both families over pods, for a node.
func nodePorts(n *node, pods ...*pod) (out []service.Frontend) {
	for family, a := range nodeAddr(n.n) {
		for _, protocol := range []uint8{6, 17} {
			f := service.Frontend{Service: "default/echo", Addr: a, Port: nodePort, Protocol: protocol, Scope: service.External, Kind: service.NodePort}
			for _, p := range pods {
				f.Backends = append(f.Backends, service.Backend{Addr: p.addrs()[family], Port: echoPort, Protocol: protocol, State: service.Active})
			}
			out = append(out, f)
			f.Scope, f.Addr = service.Internal, netip.IPv4Unspecified()
			if family == 1 {
				f.Addr = netip.IPv6Unspecified()
			}
			out = append(out, f)
		}
	}
	return out
}

// TestClientsOutsideReachNodePorts sends through real stacks: small and large
// packets of both protocols, to a pod of the node that is asked and to one of the
// other node.
func TestClientsOutsideReachNodePorts(t *testing.T) {
	for _, l := range []layout{{tunnel: true}, {}} {
		t.Run(map[bool]string{true: "tunnel", false: "native"}[l.tunnel], func(t *testing.T) {
			c := newServingCluster(t, l)
			near, far := c.nodes[0].pod(), c.nodes[1].pod()
			seen := map[*pod]func() []netip.AddrPort{near: echo(t, near.Namespace), far: echo(t, far.Namespace)}
			for _, backend := range []*pod{near, far} {
				c.nodes[0].setFrontends(t, nodePorts(c.nodes[0], backend))
				for family, a := range nodeAddr(1) {
					to := netip.AddrPortFrom(a, nodePort)
					for _, x := range []struct {
						network string
						size    int
					}{{"tcp", 200}, {"tcp", 300000}, {"udp", 100}} {
						before := len(seen[backend]())
						for range 3 {
							if err := c.outside.Call(x.network, to, x.size, nstest.Wait); err != nil {
								t.Fatalf("%s of %d bytes to %s for a pod of node %d: %v\n%s", x.network, x.size, to, backend.node.n, err, c.state())
							}
						}
						from := seen[backend]()[before:]
						want := []netip.Addr{outside4, outside6}[family]
						if backend == far {
							want = a
						}
						for _, got := range from {
							if got.Addr() != want {
								t.Errorf("%s: the pod of node %d sees %s, want %s", x.network, backend.node.n, got, want)
							}
						}
						if len(from) == 0 {
							t.Errorf("%s: nobody came to the pod of node %d", x.network, backend.node.n)
						}
					}
				}
				// Pods whose sockets are not translated reach the same, through any node's address.
				client := c.nodes[0].pod()
				for _, n := range []int{1, 2} {
					for _, a := range nodeAddr(n) {
						if err := client.Call("tcp", netip.AddrPortFrom(a, nodePort), 200, nstest.Wait); err != nil {
							t.Errorf("a pod to the NodePort at node %d (%s): %v\n%s", n, a, err, c.state())
						}
					}
				}
			}
			c.nodes[0].setFrontends(t, nodePorts(c.nodes[0]))
			for _, a := range nodeAddr(1) {
				refused(t, c.outside, "tcp", netip.AddrPortFrom(a, nodePort))
				refused(t, c.outside, "tcp", netip.AddrPortFrom(a, nodePort+1)) // the host's own answer
			}
		})
	}
}

// TestTheHostServesClientsOutsideThroughAService sends to a backend that is the node itself.
func TestTheHostServesClientsOutsideThroughAService(t *testing.T) {
	c := newServingCluster(t, layout{tunnel: true})
	echo(t, c.nodes[0].Namespace)
	list := nodePorts(c.nodes[0])
	for i := range list {
		family := 0
		if list[i].Addr.Is6() {
			family = 1
		}
		list[i].Backends = []service.Backend{{Addr: nodeAddr(1)[family], Port: echoPort, Protocol: list[i].Protocol, State: service.Active}}
	}
	c.nodes[0].setFrontends(t, list)
	for _, a := range nodeAddr(1) {
		for _, network := range []string{"tcp", "udp"} {
			if err := c.outside.Call(network, netip.AddrPortFrom(a, nodePort), 1000, nstest.Wait); err != nil {
				t.Errorf("%s to %s: %v\n%s", network, a, err, c.state())
			}
		}
	}
}
