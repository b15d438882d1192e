// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/l7"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// judge puts every connection under the same limits.
type judge struct {
	mu     sync.Mutex
	ruling l7.Ruling
	err    error
}

func (j *judge) Judge(l7.Connection) (l7.Ruling, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.ruling, j.err
}

func (j *judge) Holds(_ l7.Connection, r *l7.Ruling) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return r.Generations == j.ruling.Generations
}

func (j *judge) change(f func(*judge)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f(j)
	j.ruling.Generations[0]++
}

type rules struct{ sync.Map }

func (r *rules) Set(n uint32) *l7.Set {
	set, _ := r.Load(n)
	s, _ := set.(*l7.Set)
	return s
}

// records keeps what is recorded.
type records struct {
	mu   sync.Mutex
	list []l7.Record
}

func (r *records) Record(in *l7.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out, dns := *in, *in.DNS
	dns.IPs, dns.CNAMEs = slices.Clone(dns.IPs), slices.Clone(dns.CNAMEs)
	out.DNS = &dns
	r.list = append(r.list, out)
}

func (r *records) all() []l7.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

// lessons keeps what is learned.
type lessons struct {
	mu   sync.Mutex
	list []string
	wait func(context.Context) error // nil: does not
}

func (l *lessons) Learn(ctx context.Context, endpoint uint16, name string, addrs []netip.Addr, ttl uint32) error {
	l.mu.Lock()
	l.list = append(l.list, fmt.Sprint(endpoint, " ", name, " ", addrs, " ", ttl))
	wait := l.wait
	l.mu.Unlock()
	if wait != nil {
		return wait(ctx)
	}
	return nil
}

// slow has later lessons wait.
func (l *lessons) slow(wait func(context.Context) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wait = wait
}

func (l *lessons) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list)
}

// loopback makes sockets on loopback addresses: a client of the listener is a
// client of the one server, with its own port at another address.
type loopback struct {
	listener int
	server   netip.AddrPort
	mu       sync.Mutex
	opened   int
	refuse   error
	dialed   []*tracked
}

// tracked tells when it is closed.
type tracked struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *tracked) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

const elsewhere = "127.9.9.9"

func (l *loopback) Upstream(client, _ netip.AddrPort) (int, error) {
	l.mu.Lock()
	l.opened++
	refuse := l.refuse
	l.mu.Unlock()
	if refuse != nil {
		return -1, refuse
	}
	family, from, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(client.Port()), Addr: netip.MustParseAddr(elsewhere).As4()}), unix.Sockaddr(&unix.SockaddrInet4{Port: int(l.server.Port()), Addr: [4]byte{127, 0, 0, 1}})
	if l.server.Addr().Is6() {
		family, from, to = unix.AF_INET6, &unix.SockaddrInet6{}, &unix.SockaddrInet6{Port: int(l.server.Port()), Addr: l.server.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, from); err != nil {
		return -1, err
	}
	return fd, unix.Connect(fd, to)
}

func (l *loopback) Answers(bool) (fd int, raw bool, err error) {
	fd, err = unix.FcntlInt(uintptr(l.listener), unix.F_DUPFD_CLOEXEC, 0)
	return fd, false, err
}

func (l *loopback) Dial(ctx context.Context, _ l7.Connection) (net.Conn, error) {
	l.mu.Lock()
	l.opened++
	refuse := l.refuse
	l.mu.Unlock()
	if refuse != nil {
		return nil, refuse
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.server.String())
	if err != nil {
		return nil, err
	}
	c := &tracked{Conn: conn, closed: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dialed = append(l.dialed, c)
	return c, nil
}

func (l *loopback) sockets() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opened
}

// rig is a server under test, between clients and a DNS server.
type rig struct {
	*Server
	t       testing.TB
	addr    string // of both listeners
	sockets *loopback
	judge   *judge
	rules   *rules
	records *records
	lessons *lessons
	end     func() // stops it, and waits
}

type option func(*rig)

// number of the only set of rules.
const number = 7

// line is a line with DNS rules as JSON.
func line(rules string) string {
	return `{"ports":[{"port":"53","protocol":"ANY"}],"rules":{"dns":[` + rules + `]}}`
}

