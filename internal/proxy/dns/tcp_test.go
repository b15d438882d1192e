// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

// stream is a client's TCP connection.
func (r *rig) stream() *miekg.Conn {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	return &miekg.Conn{Conn: c}
}

func (r *rig) exchange(c *miekg.Conn, q *miekg.Msg) *miekg.Msg {
	r.t.Helper()
	if err := c.WriteMsg(q); err != nil {
		r.t.Fatal(err)
	}
	m, err := c.ReadMsg()
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

func TestPipelinedQuestionsAreAllAnswered(t *testing.T) {
	r := through(t, serverOf(t, answers), `{"matchPattern":"*.good"}`, func(r *rig) { r.Limits.Pipelined = 4 })
	c := r.stream()
	const n = 60
	go func() {
		for i := range n {
			q := question(fmt.Sprintf("n%d.%s", i, []string{"good", "bad"}[i%2]), miekg.TypeA)
			q.Id = uint16(i)
			if c.WriteMsg(q) != nil {
				return
			}
		}
	}()
	seen := map[uint16]bool{}
	for range n {
		m, err := c.ReadMsg()
		if err != nil {
			t.Fatal(err)
		}
		if seen[m.Id] || (m.Rcode == miekg.RcodeRefused) != (m.Id%2 == 1) {
			t.Fatalf("answer %v", m)
		}
		seen[m.Id] = true
	}
	if r.sockets.sockets() != 1 {
		t.Errorf("%d connections to the server", r.sockets.sockets())
	}
}

func TestAMessageMayComeByteByByte(t *testing.T) {
	r := through(t, serverOf(t, answers), `{"matchPattern":"*"}`)
	c := r.stream()
	b, _ := question("a.b", miekg.TypeA).Pack()
	for _, x := range append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) {
		if _, err := c.Conn.Write([]byte{x}); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := c.ReadMsg(); err != nil || len(m.Answer) != 1 {
		t.Fatal(m, err)
	}
}

func TestMessagesThatAreNoQuestionsEndOrAreRefused(t *testing.T) {
	r := through(t, serverOf(t, answers), `{"matchPattern":"*"}`)
	two := question("a.b", miekg.TypeA)
	two.Question = append(two.Question, two.Question[0])
	c := r.stream()
	if m := r.exchange(c, two); m.Rcode != miekg.RcodeFormatError {
		t.Error(m)
	}
	if m := r.exchange(c, question("a.b", miekg.TypeA)); len(m.Answer) != 1 {
		t.Error("the connection does not live on:", m)
	}
	for name, b := range map[string]string{"empty": "\x00\x00", "not DNS": "\x00\x03abc", "too long": "\xff\xff", "HTTP": "GET / HTTP/1.1\r\n\r\n"} {
		c := r.stream()
		if _, err := c.Conn.Write([]byte(b)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: the connection goes on", name)
		}
	}
	if n := r.Counters.Malformed.Load(); n != 5 {
		t.Errorf("%d counted", n)
	}
}

func TestAClientThatStopsInTheMiddleIsGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		sent   string
		limits Limits
	}{
		"nothing":        {"", Limits{Idle: 50 * time.Millisecond}},
		"half a length":  {"\x00", Limits{Message: 50 * time.Millisecond}},
		"half a message": {"\x00\x20abc", Limits{Message: 50 * time.Millisecond}},
	} {
		r := through(t, serverOf(t, answers), `{"matchPattern":"*"}`, func(r *rig) { r.Limits = c.limits })
		s := r.stream()
		before := time.Now()
		if _, err := s.Conn.Write([]byte(c.sent)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) || time.Since(before) > 8*time.Second {
			t.Errorf("%s: %v after %v", name, err, time.Since(before))
		}
	}
}

func TestAClientThatReadsNothingIsGivenUp(t *testing.T) {
	big := serverOf(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		m := new(miekg.Msg).SetReply(q)
		for i := range 2000 {
			m.Answer = append(m.Answer, rrs(fmt.Sprintf("%s 30 IN A 10.0.%d.%d", q.Question[0].Name, i/250, i%250))...)
		}
		m.Compress = true
		_ = w.WriteMsg(m)
	})
	r := through(t, big, `{"matchPattern":"*"}`, func(r *rig) { r.Limits.Message = 100 * time.Millisecond })
	c := r.stream()
	_ = c.Conn.(*net.TCPConn).SetReadBuffer(4096)
	failed := make(chan struct{})
	go func() { // until the connection is closed
		defer close(failed)
		for i := range 100000 {
			q := question("a.b", miekg.TypeA)
			q.Id = uint16(i)
			if c.WriteMsg(q) != nil {
				return
			}
		}
	}()
	<-failed
	r.places.mu.Lock()
	waiting := r.places.taken
	r.places.mu.Unlock()
	if waiting > r.limits.Pipelined {
		t.Errorf("%d questions wait for one connection", waiting)
	}
	if m := r.ask("tcp", question("c.d", miekg.TypeA)); len(m.Answer) != 2000 {
		t.Errorf("another client: %d answers", len(m.Answer))
	}
}

