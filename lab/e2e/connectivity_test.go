// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stentor-net/stentor/lab/internal/plan"
	"github.com/stentor-net/stentor/lab/internal/probe"
)

// target is one cell of the matrix.
type target struct {
	what string // for a person
	url  string
	body string // wanted of HTTP; "" for any
}

// learns says whether the first try may be lost to the discovery of the path's
// MTU: IPv6 routers do not cut datagrams, they tell the sender to.
func (t target) learns() bool {
	return strings.HasPrefix(t.what, "narrow way") || strings.HasPrefix(t.what, "outside UDP in")
}

// hostOffset is added to the ports of servers outside pods.
const hostOffset = 8000

// connectivity: pods reach everything that they should, and are reached.
func (s *setup) connectivity() {
	ns := s.namespace("paths")
	s.apply(pod(ns, "a", "node1") + pod(ns, "b", "node1") + pod(ns, "c", "node2") + pod(ns, "d", "node2") +
		service(ns, "b") + service(ns, "c"))
	for _, m := range []string{"node1", "node2", "outside"} {
		s.serveOn(m, hostOffset)
	}
	pods := s.running(ns, "a", "b", "c", "d")
	matrix := map[from][]target{}
	for at, near := range map[string]string{"a": "b", "d": "c"} {
		far := map[string]string{"b": "c", "c": "b"}[near]
		node := map[string]int{"a": 0, "d": 1}[at]
		matrix[from(ns+"/"+at)] = slicesOf(
			podTargets("pod on the same node", near, pods[near]),
			podTargets("pod on the other node", far, pods[far]),
			s.serviceTargets(ns, near), s.serviceTargets(ns, far),
			s.hostTargets("own node", addrs(s.plan.Nodes[node].Addrs), ""),
			s.hostTargets("other node", addrs(s.plan.Nodes[1-node].Addrs), ""),
			s.outsideTargets(s.plan.Nodes[node]),
		)
	}
	for _, n := range []from{"node1", "node2"} {
		matrix[n] = slicesOf(podTargets("pod b", "b", pods["b"]), podTargets("pod c", "c", pods["c"]))
	}
	for at := range matrix {
		s.settled(at, ns, "b", "c")
	}
	s.reachAll(matrix)
}

// settled waits until services answer: proxies follow a change, they do not
// lead it.
func (s *setup) settled(at from, ns string, services ...string) {
	s.t.Helper()
	if !strings.Contains(string(at), "/") {
		return // hosts are not asked to reach services here
	}
	for _, name := range services {
		for _, ip := range s.vips(ns, name) {
			s.eventually(at, 10*time.Second, probe.OK, "http://"+netip.AddrPortFrom(ip, 80).String())
			s.eventually(at, 10*time.Second, probe.OK, "udp://"+netip.AddrPortFrom(ip, 7).String())
		}
	}
}

func slicesOf(all ...[]target) (out []target) {
	for _, a := range all {
		out = append(out, a...)
	}
	return out
}

func addrs(ps []netip.Prefix) (out []netip.Addr) {
	for _, p := range ps {
		out = append(out, p.Addr())
	}
	return out
}

// podTargets are all ways to a pod that runs all servers.
func podTargets(what, name string, ips []netip.Addr) (out []target) {
	for _, ip := range ips {
		h := func(port int) string { return netip.AddrPortFrom(ip, uint16(port)).String() }
		out = append(out,
			target{what + " ping", "ping://" + bracket(ip), ""},
			target{what + " ping of 1300 bytes", "ping://" + bracket(ip) + "#size=1300", ""},
			target{what + " ping in fragments", "ping://" + bracket(ip) + "#size=4000", ""},
			target{what + " HTTP", "http://" + h(80) + "/hostname", name},
			target{what + " TCP", "tcp://" + h(7), ""},
			target{what + " TCP, 200 kB", "tcp://" + h(7) + "#size=200000", ""},
			target{what + " UDP", "udp://" + h(7), ""},
			target{what + " UDP in few fragments", "udp://" + h(7) + "#size=4000", ""},
			target{what + " UDP in many fragments", "udp://" + h(7) + "#size=60000", ""},
		)
	}
	return out
}

func bracket(ip netip.Addr) string {
	if ip.Is6() {
		return "[" + ip.String() + "]"
	}
	return ip.String()
}

