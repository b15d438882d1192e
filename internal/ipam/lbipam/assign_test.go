// SPDX-License-Identifier: Apache-2.0

package lbipam

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
)

// world is objects as kubectl takes them, with what was made of them.
type world struct {
	t        *testing.T
	pools    map[string]*ciliumv2.CiliumLoadBalancerIPPool
	services map[string]*corev1.Service
	options  Options
	clock    int64
}

func newWorld(t *testing.T) *world {
	return &world{t: t, pools: map[string]*ciliumv2.CiliumLoadBalancerIPPool{}, services: map[string]*corev1.Service{}, options: Options{Default: true}}
}

func (w *world) stamp() metav1.Time {
	w.clock++
	return metav1.NewTime(time.Unix(w.clock, 0))
}

func (w *world) pool(name, spec string) {
	o := &ciliumv2.CiliumLoadBalancerIPPool{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: w.stamp()}}
	if old := w.pools[name]; old != nil {
		o.CreationTimestamp = old.CreationTimestamp
	}
	if err := yaml.UnmarshalStrict([]byte(spec), &o.Spec); err != nil {
		w.t.Fatalf("%v in %s", err, spec)
	}
	w.pools[name] = o
}

// service puts one: its metadata and spec in one line of YAML each.
func (w *world) service(name, metadata, spec string) {
	o := &corev1.Service{}
	text := fmt.Sprintf("{metadata: {%s}, spec: {%s}}", metadata, spec)
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		w.t.Fatalf("%v in %s", err, text)
	}
	o.Namespace, o.Name, _ = strings.Cut(name, "/")
	o.UID = "uid-of-" + o.UID + "x"
	o.CreationTimestamp = w.stamp()
	if o.Spec.Type == "" {
		o.Spec.Type = corev1.ServiceTypeLoadBalancer
	}
	if old := w.services[name]; old != nil {
		o.CreationTimestamp, o.Status = old.CreationTimestamp, old.Status
	}
	w.services[name] = o
}

// settle writes what Assign says into the objects, and says it in lines.
func (w *world) settle() string {
	w.t.Helper()
	out := w.assign()
	for name, v := range out.Services {
		w.write(w.services[name], v)
	}
	first := lines(w, out)
	maps.DeleteFunc(out.Services, func(_ string, v Verdict) bool { return v.Release })
	if again := w.assign(); !slices.Equal(lines(w, again), lines(w, out)) {
		w.t.Fatalf("once written, it wants something else:\n%s", cmp.Diff(lines(w, out), lines(w, again)))
	}
	return strings.Join(first, "\n")
}

func (w *world) assign() Outcome {
	var pools []Pool
	for _, p := range w.pools {
		pools = append(pools, ReadPool(p))
	}
	var services []Service
	for _, o := range w.services {
		if s, ok := ReadService(o); ok {
			services = append(services, s)
		}
	}
	return Assign(pools, services, w.options)
}

func (w *world) write(o *corev1.Service, v Verdict) {
	o.Status = corev1.ServiceStatus{}
	if v.Release {
		return
	}
	for _, ip := range v.Addresses {
		o.Status.LoadBalancer.Ingress = append(o.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip.String()})
	}
	o.Status.Conditions = []metav1.Condition{v.Condition}
}

func lines(w *world, out Outcome) (all []string) {
	for name, v := range out.Services {
		text := name + " " + fmt.Sprint(v.Addresses)
		if v.Release {
			text = name + " released"
		} else if v.Condition.Status != metav1.ConditionTrue {
			text += " " + v.Condition.Reason + ": " + v.Condition.Message
		}
		all = append(all, text)
	}
	for name, s := range out.Pools {
		text := fmt.Sprintf("pool %s %s/%s free", name, s.Available, s.Total)
		if s.Conflict != "" {
			text += ", " + s.Conflict
		}
		all = append(all, text)
	}
	slices.Sort(all)
	return all
}

func (w *world) want(want string) {
	w.t.Helper()
	var clean []string
	for line := range strings.Lines(strings.TrimSpace(want)) {
		clean = append(clean, strings.TrimSpace(line))
	}
	if d := cmp.Diff(clean, strings.Split(w.settle(), "\n")); d != "" {
		w.t.Errorf("-want +got:\n%s", d)
	}
}

