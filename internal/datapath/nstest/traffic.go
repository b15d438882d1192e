// SPDX-License-Identifier: Apache-2.0

package nstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Wait is how long traffic may take that is expected to arrive, Silence how long
// to listen for traffic that is expected not to.
const (
	Wait    = 2 * time.Second
	Silence = 200 * time.Millisecond
)

// Ping sends one echo request and waits for its reply.
func (n *Namespace) Ping(dst netip.Addr, wait time.Duration) error {
	return n.PingSize(dst, 56, wait)
}

// PingSize is Ping with a payload of size bytes.
func (n *Namespace) PingSize(dst netip.Addr, size int, wait time.Duration) (err error) {
	n.Do(func() {
		var p *pinger
		if p, err = newPinger(dst, size); err != nil {
			return
		}
		defer p.close()
		if err = p.send(1); err == nil {
			_, err = p.receive(wait)
		}
	})
	return err
}

// pinger is a raw ICMP socket for one destination.
type pinger struct {
	fd   int
	dst  netip.Addr
	size int
	id   uint16
}

var pings struct {
	sync.Mutex
	last uint16
}

func newPinger(dst netip.Addr, size int) (*pinger, error) {
	family, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	if dst.Is6() {
		family, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open raw socket: %w", err)
	}
	pings.Lock()
	defer pings.Unlock()
	pings.last++
	return &pinger{fd: fd, dst: dst, size: size, id: pings.last}, nil
}

func (p *pinger) close() { unix.Close(p.fd) }

func (p *pinger) send(seq uint16) error {
	b := make([]byte, 8+p.size)
	if b[0] = 8; p.dst.Is6() {
		b[0] = 128
	}
	binary.BigEndian.PutUint16(b[4:], p.id)
	binary.BigEndian.PutUint16(b[6:], seq)
	if p.dst.Is6() {
		return unix.Sendto(p.fd, b, 0, &unix.SockaddrInet6{Addr: p.dst.As16()})
	}
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return unix.Sendto(p.fd, b, 0, &unix.SockaddrInet4{Addr: p.dst.As4()})
}

// receive returns the sequence number of the next reply.
func (p *pinger) receive(wait time.Duration) (uint16, error) {
	end := time.Now().Add(wait)
	b := make([]byte, 65536)
	for {
		left := time.Until(end)
		if left <= 0 {
			return 0, fmt.Errorf("no reply from %s", p.dst)
		}
		tv := unix.NsecToTimeval(left.Nanoseconds())
		if err := unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return 0, err
		}
		c, _, err := unix.Recvfrom(p.fd, b, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, err
		}
		m, reply := b[:c], byte(129)
		if p.dst.Is4() {
			m, reply = b[int(b[0]&15)*4:c], 0
		}
		if len(m) >= 8 && m[0] == reply && binary.BigEndian.Uint16(m[4:]) == p.id {
			return binary.BigEndian.Uint16(m[6:]), nil
		}
	}
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// Stream is a running ping.
type Stream struct {
	stop           chan struct{}
	done           <-chan struct{}
	progress       atomic.Int64
	Sent, Received int   // after Stop
	Err            error // after Stop
}

// Progress is how many packets were sent so far.
func (s *Stream) Progress() int64 { return s.progress.Load() }

// PingStream sends an echo request every interval until Stop.
func (n *Namespace) PingStream(dst netip.Addr, every time.Duration) *Stream {
	s := &Stream{stop: make(chan struct{})}
	s.done = n.Go(func() {
		p, err := newPinger(dst, 56)
		if err != nil {
			s.Err = err
			return
		}
		defer p.close()
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-tick.C:
			}
			if s.Err = p.send(uint16(s.Sent)); s.Err != nil {
				return
			}
			s.Sent++
			s.progress.Add(1)
			if _, err := p.receive(Silence); err == nil {
				s.Received++
			}
		}
	})
	return s
}

// Stop ends the stream; its counters hold then.
func (s *Stream) Stop() {
	close(s.stop)
	<-s.done
}