// through starts a server under DNS rules in front of a DNS server.
func through(t testing.TB, server netip.AddrPort, dnsRules string, options ...option) *rig {
	t.Helper()
	set, err := l7.Compile(number, []string{line(dnsRules)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, judge: &judge{}, rules: &rules{}, records: &records{}, lessons: &lessons{}}
	r.rules.Store(uint32(number), set)
	r.judge.ruling.Limits = []l7.Limit{{Side: l7.Egress, Endpoint: 5, Set: number}}
	host := "127.0.0.1"
	if server.Addr().Is6() {
		host = "::1"
	}
	tcp, udp := listeners(t, host)
	r.addr = tcp.Addr().String()
	fd := descriptor(t, udp)
	r.sockets = &loopback{listener: fd, server: server}
	r.Server = &Server{Judge: r.judge, Rules: r.rules, Sockets: r.sockets, Recorder: r.records, Learner: r.lessons}
	for _, o := range options {
		o(r)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := r.ServeUDP(ctx, fd); err != nil {
			t.Error(err)
		}
	})
	all.Go(func() { r.accept(ctx, &all, tcp) })
	r.end = sync.OnceFunc(func() { tcp.Close(); cancel(); all.Wait(); unix.Close(fd) })
	t.Cleanup(r.end)
	return r
}

// listeners have the same port.
func listeners(t testing.TB, host string) (net.Listener, *net.UDPConn) {
	t.Helper()
	for range 20 {
		tcp, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		if udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(tcp.Addr().(*net.TCPAddr).AddrPort())); err == nil {
			return tcp, udp
		}
		tcp.Close()
	}
	t.Fatal("no port is free for both TCP and UDP")
	return nil, nil
}

// descriptor takes a socket from the runtime, and has it tell original destinations.
func descriptor(t testing.TB, c *net.UDPConn) (fd int) {
	t.Helper()
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	cerr := raw.Control(func(orig uintptr) {
		if fd, err = unix.FcntlInt(orig, unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return
		}
		err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1)
		if c.LocalAddr().(*net.UDPAddr).IP.To4() == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR, 1)
		}
	})
	if err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	return fd
}

func (r *rig) accept(ctx context.Context, all *sync.WaitGroup, l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		all.Go(func() {
			id := l7.Connection{Client: conn.RemoteAddr().(*net.TCPAddr).AddrPort(), Server: r.sockets.server, Protocol: 6}
			_ = r.Serve(ctx, conn, id)
		})
	}
}

// await waits until what is asked for holds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	late := time.Now().Add(20 * time.Second)
	for !holds() {
		if time.Now().After(late) {
			t.Fatalf("waited 20 s in vain: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// serverOf is a DNS server for UDP and TCP.
func serverOf(t testing.TB, h miekg.HandlerFunc) netip.AddrPort {
	t.Helper()
	return serverAt(t, "127.0.0.1", h)
}

func serverAt(t testing.TB, host string, h miekg.HandlerFunc) netip.AddrPort {
	t.Helper()
	tcp, udp := listeners(t, host)
	for _, s := range []*miekg.Server{{Listener: tcp, Handler: h}, {PacketConn: udp, Handler: h, UDPSize: 65535}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		done := make(chan struct{})
		go func() { defer close(done); _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown(); <-done })
	}
	return tcp.Addr().(*net.TCPAddr).AddrPort()
}

// answers is a server that gives every name the address 192.0.2.1 or 2001:db8::1.
func answers(w miekg.ResponseWriter, q *miekg.Msg) {
	m := new(miekg.Msg)
	m.SetReply(q)
	switch q.Question[0].Qtype {
	case miekg.TypeA:
		m.Answer = rrs(q.Question[0].Name + " 30 IN A 192.0.2.1")
	case miekg.TypeAAAA:
		m.Answer = rrs(q.Question[0].Name + " 30 IN AAAA 2001:db8::1")
	}
	_ = w.WriteMsg(m)
}

func rrs(lines ...string) (list []miekg.RR) {
	for _, l := range lines {
		rr, err := miekg.NewRR(l)
		if err != nil {
			panic(err)
		}
		list = append(list, rr)
	}
	return list
}

func question(name string, kind uint16) *miekg.Msg {
	return new(miekg.Msg).SetQuestion(miekg.Fqdn(name), kind)
}

// ask sends one query over "udp" or "tcp" from a port of its own.
func (r *rig) ask(network string, q *miekg.Msg) *miekg.Msg {
	r.t.Helper()
	c := miekg.Client{Net: network, Timeout: 10 * time.Second, UDPSize: 65535}
	m, _, err := c.Exchange(q, r.addr)
	if err != nil {
		r.t.Fatalf("%s over %s: %v", q.Question[0].Name, network, err)
	}
	return m
}

// port is a client's socket.
func (r *rig) port() *net.UDPConn {
	r.t.Helper()
	c, err := net.Dial("udp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	return c.(*net.UDPConn)
}

func (r *rig) write(c net.Conn, m *miekg.Msg) {
	r.t.Helper()
	b, err := m.Pack()
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := c.Write(b); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) read(c net.Conn) *miekg.Msg {
	r.t.Helper()
	b := make([]byte, 65535)
	n, err := c.Read(b)
	if err != nil {
		r.t.Fatal(err)
	}
	m := new(miekg.Msg)
	if err := m.Unpack(b[:n]); err != nil {
		r.t.Fatal(err)
	}
	return m
}