func TestAClientThatAsksNoMoreGetsItsAnswers(t *testing.T) {
	hold := make(chan struct{})
	r := through(t, serverOf(t, func(w miekg.ResponseWriter, q *miekg.Msg) { <-hold; answers(w, q) }), `{"matchPattern":"*"}`)
	c := r.stream()
	if err := c.WriteMsg(question("a.b", miekg.TypeA)); err != nil {
		t.Fatal(err)
	}
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	await(t, "the question is sent", func() bool { return r.Counters.Forwarded.Load() == 1 })
	close(hold)
	if m, err := c.ReadMsg(); err != nil || len(m.Answer) != 1 {
		t.Fatal(m, err)
	}
	if _, err := c.ReadMsg(); !errors.Is(err, io.EOF) {
		t.Errorf("then: %v", err)
	}
}

func TestAServerThatEndsTheConnectionIsConnectedToAgain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // answers one question a connection, and ends the second one without
		defer close(done)
		for i := 0; ; i++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c := &miekg.Conn{Conn: conn}
			if q, err := c.ReadMsg(); err == nil && i != 1 {
				_ = c.WriteMsg(new(miekg.Msg).SetReply(q))
			}
			conn.Close()
		}
	}()
	defer func() { l.Close(); <-done }()
	r := through(t, l.Addr().(*net.TCPAddr).AddrPort(), `{"matchPattern":"*"}`)
	c := r.stream()
	connections := 0
	for i, want := range []int{miekg.RcodeSuccess, miekg.RcodeServerFailure, miekg.RcodeSuccess} {
		if m := r.exchange(c, question("a.b", miekg.TypeA)); m.Rcode != want {
			t.Fatalf("question %d: %v", i, m)
		}
		connections++
		await(t, "the end of the connection is seen", func() bool {
			r.places.mu.Lock()
			defer r.places.mu.Unlock()
			return r.places.taken == 0 && r.sockets.sockets() == connections && r.ended() == connections
		})
	}
}

// ended is how many connections to the server have ended.
func (r *rig) ended() int {
	r.sockets.mu.Lock()
	defer r.sockets.mu.Unlock()
	n := 0
	for _, c := range r.sockets.dialed {
		select {
		case <-c.closed:
			n++
		default:
		}
	}
	return n
}

func TestAZoneMayTakeManyMessages(t *testing.T) {
	r := through(t, serverOf(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		soa := rrs("zone.x. 30 IN SOA ns.zone.x. root.zone.x. 1 2 3 4 5")[0]
		for i := range 3 {
			m := new(miekg.Msg).SetReply(q)
			if i > 0 {
				m.Question = nil
			}
			m.Answer = append(rrs(fmt.Sprintf("n%d.zone.x. 30 IN A 10.0.0.1", i)), soa)
			if i == 0 {
				m.Answer = []miekg.RR{soa, m.Answer[0]}
			} else if i == 1 {
				m.Answer = m.Answer[:1]
			}
			_ = w.WriteMsg(m)
		}
	}), `{"matchName":"zone.x"}`)
	tr := &miekg.Transfer{}
	envelopes, err := tr.In(new(miekg.Msg).SetAxfr("zone.x."), r.addr)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for e := range envelopes {
		if e.Error != nil {
			t.Fatal(e.Error)
		}
		n += len(e.RR)
	}
	if n != 5 {
		t.Errorf("%d records", n)
	}
}

func TestOneClientHasSoManyConnections(t *testing.T) {
	r := through(t, serverOf(t, answers), `{"matchPattern":"*"}`, func(r *rig) { r.Limits.Conns = 2 })
	a, b := r.stream(), r.stream()
	r.exchange(a, question("a.b", miekg.TypeA))
	r.exchange(b, question("a.b", miekg.TypeA))
	c := r.stream()
	if _, err := c.Conn.Read(make([]byte, 1)); err == nil {
		t.Error("a third connection is served")
	}
	other, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 3)}}).Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	r.exchange(&miekg.Conn{Conn: other}, question("a.b", miekg.TypeA))
	a.Conn.Close()
	await(t, "the place is free again", func() bool {
		r.places.mu.Lock()
		defer r.places.mu.Unlock()
		return r.places.clients[netip.MustParseAddr("127.0.0.1")].conns < 2
	})
}
