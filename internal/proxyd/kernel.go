// SPDX-License-Identifier: Apache-2.0

package proxyd

import (
	"context"
	"net"

	"github.com/stentor-net/stentor/internal/l7"
)

// Kernel is what the proxy needs of the node.
type Kernel interface {
	l7.Judge
	// Listen makes transparent listeners: connections that they accept have the
	// addresses that the client and the server have for each other.
	Listen() ([]net.Listener, error)
	// Announce has the programs send new connections to these listeners, and no
	// longer to those of another proxy.
	Announce([]net.Listener) error
	// Announced tells whether they still do.
	Announced([]net.Listener) (bool, error)
	// Dial connects to the server as the client.
	Dial(ctx context.Context, c l7.Connection) (net.Conn, error)
	Close() error
}
