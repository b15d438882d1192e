// SPDX-License-Identifier: Apache-2.0

package link

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// NetNSCookie is the number by which programs know the network namespace of the
// calling thread.
func NetNSCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read the cookie of the network namespace: %w", err)
	}
	return cookie, nil
}

// NetNSCookieOf is that of the network namespace at a path.
func NetNSCookieOf(path string) (cookie uint64, err error) {
	err = InNetNS(path, func() (err error) {
		cookie, err = NetNSCookie()
		return err
	})
	return cookie, err
}

// InNetNS runs f on a thread of the network namespace at a path.
func InNetNS(path string, f func() error) error {
	ns, err := openNS(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return inside(ns, f)
}
