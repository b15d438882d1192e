// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batchSize = 64
	querySize = 8 << 10  // bytes of a client's datagram that are read; longer ones are dropped
	slotSize  = 65 << 10 // any datagram, and not a power of two: slots do not share cache sets
)

// address is a struct sockaddr_in or sockaddr_in6.
type address [unix.SizeofSockaddrInet6]byte

func (a *address) addrPort() netip.AddrPort {
	port := binary.BigEndian.Uint16(a[2:])
	switch binary.NativeEndian.Uint16(a[:]) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(a[4:8])), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(a[8:24])).Unmap(), port)
	}
	return netip.AddrPort{}
}

// multiMessage is a struct mmsghdr.
type multiMessage struct {
	header unix.Msghdr
	n      uint32
}

// inbox reads many datagrams of a listener at once.
type inbox struct {
	messages [batchSize]multiMessage
	vectors  [batchSize]unix.Iovec
	from     [batchSize]address
	controls [batchSize][64]byte
	data     []byte
}

func newInbox() *inbox {
	in := &inbox{data: make([]byte, batchSize*querySize)}
	for i := range in.messages {
		in.vectors[i].Base = &in.data[i*querySize]
		in.vectors[i].SetLen(querySize)
		h := &in.messages[i].header
		h.Name, h.Iov, h.Control = &in.from[i][0], &in.vectors[i], &in.controls[i][0]
		h.SetIovlen(1)
	}
	return in
}

// read says how many datagrams came.
func (in *inbox) read(fd int) (int, error) {
	for i := range in.messages {
		h := &in.messages[i].header
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(len(in.controls[i]))
	}
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&in.messages[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

func (in *inbox) datagram(i int) (data, control []byte, cut bool) {
	m := &in.messages[i]
	return in.data[i*querySize:][:m.n], in.controls[i][:m.header.Controllen], m.header.Flags&unix.MSG_TRUNC != 0
}

// outbox collects datagrams for clients, and sends many at once. They are read
// or written into slots, so that none is copied.
type outbox struct {
	messages [batchSize]multiMessage
	vectors  [batchSize]unix.Iovec
	to       [batchSize]address
	fds      [batchSize]int
	data     []byte
	n        int
	lost     func() // a datagram was not taken
}

func newOutbox(lost func()) *outbox {
	out := &outbox{data: make([]byte, batchSize*slotSize), lost: lost}
	for i := range out.messages {
		out.vectors[i].Base = &out.data[i*slotSize]
		h := &out.messages[i].header
		h.Name, h.Iov = &out.to[i][0], &out.vectors[i]
		h.SetIovlen(1)
	}
	return out
}

// slot is room for the next datagram. It stays free until commit.
func (out *outbox) slot() []byte {
	if out.n == batchSize {
		out.flush()
	}
	return out.data[out.n*slotSize:][:slotSize:slotSize]
}

// commit sends the n bytes in the slot, soon.
func (out *outbox) commit(fd, n int, to *address) {
	i := out.n
	out.fds[i], out.to[i] = fd, *to
	out.vectors[i].SetLen(n)
	out.messages[i].header.Namelen = sizeOf(to)
	out.n++
}

func sizeOf(a *address) uint32 {
	if binary.NativeEndian.Uint16(a[:]) == unix.AF_INET {
		return unix.SizeofSockaddrInet4
	}
	return unix.SizeofSockaddrInet6
}

// flush sends what is there. Order matters to nobody, so what a socket does not
// take is lost, as on any network.
func (out *outbox) flush() {
	for i := 0; i < out.n; {
		end := i + 1
		for end < out.n && out.fds[end] == out.fds[i] {
			end++
		}
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(out.fds[i]), uintptr(unsafe.Pointer(&out.messages[i])), uintptr(end-i), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0 || n == 0: // the first one
			out.lost()
			n = 1
		}
		i += int(n)
	}
	out.n = 0
}

// send sends to where a socket is connected.
func send(fd int, b []byte) error {
	for {
		_, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// receive reads one datagram of a socket that is connected.
func receive(fd int, b []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