func (s *setup) serviceTargets(ns, name string) (out []target) {
	for _, ip := range s.vips(ns, name) {
		h := func(port int) string { return netip.AddrPortFrom(ip, uint16(port)).String() }
		out = append(out,
			target{"ClusterIP HTTP", "http://" + h(80) + "/hostname", name},
			target{"ClusterIP TCP, 200 kB", "tcp://" + h(7) + "#size=200000", ""},
			target{"ClusterIP UDP", "udp://" + h(7), ""},
			target{"ClusterIP UDP in fragments", "udp://" + h(7) + "#size=4000", ""},
		)
	}
	full := name + "." + ns + ".svc.cluster.local"
	for _, ip := range s.vips(ns, name) {
		f := "4"
		if ip.Is6() {
			f = "6"
		}
		out = append(out,
			target{"service's name HTTP", "http://" + full + "/hostname#family=" + f, name},
			target{"service's short name HTTP", "http://" + name + "/hostname#family=" + f, name},
			target{"service's name UDP", "udp://" + full + ":7#family=" + f, ""},
		)
	}
	return out
}

// hostTargets are all ways to servers outside pods. If sees is set, they must
// see that source.
func (s *setup) hostTargets(what string, ips []netip.Addr, sees string) (out []target) {
	for _, ip := range ips {
		h := func(port int) string { return netip.AddrPortFrom(ip, uint16(port+hostOffset)).String() }
		out = append(out,
			target{what + " ping", "ping://" + bracket(ip), ""},
			target{what + " HTTP", "http://" + h(80) + "/ip", sees},
			target{what + " TCP, 200 kB", "tcp://" + h(7) + "#size=200000", ""},
			target{what + " UDP", "udp://" + h(7), ""},
			target{what + " UDP in few fragments", "udp://" + h(7) + "#size=4000", ""},
			target{what + " UDP in many fragments", "udp://" + h(7) + "#size=60000", ""},
		)
	}
	return out
}

// outsideTargets: the outside sees a pod with its node's address; what is too
// large for the narrow way gets there all the same.
func (s *setup) outsideTargets(n plan.Node) (out []target) {
	for i, ip := range addrs(s.plan.Outside) {
		out = append(out, s.hostTargets("outside", []netip.Addr{ip}, n.Addrs[i].Addr().String())...)
	}
	for i, ip := range addrs(s.plan.Narrow) {
		h := func(port int) string { return netip.AddrPortFrom(ip, uint16(port+hostOffset)).String() }
		out = append(out,
			target{"narrow way HTTP", "http://" + h(80) + "/ip", n.Addrs[i].Addr().String()},
			target{"narrow way TCP, 200 kB", "tcp://" + h(7) + "#size=200000", ""},
			target{"narrow way HTTP, 200 kB", "http://" + h(80) + "/echo#size=200000", ""},
			target{"narrow way ping in fragments", "ping://" + bracket(ip) + "#size=3000", ""},
		)
	}
	return out
}

// reachAll tries all targets once, and what may learn first once more.
func (s *setup) reachAll(matrix map[from][]target) {
	s.t.Helper()
	var wg sync.WaitGroup
	for at, targets := range matrix {
		wg.Go(func() {
			left, why := s.reachOnce(at, targets)
			s.t.Logf("from %s: %d of %d reached at once", at, len(targets)-len(left), len(targets))
			if len(left) > 0 && !slices.ContainsFunc(left, func(t target) bool { return !t.learns() }) {
				left, why = s.reachOnce(at, left)
			}
			if len(left) > 0 {
				s.t.Errorf("from %s, not reached:\n%s", at, indent(strings.Join(why, "\n")))
			}
		})
	}
	wg.Wait()
}

// reachOnce returns the targets that were not reached, and why.
func (s *setup) reachOnce(at from, targets []target) (left []target, why []string) {
	var urls []string
	for _, t := range targets {
		urls = append(urls, t.url)
	}
	results, err := s.probe(context.Background(), at, 3*time.Second, urls...)
	if err != nil {
		return targets, []string{err.Error()}
	}
	for i, r := range results {
		t := targets[i]
		switch {
		case r.Outcome != probe.OK:
			why = append(why, fmt.Sprintf("%-32s %s: %s %s", t.what, t.url, r.Outcome, r.Error))
		case t.body != "" && r.Body != t.body:
			why = append(why, fmt.Sprintf("%-32s %s: answer %q, want %q", t.what, t.url, r.Body, t.body))
		default:
			continue
		}
		left = append(left, t)
	}
	return left, why
}
