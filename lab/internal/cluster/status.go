// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/stentor-net/stentor/lab/internal/kubeapi"
	"github.com/stentor-net/stentor/lab/internal/plan"
)

// Status is what a lab looks like from outside.
type Status struct {
	Name         string        `json:"name"`
	Options      plan.Options  `json:"options"`
	Created      time.Time     `json:"created"`
	Kubeconfig   string        `json:"kubeconfig"`
	APIServer    string        `json:"apiServer"` // from this machine
	APIReady     bool          `json:"apiReady"`
	ControlPlane ProcessStatus `json:"controlPlane"`
	Nodes        []NodeStatus  `json:"nodes"`
	Outside      []string      `json:"outside"`           // addresses of the outside host
	Times        []phase       `json:"times"`             // steps of the last up
	Trouble      string        `json:"trouble,omitempty"` // what is not ready and why, for a person
}

// ProcessStatus is a process of the lab.
type ProcessStatus struct {
	Pid     int  `json:"pid"`
	Running bool `json:"running"`
}

// NodeStatus is a node of the lab.
type NodeStatus struct {
	Name      string        `json:"name"`
	Process   ProcessStatus `json:"process"`
	Ready     bool          `json:"ready"`
	Why       string        `json:"why,omitempty"` // not ready
	Addresses []string      `json:"addresses"`
	PodCIDRs  []string      `json:"podCIDRs"`
	NetNS     string        `json:"netns"`
	Logs      string        `json:"logs"`
}

// Healthy says whether everything runs and is ready.
func (s *Status) Healthy() bool {
	ok := s.APIReady && s.ControlPlane.Running
	for _, n := range s.Nodes {
		ok = ok && n.Ready && n.Process.Running
	}
	return ok
}

// Status looks at the lab's processes and asks its API server.
func (l *Lab) Status(ctx context.Context) (*Status, error) {
	p := l.Plan
	s := &Status{
		Name: p.Name, Options: p.Options, Created: l.state.Created,
		Kubeconfig: p.Kubeconfig(), Times: l.state.Times,
		ControlPlane: ProcessStatus{l.state.ControlPlane.Pid, l.state.ControlPlane.alive()},
	}
	for _, a := range p.Outside {
		s.Outside = append(s.Outside, a.Addr().String())
	}
	seen := map[string]NodeStatus{}
	var client *kubeapi.Client
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := os.Stat(p.Kubeconfig()); err == nil {
		c, err := kubeapi.New(p.Kubeconfig())
		if err != nil {
			return nil, err
		}
		client, s.APIServer = c, c.Config.Host
		if s.APIReady, err = c.Ready(ctx); err == nil {
			nodes, err := c.Nodes(ctx)
			if err != nil {
				return nil, err
			}
			for _, n := range nodes {
				ok, why := kubeapi.NodeReady(&n)
				if ok {
					why = ""
				}
				seen[n.Name] = NodeStatus{Ready: ok, Why: why, PodCIDRs: podCIDRs(ctx, c, &n)}
			}
		}
	}
	for _, n := range p.Nodes {
		st, ok := seen[n.Name]
		if !ok {
			st.Why = "not registered"
		}
		st.Name, st.NetNS, st.Logs = n.Name, n.NetNS, p.Path("nodes", n.Name, "log")
		pr := l.state.Nodes[n.Name]
		st.Process = ProcessStatus{pr.Pid, pr.alive()}
		if !st.Process.Running {
			st.Why = "its process has ended"
		}
		for _, a := range n.Addrs {
			st.Addresses = append(st.Addresses, a.Addr().String())
		}
		s.Nodes = append(s.Nodes, st)
	}
	if client != nil && !s.Healthy() {
		s.Trouble = client.Diagnose(ctx)
	}
	return s, nil
}

// podCIDRs are the ranges of a node's pods: those that Stentor gave it, which
// need not be the ones Kubernetes would, or the latter.
func podCIDRs(ctx context.Context, c *kubeapi.Client, n *corev1.Node) []string {
	if own, err := c.Get(ctx, "cilium.io/v2", "CiliumNode", "", n.Name); err == nil {
		if given, ok, err := unstructured.NestedStringSlice(own.Object, "spec", "ipam", "podCIDRs"); err == nil && ok {
			return given
		}
	}
	return n.Spec.PodCIDRs
}
