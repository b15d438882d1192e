// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the commands that print what the kernel holds.
package bpf

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// dumps that an agent serves below rest.PathBPF.
var dumps = []struct{ noun, short string }{
	{"endpoint", "endpoints that the datapath delivers to"},
	{"ipcache", "prefixes with their identities and nodes"},
	{"policy", "cells of the policy that the datapath looks up"},
	{"ct", "connections that the datapath follows"},
	{"nat", "translations of source addresses"},
	{"metrics", "packets and bytes by direction and reason"},
	{"lb", "frontends and backends of services"},
	{"nodes", "nodes as the datapath reaches them"},
}

// NewCmd makes `bpf`.
func NewCmd(f *command.Factory) *cobra.Command {
	var nouns []*cobra.Command
	for _, d := range dumps {
		noun := &cobra.Command{Use: d.noun, Short: "Show " + d.short}
		nouns = append(nouns, command.Group(noun, NewCmdList(f, d.noun, d.short, nil)))
	}
	return command.Group(&cobra.Command{
		Use:   "bpf",
		Short: "Show what the kernel's maps hold, decoded",
	}, nouns...)
}

// ListOptions of `bpf NOUN list`.
type ListOptions struct {
	command.Streams
	Agent func(context.Context) (*client.Client, error)

	Dump   string
	Output command.Output
}

// NewCmdList makes `bpf NOUN list`.
func NewCmdList(f *command.Factory, noun, short string, runF func(context.Context, *ListOptions) error) *cobra.Command {
	o := &ListOptions{Streams: f.Streams, Agent: f.Agent, Dump: noun}
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls", "get"}, Args: command.NoArgs,
		Short:   "List " + short,
		Example: "  stentor bpf " + noun + " list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return list(cmd.Context(), o)
		},
	}
	o.Output.AddTo(cmd, command.Table, command.JSON, command.YAML)
	return cmd
}

func list(ctx context.Context, o *ListOptions) error {
	agent, err := o.Agent(ctx)
	if err != nil {
		return err
	}
	var got rest.Table
	if err := agent.Get(ctx, rest.PathBPF+o.Dump, nil, &got); err != nil {
		return err
	}
	return command.PrintTable(o.Streams, o.Output, got.Headings, got.Rows)
}
