// SPDX-License-Identifier: Apache-2.0

package http

import (
	nethttp "net/http"
	"strconv"
	"time"

	"github.com/stentor-net/stentor/internal/l7"
)

// denied is the body of an answer to a request that no rule allows.
const denied = "Access denied\r\n"

// After an answer of ours with which the connection ends, the client has this
// long, and so many bytes, to see it before its unread data resets the connection.
const (
	lingering   = time.Second
	lingerBytes = 256 << 10
)

// begin starts the record of a request.
func (c *conn) begin(w *work) {
	req := &w.req
	if string(req.host) != c.host {
		c.host = string(req.host)
	}
	if string(req.path) != c.path {
		c.path = string(req.path)
	}
	w.http = l7.HTTP{Protocol: "HTTP/1.1", Method: methodName(req.method), Scheme: "http", Host: c.host, Path: c.path, Mismatches: w.http.Mismatches[:0]}
	if req.minor == 0 {
		w.http.Protocol = "HTTP/1.0"
	}
	w.record = l7.Record{Time: c.now, Connection: c.id, Ruling: c.ruling, HTTP: &w.http}
}

// methodName is a string of a method without a new one for those in use.
func methodName(m []byte) string {
	switch string(m) {
	case "GET":
		return "GET"
	case "POST":
		return "POST"
	case "PUT":
		return "PUT"
	case "HEAD":
		return "HEAD"
	case "DELETE":
		return "DELETE"
	case "OPTIONS":
		return "OPTIONS"
	case "PATCH":
		return "PATCH"
	case "CONNECT":
		return "CONNECT"
	}
	return string(m)
}

func (c *conn) recordAs(w *work, v l7.Verdict, code int) {
	w.record.Verdict, w.http.Code = v, code
	if c.srv.Recorder != nil {
		c.srv.Recorder.Record(&w.record)
	}
}

// finish records an answer of the server.
func (c *conn) finish(w *work, code int, latency time.Duration) {
	w.record.Latency = latency
	c.recordAs(w, l7.Forwarded, code)
}

// reject records that a request did not reach the server, or its answer not the client.
func (c *conn) reject(w *work, reason string, code int) {
	w.record.Reason = reason
	c.recordAs(w, l7.Rejected, code)
}

// refuse answers what is not a request, and ends the connection: where the next
// one would begin is not known.
func (c *conn) refuse(bad *fault) {
	w := c.busy()
	c.now = time.Now()
	w.http = l7.HTTP{Protocol: "HTTP/1.1", Scheme: "http"}
	w.record = l7.Record{Time: c.now, Connection: c.id, Ruling: c.ruling, HTTP: &w.http}
	c.reject(w, bad.reason, bad.code)
	c.say(bad.code, true)
	c.linger()
}

// deny answers a request with a head of end bytes that no rule allows. The
// connection lives on if the request's body is small enough to be thrown away.
func (c *conn) deny(end int) (again bool) {
	w := c.work
	c.recordAs(w, l7.Denied, nethttp.StatusForbidden)
	c.client.use(end)
	return c.sayInstead(nethttp.StatusForbidden)
}

// unreachable answers a request when there is no connection to the server. The
// request's head is used up.
func (c *conn) unreachable(w *work) (again bool) {
	c.reject(w, errUnreachable.reason, errUnreachable.code)
	return c.sayInstead(errUnreachable.code)
}

// sayInstead gives an answer of ours and throws the request's body away.
func (c *conn) sayInstead(code int) (again bool) {
	req := &c.work.req
	b := requestBody(req)
	closing := req.close || req.expect || b.left > c.limits.Drain
	if !c.say(code, closing) {
		return false
	}
	if closing {
		c.linger()
		return false
	}
	return c.drain(&b)
}

// drain throws a body away, in bounded time and size.
func (c *conn) drain(b *body) bool {
	for taken := int64(0); taken <= c.limits.Drain; {
		n, done, err := b.next(c.client.unread())
		c.client.use(n)
		if done || err != nil {
			return err == nil
		}
		if taken == 0 {
			c.client.until(c.now.Add(c.limits.HeadTime))
		}
		taken += int64(n)
		if c.client.read() != nil {
			return false
		}
	}
	return false
}

// say sends an answer of ours.
func (c *conn) say(code int, closing bool) bool {
	w := c.work
	text := nethttp.StatusText(code)
	content := text + "\r\n"
	if code == nethttp.StatusForbidden {
		content = denied
	}
	b := append(w.out[:0], "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(code), 10)
	b = append(append(b, ' '), text...)
	b = append(b, "\r\ncontent-type: text/plain\r\ndate: "...)
	b = c.now.UTC().AppendFormat(b, nethttp.TimeFormat)
	b = append(b, "\r\ncontent-length: "...)
	b = strconv.AppendInt(b, int64(len(content)), 10)
	if closing {
		b = append(b, "\r\nconnection: close"...)
	} else if w.req.minor == 0 {
		b = append(b, "\r\nconnection: keep-alive"...)
	}
	b = append(b, "\r\n\r\n"...)
	if string(w.req.method) != "HEAD" {
		b = append(b, content...)
	}
	w.out = b
	return c.client.write(b, c.now, c.limits.Write) == nil
}

// linger ends the connection so that the client gets our last answer even if it
// is still sending.
func (c *conn) linger() {
	s := &c.client
	if s.closeWrite() != nil {
		return
	}
	s.until(time.Now().Add(lingering))
	for n := 0; n < lingerBytes; {
		n += len(s.unread())
		s.use(len(s.unread()))
		if s.read() != nil {
			return
		}
	}
}
