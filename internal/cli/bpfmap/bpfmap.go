// SPDX-License-Identifier: Apache-2.0

// Package bpfmap holds the commands about the kernel's maps.
package bpfmap

import (
	"context"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// NewCmd makes `map`.
func NewCmd(f *command.Factory) *cobra.Command {
	return command.Group(&cobra.Command{
		Use: "map", Aliases: []string{"maps"},
		Short: "Show the maps of the datapath",
	}, newCmdList(f), NewCmdGet(f, nil))
}

// newCmdList makes `map list`.
func newCmdList(f *command.Factory) *cobra.Command {
	return command.List[rest.BPFMapList]{
		Short:   "List maps with their fill and memory",
		Example: "  stentor map list --node worker-1",
		Agent:   f.Agent, Path: rest.PathMap, Formats: []string{command.Table, command.Wide, command.JSON, command.YAML},
		Print: list,
	}.NewCmd(f)
}

func list(s command.Streams, o command.Output, got rest.BPFMapList) error {
	slices.SortFunc(got.Maps, func(a, b rest.BPFMap) int { return strings.Compare(name(a), name(b)) })
	return command.Print(s, o, columns, got.Maps, nil)
}

var columns = []command.Column[rest.BPFMap]{
	{Name: "NAME", Value: name},
	{Name: "TYPE", Value: func(m rest.BPFMap) string { return m.Type }},
	{Name: "ENTRIES", Value: func(m rest.BPFMap) string { return count(m.Entries) }},
	{Name: "MAX", Value: func(m rest.BPFMap) string { return strconv.FormatInt(m.MaxEntries, 10) }},
	{Name: "MEMORY", Value: func(m rest.BPFMap) string { return bytes(m.Memory) }},
	{Name: "PATH", Value: func(m rest.BPFMap) string { return m.Path }, Wide: true},
}

func name(m rest.BPFMap) string {
	if m.Name == "" {
		return path.Base(m.Path)
	}
	return m.Name
}

// bytes in units that a person reads.
func bytes(n int64) string {
	switch {
	case n <= 0:
		return ""
	case n < 10<<10:
		return strconv.FormatInt(n, 10) + " B"
	case n < 10<<20:
		return strconv.FormatInt(n>>10, 10) + " KiB"
	}
	return strconv.FormatInt(n>>20, 10) + " MiB"
}

// GetOptions of `map get`.
type GetOptions struct {
	command.Streams
	Agent func(context.Context) (*client.Client, error)

	Map    string
	Output command.Output
}

// NewCmdGet makes `map get`.
func NewCmdGet(f *command.Factory, runF func(context.Context, *GetOptions) error) *cobra.Command {
	o := &GetOptions{Streams: f.Streams, Agent: f.Agent}
	cmd := &cobra.Command{
		Use: "get NAME", Args: command.OneArg("the name of a map"),
		Short:   "Show the entries of one map",
		Example: "  stentor map get ipcache",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Map = args[0]
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return get(cmd.Context(), o)
		},
	}
	o.Output.AddTo(cmd, command.Table, command.Wide, command.JSON, command.YAML)
	cmd.ValidArgsFunction = command.Complete(func(ctx context.Context) ([]string, error) {
		agent, err := f.AnyAgent(ctx)
		if err != nil {
			return nil, err
		}
		var got rest.BPFMapList
		err = agent.Get(ctx, rest.PathMap, nil, &got)
		var names []string
		for _, m := range got.Maps {
			names = append(names, name(m))
		}
		return names, err
	})
	return cmd
}

func get(ctx context.Context, o *GetOptions) error {
	agent, err := o.Agent(ctx)
	if err != nil {
		return err
	}
	var got rest.BPFMap
	if err := agent.Get(ctx, rest.PathMapName+url.PathEscape(o.Map), nil, &got); err != nil {
		if client.NotFound(err) {
			return fmt.Errorf("no map %s: see `map list`", o.Map)
		}
		return err
	}
	if len(got.Cache) == 0 {
		return decoded(ctx, o, agent, got)
	}
	return command.Print(o.Streams, o.Output, []command.Column[rest.BPFMapEntry]{
		{Name: "KEY", Value: func(e rest.BPFMapEntry) string { return e.Key }},
		{Name: "VALUE", Value: func(e rest.BPFMapEntry) string { return e.Value }},
		{Name: "STATE", Value: func(e rest.BPFMapEntry) string { return e.DesiredAction }, Wide: true},
		{Name: "ERROR", Value: func(e rest.BPFMapEntry) string { return e.LastError }, Wide: true},
	}, got.Cache, got)
}

// decoded prints a map whose entries the agent does not list as they are: from
// the dump of the same name, or else what there is to say about the map.
func decoded(ctx context.Context, o *GetOptions, agent *client.Client, m rest.BPFMap) error {
	var dump rest.Table
	err := agent.Get(ctx, rest.PathBPF+url.PathEscape(o.Map), nil, &dump)
	if client.NotFound(err) {
		fmt.Fprintln(o.Err, "its entries are not printed one by one")
		return command.Print(o.Streams, o.Output, columns, []rest.BPFMap{m}, m)
	}
	if err != nil {
		return err
	}
	return command.PrintTable(o.Streams, o.Output, dump.Headings, dump.Rows)
}

// count of entries; a negative one is not known.
func count(n int64) string {
	if n < 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}
