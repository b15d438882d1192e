// SPDX-License-Identifier: Apache-2.0

// Package node holds the commands about the nodes of the cluster.
package node

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// NewCmd makes `node`.
func NewCmd(f *command.Factory) *cobra.Command {
	return command.Group(&cobra.Command{
		Use: "node", Aliases: []string{"nodes"},
		Short: "Show the nodes of the cluster as an agent knows them",
	}, newCmdList(f))
}

// newCmdList makes `node list`.
func newCmdList(f *command.Factory) *cobra.Command {
	return command.List[rest.ClusterNodeStatus]{
		Short:   "List nodes with their addresses and pod ranges",
		Example: "  stentor node list -o wide",
		Agent:   f.AnyAgent, Path: rest.PathClusterNodes, Formats: []string{command.Table, command.Wide, command.JSON, command.YAML},
		Print: list,
	}.NewCmd(f)
}

func list(s command.Streams, o command.Output, got rest.ClusterNodeStatus) error {
	nodes := got.NodesAdded
	slices.SortFunc(nodes, func(a, b rest.NodeElement) int { return strings.Compare(a.Name, b.Name) })
	of := func(get func(rest.NodeAddressingElement) string, family int) func(rest.NodeElement) string {
		return func(n rest.NodeElement) string { return address(n.PrimaryAddress, family, get) }
	}
	ip := func(e rest.NodeAddressingElement) string { return e.IP }
	pods := func(e rest.NodeAddressingElement) string { return e.AllocRange }
	return command.Print(s, o, []command.Column[rest.NodeElement]{
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
