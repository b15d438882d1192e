// SPDX-License-Identifier: Apache-2.0

package proxyd

import (
	"context"
	"fmt"
	"net"

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

func (n *node) Listen() (out []net.Listener, err error) {
	for _, f := range []struct{ on, six bool }{{n.four, false}, {n.six, true}} {
		if !f.on {
			continue
		}
		l, err := sock.ListenTCP(f.six, 0)
		if err != nil {
			_ = closeAll(out)
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

func (n *node) Announce(listeners []net.Listener) error {
	if err := n.Publish(ports(listeners)); err != nil {
		return fmt.Errorf("%w (the proxy needs CAP_BPF)", err)
	}
	return nil
}

func (n *node) Announced(listeners []net.Listener) (bool, error) {
	have, err := n.Published()
	return have == ports(listeners), err
}

func ports(listeners []net.Listener) (out maps.Listeners) {
	for _, l := range listeners {
		if a := l.Addr().(*net.TCPAddr); a.IP.To4() != nil {
			out.TCP4 = uint16(a.Port)
		} else {
			out.TCP6 = uint16(a.Port)
		}
	}
	return out
}

func (n *node) Dial(ctx context.Context, c l7.Connection) (net.Conn, error) {
	return sock.DialTCP(ctx, c.Client, c.Server)
}
