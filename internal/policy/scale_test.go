// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/csv"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

var (
	scale     = flag.Bool("scale", false, "measure policy at scale")
	scaleFrom = flag.Int("scale-from", 0, "leave out smaller clusters")
	scaleOut  = flag.String("scale-out", "", "write what -scale measures to this .md file, and the raw rows to .csv beside it")
)

// scaleCluster is a seeded cluster: 500 namespaces of 100 apps, labels that
// matter to nobody, half of the identities pods and half prefixes that policies
// speak of.
type scaleCluster struct {
	r                           *rand.Rand
	identities, policies, eps   int
	pods, namespaces, apps      int
	prefixes, cidrPolicies      int
	in                          Input
	nextPrefix, nextPod, serial int
}

func newScaleCluster(identities, policies, endpoints int) *scaleCluster {
	c := &scaleCluster{
		r: rand.New(rand.NewPCG(1, 2)), identities: identities, policies: policies, eps: endpoints,
		pods: identities / 2, namespaces: min(500, max(5, identities/100)), apps: 100, cidrPolicies: max(1, policies/10),
	}
	c.prefixes = identities - c.pods
	c.in = Input{Identities: identity.Reserved()}
	for i := range c.pods {
		id, labels, row := c.pod()
		c.in.Identities[id] = labels
		c.in.Addresses = append(c.in.Addresses, row)
		if i < endpoints {
			c.in.Subjects = append(c.in.Subjects, Subject{Endpoint: uint16(i + 1), Identity: id, Labels: labels, IPv4: row})
		}
	}
	for i := range policies {
		c.in.Objects = append(c.in.Objects, c.policy(i))
	}
	return c
}

func (c *scaleCluster) namespace(i int) string { return fmt.Sprintf("ns-%d", i%c.namespaces) }

// app of a pod: the endpoints of this node are of many apps.
func (c *scaleCluster) app(i int) string { return fmt.Sprintf("app-%d", (i/c.namespaces*7+i)%c.apps) }

// pod is the next pod: its number is beyond those of real clusters, so that 50,000 fit.
func (c *scaleCluster) pod() (identity.ID, label.Set, Address) {
	i := c.nextPod
	c.nextPod++
	id := identity.MinAllocated + identity.ID(i)
	labels := podLabels(c.namespace(i), map[string]string{
		"app": c.app(i), "tier": fmt.Sprintf("tier-%d", i%5), "pod-template-hash": fmt.Sprint(i), "noise": fmt.Sprint(i * 31),
	}, map[string]string{"team": fmt.Sprintf("team-%d", i%c.namespaces%50)})
	a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	return id, labels, Address{Prefix: netip.PrefixFrom(a, 32), Identity: id, Flags: AddressPod}
}

// policy is the i-th: 40 % by app, 30 % by namespace, 20 % by expression, 10 %
// by prefix. Each selects some endpoint of this node.
func (c *scaleCluster) policy(i int) Object {
	e := c.r.IntN(c.eps)
	c.serial++
	o := Object{Namespace: c.namespace(e), Name: fmt.Sprintf("p-%d", i), ResourceVersion: fmt.Sprint(c.serial)}
	port := intstr.FromInt32(int32(80 + c.r.IntN(10)))
	app := map[string]string{"app": c.app(e)}
	switch x := i % 10; {
	case x < 4:
		np := &networkingv1.NetworkPolicy{}
		np.Spec.PodSelector.MatchLabels = app
		np.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{
			From:  []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprintf("app-%d", c.r.IntN(c.apps))}}}},
			Ports: []networkingv1.NetworkPolicyPort{{Port: &port}},
		}}
		o.Kind, o.Spec = KindNetworkPolicy, np
	case x < 7:
		np := &networkingv1.NetworkPolicy{}
		np.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
			{PodSelector: &metav1.LabelSelector{}},
			{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": fmt.Sprintf("team-%d", c.r.IntN(50))}}},
		}}}
		o.Kind, o.Spec = KindNetworkPolicy, np
	case x < 9:
		req := ciliumv2.Requirement{Key: "tier", Operator: "NotIn", Values: []string{fmt.Sprintf("tier-%d", c.r.IntN(5))}}
		if c.r.IntN(2) == 0 {
			req = ciliumv2.Requirement{Key: "noise", Operator: "Exists"}
		}
		o.Kind, o.Spec = KindCiliumNetworkPolicy, &ciliumv2.CiliumNetworkPolicy{Spec: &ciliumv2.Rule{
			EndpointSelector: &ciliumv2.Selector{MatchLabels: app},
			Ingress: []ciliumv2.IngressRule{{IngressPeers: ciliumv2.IngressPeers{FromEndpoints: []ciliumv2.Selector{{
				MatchLabels: map[string]string{"k8s:io.kubernetes.pod.namespace": c.namespace(c.r.IntN(c.namespaces))}, MatchExpressions: []ciliumv2.Requirement{req},
			}}}}},
		}}
	default:
		c.cidrs(&o, app, max(1, c.prefixes/c.cidrPolicies))
	}
	return o
}

