// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/file"
	"github.com/stentor-net/stentor/internal/ipam"
	"github.com/stentor-net/stentor/internal/node"
	"github.com/stentor-net/stentor/internal/table"
)

// nodeAgent publishes this node and learns its pod ranges.
type nodeAgent struct {
	log     *slog.Logger
	opts    Options
	tables  *tables
	cluster Cluster
	checks  *checks

	published string // node.Machine.Says of what was published
}

// Pace of the node agent.
const (
	nodeRetry = time.Second
	nodeEvery = 5 * time.Minute // addresses of the Node object are read again
)

// place is where this node stands: what the datapath cannot change later.
type place struct {
	InternalIP []netip.Addr   `json:"internalIP"`
	PodCIDRs   []netip.Prefix `json:"podCIDRs"`
}

// routers are the node's own addresses in its pod ranges, one per family.
func (p place) routers() []netip.Addr {
	var out []netip.Addr
	for _, r := range p.PodCIDRs {
		a := ipam.Router(r)
		if !slices.ContainsFunc(out, func(b netip.Addr) bool { return familyOf(a) == familyOf(b) }) {
			out = append(out, a)
		}
	}
	return out
}

func (n *nodeAgent) placeFile() string { return filepath.Join(n.opts.RunDir, "state", "node.json") }

// settle returns the node's place. While pods are attached, the place found by
// the agent before is taken at once, so that a restart needs no API server; run
// confirms it.
func (n *nodeAgent) settle(ctx context.Context) (place, error) {
	attached, _ := stateDir(n.opts.RunDir).load() // restore reports errors
	if p, err := n.load(); err == nil && len(attached) > 0 {
		n.log.Info("place of this node is known from before", "podCIDRs", p.PodCIDRs)
		return p, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.log.Warn("place of this node is asked for again", "error", err)
	}
	for {
		p, err := n.ask(ctx)
		if err == nil {
			return p, n.save(p)
		}
		if ctx.Err() != nil {
			return place{}, context.Cause(ctx)
		}
		n.checks.fail("node", err.Error(), "pod ranges of this node", "asked for again every second")
		if err := pause(ctx, nodeRetry); err != nil {
			return place{}, err
		}
	}
}

// ask publishes the node and waits for its pod ranges.
func (n *nodeAgent) ask(ctx context.Context) (place, error) {
	m, err := n.cluster.Machine(ctx)
	if err != nil {
		return place{}, fmt.Errorf("read the Node object: %w", err)
	}
	if err := n.isHere(ctx, m); err != nil {
		return place{}, err
	}
	if err := n.publish(ctx, m, place{}); err != nil {
		return place{}, err
	}
	p := place{InternalIP: m.InternalIP, PodCIDRs: n.enabled(m.PodCIDRs)}
	if n.opts.IPAM == IPAMClusterPool {
		n.checks.warn("node", "no pod ranges yet", "addresses for pods", "the operator gives them: see its status")
		err := n.tables.nodes.Wait(ctx, func(s table.Snapshot[node.Node]) bool {
			self, _ := s.Get(n.opts.NodeName)
			p.PodCIDRs = n.enabled(self.PodCIDRs)
			return n.complete(p.PodCIDRs)
		})
		if err != nil {
			return place{}, err
		}
	}
	if !n.complete(p.PodCIDRs) {
		return place{}, fmt.Errorf("the Node object has no pod range for each family yet: %v", p.PodCIDRs)
	}
	return p, nil
}

// isHere refuses to be a node whose addresses are another machine's: two agents
// with one name would overwrite each other's CiliumNode.
func (n *nodeAgent) isHere(ctx context.Context, m Machine) error {
	if err := waitSynced(ctx, n.tables.hostAddresses); err != nil {
		return err
	}
	own := n.tables.hostAddresses.Snapshot()
	if len(m.InternalIP) == 0 || slices.ContainsFunc(m.InternalIP, func(a netip.Addr) bool { _, ok := own.Get(a.String()); return ok }) {
		return nil
	}
	return fmt.Errorf("the Node object %s has the address %s, which this machine does not have: is %s the name of another machine (option node-name)?",
		n.opts.NodeName, m.InternalIP[0], n.opts.NodeName)
}

// enabled are the ranges of the families in use.
func (n *nodeAgent) enabled(ranges []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, r := range ranges {
		if slices.Contains(n.opts.families(), familyOf(r.Addr())) {
			out = append(out, r.Masked())
		}
	}
	return out
}

// complete tells whether each family has a range.
func (n *nodeAgent) complete(ranges []netip.Prefix) bool {
	for _, f := range n.opts.families() {
		if !slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return familyOf(r.Addr()) == f }) {
			return false
		}
	}
	return true
}

