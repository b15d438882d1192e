// SPDX-License-Identifier: Apache-2.0

// Package node holds the commands about the nodes of the cluster.
package node

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// NewCmd makes `node`.
func NewCmd(f *command.Factory) *cobra.Command {
	return command.Group(&cobra.Command{
		Use: "node", Aliases: []string{"nodes"},
		Short: "Show the nodes of the cluster as an agent knows them",
	}, NewCmdList(f, nil))
}

// ListOptions of `node list`.
type ListOptions struct {
	command.Streams
	Agent func(context.Context) (*client.Client, error)

	Output command.Output
}

// NewCmdList makes `node list`.
func NewCmdList(f *command.Factory, runF func(context.Context, *ListOptions) error) *cobra.Command {
	o := &ListOptions{Streams: f.Streams, Agent: f.AnyAgent}
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Args: command.NoArgs,
		Short:   "List nodes with their addresses and pod ranges",
		Example: "  stentor node list -o wide",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return list(cmd.Context(), o)
		},
	}
	o.Output.AddTo(cmd, command.Table, command.Wide, command.JSON, command.YAML)
	return cmd
}

func list(ctx context.Context, o *ListOptions) error {
	agent, err := o.Agent(ctx)
	if err != nil {
		return err
	}
	var got rest.ClusterNodeStatus
	if err := agent.Get(ctx, rest.PathClusterNodes, nil, &got); err != nil {
		return err
	}
	nodes := got.NodesAdded
	slices.SortFunc(nodes, func(a, b rest.NodeElement) int { return strings.Compare(a.Name, b.Name) })
	of := func(get func(rest.NodeAddressingElement) string, family int) func(rest.NodeElement) string {
		return func(n rest.NodeElement) string { return address(n.PrimaryAddress, family, get) }
	}
	ip := func(e rest.NodeAddressingElement) string { return e.IP }
	pods := func(e rest.NodeAddressingElement) string { return e.AllocRange }
	return command.Print(o.Streams, o.Output, []command.Column[rest.NodeElement]{
		{Name: "NAME", Value: func(n rest.NodeElement) string {
			if n.Name == got.Self {
				return n.Name + "*"
			}
			return n.Name
		}},
		{Name: "IPV4", Value: of(ip, 4)},
		{Name: "PODS-IPV4", Value: of(pods, 4)},
		{Name: "IPV6", Value: of(ip, 6)},
		{Name: "PODS-IPV6", Value: of(pods, 6)},
		{Name: "HEALTH-IPV4", Value: func(n rest.NodeElement) string { return address(n.HealthEndpointAddress, 4, ip) }, Wide: true},
		{Name: "SOURCE", Value: func(n rest.NodeElement) string { return n.Source }, Wide: true},
	}, nodes, nil)
}

func address(a *rest.NodeAddressing, family int, get func(rest.NodeAddressingElement) string) string {
	if a == nil {
		return ""
	}
	e := a.IPv4
	if family == 6 {
		e = a.IPv6
	}
	if e == nil {
		return ""
	}
	return get(*e)
}