// cidrs makes a policy of prefixes that no other has.
func (c *scaleCluster) cidrs(o *Object, app map[string]string, n int) {
	egress := ciliumv2.EgressRule{ToPorts: []ciliumv2.PortRule{{Ports: []ciliumv2.PortProtocol{{Port: "443", Protocol: "TCP"}}}}}
	for range n {
		i := c.nextPrefix
		c.nextPrefix++
		egress.ToCIDR = append(egress.ToCIDR, ciliumv2.CIDR(fmt.Sprintf("%d.%d.%d.0/24", 32+i>>16, i>>8&255, i&255)))
	}
	o.Kind = KindCiliumNetworkPolicy
	o.Spec = &ciliumv2.CiliumNetworkPolicy{Spec: &ciliumv2.Rule{EndpointSelector: &ciliumv2.Selector{MatchLabels: app}, Egress: []ciliumv2.EgressRule{egress}}}
}

// scaleRow is what was measured at one size.
type scaleRow struct {
	identities, policies, endpoints int
	values                          map[string]string
}

// scaleColumns are what is measured, in the order of the table.
var scaleColumns = []string{
	"compile ms", "rows", "groups", "classes", "slots", "sets", "set rows", "kernel MiB", "RSS MiB",
	"identity us", "identity stores", "identity gone us", "new class us",
	"policy + ms", "policy + stores", "policy replaced ms", "policy - ms", "policy max ms", "label change us",
	"1,000 CIDRs + ms", "1,000 CIDRs - ms", "wide selector + ms", "wide selector - ms",
}

func (r *scaleRow) set(name, format string, v ...any) { r.values[name] = fmt.Sprintf(format, v...) }

