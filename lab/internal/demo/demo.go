// SPDX-License-Identifier: Apache-2.0

// Package demo shows a first policy at work in a lab, and checks what it shows.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/stentor-net/stentor/lab/internal/kubeapi"
	"github.com/stentor-net/stentor/lab/internal/plan"
	"github.com/stentor-net/stentor/lab/internal/probe"
	"github.com/stentor-net/stentor/lab/internal/progress"
)

// Options say in which lab to show what, and where to tell it.
type Options struct {
	Plan    *plan.Plan        // of a lab that is up, with two nodes or more
	Bin     string            // folder of the programs, stentor among them
	Out     *progress.Printer // told about progress
	Print   io.Writer         // gets the tables
	Colour  bool              // in what is printed
	Timeout time.Duration     // for everything; default 2 minutes
}

func (o Options) validate() error {
	if o.Plan == nil || o.Out == nil || o.Print == nil || o.Bin == "" {
		return errors.New("demo: plan, folder of programs, progress and writer are needed")
	}
	if len(o.Plan.Nodes) < 2 {
		return fmt.Errorf("the demo needs a lab with two nodes; lab %q has %d", o.Plan.Name, len(o.Plan.Nodes))
	}
	return nil
}

// ErrDiffers is returned when something is not as it should be. What, is
// printed.
var ErrDiffers = errors.New("not everything is as expected")

const (
	namespace = "default"
	landed    = "landed"  // the answer of the Death Star
	dropped   = "dropped" // no answer at all
	// reach is how long a probe may take: what is dropped takes as long.
	reach = time.Second
	// settle is how long services and routes may take to follow new pods.
	settle = 15 * time.Second
)

// demo is one showing.
type demo struct {
	Options
	kube  *kubeapi.Client
	ships []ship
	stars map[string]corev1.Pod // the Death Star's pods by node
	vips  []netip.Addr
}

type ship struct {
	name, node string
	empire     bool
}

