// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"
)

// readServer takes answers until the server's connection ends. Questions that
// wait then are answered by us; for the next one there is another connection.
func (c *conn) readServer(server net.Conn) {
	defer server.Close()
	w := scribe{to: c.Recorder}
	in := bufio.NewReaderSize(server, 4<<10)
	var size [2]byte
	var msg []byte
	var a answer
	for {
		if _, err := io.ReadFull(in, size[:]); err != nil {
			break
		}
		msg = grow(msg, int(binary.BigEndian.Uint16(size[:])))
		server.SetReadDeadline(time.Now().Add(c.limits.Message))
		if _, err := io.ReadFull(in, msg); err != nil {
			break
		}
		server.SetReadDeadline(time.Time{})
		if f := c.fromServer(&w, &a, msg); f != sound {
			c.Counters.dropped(f)
		}
	}
	c.lose(&w, server)
}

// fromServer takes an answer.
func (c *conn) fromServer(w *scribe, in *answer, msg []byte) fault {
	off, f := in.readHead(msg)
	if f != sound {
		return f
	}
	c.mu.Lock()
	asked, r := c.find(in), c.ruling
	var a ask
	if asked != nil {
		a = *asked
	}
	c.mu.Unlock()
	if asked == nil {
		return notAskedFor
	}
	if f := in.readRest(msg, off); f != sound {
		return f
	}
	w.answer(time.Now(), c.id, &r, &a, in)
	if a.learns && in.code == 0 && len(in.addrs) > 0 {
		c.learn(&a, in)
	}
	c.Counters.Answered.Add(1)
	_ = c.toClient(msg)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.waits(asked):
	case a.transfers():
		asked.time = time.Now() // more may follow
	default:
		c.drop(asked)
	}
	return sound
}

// transfers tells whether the answer may be several messages (RFC 5936, RFC 1995).
func (a *ask) transfers() bool { return a.kind == typeAXFR || a.kind == typeIXFR }

// find gives the question for an answer. The caller holds mu.
func (c *conn) find(in *answer) *ask {
	for a := c.asks.first; a != nil; a = a.next {
		if a.answeredBy(in) || a.transfers() && in.name == nil && a.id == in.id {
			return a
		}
	}
	return nil
}

// waits tells whether a question has not been ended meanwhile. The caller holds mu.
func (c *conn) waits(a *ask) bool { return a.prev != nil || c.asks.first == a }

// lose ends the connection to the server, and answers what waits.
func (c *conn) lose(w *scribe, server net.Conn) {
	c.mu.Lock()
	var left []*ask
	r := c.ruling
	if c.server == server {
		c.server = nil
		for a := c.asks.first; a != nil; a = c.asks.first {
			c.drop(a)
			if !a.transfers() {
				left = append(left, a)
			}
		}
	}
	c.mu.Unlock()
	for _, a := range left {
		c.Counters.Unreachable.Add(1)
		w.failure(time.Now(), c.id, &r, a, codeServer, "the server ended the connection")
		_ = c.toClient(a.reply(nil, codeServer))
	}
}

// learn has an answer learned, and waits for it in bounded time, whatever the
// learner does.
func (c *conn) learn(a *ask, in *answer) {
	if c.learning.Add(1) > int64(c.limits.Learning) {
		c.learning.Add(-1)
		c.Counters.LearnLate.Add(1)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.limits.Learn)
	defer cancel()
	done := make(chan error, 1)
	go func(addrs []netip.Addr, ttl uint32) {
		defer c.learning.Add(-1)
		done <- c.Learner.Learn(ctx, a.endpoint, a.name, addrs, ttl)
	}(slices.Clone(in.addrs), in.ttl)
	select {
	case err := <-done:
		if err != nil {
			c.Counters.LearnFailed.Add(1)
			return
		}
		c.Counters.Learned.Add(1)
	case <-ctx.Done():
		c.Counters.LearnLate.Add(1)
	}
}
