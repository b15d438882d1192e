// SPDX-License-Identifier: Apache-2.0

package http

import (
	"cmp"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stentor-net/stentor/internal/l7"
)

// Dialer connects to the server of a connection, from the client's address.
type Dialer interface {
	Dial(context.Context, l7.Connection) (net.Conn, error)
}

// Limits bound what one client can take. Zero means the default.
type Limits struct {
	Head     int           // bytes of a message's head; 64 KiB
	HeadTime time.Duration // from a head's first byte to its last; 15 s
	Idle     time.Duration // between requests; 1 h
	Write    time.Duration // for 16 KiB, or 256 KiB of a large body, to be taken; 2 min
	Dial     time.Duration // to connect to the server; 5 s
	Drain    int64         // bytes of a refused request's body that are read, so that the connection lives on; 64 KiB
	Upgrades []string      // protocols a connection may switch to; "websocket"

	rested time.Duration // since the last answer, after which the server may have closed
}

func (l Limits) defaults() Limits {
	l.Head = cmp.Or(l.Head, 64<<10)
	l.HeadTime = cmp.Or(l.HeadTime, 15*time.Second)
	l.Idle = cmp.Or(l.Idle, time.Hour)
	l.Write = cmp.Or(l.Write, 2*time.Minute)
	l.Dial = cmp.Or(l.Dial, 5*time.Second)
	l.Drain = cmp.Or(l.Drain, 64<<10)
	l.rested = cmp.Or(l.rested, 100*time.Millisecond)
	if l.Upgrades == nil {
		l.Upgrades = []string{"websocket"}
	}
	return l
}

// Server serves connections under HTTP rules. It is safe for use by many. Its
// fields do not change once it serves.
type Server struct {
	Judge    l7.Judge
	Rules    l7.Rules
	Dialer   Dialer
	Recorder l7.Recorder // nil: nothing is recorded
	Limits   Limits

	once     sync.Once
	limits   Limits
	draining atomic.Bool
	mu       sync.Mutex
	framed   map[*h2]struct{} // connections of HTTP/2
}

// Drain asks clients to go on with new connections, without losing a request:
// connections of HTTP/1 end after their next answer, which says so, those of
// HTTP/2 are told to open no more streams. Those that are quiet stay until the
// client speaks or the context of Serve ends.
func (s *Server) Drain() {
	s.draining.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for h := range s.framed {
		go h.drain() // it may have to wait for a slow client
	}
}

// Serve serves a client's connection until it ends or ctx does, and closes it.
// What a client or server does wrong is recorded; the error is for what no
// record can say.
func (s *Server) Serve(ctx context.Context, client net.Conn, id l7.Connection) error {
	s.once.Do(func() { s.limits = s.Limits.defaults() })
	c := &conn{srv: s, ctx: ctx, id: id, limits: &s.limits}
	c.client.open(client)
	stop := context.AfterFunc(ctx, c.abort)
	defer stop()
	defer c.abort()
	return c.serve()
}
