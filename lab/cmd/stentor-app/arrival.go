// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// arrival is what the kernel says of a datagram besides its content. It tells
// what the network did from what a busy machine did to its receiver.
type arrival struct {
	at       time.Time // when it came to the socket, not when somebody read it
	refused  uint32    // datagrams that came while the socket's queue was full, so far
	answerAs []byte    // control message that answers from the address that was asked; nil: the host chooses
}

// tellArrivals asks the kernel for it.
func tellArrivals(c *net.UDPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	// What a socket cannot say is not said: IPv4 alone has no IPV6_RECVPKTINFO.
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
	})
}

func arrivalOf(oob []byte) arrival {
	a := arrival{at: time.Now()}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return a
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			a.answerAs = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: [16]byte(m.Data[:16])})
		case m.Header.Level != unix.SOL_SOCKET:
		case m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})):
			a.at = time.Unix((*unix.Timespec)(unsafe.Pointer(&m.Data[0])).Unix())
		case m.Header.Type == unix.SO_RXQ_OVFL && len(m.Data) >= 4:
			a.refused = *(*uint32)(unsafe.Pointer(&m.Data[0]))
		}
	}
	return a
}
