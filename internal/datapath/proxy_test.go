// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/datapath/nstest"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/proxy/sock"
)

// proxy is the least that one can be: it takes connections and datagrams, and
// carries them to where they wanted to go, with the address of who sent them.
type proxy struct {
	node  *node
	ports abi.ProxyPorts
	stop  []func() error

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
	p := &proxy{node: n}
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
		tcp, udp := htons(uint16(l.Addr().(*net.TCPAddr).Port)), htons(uint16(u.LocalAddr().(*net.UDPAddr).Port))
		if six {
			p.ports.TCP6, p.ports.UDP6 = tcp, udp
		} else {
			p.ports.TCP4, p.ports.UDP4 = tcp, udp
		}
		go p.acceptAll(l)
		go p.readAll(u)
	}
	p.publish(t, p.ports)
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

func (p *proxy) publish(t *testing.T, ports abi.ProxyPorts) {
	t.Helper()
	if err := p.node.dp.tables.Map(abi.MapProxyPorts).Put(uint32(0), ports); err != nil {
		t.Fatal(err)
	}
}

func (p *proxy) note(network string, client, server netip.AddrPort) {
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
			a, err := sock.Answer(server)
			if err != nil {
				return
			}
			defer a.Close()
			_, _ = a.WriteToUDPAddrPort(b[:n], client)
		})
	}
}

const (
	slotEgress, slotIngress = 1, 2 // of pods whose connections are redirected
	setRedirect             = 7
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
			{Protocol: 6, Port: echoPort, PortBits: 16, Verdict: verdict, L7: 41, Row: 1},
			{Protocol: 17, Port: echoPort, PortBits: 16, Verdict: verdict, L7: 42, Row: 2}}},
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

func TestConnectionsBetweenPodsPassThroughTheProxy(t *testing.T) {
	for _, side := range []struct {
		name            string
		egress, ingress bool
	}{{"egress", true, false}, {"ingress", false, true}, {"both sides", true, true}} {
		t.Run(side.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, true)
			n := c.nodes[0]
			a, b := n.pod(), n.pod()
			from := echo(t, b.Namespace)
			p := startProxy(t, n)
			n.redirects(policy.Redirect, side.egress, side.ingress)
			for _, to := range b.addrs() {
				for _, network := range []string{"tcp", "udp"} {
					c.passes(t, p, a.Namespace, network, netip.AddrPortFrom(to, echoPort), from)
				}
			}
		})
	}
}

// passes wants an exchange to go through the proxy, with the client's address on
// both sides of it.
func (c *cluster) passes(t *testing.T, p *proxy, from *nstest.Namespace, network string, to netip.AddrPort, asked func() []netip.AddrPort) {
	t.Helper()
	before := len(asked())
	p.took()
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
	if took := p.took(); len(took) != 1 || took[0] != (passed{network, own, to}) {
		t.Errorf("%s %s: the proxy took %v, want %v once", network, to, took, passed{network, own, to})
	}
	if all := asked()[before:]; len(all) != 1 || all[0] != own {
		t.Errorf("%s %s: the server was asked by %v, want %s", network, to, all, own)
	}
}