// publish stores what this node says about itself. Ranges are left to the
// operator unless they come from Kubernetes, or somebody deleted the object that
// had them: pods have addresses of theirs, so no other node may get them.
func (n *nodeAgent) publish(ctx context.Context, m Machine, p place) error {
	err := n.cluster.PublishNode(ctx, func(o *ciliumv2.CiliumNode) {
		o.Labels = m.Labels
		if m.UID != "" {
			o.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.opts.NodeName, UID: types.UID(m.UID)}}
		}
		o.Spec.BootID = m.BootID
		o.Spec.Addresses = nil
		add := func(kind string, list []netip.Addr) {
			for _, a := range list {
				o.Spec.Addresses = append(o.Spec.Addresses, ciliumv2.NodeAddress{Type: kind, IP: a.String()})
			}
		}
		add(ciliumv2.AddressInternalIP, m.InternalIP)
		add(ciliumv2.AddressExternalIP, m.ExternalIP)
		add(ciliumv2.AddressCiliumInternalIP, p.routers())
		switch {
		case n.opts.IPAM == IPAMKubernetes:
			o.Spec.IPAM.PodCIDRs = cidrs(n.enabled(m.PodCIDRs))
		case len(o.Spec.IPAM.PodCIDRs) == 0:
			o.Spec.IPAM.PodCIDRs = cidrs(p.PodCIDRs)
		}
	})
	if err != nil {
		return fmt.Errorf("publish the node: %w", err)
	}
	return nil
}

func cidrs(ranges []netip.Prefix) (out []ciliumv2.CIDR) {
	for _, r := range ranges {
		out = append(out, ciliumv2.CIDR(r.String()))
	}
	return out
}

// run keeps the published node as the Node object is, and watches over the ranges.
func (n *nodeAgent) run(ctx context.Context, p place) error {
	for {
		wait := nodeEvery
		if err := n.confirm(ctx, p); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n.checks.warn("node", err.Error(), "news of this node on others", "published again every second")
			wait = nodeRetry
		}
		if err := n.sleep(ctx, wait, p); err != nil {
			return err
		}
	}
}

// sleep waits for d, or until the Node object changes, or the published node is
// gone or lacks its routers: then somebody has deleted or changed it.
func (n *nodeAgent) sleep(ctx context.Context, d time.Duration, p place) error {
	if err := pause(ctx, nodeRetry); err != nil { // never more often than that
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d-nodeRetry, errSlept)
	defer cancel()
	for {
		seen := watch(n.tables.nodes, n.tables.machine)
		self, ok := n.tables.nodes.Get(n.opts.NodeName)
		if !ok || !slices.Equal(self.Router, p.routers()) {
			return nil
		}
		if now, ok := n.tables.machine.Get(n.opts.NodeName); ok && now.Says != n.published {
			return nil
		}
		err := waitAny(ctx, seen...)
		switch {
		case errors.Is(err, errSlept):
			return nil
		case err != nil:
			return err
		}
	}
}

var errSlept = errors.New("time is over")

func (n *nodeAgent) confirm(ctx context.Context, p place) error {
	seen, _ := n.tables.machine.Get(n.opts.NodeName) // before it is read: a later change wakes again
	m, err := n.cluster.Machine(ctx)
	if err != nil {
		return fmt.Errorf("read the Node object: %w", err)
	}
	if err := n.publish(ctx, m, p); err != nil {
		return err
	}
	n.published = seen.Says
	now := n.enabled(m.PodCIDRs)
	if n.opts.IPAM == IPAMClusterPool {
		if err := waitSynced(ctx, n.tables.nodes); err != nil {
			return err
		}
		now = n.enabled(localRow(n.tables).PodCIDRs)
	}
	if n.complete(now) && !slices.Equal(now, p.PodCIDRs) {
		n.checks.warn("node", fmt.Sprintf("pod ranges are %v now, pods have addresses of %v", now, p.PodCIDRs),
			"the new ranges", "drain the node, remove "+n.placeFile()+", restart the agent")
		return nil
	}
	n.checks.ok("node", fmt.Sprintf("pod ranges %v", p.PodCIDRs))
	return nil
}

func (n *nodeAgent) load() (place, error) {
	var p place
	content, err := os.ReadFile(n.placeFile())
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(content, &p); err != nil {
		return p, fmt.Errorf("read %s: %w", n.placeFile(), err)
	}
	if p.PodCIDRs = n.enabled(p.PodCIDRs); !n.complete(p.PodCIDRs) || len(p.InternalIP) == 0 {
		return p, fmt.Errorf("%s lacks a family that is enabled now", n.placeFile())
	}
	return p, nil
}

func (n *nodeAgent) save(p place) error {
	content, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := file.Write(n.placeFile(), content, 0o644); err != nil {
		return fmt.Errorf("save the place of this node: %w", err)
	}
	return nil
}
