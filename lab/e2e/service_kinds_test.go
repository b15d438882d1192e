// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// places are where clients of services are: pods of both nodes, the nodes, outside.
func places(namespace string) []from {
	return []from{from(namespace + "/a"), from(namespace + "/c"), "node1", "node2", "outside"}
}

// affinity: a client keeps its server while it asks often enough, and may get
// another one when it has been silent for longer than the timeout.
func (s *setup) affinity() {
	soaksServices(s.t)
	ns := s.namespace("sticky")
	s.apply(pod(ns, "a", "node1", "set: sticky") + pod(ns, "c", "node2", "set: sticky") + fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {namespace: %s, name: sticky}
spec:
  type: NodePort
  selector: {set: sticky}
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}
  ports: [{name: http, port: 80, nodePort: 30280}]
`, ns))
	s.running(ns, "a", "c")
	inside := "http://" + netip.AddrPortFrom(s.vips(ns, "sticky")[0], 80).String() + "/hostname"
	outside := "http://" + netip.AddrPortFrom(addrs(s.plan.Nodes[0].Addrs)[0], 30280).String() + "/hostname"
	for _, at := range places(ns) {
		url := inside
		if at == "outside" {
			url = outside
		}
		s.reachFrom([]from{at}, target{"service with affinity", url, ""})
		s.keepsServer(at, url)
	}
}

func (s *setup) keepsServer(at from, url string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ask := func() string {
		r, err := s.probe(ctx, at, time.Second, url, url, url, url)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, x := range r[1:] {
			if x.Body != r[0].Body {
				s.t.Errorf("from %s at the same time: %q and %q", at, r[0].Body, x.Body)
			}
		}
		return r[0].Body
	}
	first := ask()
	for begin := time.Now(); time.Since(begin) < 1500*time.Millisecond; { // longer than the timeout, but never silent
		start := time.Now()
		if got := ask(); got != first && time.Since(start) < 700*time.Millisecond {
			s.t.Errorf("from %s: %q after %q", at, got, first)
			return
		}
	}
	for try := 0; try < 12; try++ {
		time.Sleep(1200 * time.Millisecond) // the timeout itself is what is tried
		if ask() != first {
			return
		}
	}
	s.t.Errorf("from %s: %q for ever, although the timeout is a second", at, first)
}

// dns: names are looked up at the cluster's DNS by its ClusterIP, over UDP and TCP.
func (s *setup) dns() {
	soaksServices(s.t)
	ns := s.namespace("names")
	s.apply(pod(ns, "a", "node1") + pod(ns, "c", "node2"))
	s.running(ns, "a", "c")
	for _, server := range s.vips("kube-system", "kube-dns") {
		for _, at := range places(ns)[:4] {
			command := []string{"stentor-app", "dns", "-server", netip.AddrPortFrom(server, 53).String(), "kubernetes.default.svc.cluster.local"}
			s.wait(10*time.Second, fmt.Sprintf("a name from %s by %s", at, server), func(ctx context.Context) (bool, error) {
				out, err := s.run1(ctx, at, command...)
				return unless(err == nil && strings.Contains(out, s.vips("default", "kubernetes")[0].String()), "%v: %s", err, out)
			})
		}
		if out, _, err := s.kube.Exec(context.Background(), ns, "a", "dig", "@"+server.String(), "kubernetes.default.svc.cluster.local"); err != nil || !strings.Contains(out, "NOERROR") {
			s.t.Errorf("dig at %s: %v %s", server, err, out)
		}
		if out, errs, err := s.kube.Exec(context.Background(), ns, "a", "stentor-app", "dns", "-tcp", "-server", netip.AddrPortFrom(server, 53).String(), "kubernetes.default.svc.cluster.local"); err != nil {
			s.t.Errorf("over TCP at %s: %v %s %s", server, err, out, errs)
		}
	}
}

// run1 runs a command at a place once.
func (s *setup) run1(ctx context.Context, at from, command ...string) (string, error) {
	if namespace, pod, ok := strings.Cut(string(at), "/"); ok {
		out, errs, err := s.kube.Exec(ctx, namespace, pod, command...)
		return out + errs, err
	}
	return s.output(string(at), command...)
}

// onTheWire tells whether pods' sockets keep the address of the service: then it is
// their packets that are translated.
func (s *setup) onTheWire() {
	ns := s.namespace("wire")
	s.apply(pod(ns, "a", "node1") + pod(ns, "c", "node2") + service(ns, "c"))
	s.running(ns, "a", "c")
	vip := s.vips(ns, "c")[0]
	s.reachFrom([]from{from(ns + "/a")}, target{"service", "http://" + netip.AddrPortFrom(vip, 80).String() + "/hostname", "c"})
	word := vip.As4()
	script := fmt.Sprintf(`exec 3<>/dev/tcp/%s/7 && grep -ci %08X:0007 /proc/net/tcp`, vip, binary.LittleEndian.Uint32(word[:]))
	out, errs, err := s.kube.Exec(context.Background(), ns, "a", "bash", "-c", script)
	if err != nil || strings.TrimSpace(out) != "1" {
		s.t.Errorf("no socket of the pod goes to the service itself: %v %s %s", err, out, errs)
	}
}