const port80 = "ports: [{port: 80, protocol: TCP}]"

func TestNothingIsToldWithoutPools(t *testing.T) {
	w := newWorld(t)
	w.service("a/one", "", port80)
	if got := w.settle(); got != "" {
		t.Error(got)
	}
	w.pool("p", "blocks: [{cidr: 192.0.2.0/30}]")
	w.want(`a/one [192.0.2.0]
		pool p 3/4 free`)
}

func TestFamiliesRangesAndSelectorsOfPools(t *testing.T) {
	w := newWorld(t)
	w.pool("four", "{blocks: [{start: 192.0.2.10, stop: 192.0.2.11}, {start: 192.0.2.40}], serviceSelector: {matchLabels: {team: red}}}")
	w.pool("six", `{blocks: [{cidr: "2001:db8::/64"}], serviceSelector: {matchExpressions: [{key: io.kubernetes.service.namespace, operator: In, values: [a]}]}}`)
	w.pool("inner", "{blocks: [{cidr: 198.51.100.0/30}], allowFirstLastIPs: 'No', serviceSelector: {matchLabels: {io.kubernetes.service.name: three}}}")
	w.service("a/one", "labels: {team: red}", "ipFamilies: [IPv4, IPv6], "+port80)
	w.service("a/two", "labels: {team: blue}", "ipFamilies: [IPv6, IPv4], "+port80)
	w.service("b/three", "", port80)
	w.want(`a/one [192.0.2.10 2001:db8::]
		a/two [2001:db8::1] no_pool: no enabled pool with IPv4 addresses matches this Service
		b/three [198.51.100.1]
		pool four 2/3 free
		pool inner 1/2 free
		pool six 18446744073709551614/18446744073709551616 free`)
}

func TestAddressesStayAndAreFreeAgainWithTheirService(t *testing.T) {
	w := newWorld(t)
	w.pool("p", "blocks: [{cidr: 192.0.2.0/31}]")
	w.service("a/one", "", port80)
	w.service("a/two", "", port80)
	w.service("a/three", "", port80)
	w.want(`a/one [192.0.2.0]
		a/three [] out_of_ips: every IPv4 address of the pools that match this Service is taken
		a/two [192.0.2.1]
		pool p 0/2 free`)
	delete(w.services, "a/one")
	w.want(`a/three [192.0.2.0]
		a/two [192.0.2.1]
		pool p 0/2 free`)
	w.service("a/two", "", "type: ClusterIP, "+port80)
	if got := w.settle(); !strings.Contains(got, "a/two released") || w.services["a/two"].Status.LoadBalancer.Ingress != nil {
		t.Errorf("a Service that is no load balancer any more keeps its address: %s", got)
	}
	w.pool("p", "{disabled: true, blocks: [{cidr: 192.0.2.0/31}]}")
	w.service("a/four", "", port80)
	w.want(`a/four [] no_pool: no enabled pool with IPv4 addresses matches this Service
		a/three [192.0.2.0]
		pool p 1/2 free`)
	delete(w.pools, "p")
	w.pool("q", "blocks: [{cidr: 203.0.113.0/31}]")
	w.want(`a/four [203.0.113.1]
		a/three [203.0.113.0]
		pool q 0/2 free`)
}

