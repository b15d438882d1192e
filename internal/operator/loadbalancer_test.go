// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/ipam/lbipam"
	"github.com/stentor-net/stentor/internal/k8s/k8stest"
)

const (
	pools    = "apis/cilium.io/v2/ciliumloadbalancerippools"
	services = "api/v1/namespaces/default/services"
)

func balanced(name, rest string) string {
	return fmt.Sprintf(`{"metadata":{"uid":"uid-%s"},"spec":{"type":"LoadBalancer","ipFamilies":["IPv4"],"ports":[{"port":80,"protocol":"TCP"}]}%s}`, name, rest)
}

// addressOf is the status of a Service in short.
func addressOf(s *k8stest.Server, name string) string {
	return field(s.Object(services+"/"+name), "status", "loadBalancer", "ingress")
}

// said is the message of a condition.
func said(o k8stest.Object, kind string) string {
	status, _ := o["status"].(k8stest.Object)
	list, _ := status["conditions"].([]any)
	for _, c := range list {
		if one, ok := c.(k8stest.Object); ok && field(one, "type") == kind {
			return field(one, "status") + " " + field(one, "reason") + " " + field(one, "message")
		}
	}
	return ""
}

func TestLoadBalancersHaveAddressesOverARestart(t *testing.T) {
	s := k8stest.New(t)
	s.Put(services+"/one", balanced("one", ""))
	s.Put(services+"/metal", balanced("metal", `,"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.0"}]},"conditions":[]}`))
	s.Put(pools+"/p", `{"spec":{"blocks":[{"cidr":"192.0.2.0/31"}]}}`)
	o := Options{PodRanges: small(), LoadBalancers: true, LoadBalancerDefault: true}
	stop := start(t, s, o)
	s.Wait("one has an address", func() bool { return addressOf(s, "one") == "[map[ip:192.0.2.1]]" })
	s.Wait("the pool tells how many are free", func() bool {
		p := s.Object(pools + "/p")
		return said(p, conditionAvailable) == "Unknown noop 0" && said(p, conditionTotal) == "Unknown noop 2" && strings.HasPrefix(said(p, conditionConflict), "False")
	})
	s.Put(services+"/two", balanced("two", ""))
	condition := func(name string) string { return said(s.Object(services+"/"+name), lbipam.Satisfied) }
	s.Wait("two is told that none is free", func() bool { return strings.HasPrefix(condition("two"), "False out_of_ips every IPv4 address") })
	stop()
	s.Put(services+"/three", balanced("three", ""))
	o.Identity = "two"
	start(t, s, o)
	s.Wait("three is told, too", func() bool { return strings.HasPrefix(condition("three"), "False out_of_ips") })
	if got := addressOf(s, "one") + addressOf(s, "metal"); got != "[map[ip:192.0.2.1]][map[ip:192.0.2.0]]" {
		t.Errorf("after a restart: %s", got)
	}
	if got := condition("metal"); got != "" {
		t.Errorf("a Service whose address is somebody else's has the condition %q", got)
	}
	s.Remove(services + "/one")
	s.Wait("one of those that wait has it", func() bool {
		return strings.Count(addressOf(s, "two")+addressOf(s, "three"), "192.0.2.1") == 1
	})
	s.Put(pools+"/q", `{"metadata":{"creationTimestamp":"2030-01-01T00:00:00Z"},"spec":{"blocks":[{"cidr":"192.0.2.0/24"}]}}`)
	s.Wait("the conflict is told", func() bool {
		return strings.HasPrefix(said(s.Object(pools+"/q"), conditionConflict), "True cidr_overlap 192.0.2.0-192.0.2.255 overlaps")
	})
}

func TestAnAddressThatTheWatchHasNotShownIsNotGivenAway(t *testing.T) {
	s := k8stest.New(t)
	s.Put(services+"/young", balanced("young", ""))
	view := newView()
	l := &loadBalancers{client: s.Client(), view: view, log: discard, options: lbipam.Options{Default: true}, written: map[string]*written{}}
	p := lbipam.Pool{Name: "p"}
	p.Ranges, p.Selector = readRange(t, "192.0.2.0/31")
	view.poolWriter.Upsert(p)
	if err := l.learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	stale := l.written["uid-young"].Service
	view.balancedWriter.Upsert(stale)
	l.reconcile(t.Context())
	// An older Service comes, while the table does not show what young was given.
	s.Put(services+"/old", balanced("old", ""))
	old := &loadBalancers{client: s.Client(), written: map[string]*written{}, log: discard}
	if err := old.learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := old.written["uid-old"].Service
	first.Created = stale.Created.Add(-time.Hour)
	view.balancedWriter.Upsert(first)
	l.reconcile(t.Context())
	if a, b := addressOf(s, "young"), addressOf(s, "old"); a != "[map[ip:192.0.2.0]]" || b != "[map[ip:192.0.2.1]]" {
		t.Errorf("young has %s, old has %s", a, b)
	}
}

func readRange(t *testing.T, prefix string) ([]lbipam.Range, labels.Selector) {
	t.Helper()
	o := &ciliumv2.CiliumLoadBalancerIPPool{}
	o.Spec.Blocks = []ciliumv2.LoadBalancerIPBlock{{CIDR: prefix}}
	p := lbipam.ReadPool(o)
	if p.Err != "" {
		t.Fatal(p.Err)
	}
	return p.Ranges, p.Selector
}
