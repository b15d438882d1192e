// SPDX-License-Identifier: Apache-2.0

package http

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/stentor-net/stentor/internal/l7"
)

// conn is a client's connection and the one to its server. One goroutine goes
// back and forth between the two; a second one helps with a request's body that
// has not come whole with its head, and with tunnels.
type conn struct {
	srv    *Server
	ctx    context.Context
	limits *Limits
	id     l7.Connection

	client, server side
	now            time.Time // of the last event, coarse
	ruling         l7.Ruling
	judged         bool
	told           bool // the server knows that the client sends no more
	work           *work
	host, path     string // of the last request, for its record

	closing sync.Mutex // of the two sockets
	aborted bool
}

// work is what a connection needs only while a request is in progress.
type work struct {
	req, res head
	edits    []l7.Edit
	out      []byte // heads that are written anew, and our own answers
	scratch  []byte
	record   l7.Record
	http     l7.HTTP
}

var works = sync.Pool{New: func() any {
	return &work{out: make([]byte, 0, 1<<10), scratch: make([]byte, 0, 1<<10)}
}}

// errIdle ends a connection that was quiet for too long.
var errIdle = errors.New("idle for too long")

// abort closes both sockets, from any goroutine.
func (c *conn) abort() {
	c.closing.Lock()
	defer c.closing.Unlock()
	c.aborted = true
	c.client.conn.Close()
	if c.server.conn != nil {
		c.server.conn.Close()
	}
}

// serve goes through the client's requests in order.
func (c *conn) serve() error {
	c.now = time.Now()
	defer c.rest()
	for first := true; ; first = false {
		end, err := c.nextHead()
		if err != nil {
			if bad := (*fault)(nil); errors.As(err, &bad) {
				c.busy().req = head{minor: 1}
				c.refuse(bad)
			}
			return nil // the client is gone, or was told
		}
		if first && string(c.client.unread()[:end]) == preface[:prefaceHead] {
			return c.serveHTTP2()
		}
		again, err := c.exchange(end)
		if !again || err != nil {
			return err
		}
	}
}

// rest gives back all that only a request in progress needs.
func (c *conn) rest() {
	if c.work != nil {
		c.work.record, c.work.http = l7.Record{}, l7.HTTP{}
		clear(c.work.edits[:cap(c.work.edits)]) // values may be secret
		works.Put(c.work)
		c.work = nil
	}
	c.client.drop()
	c.server.drop()
}

func (c *conn) busy() *work {
	if c.work == nil {
		c.work = works.Get().(*work)
	}
	return c.work
}

// nextHead waits for a request and says how long its head is.
func (c *conn) nextHead() (int, error) {
	s := &c.client
	if s.r == s.w {
		if err := c.idle(); err != nil {
			return 0, err
		}
	}
	seen, started := 0, false
	for {
		b := s.unread()
		if end := headEnd(b, seen); end > 0 && end <= c.limits.Head {
			return end, nil
		}
		if err := partial(b, seen); err != nil {
			return 0, err
		}
		if len(b) >= c.limits.Head || s.w == len(s.buf) && s.r == 0 && !s.grow(c.limits.Head) {
			return 0, errLarge
		}
		if !started { // from here to the end in bounded time
			started = true
			s.until(time.Now().Add(c.limits.HeadTime))
		}
		seen = len(b)
		if err := s.read(); timeout(err) {
			return 0, errHeadTime
		} else if err != nil {
			return 0, err
		}
	}
}

// idle waits for the first byte of a request. If meanwhile the server closes,
// so does the client's connection: that is what it would see without us.
func (c *conn) idle() error {
	c.rest()
	start := c.now
	for d := slice; ; d = min(2*d, 16*slice) {
		c.client.arm(c.now, min(d, c.limits.Idle))
		err := c.client.read()
		if !timeout(err) {
			return err
		}
		c.now = time.Now()
		if c.now.Sub(start) >= c.limits.Idle {
			return errIdle
		}
		if c.server.conn != nil && c.server.look() != quiet {
			return io.EOF
		}
	}
}

// exchange takes one request with a head of end bytes, and its answer. again
// tells whether another may follow.
func (c *conn) exchange(end int) (again bool, err error) {
	w, before := c.busy(), c.now
	c.now = time.Now()
	raw := c.client.unread()[:end]
	if err := w.req.parseRequest(raw, w.scratch); err != nil {
		c.refuse(err.(*fault))
		return false, nil
	}
	if err := c.judge(); err != nil {
		return false, err
	}
	c.begin(w)
	if !c.allowed(w) {
		return c.deny(end), nil
	}
	if c.server.conn != nil && c.now.Sub(before) >= c.limits.rested && c.server.look() != quiet {
		c.disconnect() // it closed while nothing was asked
	}
	fresh := c.server.conn == nil
	if fresh {
		if err := c.connect(); err != nil {
			c.client.use(end)
			return c.unreachable(w), nil
		}
	}
	return c.forward(w, raw, fresh), nil
}

// judge makes sure that the ruling holds now.
func (c *conn) judge() error {
	if c.judged && c.srv.Judge.Holds(c.id, &c.ruling) {
		return nil
	}
	r, err := c.srv.Judge.Judge(c.id)
	if err != nil {
		return fmt.Errorf("judge the connection of %s to %s: %w", c.id.Client, c.id.Server, err)
	}
	if r.Denied {
		return fmt.Errorf("the connection of %s to %s is denied", c.id.Client, c.id.Server)
	}
	c.ruling, c.judged = r, true
	return nil
}

// allowed asks every limit about the request, and notes what denies it.
func (c *conn) allowed(w *work) bool {
	w.edits = w.edits[:0]
	q := l7.HTTPRequest{Method: w.req.method, Path: w.req.path, Host: w.req.host, Fields: w.req.fields}
	ok, limit, reason := allowed(c.srv.Rules, &c.ruling, &q, &w.edits)
	w.record.Limit, w.record.Reason = limit, reason
	for i := range w.edits {
		w.http.Mismatches = append(w.http.Mismatches, w.edits[i].Name)
	}
	return ok
}

// allowed asks the rules of every limit of a ruling.
func allowed(rules l7.Rules, ruling *l7.Ruling, q *l7.HTTPRequest, edits *[]l7.Edit) (ok bool, limit l7.Limit, reason string) {
	for i, limit := range ruling.Limits {
		set := rules.Set(limit.Set)
		switch {
		case set == nil:
			return false, limit, "the rules are not known"
		case set.Protocol == l7.None && set.All:
			continue
		case set.Protocol != l7.ProtocolHTTP:
			return false, limit, "the rules are not about HTTP"
		}
		if ok, *edits = set.HTTP(q, *edits); !ok {
			return false, ruling.Limits[i], "no rule allows it"
		}
	}
	if len(ruling.Limits) > 0 {
		limit = ruling.Limits[0]
	}
	return true, limit, ""
}

func (c *conn) connect() error {
	ctx, cancel := context.WithTimeout(c.ctx, c.limits.Dial)
	defer cancel()
	conn, err := c.srv.Dialer.Dial(ctx, c.id)
	if err != nil {
		return err
	}
	c.closing.Lock()
	defer c.closing.Unlock()
	if c.aborted {
		conn.Close()
		return context.Canceled
	}
	c.server.open(conn)
	c.told = false
	return nil
}

func (c *conn) disconnect() {
	c.closing.Lock()
	defer c.closing.Unlock()
	c.server.conn.Close()
	c.server.giveBack()
	c.server = side{}
}