func TestScale(t *testing.T) {
	if !*scale {
		t.Skip("-scale is not given")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var rows []scaleRow
	for _, identities := range []int{1000, 10000, 100000} {
		if *scaleFrom > identities {
			continue
		}
		for _, policies := range []int{10, 100, 1000} {
			for _, endpoints := range []int{10, 250} {
				rows = append(rows, measureScale(t, identities, policies, endpoints))
				printScale(os.Stdout, rows[len(rows)-1:], len(rows) == 1)
			}
		}
	}
	if *scaleOut != "" {
		writeScale(t, rows)
	}
}

// median and most of what f takes, n times.
func repeat(n int, f func(i int)) (median, most time.Duration) {
	var all []time.Duration
	for i := range n {
		start := cpuTime()
		f(i)
		all = append(all, cpuTime()-start)
	}
	slices.Sort(all)
	return all[n/2], all[n-1]
}

// cpuTime is what the thread has used of a core; the test is bound to it.
func cpuTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err)
	}
	return time.Duration(t.Nano())
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func measureScale(t *testing.T, identities, policies, endpoints int) scaleRow {
	row := scaleRow{identities, policies, endpoints, map[string]string{}}
	c := newScaleCluster(identities, policies, endpoints)
	debug.FreeOSMemory()
	before := residentMiB()
	e, err := New(Options{IPv4: true}, NewState())
	if err != nil {
		t.Fatal(err)
	}
	apply := func(d Delta) Outcome {
		out := e.Apply(d)
		if out.Err != nil {
			t.Fatal(out.Err)
		}
		return out
	}
	start := cpuTime()
	out := apply(e.difference(&c.in))
	row.set("compile ms", "%.0f", ms(cpuTime()-start))
	row.set("groups", "%d", out.Stats.Groups)
	row.set("classes", "%d", out.Stats.Classes)
	row.set("slots", "%d", out.Stats.Slots)
	row.set("sets", "%d", out.Stats.Sets)
	row.set("set rows", "%d", out.Stats.SetRows)
	row.set("rows", "%d", kernelRows(&e.state))
	row.set("kernel MiB", "%.1f", float64(kernelBytes(e))/(1<<20))
	out = Outcome{}
	runtime.GC()
	debug.FreeOSMemory()
	row.set("RSS MiB", "%.0f", residentMiB()-before)

	measureIdentities(c, e, &row, apply)
	measurePolicies(c, e, &row, apply)
	if again := e.Update(e.scaleInput(c)); len(again.Ops) > 0 {
		t.Fatalf("the same input gives %d steps", len(again.Ops))
	}
	return row
}

// scaleInput is the input that the engine has, as one would give it whole.
func (e *Engine) scaleInput(c *scaleCluster) Input {
	in := Input{Identities: map[identity.ID]label.Set{}}
	for id, i := range e.ids.byID {
		if i.known && !isLocalCIDR(id) {
			in.Identities[id] = i.labels
		}
	}
	for _, a := range e.addr.rows.All() {
		if a.isGiven {
			in.Addresses = append(in.Addresses, a.given)
		}
	}
	for _, s := range e.subjects {
		in.Subjects = append(in.Subjects, s.Subject)
	}
	for _, o := range e.objects {
		in.Objects = append(in.Objects, o.object)
	}
	return in
}

func measureIdentities(c *scaleCluster, e *Engine, row *scaleRow, apply func(Delta) Outcome) {
	const n = 200
	type pod struct {
		id  identity.ID
		row Address
	}
	var pods []pod
	stores := 0
	median, _ := repeat(n, func(i int) { // labels like those of a pod that is there
		like := identity.MinAllocated + identity.ID(c.r.IntN(c.pods))
		c.nextPod++
		a := netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)})
		p := pod{identity.MinAllocated + identity.ID(c.nextPod), Address{Prefix: netip.PrefixFrom(a, 32), Flags: AddressPod}}
		p.row.Identity = p.id
		out := apply(Delta{Identities: map[identity.ID]label.Set{p.id: append(slices.Clone(c.in.Identities[like]), label.Label{Source: label.SourceK8s, Key: "zz", Value: fmt.Sprint(i)})}, Addresses: []Address{p.row}})
		stores += len(out.Ops)
		pods = append(pods, p)
	})
	row.set("identity us", "%d", median.Microseconds())
	row.set("identity stores", "%.1f", float64(stores)/n)
	median, _ = repeat(n, func(i int) {
		apply(Delta{IdentitiesGone: []identity.ID{pods[i].id}, AddressesGone: []netip.Prefix{pods[i].row.Prefix}})
	})
	row.set("identity gone us", "%d", median.Microseconds())
	id := identity.MinAllocated + identity.ID(c.nextPod) + 1
	median, _ = repeat(n, func(i int) { // labels that nobody has together
		labels := podLabels(c.namespace(c.r.IntN(c.namespaces)), map[string]string{"app": fmt.Sprintf("app-%d", c.r.IntN(c.apps)), "tier": fmt.Sprintf("tier-%d", c.r.IntN(5))}, map[string]string{"team": fmt.Sprintf("team-%d", c.r.IntN(50))})
		apply(Delta{Identities: map[identity.ID]label.Set{id: labels}})
	})
	row.set("new class us", "%d", median.Microseconds())
	apply(Delta{IdentitiesGone: []identity.ID{id}})
	median, _ = repeat(n, func(i int) { // a pod of another node is another one now
		a := c.in.Addresses[c.eps+c.r.IntN(c.pods-c.eps)]
		a.Identity = identity.MinAllocated + identity.ID(c.r.IntN(c.pods))
		apply(Delta{Addresses: []Address{a}})
	})
	row.set("label change us", "%d", median.Microseconds())
}

