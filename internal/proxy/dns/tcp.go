// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/stentor-net/stentor/internal/l7"
)

// conn is a client's connection and the one to its server. One goroutine reads
// from the client, one from the server while there is a connection to it.
type conn struct {
	*Server
	id      l7.Connection
	client  net.Conn
	scribe  scribe
	query   query
	buf     []byte
	judged  bool
	room    chan struct{} // a token for each question that waits
	readers sync.WaitGroup

	writing sync.Mutex // to the client
	mu      sync.Mutex // what follows
	ruling  l7.Ruling
	asks    asks
	server  net.Conn // nil: none
	ended   bool
}

// Serve serves a client's TCP connection until it ends or ctx does, and closes
// it. What a client or server does wrong is recorded or counted; the error is
// for what nobody is told otherwise.
func (s *Server) Serve(ctx context.Context, client net.Conn, id l7.Connection) error {
	s.begin()
	defer client.Close()
	if !s.places.connect(id.Client.Addr()) {
		s.Counters.Overload.Add(1)
		return fmt.Errorf("%s has too many connections", id.Client.Addr())
	}
	defer s.places.disconnect(id.Client.Addr())
	c := &conn{Server: s, id: id, client: client, scribe: scribe{to: s.Recorder}, room: make(chan struct{}, s.limits.Pipelined)}
	ctx, cancel := context.WithCancel(ctx)
	defer c.readers.Wait()
	defer c.shut()
	defer cancel()
	defer context.AfterFunc(ctx, c.shut)()
	return c.serve(ctx)
}

// shut closes both connections, from any goroutine.
func (c *conn) shut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.client.Close()
	if c.server != nil {
		c.server.Close()
	}
	for c.asks.first != nil {
		c.drop(c.asks.first)
	}
}

// serve takes the client's questions in order.
func (c *conn) serve(ctx context.Context) error {
	in := bufio.NewReaderSize(c.client, 1<<10)
	for {
		msg, err := c.next(in)
		if errors.Is(err, io.EOF) && c.await(ctx) {
			return nil
		}
		if err != nil {
			return nil // the client is gone, or does nothing
		}
		if len(msg) == 0 {
			c.Counters.refused()
			return nil
		}
		if err := c.take(ctx, msg); err != nil {
			return err
		}
	}
}

// next reads a message; empty: it is too long to be a question.
func (c *conn) next(in *bufio.Reader) ([]byte, error) {
	idle := time.Now().Add(c.limits.Idle)
	for {
		c.client.SetReadDeadline(time.Now().Add(min(time.Until(idle), c.limits.Answer)))
		_, err := in.Peek(1)
		if err == nil {
			break
		}
		if waits := c.expire(time.Now()); !errors.Is(err, os.ErrDeadlineExceeded) || !waits && !time.Now().Before(idle) {
			return nil, err
		}
		if !time.Now().Before(idle) {
			idle = time.Now().Add(c.limits.Idle)
		}
	}
	c.client.SetReadDeadline(time.Now().Add(c.limits.Message))
	var size [2]byte
	if _, err := io.ReadFull(in, size[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(size[:]))
	if n > querySize {
		return nil, nil
	}
	c.buf = grow(c.buf, n)
	_, err := io.ReadFull(in, c.buf)
	return c.buf, err
}

func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n, max(n, 512))
	}
	return b[:n]
}

// expire ends questions that waited too long, and tells whether others wait.
func (c *conn) expire(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for a := c.asks.first; a != nil && now.Sub(a.time) >= c.limits.Answer; a = c.asks.first {
		c.Counters.Unanswered.Add(1)
		c.drop(a)
	}
	return c.asks.n > 0
}

// await lets answers come to a client that asks no more. It is always done with it.
func (c *conn) await(ctx context.Context) bool {
	over := time.NewTimer(c.limits.Answer)
	defer over.Stop()
	for range cap(c.room) { // every token: nothing waits
		select {
		case c.room <- struct{}{}:
		case <-over.C:
			return true
		case <-ctx.Done():
			return true
		}
	}
	return true
}

