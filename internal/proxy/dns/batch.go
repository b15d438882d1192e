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
	slotSize  = 65 << 10 // any datagram with its header, and not a power of two: slots do not share cache sets
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
	fd  int
	raw bool // the socket wants the header of UDP, and is told the source of each

	messages [batchSize]multiMessage
	vectors  [batchSize]unix.Iovec
	to       [batchSize]address
	controls [batchSize][]byte
	data     []byte
	n        int
	lost     func() // a datagram was not taken
}

const udpHeader = 8

func newOutbox(fd int, raw, six bool, lost func()) *outbox {
	out := &outbox{fd: fd, raw: raw, data: make([]byte, batchSize*slotSize), lost: lost}
	for i := range out.messages {
		h := &out.messages[i].header
		h.Name, h.Iov = &out.to[i][0], &out.vectors[i]
		h.SetIovlen(1)
		if !raw {
			out.vectors[i].Base = &out.data[i*slotSize+udpHeader]
			continue
		}
		out.vectors[i].Base = &out.data[i*slotSize]
		out.controls[i] = unix.PktInfo4(&unix.Inet4Pktinfo{})
		if six {
			out.controls[i] = unix.PktInfo6(&unix.Inet6Pktinfo{})
		}
		h.Control = &out.controls[i][0]
		h.SetControllen(len(out.controls[i]))
	}
	return out
}

// slot is room for the next datagram. It stays free until commit.
func (out *outbox) slot() []byte {
	if out.n == batchSize {
		out.flush()
	}
	end := (out.n + 1) * slotSize
	return out.data[out.n*slotSize+udpHeader : end : end]
}

// commit sends the n bytes in the slot, soon, from a server.
func (out *outbox) commit(server netip.AddrPort, n int, to *address) {
	i := out.n
	out.n++
	out.to[i] = *to
	six := binary.NativeEndian.Uint16(to[:]) == unix.AF_INET6
	out.messages[i].header.Namelen = unix.SizeofSockaddrInet4
	if six {
		out.messages[i].header.Namelen = unix.SizeofSockaddrInet6
	}
	out.vectors[i].SetLen(n)
	if !out.raw {
		return
	}
	d := out.data[i*slotSize:][:udpHeader+n]
	out.vectors[i].SetLen(len(d))
	binary.BigEndian.PutUint16(d, server.Port())
	copy(d[2:], to[2:4])
	binary.BigEndian.PutUint16(d[4:], uint16(len(d)))
	binary.BigEndian.PutUint16(d[6:], 0)
	info := out.controls[i][unix.CmsgLen(0):]
	if six { // the kernel makes the checksum, and takes a port for the protocol
		addr := server.Addr().As16()
		copy(info, addr[:])
		out.to[i][2], out.to[i][3] = 0, 0
		return
	}
	addr := server.Addr().As4()
	copy(info[4:], addr[:]) // behind the index of the interface
	binary.BigEndian.PutUint16(d[6:], checksum(d, addr, [4]byte(to[4:8])))
}

// checksum is that of a datagram of IPv4: RFC 768.
func checksum(d []byte, from, to [4]byte) uint16 {
	sum := uint64(unix.IPPROTO_UDP + len(d))
	sum += uint64(binary.BigEndian.Uint32(from[:])) + uint64(binary.BigEndian.Uint32(to[:]))
	for ; len(d) >= 4; d = d[4:] {
		sum += uint64(binary.BigEndian.Uint32(d))
	}
	for i, c := range d {
		sum += uint64(c) << (24 - 8*i)
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum == 0xffff {
		return 0xffff // 0 means that there is none
	}
	return ^uint16(sum)
}

// flush sends what is there. What the socket does not take is lost, as on any
// network.
func (out *outbox) flush() {
	for i := 0; i < out.n; {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(out.fd), uintptr(unsafe.Pointer(&out.messages[i])), uintptr(out.n-i), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
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
