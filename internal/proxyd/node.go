// SPDX-License-Identifier: Apache-2.0

package proxyd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/stentor-net/stentor/internal/datapath/maps"
	"github.com/stentor-net/stentor/internal/l7"
	"github.com/stentor-net/stentor/internal/proxy/sock"
)

// node is the Kernel of a real node: its tables and transparent sockets.
type node struct {
	*maps.Asker
	four, six bool
}

func openKernel(o Options) (Kernel, error) {
	a, err := maps.OpenAsker(o.BPFDir)
	if err != nil {
		return nil, err
	}
	return &node{Asker: a, four: o.IPv4, six: o.IPv6}, nil
}

func (n *node) Listen() (*Listeners, error) {
	out := &Listeners{}
	for _, f := range []struct{ on, six bool }{{n.four, false}, {n.six, true}} {
		if !f.on {
			continue
		}
		if err := out.add(f.six); err != nil {
			return nil, errors.Join(err, out.closeTCP(), out.closeUDP())
		}
	}
	return out, nil
}

func (l *Listeners) add(six bool) error {
	tcp, err := sock.ListenTCP(six, 0)
	if err != nil {
		return err
	}
	l.TCP = append(l.TCP, tcp)
	udp, err := sock.ReceiveUDP(six)
	if err != nil {
		return err
	}
	l.UDP = append(l.UDP, udp)
	return nil
}

func (n *node) Announce(listeners *Listeners) error {
	if err := n.Publish(ports(listeners)); err != nil {
		return fmt.Errorf("%w (the proxy needs CAP_BPF)", err)
	}
	return nil
}

func (n *node) Announced(listeners *Listeners) (bool, error) {
	have, err := n.Published()
	return have == ports(listeners), err
}

func ports(listeners *Listeners) (out maps.Listeners) {
	for _, l := range listeners.TCP {
		if a := l.Addr().(*net.TCPAddr); a.IP.To4() != nil {
			out.TCP4 = uint16(a.Port)
		} else {
			out.TCP6 = uint16(a.Port)
		}
	}
	for _, u := range listeners.UDP {
		if u.Six {
			out.UDP6 = u.Port
		} else {
			out.UDP4 = u.Port
		}
	}
	return out
}

func (n *node) Dial(ctx context.Context, c l7.Connection) (net.Conn, error) {
	return sock.DialTCP(ctx, c.Client, c.Server)
}

func (n *node) Upstream(client, server netip.AddrPort) (int, error) {
	return sock.UpstreamUDP(client, server)
}

func (n *node) Answers(six bool) (fd int, raw bool, err error) {
	fd, err = sock.AnswerUDP(six)
	return fd, true, err
}
