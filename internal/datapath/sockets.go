// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/datapath/link"
	"github.com/stentor-net/stentor/internal/datapath/load"
	"github.com/stentor-net/stentor/internal/datapath/maps"
	"github.com/stentor-net/stentor/internal/datapath/sock"
)

// ErrNoSocketClose says that the kernel closes no sockets for others.
var ErrNoSocketClose = sock.ErrUnsupported

// ClosedSockets counts what CloseStaleSockets did, by protocol.
type ClosedSockets struct{ UDP, TCP int }

const (
	protocolTCP = 6
	protocolUDP = 17
)

// CloseStaleSockets closes the connected sockets of the host and of the network
// namespaces at the paths that were translated to backends which are gone since.
// UDP has no way to tell its program otherwise; TCP only if asked for. It must be
// called in the host's network namespace; it goes on after a namespace that
// fails. left says that it should be called again a little later. It fails with
// ErrNoSocketClose.
func (d *Datapath) CloseStaleSockets(netns []string, tcp bool) (closed ClosedSockets, left bool, err error) {
	stale := d.tables.StaleSockets()
	if len(stale) == 0 {
		return closed, false, nil
	}
	stored := map[uint64]maps.Translation{}
	if err := load.StoredSockets(d.tables.SocketStorage(), func(row abi.StoredRow) { stored[row.Cookie] = maps.StoredTranslation(row) }); err != nil {
		return closed, true, err
	}
	ofUDP := func(cookie uint64) (maps.Translation, bool) { t, ok := stored[cookie]; return t, ok }
	look := func() error {
		udp, err := closeStale(protocolUDP, stale, ofUDP)
		closed.UDP += udp
		if err != nil || !tcp {
			return err
		}
		n, err := closeStale(protocolTCP, stale, d.tables.TCPTranslation)
		closed.TCP += n
		return err
	}
	errs := []error{look()}
	for _, path := range netns {
		if errors.Is(errs[0], ErrNoSocketClose) {
			break
		}
		if err := link.InNetNS(path, look); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
		}
	}
	return closed, true, errors.Join(errs...)
}

// closeStale closes those of one protocol in the thread's namespace; known tells
// what a socket was translated to.
func closeStale(protocol uint8, stale []maps.Translation, known func(cookie uint64) (maps.Translation, bool)) (closed int, err error) {
	var gone []maps.Translation
	var port uint16 // of all of them; 0: several
	for _, t := range stale {
		if t.Protocol != protocol {
			continue
		}
		if gone = append(gone, t); len(gone) == 1 {
			port = t.Backend.Port()
		} else if t.Backend.Port() != port {
			port = 0
		}
	}
	if len(gone) == 0 {
		return 0, nil
	}
	var found []sock.Socket
	err = sock.Connected(protocol, port, func(s sock.Socket) {
		t, ok := known(s.Cookie)
		if !t.Backend.IsValid() {
			t.Backend = s.Peer
		}
		// A socket that has been connected elsewhere since is left alone.
		if ok && t.Backend == s.Peer && slices.ContainsFunc(gone, func(x maps.Translation) bool { return x.Is(t) }) {
			found = append(found, s)
		}
	})
	errs := []error{err}
	for _, s := range found {
		if err := s.Close(); err != nil {
			errs = append(errs, err)
			continue
		}
		closed++
	}
	return closed, errors.Join(errs...)
}
