// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stentor-net/stentor/lab/internal/fabric"
	"github.com/stentor-net/stentor/lab/internal/probe"
)

// unusedAddress: a packet to an address of a node's own pod range that no pod
// has never leaves the node, neither one of its own pods nor one of another's.
func (s *setup) unusedAddress() {
	s.needsAgent()
	ns := s.namespace("nowhere")
	s.apply(pod(ns, "near", "node1") + pod(ns, "far", "node2"))
	s.running(ns, "near", "far")
	free := s.freeAddresses("node1")
	seen := s.watchPort("node1", free, addrs(s.plan.Outside))
	var targets []string
	for _, ip := range free {
		targets = append(targets, "ping://"+bracket(ip), "udp://"+netip.AddrPortFrom(ip, 7).String(), "tcp://"+netip.AddrPortFrom(ip, 7).String())
	}
	for _, at := range []from{from(ns + "/near"), from(ns + "/far"), "node1"} {
		results, err := s.probe(context.Background(), at, 500*time.Millisecond, targets...)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, r := range results {
			if r.Outcome == probe.OK {
				s.t.Errorf("from %s: %s answers, and there is no such pod", at, r.Target)
			}
		}
	}
	// What goes by the default route is seen: the watch works.
	for _, ip := range addrs(s.plan.Outside) {
		if _, err := s.probe(context.Background(), from(ns+"/near"), time.Second, "ping://"+bracket(ip)); err != nil {
			s.t.Fatal(err)
		}
	}
	packets := seen()
	for _, ip := range addrs(s.plan.Outside) {
		if packets[ip] == 0 {
			s.t.Errorf("the watch did not see a ping of %s", ip)
		}
	}
	for _, ip := range free {
		if packets[ip] > 0 {
			s.t.Errorf("%d packets to %s left node1, where the address belongs", packets[ip], ip)
		}
	}
}

// freeAddresses are one of each family in the node's pod range that no pod has.
func (s *setup) freeAddresses(node string) (out []netip.Addr) {
	s.t.Helper()
	n, err := s.kube.Get(context.Background(), "cilium.io/v2", "CiliumNode", "", node)
	if err != nil {
		s.t.Fatal(err)
	}
	pods, err := s.kube.Set.CoreV1().Pods("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	var taken []string
	for _, p := range pods.Items {
		for _, ip := range p.Status.PodIPs {
			taken = append(taken, ip.IP)
		}
	}
	spec, _ := n.Object["spec"].(map[string]any)
	ipam, _ := spec["ipam"].(map[string]any)
	ranges, _ := ipam["podCIDRs"].([]any)
	for _, r := range ranges {
		p, err := netip.ParsePrefix(fmt.Sprint(r))
		if err != nil {
			s.t.Fatal(err)
		}
		ip := p.Addr()
		for range 200 {
			ip = ip.Next()
		}
		for slices.Contains(taken, ip.String()) {
			ip = ip.Next()
		}
		if !p.Contains(ip) {
			s.t.Fatalf("no free address in %s", p)
		}
		out = append(out, ip)
	}
	if len(out) == 0 {
		s.t.Fatalf("%s has no pod range: %v", node, spec)
	}
	return out
}

// watchPort counts the packets that a node sends to the fabric, by destination.
// The returned function ends the watch.
func (s *setup) watchPort(port string, ips ...[]netip.Addr) func() map[netip.Addr]int {
	s.t.Helper()
	all := slices.Concat(ips...)
	fd := -1
	err := fabric.In(s.plan.FabricNS, func() error {
		l, err := net.InterfaceByName(port)
		if err != nil {
			return err
		}
		proto := int(uint16(unix.ETH_P_ALL)>>8 | uint16(unix.ETH_P_ALL&0xff)<<8)
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, proto); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(proto), Ifindex: l.Index})
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100000}); err != nil {
		s.t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan map[netip.Addr]int, 1)
	go func() {
		defer unix.Close(fd)
		counts := map[netip.Addr]int{}
		buf := make([]byte, 65536)
		for {
			n, from, err := unix.Recvfrom(fd, buf, 0)
			if err != nil { // nothing for a while
				select {
				case <-stop:
					done <- counts
					return
				default:
					continue
				}
			}
			if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
				continue // to the node
			}
			if dst, ok := destination(buf[:n]); ok && slices.Contains(all, dst) {
				counts[dst]++
			}
		}
	}()
	return func() map[netip.Addr]int {
		close(stop)
		return <-done
	}
}

// destination of an IP packet.
func destination(b []byte) (netip.Addr, bool) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(b[16:20])), true
	case len(b) >= 40 && b[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(b[24:40])), true
	}
	return netip.Addr{}, false
}
