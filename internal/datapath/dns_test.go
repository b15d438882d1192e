// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	miekg "github.com/miekg/dns"

	"github.com/stentor-net/stentor/internal/datapath/maps"
	"github.com/stentor-net/stentor/internal/datapath/nstest"
	"github.com/stentor-net/stentor/internal/l7"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/proxy/dns"
	"github.com/stentor-net/stentor/internal/proxy/sock"
)

// nameSockets are those of a real proxy.
type nameSockets struct{}

func (nameSockets) Upstream(client, server netip.AddrPort) (int, error) {
	return sock.UpstreamUDP(client, server)
}

func (nameSockets) Answers(six bool) (fd int, raw bool, err error) {
	fd, err = sock.AnswerUDP(six)
	return fd, true, err
}

func (nameSockets) Dial(ctx context.Context, c l7.Connection) (net.Conn, error) {
	return sock.DialTCP(ctx, c.Client, c.Server)
}

// startNames serves DNS by UDP under rules, for what the programs of a node
// redirect.
func startNames(t *testing.T, n *node, rules string) *dns.Server {
	t.Helper()
	ask, err := maps.OpenAsker(n.cfg.BPFDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ask.Close() })
	var book l7.Book
	lines := []string{`{"ports":[{"port":"53"}],"rules":{"dns":[` + rules + `]}}`}
	if problems := book.Replace([]l7.Source{{Number: rulesUDP, Lines: lines}}, nil); problems != nil {
		t.Fatal(problems)
	}
	s := &dns.Server{Judge: ask, Rules: &book, Sockets: nameSockets{}}
	ctx, cancel := context.WithCancel(context.Background())
	var ports maps.Listeners
	var ended []<-chan struct{}
	for _, six := range []bool{false, true} {
		var u *sock.Datagrams
		n.Do(func() { u, err = sock.ReceiveUDP(six) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { u.Close() })
		if six {
			ports.UDP6 = u.Port
		} else {
			ports.UDP4 = u.Port
		}
		ended = append(ended, n.Go(func() {
			if err := s.ServeUDP(ctx, u.FD); err != nil {
				t.Error(err)
			}
		}))
	}
	t.Cleanup(func() {
		cancel()
		for _, e := range ended {
			<-e
		}
	})
	if err := ask.Publish(ports); err != nil {
		t.Fatal(err)
	}
	return s
}

// nameServer answers at the echo port of a namespace, and tells who asked.
func nameServer(t *testing.T, n *nstest.Namespace) (asked func() []string) {
	t.Helper()
	var mu sync.Mutex
	var all []string
	var c net.PacketConn
	var err error
	n.Do(func() { c, err = net.ListenPacket("udp", fmt.Sprintf(":%d", echoPort)) })
	if err != nil {
		t.Fatal(err)
	}
	started, done := make(chan struct{}), make(chan struct{})
	s := &miekg.Server{PacketConn: c, NotifyStartedFunc: func() { close(started) }, Handler: miekg.HandlerFunc(func(w miekg.ResponseWriter, q *miekg.Msg) {
		mu.Lock()
		all = append(all, w.RemoteAddr().String()+" "+q.Question[0].Name)
		mu.Unlock()
		m := new(miekg.Msg).SetReply(q)
		for range 3 {
			m.Answer = append(m.Answer, &miekg.TXT{Hdr: miekg.RR_Header{Name: q.Question[0].Name, Rrtype: miekg.TypeTXT, Class: miekg.ClassINET, Ttl: 30}, Txt: []string{strings.Repeat("y", 200)}})
		}
		_ = w.WriteMsg(m)
	})}
	go func() { defer close(done); _ = s.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = s.Shutdown(); <-done })
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

func TestQuestionsPassThroughTheProxyUnderTheirRules(t *testing.T) {
	modes(t, func(t *testing.T, c *cluster) {
		near, far := c.nodes[0], c.nodes[1]
		a, b, d := near.pod(), near.pod(), far.pod()
		servers := map[*nstest.Namespace]func() []string{b.Namespace: nameServer(t, b.Namespace), d.Namespace: nameServer(t, d.Namespace)}
		names := startNames(t, near, `{"matchPattern":"*.example.com"}`)
		near.redirects(policy.Redirect, true, false)
		for _, to := range []*pod{b, d} {
			for _, addr := range to.addrs() {
				conn, err := a.Dial("udp", netip.AddrPortFrom(addr, echoPort), nstest.Wait)
				if err != nil {
					t.Fatal(err)
				}
				before := len(servers[to.Namespace]())
				ask := func(name string) *miekg.Msg {
					t.Helper()
					client := miekg.Client{Timeout: nstest.Wait, UDPSize: 65535}
					m, _, err := client.ExchangeWithConn(new(miekg.Msg).SetQuestion(name, miekg.TypeTXT), &miekg.Conn{Conn: conn, UDPSize: 65535})
					if err != nil {
						t.Fatalf("%s at %s: %v\n%s", name, addr, err, c.state())
					}
					return m
				}
				if m := ask("www.example.com."); m.Rcode != 0 || len(m.Answer) != 3 {
					t.Errorf("at %s: %v", addr, m)
				}
				if m := ask("www.example.org."); m.Rcode != miekg.RcodeRefused {
					t.Errorf("at %s: %v", addr, m)
				}
				conn.Close()
				if asked := servers[to.Namespace]()[before:]; !slices.Equal(asked, []string{addrPort(conn.LocalAddr()).String() + " www.example.com."}) {
					t.Errorf("the server at %s was asked %v, by %s", addr, asked, conn.LocalAddr())
				}
			}
		}
		if forwarded, denied := names.Counters.Forwarded.Load(), names.Counters.Denied.Load(); forwarded != 4 || denied != 4 {
			t.Errorf("%d questions were sent on and %d denied, want 4 of each", forwarded, denied)
		}
	})
}