// take decides about a message. An error ends the connection.
func (c *conn) take(ctx context.Context, msg []byte) error {
	c.mu.Lock()
	ok := c.judge(c.id, &c.ruling, &c.judged)
	r := c.ruling
	c.mu.Unlock()
	if !ok {
		c.Counters.Unknown.Add(1)
		return fmt.Errorf("the connection of %s to %s is not known, or denied", c.id.Client, c.id.Server)
	}
	now := time.Now()
	if f := c.query.read(msg); f != sound {
		c.Counters.refused()
		c.scribe.refusal(now, c.id, &r, f, &c.query)
		if f.code() == 0 {
			return fmt.Errorf("from %s: %s", c.id.Client, f.reason())
		}
		return c.reply(f.code())
	}
	name := c.scribe.texts.name(c.query.name)
	d := c.decide(&r, name)
	if !d.allowed {
		c.Counters.Denied.Add(1)
		c.scribe.question(now, c.id, &r, d.limit, l7.Denied, d.reason, name, c.query.kind)
		return c.reply(c.deniedCode())
	}
	select {
	case c.room <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.ask(ctx, now, &r, msg, name, &d)
}

// ask sends an allowed question on. It holds a token.
func (c *conn) ask(ctx context.Context, now time.Time, r *l7.Ruling, msg []byte, name string, d *decision) error {
	server, err := c.connect(ctx)
	if err != nil || !c.places.ask(c.id.Client.Addr()) {
		<-c.room
		reason := "too many questions wait for an answer"
		if err != nil {
			c.Counters.Unreachable.Add(1)
			reason = "the server cannot be reached"
		} else {
			c.Counters.Overload.Add(1)
		}
		c.scribe.question(now, c.id, r, d.limit, l7.Rejected, reason, name, c.query.kind)
		return c.reply(codeServer)
	}
	a := &ask{}
	a.set(&c.query, name, now, d)
	c.mu.Lock()
	c.asks.append(a)
	c.mu.Unlock()
	c.scribe.question(now, c.id, r, d.limit, l7.Forwarded, "", name, c.query.kind)
	c.Counters.Forwarded.Add(1)
	server.SetWriteDeadline(time.Now().Add(c.limits.Message))
	if err := writeMessage(server, msg); err != nil {
		server.Close() // whoever reads from it says so to all that wait
	}
	return nil
}

func writeMessage(w net.Conn, msg []byte) error {
	var size [2]byte
	binary.BigEndian.PutUint16(size[:], uint16(len(msg)))
	parts := net.Buffers{size[:], msg}
	_, err := parts.WriteTo(w)
	return err
}

// reply answers the query that was read last.
func (c *conn) reply(code uint16) error { return c.toClient(appendReply(nil, &c.query, code)) }

// toClient writes a message in bounded time; a client that does not take it is
// given up.
func (c *conn) toClient(msg []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.client.SetWriteDeadline(time.Now().Add(c.limits.Message))
	if err := writeMessage(c.client, msg); err != nil {
		c.client.Close()
		return fmt.Errorf("answer %s: %w", c.id.Client, err)
	}
	return nil
}

// connect gives the connection to the server.
func (c *conn) connect(ctx context.Context) (net.Conn, error) {
	c.mu.Lock()
	server := c.server
	c.mu.Unlock()
	if server != nil {
		return server, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.limits.Answer)
	defer cancel()
	server, err := c.Sockets.Dial(ctx, c.id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		server.Close()
		return nil, net.ErrClosed
	}
	c.server = server
	c.readers.Go(func() { c.readServer(server) })
	return server, nil
}

// drop takes a question out. The caller holds mu.
func (c *conn) drop(a *ask) {
	c.asks.remove(a)
	c.places.answered(c.id.Client.Addr())
	<-c.room
}
