// SPDX-License-Identifier: Apache-2.0

// Package db holds the commands about an agent's tables.
package db

import (
	"context"
	"fmt"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// NewCmd makes `db`.
func NewCmd(f *command.Factory) *cobra.Command {
	return command.Group(&cobra.Command{
		Use: "db", Aliases: []string{"statedb"},
		Short: "Show the tables in which an agent keeps all that it knows",
	}, newCmdList(f), NewCmdShow(f, nil))
}

// newCmdList makes `db list`.
func newCmdList(f *command.Factory) *cobra.Command {
	return command.List[[]rest.TableInfo]{
		Short:   "List tables with the number of their rows",
		Example: "  stentor db list",
		Agent:   f.Agent, Path: rest.PathDB, Formats: []string{command.Table, command.JSON, command.YAML},
		Print: list,
	}.NewCmd(f)
}

func list(s command.Streams, o command.Output, got []rest.TableInfo) error {
	return command.Print(s, o, []command.Column[rest.TableInfo]{
		{Name: "TABLE", Value: func(t rest.TableInfo) string { return t.Name }},
		{Name: "ROWS", Value: func(t rest.TableInfo) string { return strconv.Itoa(t.Rows) }},
		{Name: "REVISION", Value: func(t rest.TableInfo) string { return strconv.FormatUint(t.Revision, 10) }},
		{Name: "SYNCED", Value: func(t rest.TableInfo) string { return strconv.FormatBool(t.Synced) }},
	}, got, nil)
}

// ShowOptions of `db show`.
type ShowOptions struct {
	command.Streams
	Agent func(context.Context) (*client.Client, error)

	Table  string
	Output command.Output
}

// NewCmdShow makes `db show`.
func NewCmdShow(f *command.Factory, runF func(context.Context, *ShowOptions) error) *cobra.Command {
	o := &ShowOptions{Streams: f.Streams, Agent: f.Agent}
	cmd := &cobra.Command{
		Use: "show TABLE", Args: command.OneArg("the name of a table"),
		Short:   "Print the rows of a table",
		Example: "  stentor db show endpoints",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Table = args[0]
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return show(cmd.Context(), o)
		},
	}
	o.Output.AddTo(cmd, command.Table, command.JSON, command.YAML)
	cmd.ValidArgsFunction = command.Complete(func(ctx context.Context) ([]string, error) {
		agent, err := f.AnyAgent(ctx)
		if err != nil {
			return nil, err
		}
		var got []rest.TableInfo
		err = agent.Get(ctx, rest.PathDB, nil, &got)
		var names []string
		for _, t := range got {
			names = append(names, t.Name)
		}
		return names, err
	})
	return cmd
}

func show(ctx context.Context, o *ShowOptions) error {
	agent, err := o.Agent(ctx)
	if err != nil {
		return err
	}
	var got rest.Table
	if err := agent.Get(ctx, rest.PathDBTable+url.PathEscape(o.Table), nil, &got); err != nil {
		if client.NotFound(err) {
			return fmt.Errorf("no table %s: see `db list`", o.Table)
		}
		return err
	}
	return command.PrintTable(o.Streams, o.Output, got.Headings, got.Rows)
}
