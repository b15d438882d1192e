// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stentor-net/stentor/lab/internal/probe"
)

// verdict is one thing that a policy decides: what becomes of a target, seen
// from a place.
type verdict struct {
	at   from
	url  string
	want string // outcome of a probe, with the status if that is one
}

// settleLimit is for a change of policies to reach every node; how fast that
// must be is the concern of other stories.
const settleLimit = 15 * time.Second

// decide waits until every verdict is as wanted, and fails the story if they
// are not in time. What is wrong is tried again, each time with more patience.
func (s *setup) decide(what string, verdicts []verdict) bool {
	s.t.Helper()
	if len(verdicts) == 0 {
		s.t.Errorf("%s: no verdict to try", what)
		return false
	}
	deadline := time.Now().Add(settleLimit)
	left, why := verdicts, []string(nil)
	for patience := 300 * time.Millisecond; ; patience = min(2*patience, 2*time.Second) {
		left, why = s.undecided(left, patience)
		if len(left) == 0 {
			return true
		}
		if time.Now().After(deadline) {
			slices.Sort(why)
			s.t.Errorf("%s: %d of %d verdicts are wrong:\n%s", what, len(left), len(verdicts), indent(strings.Join(why[:min(len(why), 20)], "\n")))
			return false
		}
	}
}

// undecided tries verdicts, from all places at once, and returns the wrong ones.
func (s *setup) undecided(verdicts []verdict, patience time.Duration) (left []verdict, why []string) {
	places := map[from][]verdict{}
	for _, v := range verdicts {
		places[v.at] = append(places[v.at], v)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for at, vs := range places {
		wg.Go(func() {
			var urls []string
			for _, v := range vs {
				urls = append(urls, v.url)
			}
			results, err := s.probe(context.Background(), at, patience, urls...)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				left, why = append(left, vs...), append(why, err.Error())
				return
			}
			for i, r := range results {
				got := r.Outcome
				if got == probe.Status {
					got += fmt.Sprintf(" %d", r.Status)
				}
				if got != vs[i].want {
					left = append(left, vs[i])
					why = append(why, fmt.Sprintf("from %s to %s: %s %s, want %s", at, r.Target, got, r.Error, vs[i].want))
				}
			}
		})
	}
	wg.Wait()
	return left, why
}

// crew are the pods that stories about kinds of policies share: on each node
// one of the groups red and blue in the namespace crew, and one in guests.
type crew map[from][]netip.Addr

const (
	red1, red2     from = "crew/red1", "crew/red2"
	blue1, blue2   from = "crew/blue1", "crew/blue2"
	guest1, guest2 from = "guests/guest1", "guests/guest2"
)

var (
	allReds   = []from{red1, red2}
	allBlues  = []from{blue1, blue2}
	allGuests = []from{guest1, guest2}
	allCrew   = slices.Concat(allReds, allBlues, allGuests)
)

// signOn starts the crew; outside and the nodes serve too.
func (s *setup) signOn() crew {
	s.t.Helper()
	manifests := ""
	for _, f := range allCrew {
		ns, name, _ := strings.Cut(string(f), "/")
		group, node := name[:len(name)-1], name[len(name)-1:]
		manifests += fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {namespace: %s, name: %s, labels: {app: %[2]s, group: %s}}
spec:
  nodeName: node%s
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: stentor-app:dev
    imagePullPolicy: Never
    args: [serve]
    ports: [{containerPort: 80, name: web}, {containerPort: 7, name: echo, protocol: UDP}]
    readinessProbe: {httpGet: {path: /healthz, port: 80}, periodSeconds: 1}
`, ns, name, group, node)
	}
	s.namespace("crew")
	s.namespace("guests", "visits: crew")
	s.apply(manifests)
	for _, m := range []string{"node1", "node2", "outside"} {
		s.serveOn(m, hostOffset)
	}
	c := crew{}
	for ns, names := range map[string][]string{"crew": {"red1", "red2", "blue1", "blue2"}, "guests": {"guest1", "guest2"}} {
		for name, addrs := range s.running(ns, names...) {
			c[from(ns+"/"+name)] = addrs
		}
	}
	return c
}

// Ways to a pod of the crew: a scheme and a port.
var (
	byWeb  = way{"http", 80}
	byTCP  = way{"tcp", 7}
	byUDP  = way{"udp", 7}
	byPing = way{"ping", 0}
	anyWay = []way{byWeb, byTCP, byUDP, byPing}
)

type way struct {
	scheme string
	port   uint16
}

func (w way) url(ip netip.Addr, offset uint16) string {
	switch w.scheme {
	case "ping":
		return "ping://" + bracket(ip)
	case "http":
		return "http://" + netip.AddrPortFrom(ip, w.port+offset).String() + "/healthz"
	}
	return w.scheme + "://" + netip.AddrPortFrom(ip, w.port+offset).String()
}

// between are the verdicts of all sources to all destinations but themselves.
func (c crew) between(sources, destinations []from, ways []way, want string) (out []verdict) {
	for _, src := range sources {
		for _, dst := range destinations {
			if src == dst {
				continue
			}
			for _, ip := range c[dst] {
				for _, w := range ways {
					out = append(out, verdict{src, w.url(ip, 0), want})
				}
			}
		}
	}
	return out
}

// toHosts are the verdicts of all sources to addresses outside pods.
func toHosts(sources []from, ips []netip.Addr, ways []way, want string) (out []verdict) {
	for _, src := range sources {
		for _, ip := range ips {
			for _, w := range ways {
				out = append(out, verdict{src, w.url(ip, hostOffset), want})
			}
		}
	}
	return out
}

// open is what holds without policies.
func (c crew) open() []verdict {
	all := slices.Sorted(maps.Keys(c))
	return c.between(all, all, anyWay, probe.OK)
}
