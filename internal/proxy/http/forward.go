// SPDX-License-Identifier: Apache-2.0

package http

import (
	"errors"
	"io"
	"time"
)

// maxInterim is how many 1xx answers may come before the real one.
const maxInterim = 100

// ask is what of a request matters for its answer. The head itself is gone once
// the buffer is used again.
type ask struct {
	head, connect, upgrade, old bool
	close                       bool
}

// forward sends an allowed request and brings the answer back. raw is its head,
// at the front of what is unread. fresh: the server has answered nothing yet.
func (c *conn) forward(w *work, raw []byte, fresh bool) (again bool) {
	req := &w.req
	q := ask{head: string(req.method) == "HEAD", connect: string(req.method) == "CONNECT", old: req.minor == 0, close: req.close}
	head, upgrade := c.outgoing(w, raw)
	q.upgrade = upgrade
	b := requestBody(req)
	n, done, bad := b.next(c.client.unread()[len(raw):])
	if bad != nil {
		c.refuse(bad.(*fault))
		return false
	}
	var err error
	if &head[0] == &raw[0] {
		err = c.server.write(c.client.unread()[:len(raw)+n], c.now, c.limits.Write)
	} else if w.out = append(head, c.client.unread()[len(raw):][:n]...); true {
		err = c.server.write(w.out, c.now, c.limits.Write)
	}
	c.client.use(len(raw) + n)
	var p *pump
	if !done && err == nil {
		p = c.startPump(b)
	}
	// Even if the server does not take all, it may have answered.
	again, err = c.answer(w, q, p)
	if err != nil {
		c.failed(w, err, p, fresh)
		again = false
	}
	if p != nil {
		again = c.endPump(p, again) && again
	}
	if again && len(c.server.unread()) > 0 {
		return false // more than the answer: nobody knows what of
	}
	return again
}

// pump is the second goroutine's work: the rest of a request's body.
type pump struct {
	done chan struct{}
	err  error // under conn.closing
}

func (c *conn) startPump(b body) *pump {
	p := &pump{done: make(chan struct{})}
	now := c.now
	go func() {
		defer close(p.done)
		err := c.transfer(&c.server, &c.client, nil, &b, now)
		c.closing.Lock()
		defer c.closing.Unlock()
		p.err = err
		if err != nil && !errors.Is(err, errWrite) { // the server shall not take it for whole
			c.server.conn.Close()
		}
	}()
	return p
}

// endPump waits until the body is sent, if the connection lives on; else it ends it.
func (c *conn) endPump(p *pump, again bool) bool {
	if !again {
		select {
		case <-p.done:
		default:
			c.client.closeWrite()
			c.client.conn.SetReadDeadline(time.Now().Add(lingering))
			c.closing.Lock()
			c.server.conn.Close()
			c.closing.Unlock()
		}
	}
	<-p.done
	c.now = time.Now()
	return p.err == nil
}

// answer brings the server's answer to the client. An error means that the
// client has got nothing.
func (c *conn) answer(w *work, q ask, p *pump) (again bool, err error) {
	res := &w.res
	var end int
	for interim := 0; ; interim++ {
		if end, err = c.answerHead(p); err != nil {
			return false, err
		}
		if err := res.parseStatus(c.server.unread()[:end]); err != nil {
			return false, err
		}
		if res.status >= 200 || res.status == 101 {
			break
		}
		if interim == maxInterim {
			return false, errServer
		}
		if !q.old {
			if err := c.client.write(c.server.unread()[:end], c.now, c.limits.Write); err != nil {
				return false, nil
			}
		}
		c.server.use(end)
	}
	start := c.now
	c.now = time.Now()
	if res.status == 101 && !q.upgrade {
		return false, errSwitch
	}
	c.finish(w, res.status, c.now.Sub(start))
	if res.status == 101 || q.connect && res.status < 300 {
		c.tunnel(end)
		return false, nil
	}
	b := answerBody(res, q.head)
	n, done, err := b.next(c.server.unread()[end:])
	if err != nil {
		return false, nil
	}
	whole := c.server.unread()[:end+n]
	if c.srv.draining.Load() && !q.old {
		res.close = true
		whole = lastHead(w, whole[end:])
	}
	if err := c.client.write(whole, c.now, c.limits.Write); err != nil {
		return false, nil
	}
	c.server.use(end + n)
	other := &c.client
	if p != nil {
		other = nil
	}
	if !done {
		if err := c.transfer(&c.client, &c.server, other, &b, c.now); err != nil {
			c.client.reset()
			return false, nil
		}
		c.now = time.Now()
	}
	return !q.close && !res.close && !b.open && (!q.old || res.keep), nil
}

// answerHead waits for the head of an answer, for as long as the client does.
func (c *conn) answerHead(p *pump) (int, error) {
	s := &c.server
	for seen := 0; ; {
		b := s.unread()
		if end := headEnd(b, seen); end > 0 && end <= c.limits.Head {
			return end, nil
		}
		if len(b) >= c.limits.Head || len(b) > 0 && s.w == len(s.buf) && s.r == 0 && !s.grow(c.limits.Head) {
			return 0, errServer
		}
		seen = len(b)
		other := &c.client
		if p != nil {
			other = nil
		}
		if err := c.wait(s, other, &c.now); err == io.EOF && len(b) > 0 {
			return 0, errServer
		} else if err != nil {
			return 0, err
		}
	}
}

// wait reads from a side, and now and then looks after the other, unless that
// is nil: another goroutine reads from it.
func (c *conn) wait(s, other *side, now *time.Time) error {
	for {
		s.arm(*now, slice)
		err := s.read()
		if !timeout(err) {
			return err
		}
		*now = time.Now()
		if err := c.lookAt(other); err != nil {
			return err
		}
	}
}

// lookAt passes on that the client sends no more, and ends what nobody waits for.
func (c *conn) lookAt(other *side) error {
	if other == nil {
		return nil
	}
	switch other.look() {
	case broken:
		return errGone
	case ended:
		if other == &c.client && !c.told {
			c.told = true
			return c.server.closeWrite()
		}
	}
	return nil
}

var (
	errGone  = errors.New("the other side is gone")
	errWrite = errors.New("the other side takes nothing")
)

// failed tells the client that there is no answer, if it can.
func (c *conn) failed(w *work, err error, p *pump, fresh bool) {
	bad := c.bodyFault(p)
	switch {
	case bad != nil:
	case errors.Is(err, errGone):
		c.reject(w, errClientGone.reason, 0)
		return
	case errors.As(err, &bad):
	case !fresh && len(c.server.unread()) == 0:
		// A kept connection that the server closes at this moment: the client
		// sees what it would see without us, and may try again.
		c.reject(w, errServerClosed.reason, 0)
		return
	default:
		bad = errServerClosed
	}
	c.reject(w, bad.reason, bad.code)
	c.say(bad.code, true)
	c.linger()
}

// bodyFault is what is wrong with a request's body, if that is why it ended.
func (c *conn) bodyFault(p *pump) (bad *fault) {
	if p != nil {
		c.closing.Lock()
		defer c.closing.Unlock()
		errors.As(p.err, &bad)
	}
	return bad
}
