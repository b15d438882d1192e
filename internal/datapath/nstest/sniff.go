// SPDX-License-Identifier: Apache-2.0

package nstest

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Count counts the packets to any of the addresses that arrive at the
// namespace's devices, until the test ends.
func (n *Namespace) Count(t *testing.T, to ...netip.Addr) (seen func() int64) {
	t.Helper()
	return n.count(t, func(p []byte) bool { return isTo(p, to) })
}

func (n *Namespace) count(t *testing.T, wanted func(packet []byte) bool) (seen func() int64) {
	t.Helper()
	var fd int
	var err error
	n.Do(func() {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(network(unix.ETH_P_ALL)))
	})
	if err != nil {
		t.Fatalf("open packet socket: %v", err)
	}
	second := unix.Timeval{Usec: 50000}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &second); err != nil {
		t.Fatal(err)
	}
	var count atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 65536)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if c, _, err := unix.Recvfrom(fd, b, 0); err == nil && wanted(b[:c]) {
				count.Add(1)
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done; unix.Close(fd) })
	return count.Load
}

func isTo(packet []byte, to []netip.Addr) bool {
	for _, a := range to {
		if a.Is4() && len(packet) >= 20 && packet[0]>>4 == 4 && bytes.Equal(packet[16:20], a.AsSlice()) {
			return true
		}
		if a.Is6() && len(packet) >= 40 && packet[0]>>4 == 6 && bytes.Equal(packet[24:40], a.AsSlice()) {
			return true
		}
	}
	return false
}

func network(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

// CountUDP counts the datagrams to a port that arrive at the namespace, until
// the test ends.
func (n *Namespace) CountUDP(t *testing.T, port int) (seen func() int64) {
	t.Helper()
	return n.count(t, func(p []byte) bool {
		at := 0
		switch {
		case len(p) >= 28 && p[0]>>4 == 4 && p[9] == unix.IPPROTO_UDP:
			at = int(p[0]&15) * 4
		case len(p) >= 48 && p[0]>>4 == 6 && p[6] == unix.IPPROTO_UDP:
			at = 40
		default:
			return false
		}
		return len(p) >= at+4 && int(binary.BigEndian.Uint16(p[at+2:])) == port
	})
}
