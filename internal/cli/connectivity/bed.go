// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stentor-net/stentor/internal/cli/connectivity/probe"
	"github.com/stentor-net/stentor/internal/cli/kube"
)

// Ports of the servers in pods; those in the network of a node have --host-port.
const podPort = 8080

// testLabel marks namespaces that this command made and may remove.
const testLabel = "stentor.io/connectivity-test"

// pod of the test bed.
type pod struct {
	Name, Namespace, Node string
	Role                  string // what policies select it by
	Host                  bool   // in the network of its node
	Port                  uint16 // first of its servers' ports
	Image                 string

	addrs []netip.Addr
	*probe.Session
}

func (p *pod) values() values {
	dns := "ClusterFirst"
	if p.Host {
		dns = "ClusterFirstWithHostNet"
	}
	return values{"Name": p.Name, "Namespace": p.Namespace, "Node": p.Node, "Role": p.Role, "Host": p.Host, "Port": p.Port, "Image": p.Image, "DNSPolicy": dns}
}

// ip of a family; ok is false if the pod has none.
func (p *pod) ip(family int) (netip.Addr, bool) {
	for _, a := range p.addrs {
		if familyOf(a) == family {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}

// bed holds the objects of a run. Near and far are seen from the client.
type bed struct {
	cluster   *kube.Cluster
	say       func(format string, args ...any) // progress
	namespace string
	other     string // a second namespace
	image     string
	hostPort  uint16

	roles     []string // pods to make; nil is all
	made      []string // namespaces that are ours to remove
	near, far string   // nodes; far is "" if there is one only
	families  []int
	pods      map[string]*pod
	services  map[string][]netip.Addr
}

// Pods by name. Guarded ones have policies at their ingress, the captive at its
// egress; a stranger is what policies leave out, the outsider lives in the other
// namespace.
const (
	visitor     = "client"
	stranger    = "stranger"
	outsider    = "outsider"
	captive     = "captive"
	serverNear  = "server-near"
	serverFar   = "server-far"
	guardedNear = "guarded-near"
	guardedFar  = "guarded-far"
	hostNear    = "host-near"
	hostFar     = "host-far"
)

// chooseNodes takes two nodes with an agent that is ready; without agents, any
// two nodes that are.
func (b *bed) chooseNodes(ctx context.Context, agents []kube.Agent, wanted []string) error {
	nodes, err := kube.List[kube.Node](ctx, b.cluster, "/api/v1/nodes", "")
	if err != nil {
		return fmt.Errorf("list the nodes: %w", err)
	}
	var names []string
	for _, n := range nodes {
		name := n.Metadata.Name
		switch {
		case len(wanted) > 0 && !slices.Contains(wanted, name):
			continue
		case !n.Ready():
			b.say("node %s is left out: it is not ready", name)
			continue
		case len(agents) > 0 && !slices.ContainsFunc(agents, func(a kube.Agent) bool { return a.Node == name && a.Ready }):
			b.say("node %s is left out: it has no agent that is ready", name)
			continue
		case n.Spec.Unschedulable && len(wanted) == 0:
			b.say("node %s is left out: it takes no pods", name)
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	for _, w := range wanted {
		if !slices.Contains(names, w) {
			return fmt.Errorf("node %s of --nodes cannot be used", w)
		}
	}
	if len(wanted) > 0 {
		names = wanted
	}
	if len(names) == 0 {
		return errors.New("no node is ready")
	}
	b.near = names[0]
	if len(names) > 1 {
		b.far = names[1]
	}
	return nil
}

// plan lays the pods out.
func (b *bed) plan() {
	b.pods = map[string]*pod{}
	add := func(name, node, role string) {
		if node != "" && (b.roles == nil || slices.Contains(b.roles, name)) {
			b.pods[name] = &pod{Name: name, Namespace: b.namespace, Node: node, Role: role, Image: b.image, Port: podPort}
		}
	}
	elsewhere := b.far
	if elsewhere == "" {
		elsewhere = b.near
	}
	add(visitor, b.near, "friend")
	add(stranger, elsewhere, "stranger")
	add(outsider, elsewhere, "stranger")
	add(captive, b.near, "captive")
	add(serverNear, b.near, "server")
	add(serverFar, b.far, "server")
	add(guardedNear, b.near, "guarded")
	add(guardedFar, b.far, "guarded")
	add(hostNear, b.near, "host")
	add(hostFar, b.far, "host")
	if p := b.pods[outsider]; p != nil {
		p.Namespace = b.other
	}
	for _, name := range []string{hostNear, hostFar} {
		if p := b.pods[name]; p != nil {
			p.Host, p.Port = true, b.hostPort
		}
	}
}

// build makes everything and waits until it is there.
func (b *bed) build(ctx context.Context) error {
	b.say("namespaces %s and %s", b.namespace, b.other)
	for _, ns := range []string{b.namespace, b.other} {
		if err := b.makeNamespace(ctx, ns); err != nil {
			return err
		}
	}
	b.plan()
	b.say("%d pods on %s", len(b.pods), strings.TrimSuffix(b.near+" and "+b.far, " and "))
	var g errgroup.Group
	for _, p := range b.pods {
		g.Go(func() error { return b.makePod(ctx, p) })
	}
	for _, name := range []string{serverNear, serverFar} {
		if p := b.pods[name]; p != nil {
			g.Go(func() error {
				return b.create(ctx, "service", values{"Name": p.Name, "Namespace": p.Namespace, "Port": p.Port, "EchoPort": p.Port + probe.EchoPort, "StreamPort": p.Port + probe.StreamPort})
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := b.waitForPods(ctx); err != nil {
		return err
	}
	b.say("pods run")
	if err := b.connect(ctx); err != nil {
		return err
	}
	if err := b.readServices(ctx); err != nil {
		return err
	}
	b.say("ready")
	return nil
}

func (b *bed) create(ctx context.Context, manifest string, v values) error {
	o, err := render(manifest, v)
	if err != nil {
		return err
	}
	if err := b.cluster.Create(ctx, o.list, o.json); err != nil {
		return fmt.Errorf("make %s %s: %w", manifest, o.name, err)
	}
	return nil
}

// makeNamespace makes a new one; what a run before left goes first.
func (b *bed) makeNamespace(ctx context.Context, name string) error {
	var old kube.Namespace
	err := b.cluster.Get(ctx, "/api/v1/namespaces/"+name, &old)
	switch {
	case kube.NotFound(err):
	case err != nil:
		return fmt.Errorf("read namespace %s: %w", name, err)
	case old.Metadata.Labels[testLabel] == "":
		return fmt.Errorf("namespace %s is there and was not made by a connectivity test: choose another with --test-namespace", name)
	default:
		b.say("namespace %s of a run before goes first", name)
		if err := b.removeNamespace(ctx, name); err != nil {
			return err
		}
	}
	b.made = append(b.made, name) // also if the answer is lost
	err = b.create(ctx, "namespace", values{"Namespace": name})
	if err != nil && ctx.Err() == nil {
		b.made = b.made[:len(b.made)-1]
	}
	return err
}

func (b *bed) removeNamespace(ctx context.Context, name string) error {
	path := "/api/v1/namespaces/" + name
	if err := b.cluster.Delete(ctx, path); err != nil {
		return fmt.Errorf("remove namespace %s: %w", name, err)
	}
	return poll(ctx, func() error {
		var ns kube.Namespace
		err := b.cluster.Get(ctx, path, &ns)
		if kube.NotFound(err) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("namespace %s is still there", name)
		}
		return err
	})
}

// remove takes everything away, also if the run was interrupted.
func (b *bed) remove(ctx context.Context) error {
	for _, p := range b.pods {
		if p.Session != nil {
			p.Close()
		}
	}
	var g errgroup.Group
	for _, ns := range b.made {
		g.Go(func() error { return b.removeNamespace(ctx, ns) })
	}
	return g.Wait()
}

// makePod tries again while the namespace has no service account yet.
func (b *bed) makePod(ctx context.Context, p *pod) error {
	return poll(ctx, func() error {
		err := b.create(ctx, "pod", p.values())
		var refused *kube.Error
		if errors.As(err, &refused) && !(refused.Code == http.StatusForbidden && strings.Contains(refused.Message, "service account")) {
			return final{err}
		}
		return err
	})
}

func (b *bed) waitForPods(ctx context.Context) error {
	said := ""
	return poll(ctx, func() error {
		var waiting []string
		for _, ns := range []string{b.namespace, b.other} {
			list, err := kube.List[kube.Pod](ctx, b.cluster, "/api/v1/namespaces/"+ns+"/pods", "")
			if err != nil {
				return err
			}
			for _, got := range list {
				p := b.pods[got.Metadata.Name]
				if p == nil {
					continue
				}
				if !got.Running() || len(got.Status.PodIPs) == 0 {
					waiting = append(waiting, p.Name+" on "+p.Node+" ("+strings.TrimSpace(got.Why())+")")
					continue
				}
				p.addrs = nil
				for _, a := range got.Status.PodIPs {
					ip, err := netip.ParseAddr(a.IP)
					if err != nil {
						return final{fmt.Errorf("pod %s has the address %q: %w", p.Name, a.IP, err)}
					}
					p.addrs = append(p.addrs, ip)
				}
			}
		}
		if len(waiting) > 0 {
			slices.Sort(waiting)
			text := "waiting for " + strings.Join(waiting, ", ")
			if n := fmt.Sprintf("waiting for %d pods", len(waiting)); n != said {
				b.say("%s", n)
				said = n
			}
			return errors.New(text)
		}
		return nil
	})
}

// connect starts a prober in each pod and waits until the servers there answer.
func (b *bed) connect(ctx context.Context) error {
	var g errgroup.Group
	for _, p := range b.pods {
		g.Go(func() error {
			conn, err := b.cluster.Exec(ctx, p.Namespace, p.Name, []string{"stentor", "connectivity", "probe"}, "pod "+p.Namespace+"/"+p.Name)
			if err != nil {
				return err
			}
			if p.Session, err = probe.NewSession(conn); err != nil {
				return fmt.Errorf("pod %s/%s: %w", p.Namespace, p.Name, err)
			}
			return poll(ctx, func() error {
				a, err := p.Ask(ctx, probe.Request{Kind: probe.HTTP, Host: p.addrs[0].String(), Port: p.Port, Timeout: time.Second})
				switch {
				case err != nil:
					return final{err}
				case a.Outcome != probe.OK:
					return fmt.Errorf("the servers of pod %s do not answer it: %s", p.Name, a.Error)
				case a.Server != p.Name:
					return final{fmt.Errorf("port %d of node %s belongs to something else: choose another with --host-port", p.Port, p.Node)}
				}
				return nil
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, a := range b.pods[visitor].addrs {
		b.families = append(b.families, familyOf(a))
	}
	return nil
}

func (b *bed) readServices(ctx context.Context) error {
	b.services = map[string][]netip.Addr{}
	for _, name := range []string{serverNear, serverFar} {
		if b.pods[name] == nil {
			continue
		}
		var s kube.Service
		if err := b.cluster.Get(ctx, "/api/v1/namespaces/"+b.namespace+"/services/"+name, &s); err != nil {
			return fmt.Errorf("read service %s: %w", name, err)
		}
		for _, text := range s.Spec.ClusterIPs {
			ip, err := netip.ParseAddr(text)
			if err != nil {
				return fmt.Errorf("service %s has the address %q: %w", name, text, err)
			}
			b.services[name] = append(b.services[name], ip)
		}
	}
	return nil
}

// final is an error that waiting does not mend.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// poll tries until there is no error, or ctx ends; then the error says what was
// missing last.
func poll(ctx context.Context, try func() error) error {
	for {
		err := try()
		var f final
		if err == nil || errors.As(err, &f) {
			return err
		}
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); errors.Is(cause, context.Canceled) {
				return cause
			}
			return fmt.Errorf("given up: %w", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
