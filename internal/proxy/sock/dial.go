// SPDX-License-Identifier: Apache-2.0

package sock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// DialTCP connects to a server with the client's own address, and with its port
// if no other connection has that with this server.
func DialTCP(ctx context.Context, client, server netip.AddrPort) (*net.TCPConn, error) {
	if isLocal(server.Addr()) {
		// In this stack the proxy's connection with the client has both addresses already.
		client = netip.AddrPortFrom(client.Addr(), 0)
	}
	c, err := dial(ctx, "tcp", client, server)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// DialUDP is DialTCP for datagrams: what the server answers is read from it.
func DialUDP(ctx context.Context, client, server netip.AddrPort) (*net.UDPConn, error) {
	c, err := dial(ctx, "udp", client, server)
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

func dial(ctx context.Context, network string, from, to netip.AddrPort) (net.Conn, error) {
	c, err := dialFrom(ctx, network, from, to)
	if from.Port() != 0 && taken(err) {
		c, err = dialFrom(ctx, network, netip.AddrPortFrom(from.Addr(), 0), to)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s as %s: %w", to, from, err)
	}
	return c, nil
}

// taken: another socket has the port, or the port and the destination.
func taken(err error) bool {
	return errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EACCES)
}

func dialFrom(ctx context.Context, network string, from, to netip.AddrPort) (net.Conn, error) {
	six := to.Addr().Is6()
	options := []option{transparent(six), mark(), reuse()}
	if from.Port() == 0 {
		options = append(options, latePort())
	}
	var local net.Addr = net.TCPAddrFromAddrPort(from)
	if network == "udp" {
		local = net.UDPAddrFromAddrPort(from)
	}
	d := net.Dialer{LocalAddr: local, Control: control(options...)}
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, network+suffix(six), to.String())
}

// isLocal tells whether an address is one of this node's.
func isLocal(a netip.Addr) bool {
	c, err := net.ListenUDP("udp"+suffix(a.Is6()), net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		return false
	}
	c.Close()
	return true
}