func measurePolicies(c *scaleCluster, e *Engine, row *scaleRow, apply func(Delta) Outcome) {
	const n = 30
	var objects []Object
	stores := 0
	most := time.Duration(0)
	each := func(name string, f func(i int)) {
		median, m := repeat(n, f)
		row.set(name, "%.2f", ms(median))
		most = max(most, m)
	}
	saved := c.prefixes // the prefixes of a mixed policy are as many as in a real one
	c.prefixes = 20 * c.cidrPolicies
	next := func(i int) Object { return c.policy(i) }
	for i := range n {
		o := next(i)
		o.Name = fmt.Sprint("more-", i)
		objects = append(objects, o)
	}
	each("policy + ms", func(i int) { stores += len(apply(Delta{Objects: objects[i : i+1]}).Ops) })
	row.set("policy + stores", "%.0f", float64(stores)/n)
	var other []Object
	for i := range n {
		o := next(i)
		o.Name, o.Kind, o.Namespace = objects[i].Name, objects[i].Kind, objects[i].Namespace
		other = append(other, o)
	}
	each("policy replaced ms", func(i int) { apply(Delta{Objects: other[i : i+1]}) })
	each("policy - ms", func(i int) { apply(Delta{ObjectsGone: []string{other[i].Key()}}) })
	row.set("policy max ms", "%.2f", ms(most))
	c.prefixes = saved

	big := Object{Namespace: c.namespace(0), Name: "big"}
	c.cidrs(&big, map[string]string{"app": c.app(0)}, 1000)
	start := cpuTime()
	apply(Delta{Objects: []Object{big}})
	row.set("1,000 CIDRs + ms", "%.1f", ms(cpuTime()-start))
	start = cpuTime()
	apply(Delta{ObjectsGone: []string{big.Key()}})
	row.set("1,000 CIDRs - ms", "%.1f", ms(cpuTime()-start))

	wide := Object{Kind: KindNetworkPolicy, Namespace: c.namespace(0), Name: "wide"}
	np := &networkingv1.NetworkPolicy{}
	np.Spec.PodSelector.MatchLabels = map[string]string{"app": c.app(0)}
	np.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{
		{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/18"}},
		{NamespaceSelector: &metav1.LabelSelector{}, PodSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "noise", Operator: "Exists"}}}},
	}}}
	np.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
	wide.Spec = np
	start = cpuTime()
	apply(Delta{Objects: []Object{wide}})
	row.set("wide selector + ms", "%.1f", ms(cpuTime()-start))
	start = cpuTime()
	apply(Delta{ObjectsGone: []string{wide.Key()}})
	row.set("wide selector - ms", "%.1f", ms(cpuTime()-start))
}

func kernelRows(s *State) int {
	n := len(s.Peers) + len(s.Classes) + len(s.IdentityPeer) + len(s.Addresses) + len(s.Endpoints)
	for _, rows := range s.Sets {
		n += len(rows)
	}
	return n
}

// kernelBytes is what the policy tables take: whole banks of classes, the array
// of peers, and the rows of the tries and hashes with the kernel's own overhead.
func kernelBytes(e *Engine) int {
	const (
		bank    = abi.ClassBank * SlotsMax * 2
		setNode = 64 // a trie node with its key of 12 and value of 8 bytes, from a slab
		ipNode  = 96 // the same for ipcache: key 20, value 32
		hashRow = 64 // identity_peer: bucket entry, key and value of 4 bytes
	)
	banks := map[uint32]bool{}
	for n := range e.state.Classes {
		banks[n/abi.ClassBank] = true
	}
	return len(banks)*bank + PeersMax*4 + 2*e.sets.rows*setNode + 2*len(e.state.Addresses)*ipNode + len(e.state.IdentityPeer)*hashRow
}

