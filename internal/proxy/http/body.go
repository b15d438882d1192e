// SPDX-License-Identifier: Apache-2.0

package http

import (
	"errors"
	"io"
	"net"
	"time"
)

// Bodies of at least spliceFrom bytes do not go through our memory where both
// ends are TCP sockets; spliceMost bytes at a time, which must pass in bounded time.
const (
	spliceFrom = 64 << 10
	spliceMost = 256 << 10
)

// body is what is left of a message's.
type body struct {
	chunked bool
	open    bool // until the connection ends
	left    int64
	chunks  chunks
}

func requestBody(h *head) body {
	return body{chunked: h.chunked, left: max(h.length, 0)}
}

func answerBody(h *head, toHEAD bool) body {
	switch {
	case toHEAD || h.status == 204 || h.status == 304:
		return body{}
	case h.chunked:
		return body{chunked: true}
	case h.length == noLength:
		return body{open: true}
	}
	return body{left: h.length}
}

// next says how many bytes of b belong to the body, and whether that is all of it.
func (b *body) next(data []byte) (n int, done bool, err error) {
	switch {
	case b.chunked:
		return b.chunks.next(data)
	case b.open:
		return len(data), false, nil
	}
	n = int(min(int64(len(data)), b.left))
	b.left -= int64(n)
	return n, b.left == 0, nil
}

// transfer moves the rest of a body. It alone reads from src and writes to dst.
// An error that is errWrite is about dst. other is what wait looks after.
func (c *conn) transfer(dst, src, other *side, b *body, now time.Time) error {
	for {
		if data := src.unread(); len(data) > 0 {
			n, done, err := b.next(data)
			if n > 0 && dst.write(data[:n], now, c.limits.Write) != nil {
				return errWrite
			}
			src.use(n)
			if done || err != nil {
				return err
			}
		}
		var err error
		if b.left >= spliceFrom && src.splices(dst) {
			err = c.splice(dst, src, other, b, &now)
		} else {
			err = c.wait(src, other, &now)
		}
		if err == io.EOF && b.open {
			return nil
		}
		if err != nil {
			return err
		}
		if !b.chunked && !b.open && b.left == 0 {
			return nil
		}
		now = time.Now()
	}
}

func (s *side) splices(dst *side) bool {
	_, from := s.conn.(*net.TCPConn)
	_, to := dst.conn.(*net.TCPConn)
	return from && to && len(s.unread()) == 0
}

// splice lets the kernel move a part of a body of known length.
func (c *conn) splice(dst, src, other *side, b *body, now *time.Time) error {
	src.drop()
	src.arm(*now, slice)
	dst.allow(*now, c.limits.Write)
	part := io.LimitedReader{R: src.conn, N: min(b.left, spliceMost)}
	n, err := dst.conn.(*net.TCPConn).ReadFrom(&part)
	b.left -= n
	switch {
	case timeout(err) && time.Now().Before(dst.writable):
		src.deadline = time.Time{}
		return c.lookAt(other)
	case err != nil && wroteBadly(err):
		return errWrite
	case err == nil && n == 0:
		return io.ErrUnexpectedEOF
	}
	return err
}

func wroteBadly(err error) bool {
	op := (*net.OpError)(nil)
	return errors.As(err, &op) && op.Op != "read" && timeout(err)
}
