// SPDX-License-Identifier: Apache-2.0

package proxyd

import (
	"errors"
	"net"

	"github.com/stentor-net/stentor/internal/l7"
	"github.com/stentor-net/stentor/internal/proxy/dns"
	"github.com/stentor-net/stentor/internal/proxy/sock"
)

// Listeners are where the programs send new connections, and datagrams.
type Listeners struct {
	TCP []net.Listener
	UDP []*sock.Datagrams
}

func (l *Listeners) closeTCP() (err error) {
	for _, t := range l.TCP {
		if e := t.Close(); !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// closeUDP is for when nobody reads from them any more.
func (l *Listeners) closeUDP() (err error) {
	for _, u := range l.UDP {
		err = errors.Join(err, u.Close())
	}
	return err
}

// Kernel is what the proxy needs of the node.
type Kernel interface {
	l7.Judge
	// Sockets connect to servers as their clients, and answer as servers.
	dns.Sockets
	// Listen makes transparent listeners: connections that they accept have the
	// addresses that the client and the server have for each other.
	Listen() (*Listeners, error)
	// Announce has the programs send new connections to these listeners, and no
	// longer to those of another proxy.
	Announce(*Listeners) error
	// Announced tells whether they still do.
	Announced(*Listeners) (bool, error)
	Close() error
}
