// SPDX-License-Identifier: Apache-2.0

package http

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// bufferSize holds nearly every head, and small messages whole.
const bufferSize = 16 << 10

// slice is how long a side waits before it looks after the other one.
const slice = 4 * time.Second

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// side is one of the two sockets, with what was read from it and not used yet.
// It holds a buffer only while there is something in it.
type side struct {
	conn     net.Conn
	raw      syscall.RawConn // nil: not a socket of the system
	pooled   *[bufferSize]byte
	buf      []byte // pooled, or a larger one
	r, w     int    // unread: buf[r:w]
	deadline time.Time
	writable time.Time // deadline of writes

	try func(fd uintptr) bool // made once, for RawConn.Read
	n   int                   // result of try
	err error                 // result of try
}

func (s *side) open(conn net.Conn) {
	*s = side{conn: conn, pooled: s.pooled, buf: s.buf}
	if c, ok := conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			s.raw, s.try = raw, s.attempt
		}
	}
}

func (s *side) unread() []byte { return s.buf[s.r:s.w] }

func (s *side) use(n int) {
	if s.r += n; s.r == s.w {
		s.r, s.w = 0, 0
	}
}

// drop gives the buffer back if nothing is in it.
func (s *side) drop() {
	if s.r != s.w || s.buf == nil {
		return
	}
	s.r, s.w = 0, 0
	s.giveBack()
}

func (s *side) giveBack() {
	if s.pooled != nil {
		buffers.Put(s.pooled)
	}
	s.pooled, s.buf = nil, nil
}

// hold makes room for reading: at the end of the buffer, or by a move to its front.
func (s *side) hold() {
	if s.buf == nil {
		s.pooled = buffers.Get().(*[bufferSize]byte)
		s.buf = s.pooled[:]
	}
	if s.w == len(s.buf) && s.r > 0 {
		s.w = copy(s.buf, s.buf[s.r:s.w])
		s.r = 0
	}
}

// grow makes the buffer larger, up to limit bytes.
func (s *side) grow(limit int) bool {
	if len(s.buf) >= limit {
		return false
	}
	larger := make([]byte, min(4*len(s.buf), limit))
	n := copy(larger, s.buf[s.r:s.w])
	s.giveBack()
	s.buf, s.r, s.w = larger, 0, n
	return true
}

// arm sets the deadline for reading, but not each time: what waits wakes up
// after half of d to all of it.
func (s *side) arm(now time.Time, d time.Duration) {
	if left := s.deadline.Sub(now); left < d/2 || left > d {
		s.until(now.Add(d))
	}
}

// until sets the deadline for reading exactly.
func (s *side) until(t time.Time) {
	s.deadline = t
	s.conn.SetReadDeadline(t)
}

// read waits for more bytes and puts them behind those that are unread. There
// must be room: the buffer is not full. While it waits with nothing unread, a
// socket holds no buffer.
func (s *side) read() error {
	if s.raw == nil {
		s.hold()
		n, err := s.conn.Read(s.buf[s.w:])
		s.w += n
		if n > 0 {
			return nil
		}
		return err
	}
	if err := s.raw.Read(s.try); err != nil {
		return err
	}
	if s.err != nil {
		return s.err
	}
	if s.n == 0 {
		return io.EOF
	}
	s.w += s.n
	return nil
}

// attempt reads once from the socket. False: it would block.
func (s *side) attempt(fd uintptr) bool {
	s.hold()
	for {
		s.n, s.err = syscall.Read(int(fd), s.buf[s.w:])
		switch s.err {
		case nil:
			return true
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			s.drop()
			return false
		}
		s.n = 0
		s.err = os.NewSyscallError("read", s.err)
		return true
	}
}

// state of a socket that nobody reads from.
type state uint8

const (
	quiet state = iota // open, nothing to read
	ready              // there is something to read
	ended              // the other end sends no more
	broken
)

// look asks the system about the socket without taking anything from it.
func (s *side) look() (st state) {
	if s.r != s.w {
		return ready
	}
	if s.raw == nil {
		return quiet
	}
	err := s.raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		switch {
		case err == syscall.EAGAIN || err == syscall.EINTR:
		case err != nil:
			st = broken
		case n == 0:
			st = ended
		default:
			st = ready
		}
	})
	if err != nil {
		return broken
	}
	return st
}

// write sends b whole, in bounded time.
func (s *side) write(b []byte, now time.Time, limit time.Duration) error {
	s.allow(now, limit)
	_, err := s.conn.Write(b)
	return err
}

// allow sets the deadline for writing, but not each time.
func (s *side) allow(now time.Time, limit time.Duration) {
	if s.writable.Sub(now) < limit/2 {
		s.writable = now.Add(limit)
		s.conn.SetWriteDeadline(s.writable)
	}
}

// closeWrite tells the other end that no more comes, if the socket can.
func (s *side) closeWrite() error {
	if c, ok := s.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// reset makes the end of the connection a reset: what was sent is not whole.
func (s *side) reset() {
	if c, ok := s.conn.(interface{ SetLinger(int) error }); ok {
		c.SetLinger(0)
	}
}

// timeout tells whether err is that a deadline passed.
func timeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
