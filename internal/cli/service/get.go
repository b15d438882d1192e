// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
)

type getOptions struct {
	command.Streams
	Agent func(context.Context) (*client.Client, error)

	Name   string
	Output command.Output
}

// newCmdGet makes `service get`.
func newCmdGet(f *command.Factory) *cobra.Command {
	o := &getOptions{Streams: f.Streams, Agent: f.AnyAgent}
	cmd := &cobra.Command{
		Use: "get NAMESPACE/NAME", Args: command.OneArg("a service, as NAMESPACE/NAME, or its address"),
		Short:   "Show the frontends of a service, with the state of each backend",
		Example: "  stentor service get default/web\n  stentor service get 10.96.0.10",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name = args[0]
			return o.run(cmd.Context())
		},
	}
	o.Output.AddTo(cmd, command.Table, command.JSON, command.YAML)
	return cmd
}

// line is a backend of a frontend.
type line struct {
	rest.Service
	backend rest.BackendAddress
}

func (o *getOptions) run(ctx context.Context) error {
	agent, err := o.Agent(ctx)
	if err != nil {
		return err
	}
	var all []rest.Service
	if err := agent.Get(ctx, rest.PathService, nil, &all); err != nil {
		return err
	}
	got := slices.DeleteFunc(all, func(s rest.Service) bool {
		a := spec(s).FrontendAddress
		return name(s) != o.Name && (a == nil || a.IP != o.Name)
	})
	if len(got) == 0 {
		return fmt.Errorf("the datapath has no service %s: `stentor service list` shows those that it has", o.Name)
	}
	if !o.Output.ForPeople() {
		return command.Print(o.Streams, o.Output, columns, got, nil)
	}
	var lines []line
	for _, s := range got {
		for _, b := range spec(s).BackendAddresses {
			lines = append(lines, line{s, b})
		}
		if len(spec(s).BackendAddresses) == 0 {
			lines = append(lines, line{Service: s})
		}
	}
	problems := map[string]bool{}
	for _, s := range got {
		if s.Status == nil {
			continue
		}
		for _, p := range s.Status.Problems {
			if !problems[p] {
				problems[p] = true
				fmt.Fprintf(o.Err, "%s: %s\n", name(s), p)
			}
		}
	}
	return command.Print(o.Streams, o.Output, []command.Column[line]{
		{Name: "SERVICE", Value: func(l line) string { return name(l.Service) }},
		{Name: "TYPE", Value: func(l line) string { return flags(l.Service).Type }},
		{Name: "FRONTEND", Value: func(l line) string { return frontend(l.Service) }},
		{Name: "SCOPE", Value: func(l line) string { return scope(l.Service) }},
		{Name: "BACKEND", Value: func(l line) string {
			if l.backend.IP == "" {
				return none(l.Service)
			}
			return join(l.backend.IP, l.backend.Port)
		}},
		{Name: "STATE", Value: func(l line) string { return l.backend.State }},
		{Name: "NODE", Value: func(l line) string { return l.backend.NodeName }},
		{Name: "WEIGHT", Value: func(l line) string {
			if l.backend.IP == "" {
				return ""
			}
			return strconv.Itoa(int(l.backend.Weight))
		}},
	}, lines, nil)
}