func residentMiB() float64 {
	text, _ := os.ReadFile("/proc/self/statm")
	if f := strings.Fields(string(text)); len(f) > 1 {
		pages, _ := strconv.Atoi(f[1])
		return float64(pages*os.Getpagesize()) / (1 << 20)
	}
	return 0
}

func printScale(w io.Writer, rows []scaleRow, head bool) {
	if head {
		fmt.Fprintf(w, "%-22s %s\n", "identities x policies x endpoints", strings.Join(scaleColumns, " | "))
	}
	for _, r := range rows {
		var cells []string
		for _, c := range scaleColumns {
			cells = append(cells, r.values[c])
		}
		fmt.Fprintf(w, "%-22s %s\n", fmt.Sprintf("%dx%dx%d", r.identities, r.policies, r.endpoints), strings.Join(cells, " | "))
	}
}

func writeScale(t *testing.T, rows []scaleRow) {
	if err := os.MkdirAll(filepath.Dir(*scaleOut), 0o755); err != nil {
		t.Fatal(err)
	}
	raw, err := os.Create(strings.TrimSuffix(*scaleOut, ".md") + ".csv")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	w := csv.NewWriter(raw)
	w.Write(append([]string{"identities", "policies", "endpoints"}, scaleColumns...))
	for _, r := range rows {
		cells := []string{fmt.Sprint(r.identities), fmt.Sprint(r.policies), fmt.Sprint(r.endpoints)}
		for _, c := range scaleColumns {
			cells = append(cells, r.values[c])
		}
		w.Write(cells)
	}
	w.Flush()
	if err := w.Error(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*scaleOut, []byte(scaleMarkdown(rows)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// scaleMarkdown writes the rows as tables of a page.
func scaleMarkdown(rows []scaleRow) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Policy at scale\n\n%s\n", scaleText)
	for _, part := range []struct {
		title   string
		columns []string
	}{
		{"What there is", scaleColumns[:9]},
		{"Changes of identities and addresses", scaleColumns[9:13]},
		{"Changes of policies", scaleColumns[13:]},
	} {
		fmt.Fprintf(&b, "\n## %s\n| Identities | Policies | Endpoints | %s |\n|%s\n", part.title, strings.Join(part.columns, " | "), strings.Repeat("--:|", len(part.columns)+3))
		for _, r := range rows {
			fmt.Fprintf(&b, "| %d | %d | %d |", r.identities, r.policies, r.endpoints)
			for _, c := range part.columns {
				fmt.Fprintf(&b, " %s |", r.values[c])
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

const scaleText = `Written by ` + "`make bench-policy`" + `. The raw rows are in policy-scale.csv.

A seeded cluster of up to 500 namespaces and 100 apps, each pod with labels that matter to nobody. Half of the identities are pods, half are prefixes of policies. Of the policies 40 % speak of an app, 30 % of a namespace and a team, 20 % have a NotIn or an Exists, 10 % share the prefixes. Each selects endpoints of this node.

Times are CPU times of Engine.Apply and end where the steps are ready for the kernel; the garbage collector works beside it. They are medians of 200 (identities) or 30 (policies); compile, CIDRs and the wide selector are single runs. Kernel memory is computed from the rows: banks of 256 KiB for 256 classes, 512 KiB for peers, and what a row takes in a trie (twice: the inner node) or a hash. RSS is what the engine adds to the process after a garbage collection, the input included only where the engine keeps it.

identity: a pod with the labels of another and one label more; stores are steps for the kernel. new class: labels that nobody has together. label change: an address of another node gets another identity. policy: mixed as above, 20 prefixes in those that have any. wide selector: a policy whose pod selector holds every pod, and whose ipBlock 16,384 of them.`
