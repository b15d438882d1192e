// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
	"github.com/stentor-net/stentor/internal/cli/kube"
)

// target holds the flags that every command has: which agent is meant.
type target struct {
	socket string
	node   string
	kube   kube.Options

	cluster *kube.Cluster
}

func (t *target) addTo(flags *pflag.FlagSet) {
	flags.StringVar(&t.socket, "socket", "", "socket of the agent on this node (default "+rest.DefaultSocket+")")
	flags.StringVar(&t.node, "node", "", "speak with the agent of this node through the API server")
	flags.StringVar(&t.kube.Kubeconfig, "kubeconfig", "", "kubeconfig file; speak through its API server")
	flags.StringVar(&t.kube.Context, "context", "", "context of the kubeconfig")
	flags.StringVar(&t.kube.Namespace, "namespace", "kube-system", "namespace of the agents")
}

// fill gives the factory its ways to agents.
func (t *target) fill(f *command.Factory) {
	f.Socket = t.path
	f.Remote = t.remote
	f.Node = func() string { return t.node }
	f.Cluster = t.open
	f.Dial = func(a kube.Agent) *client.Client {
		return client.New(a.Node, func(ctx context.Context) (net.Conn, error) { return t.cluster.Dial(ctx, a) })
	}
	f.Agents = func(ctx context.Context) ([]*client.Client, error) { return t.clients(ctx, f) }
	f.AnyAgent = func(ctx context.Context) (*client.Client, error) {
		all, err := t.clients(ctx, f)
		if err != nil {
			return nil, err
		}
		return all[0], nil
	}
	f.Agent = func(ctx context.Context) (*client.Client, error) {
		all, err := t.clients(ctx, f)
		if err != nil {
			return nil, err
		}
		if len(all) > 1 {
			var names []string
			for _, c := range all {
				names = append(names, c.Node())
			}
			return nil, command.Usagef("which node? give --node with one of %s", strings.Join(names, ", "))
		}
		return all[0], nil
	}
}

// nodes lists the nodes with agents, for completion.
func (t *target) nodes(ctx context.Context) ([]string, error) {
	cluster, err := t.open()
	if err != nil {
		return nil, err
	}
	agents, err := cluster.Agents(ctx)
	var out []string
	for _, a := range agents {
		out = append(out, a.Node)
	}
	return out, err
}

func (t *target) path() string {
	if t.socket != "" {
		return t.socket
	}
	return rest.DefaultSocket
}

// remote decides: a flag that names a cluster means the API server, a socket
// that is there means this node, a kubeconfig that is there means the API server.
func (t *target) remote() bool {
	if t.node != "" || t.kube.Kubeconfig != "" || t.kube.Context != "" {
		return true
	}
	if _, err := os.Stat(t.path()); t.socket != "" || err == nil {
		return false
	}
	_, err := t.open()
	return !errors.Is(err, kube.ErrNoConfig)
}

func (t *target) open() (*kube.Cluster, error) {
	if t.cluster != nil {
		return t.cluster, nil
	}
	c, err := kube.Open(t.kube)
	if err != nil {
		return nil, err
	}
	t.cluster = c
	return c, nil
}

func (t *target) validate() error {
	if t.socket != "" && (t.node != "" || t.kube.Kubeconfig != "" || t.kube.Context != "") {
		return command.Usagef("--socket means this node: it does not go with --node, --kubeconfig or --context")
	}
	return nil
}

// clients returns the agents that the flags mean: at least one.
func (t *target) clients(ctx context.Context, f *command.Factory) ([]*client.Client, error) {
	if !t.remote() {
		return []*client.Client{client.New("", client.Socket(t.path()))}, nil
	}
	cluster, err := t.open()
	if err != nil {
		return nil, err
	}
	agents, err := cluster.Agents(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the agents: %w", err)
	}
	var out []*client.Client
	var names []string
	for _, a := range agents {
		names = append(names, a.Node)
		if t.node != "" && a.Node != t.node {
			continue
		}
		if !a.Running && t.node == "" {
			fmt.Fprintf(f.Err, "left out: the agent of node %s does not run: %s\n", a.Node, a.Why)
			continue
		}
		out = append(out, f.Dial(a))
	}
	switch {
	case len(out) > 0:
		return out, nil
	case len(agents) == 0:
		return nil, fmt.Errorf("no agent in namespace %s: is Stentor installed there? see --namespace", cluster.Namespace())
	case t.node != "":
		return nil, fmt.Errorf("no agent on node %s: there are agents on %s", t.node, strings.Join(names, ", "))
	}
	return nil, errors.New("no agent runs")
}
