// SPDX-License-Identifier: Apache-2.0

// Package lrp holds the commands about local redirect policies.
package lrp

import (
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// NewCmd makes `lrp`.
func NewCmd(f *command.Factory) *cobra.Command {
	return command.Group(&cobra.Command{
		Use:   "lrp",
		Short: "Show the local redirect policies that a node carries out",
	}, newCmdList(f))
}

// newCmdList makes `lrp list`.
func newCmdList(f *command.Factory) *cobra.Command {
	return command.List[[]rest.LRPSpec]{
		Short:   "List local redirect policies with what they redirect on the node, and what is wrong with them",
		Example: "  stentor lrp list\n  stentor lrp list --node worker-1 -o wide",
		Agent:   f.Agent, Path: rest.PathLRP, Formats: []string{command.Table, command.JSON, command.YAML},
		Print: list,
	}.NewCmd(f)
}

// line is one frontend of a policy; without frontend, the policy itself.
type line struct {
	rest.LRPSpec
	mapping rest.FrontendMapping
}

func list(s command.Streams, o command.Output, got []rest.LRPSpec) error {
	var lines []line
	for _, p := range got {
		for _, m := range p.FrontendMappings {
			lines = append(lines, line{p, m})
		}
		if len(p.FrontendMappings) == 0 {
			lines = append(lines, line{LRPSpec: p})
		}
	}
	return command.Print(s, o, columns, lines, got)
}

var columns = []command.Column[line]{
	{Name: "POLICY", Value: func(l line) string { return l.Namespace + "/" + l.Name }},
	{Name: "REDIRECTS", Value: func(l line) string { return l.FrontendType }},
	{Name: "SERVICE", Value: func(l line) string { return l.ServiceID }},
	{Name: "FRONTEND", Value: frontend},
	{Name: "BACKENDS", Value: backends},
	{Name: "PODS", Wide: true, Value: func(l line) string {
		var out []string
		for _, b := range l.mapping.Backends {
			out = append(out, b.PodID)
		}
		return strings.Join(out, ", ")
	}},
	{Name: "PROBLEMS", Value: func(l line) string { return strings.Join(l.Problems, "; ") }},
}

func frontend(l line) string {
	a := l.mapping.FrontendAddress
	if a == nil {
		return ""
	}
	return join(a.IP, a.Port) + "/" + strings.ToUpper(a.Protocol)
}

func backends(l line) string {
	if l.mapping.FrontendAddress == nil {
		if l.FrontendType == "" {
			return "none: the policy is set aside"
		}
		return "none: no pod of this node takes its place"
	}
	var out []string
	for _, b := range l.mapping.Backends {
		text := join(b.BackendAddress.IP, b.BackendAddress.Port)
		if s := b.BackendAddress.State; s != "" && s != "active" {
			text += " (" + s + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func join(ip string, port uint16) string { return net.JoinHostPort(ip, strconv.Itoa(int(port))) }
