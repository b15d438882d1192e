// SPDX-License-Identifier: Apache-2.0

// Package sock finds and closes sockets of a network namespace (sock_diag).
package sock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Socket is a connected socket as the kernel lists it.
type Socket struct {
	Cookie uint64
	Peer   netip.AddrPort // an IPv4 address also of an IPv6 socket that speaks IPv4

	family, protocol uint8
	id               []byte // inet_diag_sockid
}

// Numbers of linux/inet_diag.h and linux/sock_diag.h.
const (
	messageByFamily = 20 // SOCK_DIAG_BY_FAMILY
	messageDestroy  = 21 // SOCK_DESTROY
	established     = 1  // TCP_ESTABLISHED; also that of connected UDP sockets
	sizeOfID        = 48
	sizeOfMessage   = 4 + sizeOfID + 5*4 // inet_diag_msg
)

// ErrUnsupported says that the kernel closes no sockets for others
// (CONFIG_INET_DIAG_DESTROY).
var ErrUnsupported = errors.New("the kernel closes no sockets for others: it is built without CONFIG_INET_DIAG_DESTROY")

// request is struct inet_diag_req_v2.
type request struct {
	family, protocol uint8
	states           uint32
	id               []byte // sizeOfID bytes
}

func (r *request) Len() int { return 8 + sizeOfID }

func (r *request) Serialize() []byte {
	out := make([]byte, 8, r.Len())
	out[0], out[1] = r.family, r.protocol
	binary.NativeEndian.PutUint32(out[4:], r.states)
	return append(out, r.id...)
}

// Connected calls f for each connected socket of the calling thread's network
// namespace with the protocol (IANA number) and peer port in host byte order; 0
// is any.
func Connected(protocol uint8, port uint16, f func(Socket)) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		r := &request{family: family, protocol: protocol, states: 1 << established, id: make([]byte, sizeOfID)}
		binary.BigEndian.PutUint16(r.id[2:], port)
		req := nl.NewNetlinkRequest(messageByFamily, unix.NLM_F_DUMP)
		req.AddData(r)
		err := req.ExecuteIter(unix.NETLINK_SOCK_DIAG, 0, func(msg []byte) bool {
			if s, ok := parse(msg, protocol); ok {
				f(s)
			}
			return true
		})
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("list sockets: %w", err)
		}
	}
	return nil
}

// parse reads struct inet_diag_msg.
func parse(msg []byte, protocol uint8) (Socket, bool) {
	if len(msg) < sizeOfMessage {
		return Socket{}, false
	}
	s := Socket{family: msg[0], protocol: protocol, id: append([]byte(nil), msg[4:4+sizeOfID]...)}
	port, bytes := binary.BigEndian.Uint16(s.id[2:]), s.id[20:36]
	if s.family == unix.AF_INET {
		bytes = bytes[:4]
	}
	a, _ := netip.AddrFromSlice(bytes)
	s.Peer = netip.AddrPortFrom(a.Unmap(), port)
	s.Cookie = uint64(binary.NativeEndian.Uint32(s.id[40:])) | uint64(binary.NativeEndian.Uint32(s.id[44:]))<<32
	return s, true
}

// Close ends the socket: its program gets ECONNABORTED. It fails with
// ErrUnsupported; a socket that is gone is no error.
func (s Socket) Close() error {
	req := nl.NewNetlinkRequest(messageDestroy, unix.NLM_F_ACK)
	req.AddData(&request{family: s.family, protocol: s.protocol, states: 1 << established, id: s.id})
	_, err := req.Execute(unix.NETLINK_SOCK_DIAG, 0)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return ErrUnsupported
	case err == nil, errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESTALE):
		return nil
	}
	return fmt.Errorf("close a socket: %w", err)
}
