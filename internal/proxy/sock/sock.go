// SPDX-License-Identifier: Apache-2.0

package sock

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/abi"
)

// option is a socket option with a number as its value.
type option struct {
	level, name, value int
	what               string
}

func transparent(six bool) option {
	if six {
		return option{unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1, "transparent"}
	}
	return option{unix.SOL_IP, unix.IP_TRANSPARENT, 1, "transparent"}
}

func mark() option { return option{unix.SOL_SOCKET, unix.SO_MARK, abi.MarkFromProxy, "mark"} }

func reuse() option { return option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1, "address reuse"} }

// originalDestination makes datagrams come with the address that they were sent to.
func originalDestination(six bool) option {
	if six {
		return option{unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR, 1, "original destination"}
	}
	return option{unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1, "original destination"}
}

// latePort lets connect choose the port, which may then be one that is used
// with other destinations.
func latePort() option {
	return option{unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1, "late port"}
}

// control sets options before bind.
func control(options ...option) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var errs []error
		err := c.Control(func(fd uintptr) {
			for _, o := range options {
				if err := unix.SetsockoptInt(int(fd), o.level, o.name, o.value); err != nil {
					errs = append(errs, fmt.Errorf("set socket option %s: %w", o.what, hint(err)))
				}
			}
		})
		return errors.Join(append(errs, err)...)
	}
}

func hint(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w (the proxy needs CAP_NET_ADMIN)", err)
	}
	return err
}

// check wants options on a socket that somebody else made.
func check(c syscall.Conn, options ...option) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var errs []error
	err = raw.Control(func(fd uintptr) {
		for _, o := range options {
			if got, err := unix.GetsockoptInt(int(fd), o.level, o.name); err != nil {
				errs = append(errs, fmt.Errorf("read socket option %s: %w", o.what, err))
			} else if got != o.value {
				errs = append(errs, fmt.Errorf("socket option %s is %d, want %d", o.what, got, o.value))
			}
		}
	})
	return errors.Join(append(errs, err)...)
}

func suffix(six bool) string {
	if six {
		return "6"
	}
	return "4"
}

// loopback is where a listener is bound: nobody reaches it but the programs and
// processes of the node.
func loopback(six bool) netip.Addr {
	if six {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}
