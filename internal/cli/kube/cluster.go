// SPDX-License-Identifier: Apache-2.0

// Package kube finds the agents of a cluster through its API server.
//
// An agent listens on a unix socket only. From outside its node a connection is
// an exec of `stentor dial` in the agent's pod, whose streams are the socket's.
// The rights needed are to list pods and to create pods/exec in the namespace of
// the agents, nothing else: no port is opened and no address of a node needed.
package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// Options say which cluster and where the agents are in it.
type Options struct {
	Kubeconfig string // default: KUBECONFIG, ~/.kube/config, the pod's service account
	Context    string // default: the current one
	Namespace  string // of the agents; default kube-system
}

// Cluster speaks with one API server.
type Cluster struct {
	config    *rest.Config
	http      *http.Client
	namespace string
}

// ErrNoConfig says that nothing tells how to reach a cluster.
var ErrNoConfig = errors.New("no kubeconfig")

// Open reads the configuration; it does not talk to the API server yet.
func Open(o Options) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.Context})
	config, err := loader.ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, ErrNoConfig
	}
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	config.UserAgent = "stentor-cli"
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // a closed exec is no news
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make a client for %s: %w", config.Host, err)
	}
	if o.Namespace == "" {
		o.Namespace = "kube-system"
	}
	return &Cluster{config: config, http: client, namespace: o.Namespace}, nil
}

// Namespace of the agents.
func (c *Cluster) Namespace() string { return c.namespace }

// selectors that find the pods of the agents: the first with an answer counts.
var selectors = []string{"k8s-app=stentor", "app.kubernetes.io/name=stentor-agent", "app.kubernetes.io/name=stentor"}

// Agent is the pod of an agent.
type Agent struct {
	Pod     string
	Node    string
	Ready   bool
	Running bool   // it may be asked, although it may not be ready
	Why     string // why it is not ready, where the pod tells
	Image   string // that it runs
}

// Agents lists the agents in the order of their nodes. Where a node has several
// pods, as in an update, the ready one counts.
func (c *Cluster) Agents(ctx context.Context) ([]Agent, error) {
	for _, s := range selectors {
		pods, err := List[Pod](ctx, c, "/api/v1/namespaces/"+c.namespace+"/pods", s)
		if err != nil {
			return nil, err
		}
		byNode := map[string]Agent{}
		for _, p := range pods {
			a := Agent{Pod: p.Metadata.Name, Node: p.Spec.NodeName, Ready: p.ready(), Running: p.Running(), Why: p.Why()}
			if len(p.Spec.Containers) > 0 {
				a.Image = p.Spec.Containers[0].Image
			}
			if a.Node == "" || p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" {
				continue
			}
			if old, ok := byNode[a.Node]; !ok || !old.Ready {
				byNode[a.Node] = a
			}
		}
		if len(byNode) == 0 {
			continue
		}
		var out []Agent
		for _, a := range byNode {
			out = append(out, a)
		}
		slices.SortFunc(out, func(a, b Agent) int { return strings.Compare(a.Node, b.Node) })
		return out, nil
	}
	return nil, nil
}

// Get reads one object.
func (c *Cluster) Get(ctx context.Context, path string, out any) error {
	body, err := c.raw(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	return nil
}

// List reads all objects of a kind, page by page.
func List[T any](ctx context.Context, c *Cluster, path, selector string) ([]T, error) {
	var out []T
	query := url.Values{"limit": {"500"}}
	if selector != "" {
		query.Set("labelSelector", selector)
	}
	for {
		var page struct {
			Metadata struct{ Continue string }
			Items    []T
		}
		if err := c.Get(ctx, path+"?"+query.Encode(), &page); err != nil {
			return nil, err
		}
		out = append(out, page.Items...)
		if page.Metadata.Continue == "" {
			return out, nil
		}
		query.Set("continue", page.Metadata.Continue)
	}
}
