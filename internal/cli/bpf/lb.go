// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// parts of load balancing, by flag: which dump shows them.
var parts = []struct{ flag, dump, help string }{
	{"frontends", "lb", "addresses with the backends that their new connections get (what is shown without a flag)"},
	{"backends", "lb-backends", "backends with their numbers and states"},
	{"affinity", "lb-affinity", "clients that are kept at a backend"},
	{"maglev", "lb-maglev", "Maglev tables: positions that each backend has"},
	{"source-ranges", "lb-source-ranges", "clients that services allow or deny"},
}

// lbOptions of `bpf lb list`.
type lbOptions struct {
	command.Streams
	Agent func(context.Context) (*client.Client, error)

	chosen map[string]*bool
	Output command.Output
}

// newCmdLB makes `bpf lb list`.
func newCmdLB(f *command.Factory) *cobra.Command {
	o := &lbOptions{Streams: f.Streams, Agent: f.Agent, chosen: map[string]*bool{}}
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls", "get"}, Args: command.NoArgs,
		Short:   "List frontends and backends of services",
		Example: "  stentor bpf lb list\n  stentor bpf lb list --maglev",
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	var names []string
	for _, p := range parts {
		o.chosen[p.flag] = cmd.Flags().Bool(p.flag, false, "Show "+p.help+".")
		names = append(names, p.flag)
	}
	cmd.MarkFlagsMutuallyExclusive(names...)
	o.Output.AddTo(cmd, command.Table, command.JSON, command.YAML)
	return cmd
}

func (o *lbOptions) run(ctx context.Context) error {
	dump := parts[0].dump
	for _, p := range parts {
		if *o.chosen[p.flag] {
			dump = p.dump
		}
	}
	agent, err := o.Agent(ctx)
	if err != nil {
		return err
	}
	var got rest.Table
	if err := agent.Get(ctx, rest.PathBPF+dump, nil, &got); err != nil {
		return err
	}
	return command.PrintTable(o.Streams, o.Output, got.Headings, got.Rows)
}
