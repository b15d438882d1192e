// SPDX-License-Identifier: Apache-2.0

package sock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Datagrams is a socket for datagrams that the programs assign to it, without the
// runtime's poller: its descriptor does not block.
type Datagrams struct {
	FD   int
	Port uint16
	Six  bool
}

// ReceiveUDP makes one, at a port that the kernel chooses.
func ReceiveUDP(six bool) (*Datagrams, error) {
	fd, err := datagrams(six, netip.AddrPortFrom(loopback(six), 0), transparent(six), mark(), originalDestination(six))
	if err != nil {
		return nil, fmt.Errorf("listen for UDP of the programs: %w", err)
	}
	d := &Datagrams{FD: fd, Six: six}
	switch a, err := unix.Getsockname(fd); a := a.(type) {
	case *unix.SockaddrInet4:
		d.Port = uint16(a.Port)
	case *unix.SockaddrInet6:
		d.Port = uint16(a.Port)
	default:
		return nil, errors.Join(fmt.Errorf("listen for UDP of the programs: %w", os.NewSyscallError("getsockname", err)), unix.Close(fd))
	}
	return d, nil
}

// Close closes it; nobody may use it any more.
func (d *Datagrams) Close() error { return unix.Close(d.FD) }

// UpstreamUDP is DialUDP without the runtime's poller: a file descriptor that
// does not block.
func UpstreamUDP(client, server netip.AddrPort) (fd int, err error) {
	six := server.Addr().Is6()
	fd, err = datagrams(six, client, transparent(six), mark(), reuse())
	if client.Port() != 0 && taken(err) {
		fd, err = datagrams(six, netip.AddrPortFrom(client.Addr(), 0), transparent(six), mark(), reuse(), latePort())
	}
	if err == nil {
		if err = connect(fd, server); err != nil {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	if err != nil {
		return -1, fmt.Errorf("connect to %s as %s: %w", server, client, err)
	}
	return fd, nil
}

// AnswerUDP is the socket of an Answerer for one family, without the runtime's
// poller: a file descriptor that does not block. What is sent begins with the
// header of UDP, with its checksum if it is IPv4; the source is that of a control
// message (IP_PKTINFO, IPV6_PKTINFO).
func AnswerUDP(six bool) (fd int, err error) {
	family := unix.AF_INET
	options := []option{transparent(six), mark()}
	if six {
		family = unix.AF_INET6
		options = append(options, checksum())
	}
	if fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP); err != nil {
		return -1, fmt.Errorf("open a raw socket: %w", os.NewSyscallError("socket", err))
	}
	if err := errors.Join(set(fd, options...), deafen(fd)); err != nil {
		return -1, errors.Join(fmt.Errorf("open a raw socket: %w", err), unix.Close(fd))
	}
	return fd, nil
}

func set(fd int, options ...option) error {
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set socket option %s: %w", o.what, hint(err))
		}
	}
	return nil
}

// datagrams is a bound socket.
func datagrams(six bool, from netip.AddrPort, options ...option) (int, error) {
	family := unix.AF_INET
	if six {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := set(fd, options...); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	if err := unix.Bind(fd, sockaddr(from)); err != nil {
		return -1, errors.Join(os.NewSyscallError("bind", err), unix.Close(fd))
	}
	return fd, nil
}

func connect(fd int, to netip.AddrPort) error {
	return os.NewSyscallError("connect", unix.Connect(fd, sockaddr(to)))
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

var errNoDestination = errors.New("datagram without its original destination")

// Destination reads where a datagram was sent to from the control messages of a
// socket of ListenUDP. It does not allocate.
func Destination(control []byte) (netip.AddrPort, error) {
	for len(control) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("parse control message: %w", err)
		}
		switch {
		case h.Level == unix.SOL_IP && h.Type == unix.IP_ORIGDSTADDR && len(data) >= 8:
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte(data[4:8])), binary.BigEndian.Uint16(data[2:])), nil
		case h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_ORIGDSTADDR && len(data) >= 24:
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte(data[8:24])), binary.BigEndian.Uint16(data[2:])), nil
		}
		control = rest
	}
	return netip.AddrPort{}, errNoDestination
}
