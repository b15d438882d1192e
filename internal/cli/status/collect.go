// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/kube"
)

const askTimeout = 5 * time.Second // for one agent's answer

// local asks the agent of this node.
func local(ctx context.Context, agent *client.Client) (*Report, error) {
	n, err := ask(ctx, agent)
	if err != nil {
		return nil, err
	}
	r := &Report{Nodes: []Node{n}, Pods: n.own().Pods}
	r.judge()
	return r, nil
}

// ask gets one agent's state.
func ask(ctx context.Context, agent *client.Client) (Node, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	n := Node{Name: agent.Node()}
	var got rest.StatusResponse
	err := agent.Get(ctx, rest.PathHealthz, url.Values{}, &got)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer within %v", askTimeout)
		}
		n.Error = err.Error()
		return n, err
	}
	n.Status = &got
	n.Ready = n.own().Ready
	if n.own().Node != "" {
		n.Name = n.own().Node
	}
	return n, nil
}

// remote looks at the cluster's objects and asks every agent.
func remote(ctx context.Context, c *kube.Cluster, dial func(kube.Agent) *client.Client) (*Report, error) {
	r := &Report{}
	agents, err := c.Agents(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the agents: %w", err)
	}
	if err := r.components(ctx, c); err != nil {
		return nil, err
	}
	r.Nodes = make([]Node, len(agents))
	var wg sync.WaitGroup
	for i, a := range agents {
		wg.Go(func() {
			if !a.Running {
				r.Nodes[i] = Node{Name: a.Node, Pod: a.Pod, Error: a.Why}
				return
			}
			agent := dial(a)
			defer agent.Close()
			r.Nodes[i], _ = ask(ctx, agent) // the row says why
			r.Nodes[i].Name, r.Nodes[i].Pod = a.Node, a.Pod
		})
	}
	wg.Wait()
	if err := r.countPods(ctx, c); err != nil {
		return nil, err
	}
	if len(agents) == 0 {
		r.problem("cluster", "no agent runs in namespace "+c.Namespace(), "is Stentor installed there? see --namespace")
	}
	r.judge()
	return r, nil
}

// components reads the workloads that the chart makes.
func (r *Report) components(ctx context.Context, c *kube.Cluster) error {
	base := "/apis/apps/v1/namespaces/" + c.Namespace()
	var ds kube.DaemonSet
	err := c.Get(ctx, base+"/daemonsets/stentor", &ds)
	if err := r.component(Component{Name: "agent", Kind: "DaemonSet", Object: "stentor",
		Desired: ds.Status.Desired, Ready: ds.Status.Ready}, err); err != nil {
		return err
	}
	var dep kube.Deployment
	err = c.Get(ctx, base+"/deployments/stentor-operator", &dep)
	return r.component(Component{Name: "operator", Kind: "Deployment", Object: "stentor-operator",
		Desired: dep.Spec.Replicas, Ready: dep.Status.Ready}, err)
}

func (r *Report) component(x Component, err error) error {
	where := x.Kind + " " + x.Object
	switch {
	case kube.NotFound(err):
		r.problem(where, "it is not there", "")
		return nil
	case err != nil:
		return fmt.Errorf("read the %s: %w", where, err)
	}
	r.Components = append(r.Components, x)
	if x.Ready < x.Desired {
		r.problem(where, fmt.Sprintf("%d of %d pods are ready", x.Ready, x.Desired), "")
	}
	return nil
}

// countPods compares the pods that should have an address with the endpoints
// that exist. Who may not list all pods gets what the agents count.
func (r *Report) countPods(ctx context.Context, c *kube.Cluster) error {
	pods, err := kube.List[kube.Pod](ctx, c, "/api/v1/pods", "")
	if err == nil {
		var endpoints []kube.Endpoint
		endpoints, err = kube.List[kube.Endpoint](ctx, c, "/apis/cilium.io/v2/ciliumendpoints", "")
		if kube.NotFound(err) {
			err = nil // the kind is not there yet: no pod is managed
		}
		if err == nil {
			r.Pods = count(pods, endpoints)
			return nil
		}
	}
	var refused *kube.Error
	if !errors.As(err, &refused) || refused.Code != http.StatusForbidden {
		return fmt.Errorf("count the pods: %w", err)
	}
	for _, n := range r.Nodes {
		p := n.own().Pods
		r.Pods.Managed += p.Managed
		r.Pods.Total += p.Total
		r.Pods.HostNetwork += p.HostNetwork
		r.Pods.Unmanaged = append(r.Pods.Unmanaged, p.Unmanaged...)
	}
	return nil
}

func count(pods []kube.Pod, endpoints []kube.Endpoint) rest.Pods {
	managed := map[string]bool{}
	for _, e := range endpoints {
		managed[e.Metadata.Namespace+"/"+e.Metadata.Name] = true
	}
	var out rest.Pods
	for _, p := range pods {
		name := p.Metadata.Namespace + "/" + p.Metadata.Name
		switch {
		case p.Spec.NodeName == "" || p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed":
		case p.Spec.HostNetwork:
			out.HostNetwork++
		case managed[name]:
			out.Total++
			out.Managed++
		default:
			out.Total++
			out.Unmanaged = append(out.Unmanaged, name)
		}
	}
	return out
}

// summary names the problems in one line.
func (r *Report) summary() string {
	var parts []string
	for _, p := range r.Problems {
		parts = append(parts, p.String())
	}
	return strings.Join(parts, "; ")
}
