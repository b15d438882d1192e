// SPDX-License-Identifier: Apache-2.0

// Package service holds the commands about load-balanced services.
package service

import (
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// NewCmd makes `service`.
func NewCmd(f *command.Factory) *cobra.Command {
	return command.Group(&cobra.Command{
		Use: "service", Aliases: []string{"services", "svc"},
		Short: "Show the services that the datapath balances",
	}, newCmdList(f), newCmdGet(f))
}

// newCmdList makes `service list`.
func newCmdList(f *command.Factory) *cobra.Command {
	return command.List[[]rest.Service]{
		Short:   "List frontends with their backends",
		Example: "  stentor service list",
		Agent:   f.AnyAgent, Path: rest.PathService, Formats: []string{command.Table, command.JSON, command.YAML},
		Print: list,
	}.NewCmd(f)
}

func list(s command.Streams, o command.Output, got []rest.Service) error {
	slices.SortFunc(got, func(a, b rest.Service) int {
		if c := strings.Compare(name(a), name(b)); c != 0 {
			return c
		}
		return strings.Compare(frontend(a), frontend(b))
	})
	return command.Print(s, o, withProblems(columns, got), got, nil)
}

// withProblems adds the column of problems, if there is one.
func withProblems(columns []command.Column[rest.Service], got []rest.Service) []command.Column[rest.Service] {
	if !slices.ContainsFunc(got, func(s rest.Service) bool { return s.Status != nil && len(s.Status.Problems) > 0 }) {
		return columns
	}
	return append(slices.Clone(columns), command.Column[rest.Service]{Name: "PROBLEMS", Value: func(s rest.Service) string {
		if s.Status == nil {
			return ""
		}
		return strings.Join(s.Status.Problems, "; ")
	}})
}

var columns = []command.Column[rest.Service]{
	{Name: "ID", Value: func(s rest.Service) string { return strconv.FormatInt(spec(s).ID, 10) }},
	{Name: "SERVICE", Value: name},
	{Name: "TYPE", Value: func(s rest.Service) string { return flags(s).Type }},
	{Name: "FRONTEND", Value: frontend},
	{Name: "SCOPE", Value: scope},
	{Name: "BACKENDS", Value: backends},
}

// scope says whose connections a frontend takes.
func scope(s rest.Service) string {
	if a := spec(s).FrontendAddress; a != nil && a.Scope != "" {
		return a.Scope
	}
	return "internal"
}

// none tells why there is no backend for new connections.
func none(s rest.Service) string {
	if s.Status != nil && s.Status.Why != "" {
		return "none: " + s.Status.Why
	}
	return "none"
}

// spec is what is in force, or else what is wanted.
func spec(s rest.Service) rest.ServiceSpec {
	if s.Status != nil && s.Status.Realized != nil {
		return *s.Status.Realized
	}
	if s.Spec != nil {
		return *s.Spec
	}
	return rest.ServiceSpec{}
}

func flags(s rest.Service) rest.ServiceFlags {
	if f := spec(s).Flags; f != nil {
		return *f
	}
	return rest.ServiceFlags{}
}

func name(s rest.Service) string {
	if f := flags(s); f.Name != "" {
		return f.Namespace + "/" + f.Name
	}
	return ""
}

func frontend(s rest.Service) string {
	a := spec(s).FrontendAddress
	if a == nil {
		return ""
	}
	return join(a.IP, a.Port) + "/" + strings.ToUpper(a.Protocol)
}

func backends(s rest.Service) string {
	var out []string
	for _, b := range spec(s).BackendAddresses {
		text := join(b.IP, b.Port)
		if b.State != "" && b.State != "active" {
			text += " (" + b.State + ")"
		}
		out = append(out, text)
	}
	if s.Status != nil && s.Status.Why != "" {
		out = append([]string{none(s)}, out...)
	}
	return strings.Join(out, ", ")
}

func join(ip string, port uint16) string { return net.JoinHostPort(ip, strconv.Itoa(int(port))) }
