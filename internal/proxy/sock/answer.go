// SPDX-License-Identifier: Apache-2.0

package sock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

const udpHeader = 8

// Answerer sends datagrams as any server, by raw sockets: to bind to a server's
// address and port would fail where a program of the node has that port. It
// needs CAP_NET_RAW. It is safe for use by many.
type Answerer struct{ four, six *net.IPConn }

// NewAnswerer opens a socket for each family that the node has.
func NewAnswerer() (*Answerer, error) {
	four, err4 := openRaw(false)
	six, err6 := openRaw(true)
	if err4 != nil && err6 != nil {
		return nil, fmt.Errorf("open raw sockets: %w", errors.Join(err4, err6))
	}
	return &Answerer{four, six}, nil
}

func openRaw(six bool) (*net.IPConn, error) {
	options := []option{transparent(six), mark()}
	network, host := "ip4:17", "0.0.0.0"
	if six {
		options = append(options, checksum())
		network, host = "ip6:17", "::"
	}
	set := control(options...)
	lc := net.ListenConfig{Control: func(network, address string, c syscall.RawConn) error {
		return errors.Join(set(network, address, c), deaf(c))
	}}
	c, err := lc.ListenPacket(context.Background(), network, host)
	if err != nil {
		return nil, err
	}
	return c.(*net.IPConn), nil
}

// checksum has the kernel make the checksum of UDP over IPv6.
func checksum() option {
	const at = 6 // in the header
	return option{unix.SOL_IPV6, unix.IPV6_CHECKSUM, at, "checksum"}
}

func deaf(c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = deafen(int(fd)) }); e != nil {
		return e
	}
	return err
}

// deafen keeps copies of the node's datagrams from a raw socket.
func deafen(fd int) error {
	none := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &none})
}

// Close closes the sockets.
func (a *Answerer) Close() error {
	var errs []error
	for _, c := range []*net.IPConn{a.four, a.six} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// Send sends one datagram from a server to a client.
func (a *Answerer) Send(b []byte, server, client netip.AddrPort) error {
	c, oob := a.four, unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: as4(server.Addr())})
	if client.Addr().Is6() {
		c, oob = a.six, unix.PktInfo6(&unix.Inet6Pktinfo{Addr: server.Addr().As16()})
	}
	if c == nil || server.Addr().Is6() != client.Addr().Is6() {
		return fmt.Errorf("answer %s as %s: no socket for that", client, server)
	}
	if len(b)+udpHeader > 65535 {
		return fmt.Errorf("answer %s as %s: %w", client, server, unix.EMSGSIZE)
	}
	d := make([]byte, udpHeader, udpHeader+len(b))
	binary.BigEndian.PutUint16(d[0:], server.Port())
	binary.BigEndian.PutUint16(d[2:], client.Port())
	binary.BigEndian.PutUint16(d[4:], uint16(udpHeader+len(b)))
	d = append(d, b...)
	if client.Addr().Is4() {
		binary.BigEndian.PutUint16(d[6:], checksum4(d, server.Addr(), client.Addr()))
	}
	if _, _, err := c.WriteMsgIP(d, oob, &net.IPAddr{IP: client.Addr().AsSlice()}); err != nil {
		return fmt.Errorf("answer %s as %s: %w", client, server, err)
	}
	return nil
}

func as4(a netip.Addr) (b [4]byte) {
	if a.Is4() {
		b = a.As4()
	}
	return b
}

// checksum4 is that of a datagram with its pseudo header (RFC 768).
func checksum4(d []byte, from, to netip.Addr) uint16 {
	sum := uint32(unix.IPPROTO_UDP + len(d))
	for _, part := range [][]byte{from.AsSlice(), to.AsSlice(), d} {
		for ; len(part) > 1; part = part[2:] {
			sum += uint32(binary.BigEndian.Uint16(part))
		}
		if len(part) == 1 {
			sum += uint32(part[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum = uint32(^uint16(sum)); sum == 0 {
		return 0xffff // 0 means that there is none
	}
	return uint16(sum)
}