// Echo answers TCP and UDP on a port, on every address that the namespace has
// now, until the namespace goes. It returns who has asked, as the server sees it.
func (n *Namespace) Echo(port int) (from func() []netip.AddrPort, err error) {
	e := &echo{}
	n.Do(func() {
		var addrs []net.Addr
		if addrs, err = net.InterfaceAddrs(); err != nil {
			return
		}
		for _, a := range addrs {
			ip := a.(*net.IPNet).IP
			if ip.IsLinkLocalUnicast() {
				continue
			}
			if err = e.serve(net.JoinHostPort(ip.String(), fmt.Sprint(port))); err != nil {
				return
			}
		}
	})
	return e.from, err
}

// EchoAnywhere answers UDP on a port by one socket for all addresses, which
// leaves it to the kernel from which address it answers.
func (n *Namespace) EchoAnywhere(port int) (err error) {
	n.Do(func() { err = (&echo{}).serveUDP(fmt.Sprintf("[::]:%d", port)) })
	return err
}

// EchoTCP answers TCP on every address that the namespace has.
func (n *Namespace) EchoTCP(port int) (err error) {
	n.Do(func() { err = (&echo{}).serveTCP(fmt.Sprintf("[::]:%d", port)) })
	return err
}

type echo struct {
	mu   sync.Mutex
	seen []netip.AddrPort
}

func (e *echo) from() []netip.AddrPort {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]netip.AddrPort(nil), e.seen...)
}

func (e *echo) note(a net.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ap := netip.MustParseAddrPort(a.String())
	e.seen = append(e.seen, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
}

func (e *echo) serve(at string) error {
	if err := e.serveTCP(at); err != nil {
		return err
	}
	return e.serveUDP(at)
}

func (e *echo) serveTCP(at string) error {
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.note(c.RemoteAddr())
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	return nil
}

func (e *echo) serveUDP(at string) error {
	u, err := net.ListenPacket("udp", at)
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 65536)
		for {
			c, a, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			e.note(a)
			_, _ = u.WriteTo(b[:c], a)
		}
	}()
	return nil
}

// Call sends size bytes to an echo server and wants them back. Network is "tcp" or "udp".
func (n *Namespace) Call(network string, dst netip.AddrPort, size int, wait time.Duration) (err error) {
	n.Do(func() {
		var c net.Conn
		if c, err = net.DialTimeout(network, dst.String(), wait); err != nil {
			return
		}
		defer c.Close()
		err = Exchange(c, size, wait)
	})
	return err
}

// Dial opens a connection from the namespace.
func (n *Namespace) Dial(network string, dst netip.AddrPort, wait time.Duration) (c net.Conn, err error) {
	n.Do(func() { c, err = net.DialTimeout(network, dst.String(), wait) })
	return c, err
}

// Exchange sends size bytes and wants them back.
func Exchange(c net.Conn, size int, wait time.Duration) error {
	out, in := make([]byte, size), make([]byte, size)
	for i := range out {
		out[i] = byte(i * 7)
	}
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	if _, err := c.Write(out); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, in); err != nil {
		return err
	}
	if string(in) != string(out) {
		return errors.New("other bytes came back")
	}
	return nil
}

// UDPStream sends numbered datagrams to an echo server until Stop, without
// waiting for answers.
func (n *Namespace) UDPStream(dst netip.AddrPort, every time.Duration) *Stream {
	s := &Stream{stop: make(chan struct{})}
	s.done = n.Go(func() {
		c, err := net.Dial("udp", dst.String())
		if err != nil {
			s.Err = err
			return
		}
		defer c.Close()
		back := make(chan int)
		go func() { back <- countReplies(c) }()
		tick := time.NewTicker(every)
		defer tick.Stop()
		for running := true; running && s.Err == nil; {
			select {
			case <-s.stop:
				running = false
			case <-tick.C:
				if _, s.Err = c.Write(binary.BigEndian.AppendUint64(nil, uint64(s.Sent))); s.Err == nil {
					s.Sent++
					s.progress.Add(1)
					s.progress.Add(1)
				}
			}
		}
		_ = c.SetReadDeadline(time.Now().Add(Silence))
		s.Received = <-back
	})
	return s
}

// countReplies counts different numbers that come back until the deadline.
func countReplies(c net.Conn) int {
	seen := map[uint64]bool{}
	b := make([]byte, 64)
	for {
		n, err := c.Read(b)
		if errors.Is(err, unix.ECONNREFUSED) {
			continue
		}
		if err != nil {
			return len(seen)
		}
		if n == 8 {
			seen[binary.BigEndian.Uint64(b)] = true
		}
	}
}