func TestAddressesThatAreAskedFor(t *testing.T) {
	w := newWorld(t)
	w.pool("p", "blocks: [{cidr: 192.0.2.0/28}]")
	w.service("a/one", "annotations: {lbipam.cilium.io/ips: '192.0.2.7, 192.0.2.8'}", port80)
	w.service("a/older", "annotations: {io.cilium/lb-ipam-ips: 192.0.2.9}", port80)
	w.service("a/field", "", "loadBalancerIP: 192.0.2.10, "+port80)
	w.service("b/taken", "annotations: {lbipam.cilium.io/ips: 192.0.2.7}", port80)
	w.service("b/nowhere", "annotations: {lbipam.cilium.io/ips: 198.51.100.1}", port80)
	w.service("b/nonsense", "annotations: {lbipam.cilium.io/ips: none}", port80)
	w.service("b/family", "annotations: {lbipam.cilium.io/ips: '2001:db8::1'}", port80)
	w.want(`a/field [192.0.2.10]
		a/older [192.0.2.9]
		a/one [192.0.2.7 192.0.2.8]
		b/family [] invalid_request: 2001:db8::1 is not of a family of the Service
		b/nonsense [] invalid_request: what is asked for is not understood: "none" is no address
		b/nowhere [] no_pool: no enabled pool that matches this Service has 198.51.100.1
		b/taken [] already_allocated: 192.0.2.7: Service a/one has it: no sharing key
		pool p 12/16 free`)
	w.service("a/one", "annotations: {lbipam.cilium.io/ips: 192.0.2.8}", port80)
	if got := w.settle(); !strings.Contains(got, "a/one [192.0.2.8]\n") || !strings.Contains(got, "b/taken [192.0.2.7]") {
		t.Error(got)
	}
}

func TestServicesShareAnAddressWhenBothAgree(t *testing.T) {
	w := newWorld(t)
	w.pool("p", "blocks: [{cidr: 192.0.2.0/28}]")
	key := "lbipam.cilium.io/sharing-key: k"
	w.service("a/one", "annotations: {"+key+", lbipam.cilium.io/sharing-cross-namespace: b}", port80)
	w.service("a/udp", "annotations: {"+key+"}", "ports: [{port: 80, protocol: UDP}]")
	w.service("a/same-port", "annotations: {"+key+"}", port80)
	w.service("a/other-key", "annotations: {lbipam.cilium.io/sharing-key: j}", "ports: [{port: 81, protocol: TCP}]")
	w.service("b/one-way", "annotations: {"+key+"}", "ports: [{port: 82, protocol: TCP}]")
	w.service("b/both-ways", "annotations: {"+key+", lbipam.cilium.io/sharing-cross-namespace: '*'}", "ports: [{port: 83, protocol: TCP}]")
	w.service("a/local", "annotations: {"+key+"}", "externalTrafficPolicy: Local, ports: [{port: 84, protocol: TCP}]")
	w.service("a/asks", "annotations: {"+key+", lbipam.cilium.io/ips: 192.0.2.0}", port80)
	w.want(`a/asks [] already_allocated_incompatible_service: 192.0.2.0: Service a/one has it: same port
		a/local [192.0.2.4]
		a/one [192.0.2.0]
		a/other-key [192.0.2.2]
		a/same-port [192.0.2.1]
		a/udp [192.0.2.0]
		b/both-ways [192.0.2.3]
		b/one-way [192.0.2.3]
		pool p 11/16 free`)
	// Of those at the address udp does not let namespace b in: without it they share.
	delete(w.services, "a/udp")
	delete(w.services, "b/both-ways")
	delete(w.services, "b/one-way")
	w.service("b/both-ways", "annotations: {"+key+", lbipam.cilium.io/sharing-cross-namespace: '*'}", "ports: [{port: 83, protocol: TCP}]")
	if got := w.settle(); !strings.Contains(got, "b/both-ways [192.0.2.0]") {
		t.Error(got)
	}
}

func TestOfPoolsThatOverlapTheOlderGivesAddresses(t *testing.T) {
	w := newWorld(t)
	w.pool("older", "blocks: [{cidr: 192.0.2.0/30}]")
	w.pool("newer", "blocks: [{cidr: 192.0.2.2/31}, {cidr: 198.51.100.0/31}]")
	w.pool("self", "blocks: [{cidr: 203.0.113.0/31}, {start: 203.0.113.1, stop: 203.0.113.9}]")
	w.pool("unread", "blocks: [{start: 203.0.113.9, stop: 203.0.113.1}]")
	w.service("a/one", "annotations: {lbipam.cilium.io/ips: 198.51.100.0}", port80)
	w.service("a/two", "", port80)
	w.want(`a/one [] no_pool: no enabled pool that matches this Service has 198.51.100.0
		a/two [192.0.2.0]
		pool newer 4/4 free, 192.0.2.2-192.0.2.3 overlaps 192.0.2.0-192.0.2.3 of pool older
		pool older 3/4 free
		pool self 11/11 free, blocks 203.0.113.0-203.0.113.1 and 203.0.113.1-203.0.113.9 overlap
		pool unread 0/0 free, block: 203.0.113.9-203.0.113.1 is no range`)
	delete(w.pools, "older")
	if got := w.settle(); !strings.Contains(got, "a/one [198.51.100.0]") || !strings.Contains(got, "a/two [192.0.2.2]") {
		t.Error(got)
	}
}

