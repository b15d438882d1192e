// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/datapath/maps"
	"github.com/stentor-net/stentor/internal/datapath/nstest"
	"github.com/stentor-net/stentor/internal/l7"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/proxy/sock"
)

// proxy is the least that one can be: it takes connections and datagrams, and
// carries them to where they wanted to go, with the address of who sent them.
type proxy struct {
	t       *testing.T
	node    *node
	ask     *maps.Asker
	answers *sock.Answerer
	ports   maps.Listeners
	stop    []func() error

	mu   sync.Mutex
	seen []passed
}

// passed is what went through the proxy.
type passed struct {
	network        string
	client, server netip.AddrPort
}

func startProxy(t *testing.T, n *node) *proxy {
	t.Helper()
	ask, err := maps.OpenAsker(n.cfg.BPFDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ask.Close() })
	p := &proxy{t: t, node: n, ask: ask}
	n.Do(func() { p.answers, err = sock.NewAnswerer() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.answers.Close() })
	for _, six := range []bool{false, true} {
		var l *net.TCPListener
		var u *sock.UDP
		var err error
		n.Do(func() {
			if l, err = sock.ListenTCP(six, 0); err == nil {
				u, err = sock.ListenUDP(six, 0)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		p.stop = append(p.stop, l.Close, u.Close)
		tcp, udp := addrPort(l.Addr()).Port(), addrPort(u.LocalAddr()).Port()
		if six {
			p.ports.TCP6, p.ports.UDP6 = tcp, udp
		} else {
			p.ports.TCP4, p.ports.UDP4 = tcp, udp
		}
		go p.acceptAll(l)
		go p.readAll(u)
	}
	if err := ask.Publish(p.ports); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

// close ends the listeners, not what they have accepted.
func (p *proxy) close() {
	for _, f := range p.stop {
		_ = f()
	}
	p.stop = nil
}

// note asks the tables about a connection, which must be under rules.
func (p *proxy) note(network string, client, server netip.AddrPort) {
	c, rules := l7.Connection{Client: client, Server: server, Protocol: unix.IPPROTO_TCP}, uint32(rulesTCP)
	if network == "udp" {
		c.Protocol, rules = unix.IPPROTO_UDP, rulesUDP
	}
	r, err := p.ask.Judge(c)
	if err != nil || r.Denied || len(r.Limits) == 0 || !p.ask.Holds(c, &r) {
		p.t.Errorf("%+v: ruled %+v, %v", c, r, err)
	}
	for _, limit := range r.Limits {
		if limit.Set != rules {
			p.t.Errorf("%+v: rules %d, want %d", c, limit.Set, rules)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, passed{network, client, server})
}

// took returns what went through since the last call.
func (p *proxy) took() []passed {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.seen
	p.seen = nil
	return out
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := netip.MustParseAddrPort(a.String())
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func (p *proxy) acceptAll(l *net.TCPListener) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return
		}
		client, server := addrPort(c.RemoteAddr()), addrPort(c.LocalAddr())
		p.note("tcp", client, server)
		p.node.Go(func() {
			defer c.Close()
			s, err := sock.DialTCP(context.Background(), client, server)
			if err != nil {
				return
			}
			defer s.Close()
			done := make(chan struct{})
			go func() {
				_, _ = io.Copy(s, c)
				_ = s.CloseWrite()
				close(done)
			}()
			_, _ = io.Copy(c, s)
			_ = c.CloseWrite()
			<-done
		})
	}
}

func (p *proxy) readAll(u *sock.UDP) {
	for {
		b := make([]byte, 65536)
		n, client, server, err := u.Read(b)
		if err != nil {
			return
		}
		p.note("udp", client, server)
		p.node.Go(func() {
			s, err := sock.DialUDP(context.Background(), client, server)
			if err != nil {
				return
			}
			defer s.Close()
			if _, err := s.Write(b[:n]); err != nil {
				return
			}
			_ = s.SetReadDeadline(time.Now().Add(nstest.Wait))
			if n, err = s.Read(b); err != nil {
				return
			}
			if err := p.answers.Send(b[:n], server, client); err != nil {
				p.t.Error(err)
			}
		})
	}
}

const (
	slotEgress, slotIngress = 1, 2 // of pods whose connections are redirected
	setRedirect             = 7
	rulesTCP, rulesUDP      = 41, 42
)

// redirects makes the proxy take what every pod of the node sends to, or gets on,
// the echo port; other ports stay open.
func (n *node) redirects(verdict policy.Verdict, egress, ingress bool) {
	set := func(on bool) uint16 {
		if on {
			return setRedirect
		}
		return policy.SetAllow
	}
	ops := []policy.Op{
		policy.WriteSet{Set: setRedirect, Rows: []policy.SetRow{{Verdict: policy.Allow},
			{Protocol: 6, Port: echoPort, PortBits: 16, Verdict: verdict, L7: rulesTCP, Row: 1},
			{Protocol: 17, Port: echoPort, PortBits: 16, Verdict: verdict, L7: rulesUDP, Row: 2}}},
		policy.SetCell{Class: classAll, Slot: slotEgress, Set: set(egress)},
		policy.SetCell{Class: classAll, Slot: slotIngress, Set: set(ingress)},
	}
	for _, p := range n.c.pods {
		if p.node == n {
			peer := uint32(peerPods + int(p.identity) - identityPods)
			ops = append(ops, policy.SetEndpoint{Endpoint: p.id, Row: policy.EndpointRow{Identity: p.identity,
				Peer4: peer, Peer6: peer, Egress: slotEgress, Ingress: slotIngress}}, policy.BumpEndpoint{Endpoint: p.id})
		}
	}
	n.apply(ops)
}

func TestConnectionsPassThroughTheProxy(t *testing.T) {
	modes(t, func(t *testing.T, c *cluster) {
		near, far := c.nodes[0], c.nodes[1]
		a, b, d := near.pod(), near.pod(), far.pod()
		asked := map[*nstest.Namespace]func() []netip.AddrPort{}
		for _, n := range []*nstest.Namespace{b.Namespace, d.Namespace, near.Namespace, far.Namespace, c.outside} {
			asked[n] = echo(t, n)
		}
		p, q := startProxy(t, near), startProxy(t, far)
		all := func(t *testing.T, from, to *nstest.Namespace, addrs []netip.Addr, through ...*proxy) {
			t.Helper()
			for _, addr := range addrs {
				for _, network := range []string{"tcp", "udp"} {
					c.passes(t, from, network, netip.AddrPortFrom(addr, echoPort), asked[to], through...)
				}
			}
		}
		for _, side := range []struct {
			name            string
			egress, ingress bool
		}{{"egress", true, false}, {"ingress", false, true}, {"both sides", true, true}} {
			t.Run(side.name, func(t *testing.T) {
				near.redirects(policy.Redirect, side.egress, side.ingress)
				far.redirects(policy.Redirect, side.egress, side.ingress)
				all(t, a.Namespace, b.Namespace, b.addrs(), p)
				var through []*proxy
				if side.egress {
					through = append(through, p)
				}
				if side.ingress {
					through = append(through, q)
				}
				all(t, a.Namespace, d.Namespace, d.addrs(), through...)
				if side.egress {
					all(t, a.Namespace, c.outside, []netip.Addr{outside4, outside6}, p)
					all(t, a.Namespace, far.Namespace, nodeAddr(2), p)
					all(t, a.Namespace, near.Namespace, append(nodeAddr(1), podAddr(1, 1)...), p)
				}
			})
		}
		near.redirects(policy.Redirect, true, true)
		t.Run("and no other port", func(t *testing.T) {
			if _, err := b.Echo(echoPort + 1); err != nil {
				t.Fatal(err)
			}
			for _, addr := range b.addrs() {
				if err := a.Call("tcp", netip.AddrPortFrom(addr, echoPort+1), 1000, nstest.Wait); err != nil {
					t.Error(err)
				}
			}
			if took := p.took(); len(took) != 0 {
				t.Errorf("the proxy took %v", took)
			}
		})
	})
}

// passes wants an exchange to go through proxies, in that order, with the
// client's address, as the pod has it, on both sides of each.
func (c *cluster) passes(t *testing.T, from *nstest.Namespace, network string, to netip.AddrPort, asked func() []netip.AddrPort, through ...*proxy) {
	t.Helper()
	before := len(asked())
	for _, p := range through {
		p.took()
	}
	size := 300000
	if network == "udp" {
		size = 1000
	}
	conn, err := from.Dial(network, to, nstest.Wait)
	if err == nil {
		defer conn.Close()
		err = nstest.Exchange(conn, size, nstest.Wait)
	}
	if err != nil {
		t.Errorf("%s %s: %v\n%s", network, to, err, c.state())
		return
	}
	own := addrPort(conn.LocalAddr())
	host := slices.Contains(append(nodeAddr(1), podAddr(1, 1)...), to.Addr())
	for i, p := range through {
		if took := p.took(); len(took) != 1 || took[0] != (passed{network, own, to}) {
			t.Errorf("%s %s: proxy %d took %v, want %v once", network, to, i, took, passed{network, own, to})
		}
	}
	want := own
	if to.Addr() == outside4 || to.Addr() == outside6 || slices.Contains(nodeAddr(2), to.Addr()) {
		return // asked by the node, with a port of its choice
	}
	all := asked()[before:]
	if host && network == "tcp" && len(all) == 1 {
		want = netip.AddrPortFrom(own.Addr(), all[0].Port()) // its own port is taken by the proxy itself
	}
	if len(all) != 1 || all[0] != want {
		t.Errorf("%s %s: the server was asked by %v, want %s", network, to, all, want)
	}
}

func TestWithoutTheProxyNothingRedirectedPasses(t *testing.T) {
	c := newCluster(t, true)
	n := c.nodes[0]
	a, b := n.pod(), n.pod()
	echo(t, b.Namespace)
	n.redirects(policy.Redirect, true, false)
	refusedAll := func(when string) {
		t.Helper()
		for _, to := range b.addrs() {
			for _, network := range []string{"tcp", "udp"} {
				before := n.dropped(t, abi.ReasonProxyNotRunning)
				refused(t, a.Namespace, network, netip.AddrPortFrom(to, echoPort))
				if n.dropped(t, abi.ReasonProxyNotRunning) == before {
					t.Errorf("%s: %s to %s is not counted as what it is", when, network, to)
				}
			}
		}
	}
	refusedAll("never started")
	p := startProxy(t, n)
	conn, err := a.Dial("tcp", netip.AddrPortFrom(b.addrs()[0], echoPort), nstest.Wait)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p.close()
	refusedAll("killed, its port is in the table")
	if err := nstest.Exchange(conn, 10000, nstest.Wait); err != nil {
		t.Errorf("what was accepted ends with the listener: %v", err)
	}
	stranger(t, n, p)
	refusedAll("another process has its port")
	if err := p.ask.Publish(maps.Listeners{}); err != nil {
		t.Fatal(err)
	}
	refusedAll("stopped")
}

// stranger takes the ports that a proxy had.
func stranger(t *testing.T, n *node, p *proxy) {
	t.Helper()
	for host, port := range map[string]uint16{"127.0.0.1": p.ports.TCP4, "[::1]": p.ports.TCP6} {
		var l net.Listener
		var err error
		n.Do(func() { l, err = net.Listen("tcp", fmt.Sprintf("%s:%d", host, port)) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
}

func TestADirectConnectionThatIsRedirectedIsReset(t *testing.T) {
	modes(t, func(t *testing.T, c *cluster) {
		n := c.nodes[0]
		a, b, d := n.pod(), n.pod(), c.nodes[1].pod()
		var asked []func() []netip.AddrPort
		for _, p := range []*pod{b, d} {
			asked = append(asked, echo(t, p.Namespace))
		}
		p := startProxy(t, n)
		type open struct {
			network string
			to      netip.AddrPort
			net.Conn
		}
		var list []open
		for _, server := range []*pod{b, d} {
			for _, to := range server.addrs() {
				for _, network := range []string{"tcp", "udp"} {
					o := open{network: network, to: netip.AddrPortFrom(to, echoPort)}
					var err error
					if o.Conn, err = a.Dial(network, o.to, nstest.Wait); err == nil {
						err = nstest.Exchange(o, 1000, nstest.Wait)
					}
					if err != nil {
						t.Fatal(err)
					}
					defer o.Close()
					list = append(list, o)
				}
			}
		}
		if took := p.took(); len(took) != 0 {
			t.Fatalf("nothing is redirected, and the proxy took %v", took)
		}
		n.redirects(policy.Redirect, true, false)
		for _, o := range list {
			before := n.dropped(t, abi.ReasonFlowNowRedirected)
			err := nstest.Exchange(o, 1000, nstest.Wait)
			switch {
			case o.network == "udp":
				if took := p.took(); err != nil || len(took) != 1 {
					t.Errorf("udp %s: %v, the proxy took %v", o.to, err, took)
				}
				continue
			case !errors.Is(err, syscall.ECONNRESET):
				t.Errorf("tcp %s: %v, want a reset", o.to, err)
			}
			if n.dropped(t, abi.ReasonFlowNowRedirected) == before {
				t.Errorf("tcp %s: the reset is not counted", o.to)
			}
			from, i := a.Namespace, 0
			if o.to.Addr() == d.link.IPv4 || o.to.Addr() == d.link.IPv6 {
				i = 1
			}
			c.passes(t, from, "tcp", o.to, asked[i], p)
		}
	})
}

// What is translated on the wire passes through the proxy as the backend's; the
// client never sees its address.
func TestServicesPassThroughTheProxy(t *testing.T) {
	for _, l := range []layout{{tunnel: true}, {}} {
		t.Run(map[bool]string{true: "tunnel", false: "native"}[l.tunnel], func(t *testing.T) {
			t.Parallel()
			c := newServingCluster(t, l)
			near, far := c.nodes[0], c.nodes[1]
			a, b, d := near.pod(), near.pod(), far.pod()
			asked := map[*pod]func() []netip.AddrPort{b: echo(t, b.Namespace), d: echo(t, d.Namespace)}
			p, q := startProxy(t, near), startProxy(t, far)
			near.redirects(policy.Redirect, true, true)
			far.redirects(policy.Redirect, true, true)
			call := func(what string, from *nstest.Namespace, to netip.AddrPort, backend *pod, through ...*proxy) {
				t.Helper()
				for _, network := range []string{"tcp", "udp"} {
					before := len(asked[backend]())
					for _, p := range through {
						p.took()
					}
					if err := from.Call(network, to, 1000, nstest.Wait); err != nil {
						t.Errorf("%s, %s to %s: %v\n%s", what, network, to, err, c.state())
						continue
					}
					server := 0
					if to.Addr().Is6() {
						server = 1
					}
					for i, p := range through {
						if took := p.took(); len(took) != 1 || took[0].server != netip.AddrPortFrom(backend.addrs()[server], echoPort) {
							t.Errorf("%s, %s to %s: proxy %d took %v", what, network, to, i, took)
						}
					}
					if len(asked[backend]()) != before+1 {
						t.Errorf("%s, %s to %s: the backend was not asked once", what, network, to)
					}
				}
			}
			near.setFrontends(t, frontends(b))
			for _, vip := range vips {
				call("ClusterIP, near", a.Namespace, netip.AddrPortFrom(vip, vipPort), b, p)
			}
			near.setFrontends(t, frontends(d))
			for _, vip := range vips {
				call("ClusterIP, far", a.Namespace, netip.AddrPortFrom(vip, vipPort), d, p, q)
			}
			near.setFrontends(t, nodePorts(near, b))
			far.setFrontends(t, nodePorts(far, b))
			for _, addr := range nodeAddr(1) {
				call("NodePort from outside, near", c.outside, netip.AddrPortFrom(addr, nodePort), b, p)
				call("NodePort of its node", a.Namespace, netip.AddrPortFrom(addr, nodePort), b, p)
				call("NodePort of another node", d.Namespace, netip.AddrPortFrom(addr, nodePort), b, q, p)
			}
			near.setFrontends(t, nodePorts(near, d))
			for _, addr := range nodeAddr(1) {
				call("NodePort from outside, far", c.outside, netip.AddrPortFrom(addr, nodePort), d, q)
			}
		})
	}
}
