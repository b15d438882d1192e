// SPDX-License-Identifier: Apache-2.0

package sock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
)

// ListenTCP takes connections that the programs assign to it. What it accepts has
// the server's address as its local one. port 0: the kernel chooses.
func ListenTCP(six bool, port uint16) (*net.TCPListener, error) {
	// No SO_REUSEPORT: the kernel assigns nothing to such sockets before 6.6.
	lc := net.ListenConfig{Control: control(transparent(six), mark())}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp"+suffix(six), netip.AddrPortFrom(loopback(six), port).String())
	if err != nil {
		return nil, fmt.Errorf("listen for TCP of the programs: %w", err)
	}
	return l.(*net.TCPListener), nil
}

// TCPFrom is the listener that a process before this one had; f may be closed.
func TCPFrom(f *os.File) (*net.TCPListener, error) {
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over a listener: %w", err)
	}
	t, ok := l.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("take over a listener: it is one of %s", l.Addr().Network()), l.Close())
	}
	if err := check(t, transparent(isSix(t.Addr())), mark()); err != nil {
		return nil, errors.Join(fmt.Errorf("take over a listener: %w", err), l.Close())
	}
	return t, nil
}

// UDP takes datagrams that the programs assign to it.
type UDP struct {
	*net.UDPConn
	six bool
}

// ListenUDP is ListenTCP for datagrams.
func ListenUDP(six bool, port uint16) (*UDP, error) {
	lc := net.ListenConfig{Control: control(transparent(six), mark(), originalDestination(six))}
	c, err := lc.ListenPacket(context.Background(), "udp"+suffix(six), netip.AddrPortFrom(loopback(six), port).String())
	if err != nil {
		return nil, fmt.Errorf("listen for UDP of the programs: %w", err)
	}
	return &UDP{c.(*net.UDPConn), six}, nil
}

// UDPFrom is TCPFrom for datagrams.
func UDPFrom(f *os.File) (*UDP, error) {
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("take over a socket: %w", err)
	}
	u, ok := c.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("take over a socket: it is one of %s", c.LocalAddr().Network()), c.Close())
	}
	six := isSix(u.LocalAddr())
	if err := check(u, transparent(six), mark(), originalDestination(six)); err != nil {
		return nil, errors.Join(fmt.Errorf("take over a socket: %w", err), c.Close())
	}
	return &UDP{u, six}, nil
}

// Read reads one datagram: how long it is, who sent it, and to whom. Longer ones
// than b are cut.
func (u *UDP) Read(b []byte) (n int, client, server netip.AddrPort, err error) {
	var oob [64]byte
	n, control, _, client, err := u.ReadMsgUDPAddrPort(b, oob[:])
	if err != nil {
		return 0, client, server, err
	}
	server, err = Destination(oob[:control])
	return n, netip.AddrPortFrom(client.Addr().Unmap(), client.Port()), server, err
}

func isSix(a net.Addr) bool {
	ap, err := netip.ParseAddrPort(a.String())
	return err == nil && ap.Addr().Is6()
}