func TestAddressesOfOthersAreHonoured(t *testing.T) {
	w := newWorld(t)
	w.pool("p", "blocks: [{cidr: 192.0.2.0/30}]")
	w.service("a/metal", "", port80)
	w.services["a/metal"].Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.0"}}
	w.service("a/cloud", "", port80)
	w.services["a/cloud"].Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: "lb.example"}}
	w.service("a/class", "", "loadBalancerClass: example.com/lb, "+port80)
	w.service("a/mine", "", "loadBalancerClass: io.cilium/bgp-control-plane, "+port80)
	w.want(`a/mine [192.0.2.1]
		pool p 2/4 free`)
	// Somebody else gives an address to one that we could not serve.
	w.pool("p", "{blocks: [{cidr: 192.0.2.0/30}], serviceSelector: {matchLabels: {app: none}}}")
	w.service("a/late", "", port80)
	w.settle()
	w.services["a/late"].Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.9"}}
	if out := w.assign(); !cmp.Equal(out.Services["a/late"], Verdict{}) {
		t.Errorf("got %+v", out.Services["a/late"])
	}
	w.options.Default = false
	w.service("a/new", "", port80)
	if _, ok := w.assign().Services["a/new"]; ok {
		t.Error("a Service without class gets an address although nobody wants that")
	}
}

// TestAnyHistoryKeepsWhatWasGiven plays random changes: whatever they are, no
// address changes without need, none is given twice to those who do not share,
// and writing the outcome is the end of it.
func TestAnyHistoryKeepsWhatWasGiven(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(7, seed))
		w := newWorld(t)
		w.pool("p", "blocks: [{cidr: 192.0.2.0/29}, {cidr: '2001:db8::/126'}]")
		before := map[string][]netip.Addr{}
		for range 60 {
			name := fmt.Sprintf("ns%d/s%d", r.IntN(2), r.IntN(8))
			changed := name
			switch r.IntN(6) {
			case 0:
				delete(w.services, name)
			case 1:
				w.pool("q", fmt.Sprintf("{disabled: %v, blocks: [{cidr: 192.0.2.%d/30}]}", r.IntN(2) == 0, 4*r.IntN(4)))
			default:
				metadata := []string{"", "annotations: {lbipam.cilium.io/sharing-key: k, lbipam.cilium.io/sharing-cross-namespace: '*'}",
					fmt.Sprintf("annotations: {lbipam.cilium.io/ips: 192.0.2.%d}", r.IntN(10))}[r.IntN(3)]
				families := []string{"ipFamilies: [IPv4]", "ipFamilies: [IPv6, IPv4]"}[r.IntN(2)]
				w.service(name, metadata, fmt.Sprintf("%s, ports: [{port: %d, protocol: TCP}]", families, 80+r.IntN(3)))
			}
			w.settle()
			now, holders := map[string][]netip.Addr{}, map[netip.Addr][]*Service{}
			for key, o := range w.services {
				s, _ := ReadService(o)
				now[key] = s.has()
				for _, ip := range s.has() {
					for _, other := range holders[ip] {
						if why := s.apart(other); why != "" {
							t.Fatalf("seed %d: %s and %s have %s: %s", seed, key, other.ObjectKey(), ip, why)
						}
					}
					holders[ip] = append(holders[ip], &s)
				}
			}
			for key, had := range before {
				// Of two that cannot share any more the older one keeps the address.
				yields := slices.ContainsFunc(had, func(ip netip.Addr) bool { return slices.Contains(now[changed], ip) })
				if has, there := now[key]; there && key != changed && !yields && w.pools["q"] == nil && !slices.Equal(has, had) && len(had) > 0 && len(has) <= len(had) {
					t.Fatalf("seed %d: %s had %v and has %v though only %s changed", seed, key, had, has, changed)
				}
			}
			before = now
		}
	}
}
