// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/stentor-net/stentor/lab/internal/fabric"
	"github.com/stentor-net/stentor/lab/internal/kubeapi"
	"github.com/stentor-net/stentor/lab/internal/node"
	"github.com/stentor-net/stentor/lab/internal/plan"
)

// finish waits for the cluster and installs what runs in it. An error tells
// what is not ready and why.
func (b *builder) finish(ctx context.Context) error {
	var err error
	if b.kube, err = kubeapi.New(b.Plan.Kubeconfig()); err != nil {
		return err
	}
	if err := b.steps(ctx); err != nil {
		return errors.New(b.explain(err))
	}
	return nil
}

func (b *builder) steps(ctx context.Context) error {
	if err := b.wait(ctx, "the API server", b.kube.Ready); err != nil {
		return err
	}
	b.phase("API server ready")
	network := b.stentorNetwork
	if b.Plan.CNI == plan.CNIBridge {
		network = b.bridgeNetwork
	}
	if err := network(ctx); err != nil {
		return err
	}
	if err := b.applyCoreDNS(ctx); err != nil {
		return err
	}
	if err := b.wait(ctx, "nodes to be ready", b.nodesReady); err != nil {
		return err
	}
	b.phase("nodes ready")
	if b.Plan.PodRoutes {
		if err := b.podRoutes(ctx); err != nil {
			return err
		}
		b.phase("routes to pods")
	}
	if err := b.wait(ctx, "CoreDNS", func(ctx context.Context) (bool, error) {
		return b.kube.DeploymentAvailable(ctx, "kube-system", "coredns")
	}); err != nil {
		return err
	}
	b.phase("CoreDNS ready")
	if b.Plan.KubeProxy != plan.ProxyNone {
		if err := b.wait(ctx, "services", b.servicesAnswer); err != nil {
			return err
		}
		b.phase("services answer")
	}
	if b.Plan.CNI == plan.CNIStentor {
		if err := b.waitInstalled(ctx); err != nil {
			return err
		}
		b.phase("Stentor ready")
	}
	return nil
}

func (b *builder) bridgeNetwork(ctx context.Context) error {
	cidrs, err := b.podCIDRs(ctx)
	if err != nil {
		return err
	}
	b.phase("nodes registered")
	if err := b.waitImages(ctx); err != nil {
		return err
	}
	return setUpBridge(b.Plan, cidrs)
}

// stentorNetwork does not wait for nodes: the chart's pods come to them as
// they register. The images must be there before: a kubelet that misses one
// looks again only after seconds.
func (b *builder) stentorNetwork(ctx context.Context) error {
	if err := b.installCRDs(ctx); err != nil {
		return err
	}
	if err := b.waitImages(ctx); err != nil {
		return err
	}
	return b.installChart(ctx)
}

func (b *builder) waitImages(ctx context.Context) error {
	if err := b.wait(ctx, "images", b.imported); err != nil {
		return err
	}
	b.phase("images imported")
	return nil
}

// wait is kubeapi.Wait that ends at once when a machine of the lab has died.
func (b *builder) wait(ctx context.Context, what string, done func(context.Context) (bool, error)) error {
	return kubeapi.Wait(ctx, what, func(ctx context.Context) (bool, error) {
		if !b.state.ControlPlane.alive() {
			return false, &kubeapi.FatalError{Err: fmt.Errorf("the control plane has ended:\n%s", tail(b.Plan.Path("control-plane/log")))}
		}
		for _, n := range b.Plan.Nodes {
			if !b.state.Nodes[n.Name].alive() {
				return false, &kubeapi.FatalError{Err: fmt.Errorf("%s has ended:\n%s", n.Name, tail(b.nodeLog(n.Name, "node-init.log")))}
			}
		}
		return done(ctx)
	})
}

func (b *builder) nodeLog(name, file string) string { return b.Plan.Path("nodes", name, "log", file) }

// podCIDRs waits until every node has registered and has its pod CIDRs.
func (b *builder) podCIDRs(ctx context.Context) (map[string][]netip.Prefix, error) {
	out := map[string][]netip.Prefix{}
	err := b.wait(ctx, "nodes to register", func(ctx context.Context) (bool, error) {
		nodes, err := b.kube.Nodes(ctx)
		if err != nil {
			return false, err
		}
		for _, n := range nodes {
			cidrs, err := kubeapi.PodCIDRs(&n)
			if err != nil {
				return false, err
			}
			if len(cidrs) == len(b.Plan.PodCIDRs) {
				out[n.Name] = cidrs
			}
		}
		return len(out) == len(b.Plan.Nodes), nil
	})
	return out, err
}

func (b *builder) imported(context.Context) (bool, error) {
	for _, n := range b.Plan.Nodes {
		s := node.Spec{Name: n.Name, Dir: b.Plan.Path("nodes", n.Name)}
		ok, err := s.Imported()
		if err != nil {
			return false, &kubeapi.FatalError{Err: err}
		}
		if !ok {
			return false, nil
		}
	}
	return true, nil
}

func (b *builder) nodesReady(ctx context.Context) (bool, error) {
	nodes, err := b.kube.Nodes(ctx)
	if err != nil {
		return false, err
	}
	for _, n := range nodes {
		if ok, why := kubeapi.NodeReady(&n); !ok {
			return false, fmt.Errorf("%s: %s", n.Name, why)
		}
	}
	return len(nodes) == len(b.Plan.Nodes), nil
}

// servicesAnswer connects to the DNS service from every node: who finds the
// lab up finds its services too.
func (b *builder) servicesAnswer(ctx context.Context) (bool, error) {
	for _, n := range b.Plan.Nodes {
		for _, ip := range b.Plan.DNS {
			err := fabric.In(n.NetNS, func() error {
				d := net.Dialer{Timeout: time.Second}
				c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(ip, 53).String())
				if err != nil {
					return err
				}
				return c.Close()
			})
			if err != nil {
				return false, fmt.Errorf("from %s: %w", n.Name, err)
			}
		}
	}
	return true, nil
}

// applyCoreDNS tries again while a young API server does not yet have what it
// makes by itself.
func (b *builder) applyCoreDNS(ctx context.Context) error {
	return b.wait(ctx, "CoreDNS to be accepted", func(ctx context.Context) (bool, error) {
		err := b.kube.Apply(ctx, corednsManifests(b.Plan))
		if apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) {
			return false, &kubeapi.FatalError{Err: err}
		}
		return err == nil, err
	})
}

// explain adds to an error what a person needs to find its cause.
func (b *builder) explain(err error) string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out := &strings.Builder{}
	fmt.Fprintf(out, "%v\n", err)
	if ok, _ := b.kube.Ready(ctx); ok {
		out.WriteString(b.kube.Diagnose(ctx))
	} else {
		fmt.Fprintf(out, "control plane's log (%s):\n%s", b.Plan.Path("control-plane/log"), tail(b.Plan.Path("control-plane/log")))
	}
	fmt.Fprintf(out, "logs of the nodes: %s\nthe lab is left as it is; stentor lab down --name %s removes it",
		b.Plan.Path("nodes", "NODE", "log"), b.Plan.Name)
	return out.String()
}

// tail is the last 10 lines of a file.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error() + "\n"
	}
	lines := bytes.Split(bytes.TrimRight(data, "\n"), []byte("\n"))
	return "  " + string(bytes.Join(lines[max(0, len(lines)-10):], []byte("\n  "))) + "\n"
}
