// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the commands that print what the kernel holds.
package bpf

import (
	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
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
		list := newCmdList(f, d.noun, d.short)
		if d.noun == "lb" {
			list = newCmdLB(f)
		}
		nouns = append(nouns, command.Group(noun, list))
	}
	return command.Group(&cobra.Command{
		Use:   "bpf",
		Short: "Show what the kernel's maps hold, decoded",
	}, nouns...)
}

// newCmdList makes `bpf NOUN list`.
func newCmdList(f *command.Factory, noun, short string) *cobra.Command {
	return command.List[rest.Table]{
		Short:   "List " + short,
		Example: "  stentor bpf " + noun + " list",
		Aliases: []string{"get"},
		Agent:   f.Agent, Path: rest.PathBPF + noun, Formats: []string{command.Table, command.JSON, command.YAML},
		Print: func(s command.Streams, o command.Output, got rest.Table) error {
			return command.PrintTable(s, o, got.Headings, got.Rows)
		},
	}.NewCmd(f)
}