// Run shows the demo. The pods and the policy stay.
func Run(ctx context.Context, o Options) error {
	if err := o.validate(); err != nil {
		return err
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	d := &demo{Options: o, stars: map[string]corev1.Pod{}}
	var err error
	if d.kube, err = kubeapi.New(o.Plan.Kubeconfig()); err != nil {
		return err
	}
	for i, n := range o.Plan.Nodes[:2] {
		suffix := []string{"", "-2"}[i]
		d.ships = append(d.ships, ship{"tiefighter" + suffix, n.Name, true}, ship{"xwing" + suffix, n.Name, false})
	}
	if err := d.deploy(ctx); err != nil {
		return d.explain(err)
	}
	return d.show(ctx)
}

// show measures before and with the policy, and prints what it saw.
func (d *demo) show(ctx context.Context) error {
	before, err := d.settled(ctx)
	if err != nil {
		return d.explain(err)
	}
	d.Out.Step("access measured without a policy")
	inForce := d.enforce(ctx)
	if inForce == nil {
		d.Out.Step("policy rule1 is in force")
	} else {
		d.Out.Warn("policy rule1 is not in force: %v", inForce)
	}
	after, err := d.measure(ctx)
	if err != nil {
		return d.explain(err)
	}
	d.Out.Step("access measured with the policy")
	drop, derr := d.seeDrop(ctx)
	if derr == nil {
		d.Out.Step("a drop seen")
	}
	requests, rerr := d.requests(ctx)
	if rerr != nil {
		return d.explain(rerr)
	}
	d.Out.Step("requests made under a rule about HTTP")
	same := d.table(before, after)
	d.printDrop(drop, derr)
	judged := d.printRequests(requests)
	d.printNext()
	if !same || !judged || inForce != nil || derr != nil {
		return ErrDiffers
	}
	return nil
}

func (d *demo) explain(err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return fmt.Errorf("%w\n%s", err, d.kube.Diagnose(ctx))
}

// deploy makes the pods, without the policy of an earlier showing.
func (d *demo) deploy(ctx context.Context) error {
	if err := d.withdraw(ctx); err != nil {
		return err
	}
	if err := kubeapi.Wait(ctx, "the pods to be accepted", func(ctx context.Context) (bool, error) {
		err := d.kube.Apply(ctx, Empire)
		return err == nil, err
	}); err != nil {
		return err
	}
	if err := kubeapi.Wait(ctx, "the pods to be ready", d.ready); err != nil {
		return err
	}
	d.Out.Step("Death Star and ships are ready")
	return nil
}

// withdraw deletes rule1 and waits until it is no longer in force.
func (d *demo) withdraw(ctx context.Context) error {
	err := d.kube.Delete(ctx, Rule1)
	if errors.Is(err, kubeapi.ErrNoKind) || apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return kubeapi.Wait(ctx, "the earlier rule1 to go", func(ctx context.Context) (bool, error) {
		on, err := d.enforcing(ctx)
		return err == nil && !slices.Contains(on, true), err
	})
}

// ready finds the pods, and whether all of them are ready.
func (d *demo) ready(ctx context.Context) (bool, error) {
	for _, s := range d.ships {
		p, err := d.kube.Set.CoreV1().Pods(namespace).Get(ctx, s.name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		if !kubeapi.PodReady(p) {
			return false, fmt.Errorf("pod %s is not ready", s.name)
		}
	}
	l, err := d.kube.Set.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "org=empire,class=deathstar"})
	if err != nil {
		return false, err
	}
	clear(d.stars)
	for _, p := range l.Items {
		if p.DeletionTimestamp == nil && kubeapi.PodReady(&p) {
			d.stars[p.Spec.NodeName] = p
		}
	}
	for _, n := range d.Plan.Nodes[:2] {
		if _, ok := d.stars[n.Name]; !ok {
			return false, fmt.Errorf("no Death Star on %s is ready", n.Name)
		}
	}
	s, err := d.kube.Set.CoreV1().Services(namespace).Get(ctx, "deathstar", metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	d.vips = nil
	for _, ip := range s.Spec.ClusterIPs {
		a, err := netip.ParseAddr(ip)
		if err != nil {
			return false, fmt.Errorf("service deathstar: %w", err)
		}
		d.vips = append(d.vips, a)
	}
	return len(d.vips) > 0, nil
}

// way is how a ship gets to the Death Star.
type way int

const (
	podHere way = iota
	podThere
	clusterIP
	name
	ways
)

var wayNames = [ways]string{"pod on the same node", "pod on the other node", "service, ClusterIP", "service, DNS name"}

// cell is one access: from a ship, by a way, over IPv4 (0) or IPv6 (1).
type cell struct {
	ship   string
	way    way
	family int
}

// families are the columns of the lab's address families.
func (d *demo) families() []int {
	switch d.Plan.IPFamily {
	case plan.IPv4:
		return []int{0}
	case plan.IPv6:
		return []int{1}
	}
	return []int{0, 1}
}

func (d *demo) host(s ship, w way, family int) (string, bool) {
	var addrs []netip.Addr
	switch w {
	case name:
		return "deathstar." + namespace + ".svc.cluster.local", true
	case clusterIP:
		addrs = d.vips
	default:
		for node, p := range d.stars {
			if (node == s.node) == (w == podHere) {
				addrs = kubeapi.PodAddrs(&p)
			}
		}
	}
	for _, a := range addrs {
		if a.Is6() == (family == 1) {
			return net.JoinHostPort(a.String(), "80"), true
		}
	}
	return "", false
}

// measure tries every access at the same time.
func (d *demo) measure(ctx context.Context) (map[cell]string, error) {
	seen := make([]map[cell]string, len(d.ships))
	g, ctx := errgroup.WithContext(ctx)
	for i, s := range d.ships {
		g.Go(func() (err error) {
			seen[i], err = d.measureFrom(ctx, s)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := map[cell]string{}
	for _, m := range seen {
		for c, v := range m {
			out[c] = v
		}
	}
	return out, nil
}

func (d *demo) measureFrom(ctx context.Context, s ship) (map[cell]string, error) {
	out := map[cell]string{}
	var cells []cell
	var targets []string
	for w := range ways {
		for _, f := range d.families() {
			c := cell{s.name, w, f}
			host, ok := d.host(s, w, f)
			if !ok {
				out[c] = "no address"
				continue
			}
			cells = append(cells, c)
			targets = append(targets, fmt.Sprintf("http://%s/v1/request-landing#method=POST&family=%d", host, 4+2*f))
		}
	}
	results, err := d.probe(ctx, s.name, targets...)
	if err != nil {
		return nil, err
	}
	for i, r := range results {
		out[cells[i]] = said(r)
	}
	return out, nil
}

func (d *demo) probe(ctx context.Context, pod string, targets ...string) ([]probe.Result, error) {
	command := append([]string{"stentor-app", "probe", "-json", "-timeout", reach.String()}, targets...)
	out, errs, err := d.kube.Exec(ctx, namespace, pod, command...)
	if err != nil {
		return nil, fmt.Errorf("in pod %s: %w: %s", pod, err, strings.TrimSpace(errs))
	}
	var results []probe.Result
	if err := json.Unmarshal([]byte(out), &results); err != nil {
		return nil, fmt.Errorf("in pod %s: %w", pod, err)
	}
	if len(results) != len(targets) {
		return nil, fmt.Errorf("in pod %s: %d results for %d targets", pod, len(results), len(targets))
	}
	return results, nil
}

// said puts a result into a word for the table.
func said(r probe.Result) string {
	switch {
	case r.Outcome == probe.OK && r.Body == "Ship landed":
		return landed
	case r.Outcome == probe.Timeout:
		return dropped
	case r.Outcome == probe.Status:
		return fmt.Sprint(r.Status)
	}
	return r.Outcome
}

// settled measures until all ships land, as they must without a policy, or
// until there is no hope: then the last measure counts.
func (d *demo) settled(ctx context.Context) (seen map[cell]string, err error) {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	waitErr := kubeapi.Wait(ctx, "all ships to land", func(ctx context.Context) (bool, error) {
		now, err := d.measure(ctx)
		if err != nil {
			return false, err
		}
		seen = now
		for _, v := range seen {
			if v != landed {
				return false, nil
			}
		}
		return true, nil
	})
	if seen == nil {
		return nil, waitErr
	}
	return seen, nil
}

// enforce applies rule1 and waits until the Death Star's endpoints say that a
// policy for ingress is in force.
func (d *demo) enforce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	if err := d.kube.Apply(ctx, Rule1); err != nil {
		return err
	}
	return kubeapi.Wait(ctx, "endpoints to enforce it", func(ctx context.Context) (bool, error) {
		on, err := d.enforcing(ctx)
		if err != nil {
			return false, err
		}
		if len(on) < len(d.stars) || slices.Contains(on, false) {
			return false, fmt.Errorf("of the Death Star's %d pods, endpoints that enforce: %v", len(d.stars), on)
		}
		return true, nil
	})
}

// enforcing says of each of the Death Star's endpoints whether it enforces a
// policy for ingress.
func (d *demo) enforcing(ctx context.Context) ([]bool, error) {
	var out []bool
	l, err := d.kube.List(ctx, "cilium.io/v2", "CiliumEndpoint", namespace)
	if err != nil {
		return nil, err
	}
	for _, e := range l {
		if !strings.HasPrefix(e.GetName(), "deathstar-") {
			continue
		}
		on, _, err := unstructured.NestedBool(e.Object, "status", "policy", "ingress", "enforcing")
		if err != nil {
			return nil, fmt.Errorf("endpoint %s: %w", e.GetName(), err)
		}
		out = append(out, on)
	}
	return out, nil
}
