// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stentor-net/stentor/internal/l7"
)

// Learner takes in which addresses an endpoint is told for a canonical name,
// before the endpoint is told. What it returns from, holds: policy about the
// name lets the endpoint reach the addresses. ctx ends when the answer waits no
// longer. addrs is the caller's again on return. It is safe for use by many.
type Learner interface {
	Learn(ctx context.Context, endpoint uint16, name string, addrs []netip.Addr, ttl uint32) error
}

// Sockets makes the sockets that a server needs beside those of its clients.
// Datagram sockets are file descriptors that do not block; they are the
// caller's to close.
type Sockets interface {
	// Upstream is connected to the server, and has the client's address; its
	// port, too, unless that is taken.
	Upstream(client, server netip.AddrPort) (fd int, err error)
	// Answers sends to clients of a family. raw: as any server, see sock.AnswerUDP;
	// else it has the address of the only one.
	Answers(six bool) (fd int, raw bool, err error)
	// Dial connects to the server of a TCP connection, from the client's address.
	Dial(context.Context, l7.Connection) (net.Conn, error)
}

// Limits bound what clients can take. Zero means the default.
type Limits struct {
	Questions int           // that wait for an answer, of all clients (dnsproxy-concurrency-limit); 16384
	Client    int           // of them, of one address; an eighth
	Conns     int           // TCP connections of one address; 256
	Pipelined int           // questions of one TCP connection that wait; 128
	Answer    time.Duration // that a question waits for its answer; 10 s
	Learn     time.Duration // that an answer waits to be learned (tofqdns-proxy-response-max-delay); 100 ms
	Learning  int           // answers that wait to be learned; 4096
	Learners  int           // calls of the Learner at once, of one socket; 8
	Linger    time.Duration // that the socket of a client's port is kept for more questions; 2 s
	Idle      time.Duration // between questions of a TCP connection; 30 s
	Message   time.Duration // for a message to come or go whole over TCP; 10 s
}

func (l Limits) defaults() Limits {
	l.Questions = cmp.Or(l.Questions, 16384)
	l.Client = cmp.Or(l.Client, max(l.Questions/8, 16))
	l.Conns = cmp.Or(l.Conns, 256)
	l.Pipelined = cmp.Or(l.Pipelined, 128)
	l.Answer = cmp.Or(l.Answer, 10*time.Second)
	l.Learn = cmp.Or(l.Learn, 100*time.Millisecond)
	l.Learning = cmp.Or(l.Learning, 4096)
	l.Learners = cmp.Or(l.Learners, 8)
	l.Linger = cmp.Or(l.Linger, 2*time.Second)
	l.Idle = cmp.Or(l.Idle, 30*time.Second)
	l.Message = cmp.Or(l.Message, 10*time.Second)
	return l
}

// Server serves DNS under rules. It is safe for use by many. Its fields do not
// change once it serves.
type Server struct {
	Judge    l7.Judge
	Rules    l7.Rules
	Sockets  Sockets
	Recorder l7.Recorder // nil: nothing is recorded
	Learner  Learner     // nil: nothing is learned
	Limits   Limits
	// NameError refuses with NXDOMAIN instead of REFUSED (tofqdns-dns-reject-response-code: nameError).
	NameError bool
	Counters  Counters

	once     sync.Once
	limits   Limits
	places   places
	learning atomic.Int64 // answers over TCP that are learned at the moment
}

func (s *Server) begin() {
	s.once.Do(func() {
		s.limits = s.Limits.defaults()
		s.places.questions, s.places.client = s.limits.Questions, s.limits.Client
		s.places.conns = s.limits.Conns
	})
}

// deniedCode is what a client is told about a question that no rule allows.
func (s *Server) deniedCode() uint16 {
	if s.NameError {
		return codeName
	}
	return codeRefused
}

// judge brings a ruling up to date, and tells whether messages may pass under it.
func (s *Server) judge(c l7.Connection, r *l7.Ruling, judged *bool) bool {
	if !*judged || !s.Judge.Holds(c, r) {
		fresh, err := s.Judge.Judge(c)
		if err != nil {
			*judged = false
			return false
		}
		*r, *judged = fresh, true
	}
	return !r.Denied
}

// unlimited tells whether a ruling lets pass whatever it is.
func (s *Server) unlimited(r *l7.Ruling) bool {
	for i := range r.Limits {
		if set := s.Rules.Set(r.Limits[i].Set); set == nil || set.Protocol != l7.None || !set.All {
			return false
		}
	}
	return true
}

// decision is what rules say about a question.
type decision struct {
	allowed  bool
	limit    l7.Limit // the one that denied; else the first
	reason   string
	learns   bool // the client's egress is under DNS rules
	endpoint uint16
}

// decide asks the rules of every limit about a name.
func (s *Server) decide(r *l7.Ruling, name string) (d decision) {
	for i, limit := range r.Limits {
		if i == 0 {
			d.limit = limit
		}
		set := s.Rules.Set(limit.Set)
		switch {
		case set == nil:
			return decision{limit: limit, reason: "the rules are not known"}
		case set.Protocol == l7.None && set.All:
			continue
		case set.Protocol != l7.ProtocolDNS:
			return decision{limit: limit, reason: "the rules are not about DNS"}
		case !set.DNS(name):
			return decision{limit: limit, reason: "no rule allows it"}
		}
		if limit.Side == l7.Egress {
			d.learns, d.endpoint = s.Learner != nil, limit.Endpoint
		}
	}
	d.allowed = true
	return d
}

// places bounds how many questions wait and how many TCP connections there are,
// together and of one client.
type places struct {
	questions, client, conns int

	mu      sync.Mutex
	taken   int
	clients map[netip.Addr]usage
}

type usage struct{ questions, conns int }

// ask takes a place for a question.
func (p *places) ask(client netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.clients[client]
	if p.taken >= p.questions || u.questions >= p.client {
		return false
	}
	p.taken++
	u.questions++
	p.put(client, u)
	return true
}

func (p *places) answered(client netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.clients[client]
	p.taken--
	u.questions--
	p.put(client, u)
}

// connect takes a place for a TCP connection.
func (p *places) connect(client netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.clients[client]
	if u.conns >= p.conns {
		return false
	}
	u.conns++
	p.put(client, u)
	return true
}

func (p *places) disconnect(client netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.clients[client]
	u.conns--
	p.put(client, u)
}

func (p *places) put(client netip.Addr, u usage) {
	if u == (usage{}) {
		delete(p.clients, client)
		return
	}
	if p.clients == nil {
		p.clients = map[netip.Addr]usage{}
	}
	p.clients[client] = u
}
