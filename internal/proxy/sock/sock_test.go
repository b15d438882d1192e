// SPDX-License-Identifier: Apache-2.0

package sock_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stentor-net/stentor/internal/datapath/nstest"
	"github.com/stentor-net/stentor/internal/proxy/sock"
)

var families = []struct {
	name                string
	six                 bool
	client, server, any string
}{
	{"IPv4", false, "198.51.100.1", "172.31.0.2", "203.0.113.5"},
	{"IPv6", true, "2001:db8:1::1", "fd31::2", "2001:db8:2::5"},
}

// twoNodes are one with the proxy and one with a server, to which the proxy's is
// the way to everybody. The clients' addresses are local to the proxy, as marks
// make them.
func twoNodes(t *testing.T) (proxy, server *nstest.Namespace) {
	nstest.RequireRoot(t)
	proxy, server = nstest.New(t, "prx"), nstest.New(t, "srv")
	proxy.Run(t, fmt.Sprintf(`ip link add eth0 type veth peer name eth0 netns %s
		ip link set eth0 up
		ip addr add 172.31.0.1/24 dev eth0
		ip addr add fd31::1/64 dev eth0 nodad
		ip route add local 198.51.100.0/24 dev lo
		ip -6 route add local 2001:db8:1::/64 dev lo`, server.Name))
	server.Run(t, `ip link set eth0 up
		ip addr add 172.31.0.2/24 dev eth0
		ip addr add fd31::2/64 dev eth0 nodad
		ip route add default via 172.31.0.1
		ip -6 route add default via fd31::1`)
	return proxy, server
}

func at(addr string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
}

func TestTheServerSeesTheClientAndItsPortUnlessThatIsTaken(t *testing.T) {
	proxy, server := twoNodes(t)
	from, err := server.Echo(80)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			for i, same := range []bool{true, false} {
				before := len(from())
				var c net.Conn
				proxy.Do(func() { c, err = sock.DialTCP(context.Background(), at(f.client, 4000), at(f.server, 80)) })
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if err := nstest.Exchange(c, 1000, nstest.Wait); err != nil {
					t.Fatal(err)
				}
				got := from()[before]
				if got.Addr().String() != f.client || (got.Port() == 4000) != same {
					t.Errorf("connection %d comes from %s", i+1, got)
				}
			}
			before := len(from())
			var c net.Conn
			proxy.Do(func() { c, err = sock.DialUDP(context.Background(), at(f.client, 4000), at(f.server, 80)) })
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := nstest.Exchange(c, 1000, nstest.Wait); err != nil {
				t.Fatal(err)
			}
			if got := from()[before]; got != at(f.client, 4000) {
				t.Errorf("datagram comes from %s", got)
			}
		})
	}
}

func TestAnAnswerComesFromWhomWasAsked(t *testing.T) {
	proxy, peer := twoNodes(t)
	var a *sock.Answerer
	var err error
	proxy.Do(func() { a, err = sock.NewAnswerer() })
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			var u net.PacketConn
			peer.Do(func() { u, err = net.ListenPacket("udp", net.JoinHostPort(f.server, "5353")) })
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			for _, size := range []int{0, 1, 512, 513, 4000, 65000} {
				want := strings.Repeat("x", size)
				if err := a.Send([]byte(want), at(f.any, 53), at(f.server, 5353)); err != nil {
					t.Fatal(err)
				}
				b := make([]byte, 65536)
				n, from, err := u.ReadFrom(b)
				if err != nil || string(b[:n]) != want || from.String() != at(f.any, 53).String() {
					t.Errorf("%d bytes from %v, %v; want %d from %s", n, from, err, size, at(f.any, 53))
				}
			}
			if err := a.Send(make([]byte, 65530), at(f.any, 53), at(f.server, 5353)); err == nil {
				t.Error("more than a datagram holds was sent")
			}
			if err := a.Send(nil, at(families[0].any, 53), at(families[1].server, 5353)); err == nil {
				t.Error("an answer changed the family")
			}
		})
	}
}

func TestListenersAreTakenOver(t *testing.T) {
	ns := func() *nstest.Namespace { nstest.RequireRoot(t); return nstest.New(t, "prx") }()
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			var l, stranger *net.TCPListener
			var u *sock.UDP
			var err error
			ns.Do(func() {
				if l, err = sock.ListenTCP(f.six, 0); err != nil {
					return
				}
				if u, err = sock.ListenUDP(f.six, 0); err != nil {
					return
				}
				stranger, err = net.ListenTCP("tcp", &net.TCPAddr{IP: l.Addr().(*net.TCPAddr).IP})
			})
			if err != nil {
				t.Fatal(err)
			}
			defer stranger.Close()
			files := map[string]func() (*os.File, error){"tcp": l.File, "udp": u.File, "stranger": stranger.File}
			open := map[string]*os.File{}
			for name, file := range files {
				if open[name], err = file(); err != nil {
					t.Fatal(err)
				}
			}
			next, err := sock.TCPFrom(open["tcp"])
			if err != nil {
				t.Fatal(err)
			}
			defer next.Close()
			nextUDP, err := sock.UDPFrom(open["udp"])
			if err != nil {
				t.Fatal(err)
			}
			defer nextUDP.Close()
			if _, err := sock.TCPFrom(open["stranger"]); err == nil {
				t.Error("a listener without the mark was taken over")
			}
			if _, err := sock.TCPFrom(open["udp"]); err == nil {
				t.Error("a UDP socket was taken for a listener")
			}
			if _, err := sock.UDPFrom(open["tcp"]); err == nil {
				t.Error("a listener was taken for a UDP socket")
			}
			for _, file := range open {
				file.Close()
			}
			l.Close()
			u.Close()
			c, err := ns.Dial("tcp", netip.MustParseAddrPort(next.Addr().String()), nstest.Wait)
			if err != nil {
				t.Fatalf("nobody listens after the former process has gone: %v", err)
			}
			defer c.Close()
			accepted, err := next.Accept()
			if err != nil {
				t.Fatal(err)
			}
			accepted.Close()
			d, err := ns.Dial("udp", netip.MustParseAddrPort(nextUDP.LocalAddr().String()), nstest.Wait)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if _, err := d.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			n, client, server, err := nextUDP.Read(make([]byte, 100))
			if err != nil || n != 5 || client.String() != d.LocalAddr().String() || server.String() != nextUDP.LocalAddr().String() {
				t.Errorf("%d bytes from %s to %s, %v", n, client, server, err)
			}
		})
	}
}
