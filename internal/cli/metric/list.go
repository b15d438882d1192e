// SPDX-License-Identifier: Apache-2.0

// Package metric holds the commands about an agent's metrics.
package metric

import (
	"context"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// NewCmd makes `metrics`.
func NewCmd(f *command.Factory) *cobra.Command {
	return command.Group(&cobra.Command{
		Use: "metrics", Aliases: []string{"metric"},
		Short: "Show what an agent measures",
	}, NewCmdList(f, nil))
}

// ListOptions of `metrics list`.
type ListOptions struct {
	command.Streams
	Agent func(context.Context) (*client.Client, error)

	Match  string
	Output command.Output
}

// NewCmdList makes `metrics list`.
func NewCmdList(f *command.Factory, runF func(context.Context, *ListOptions) error) *cobra.Command {
	o := &ListOptions{Streams: f.Streams, Agent: f.Agent}
	cmd := &cobra.Command{
		Use: "list [PATTERN]", Aliases: []string{"ls"}, Args: cobra.MaximumNArgs(1),
		Short: "List samples, all or those whose name matches",
		Example: `  stentor metrics list
  stentor metrics list '*_drop_*'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.Match = args[0]
				if _, err := path.Match(o.Match, ""); err != nil {
					return command.Usagef("pattern %q: %v", o.Match, err)
				}
			}
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
	var got []rest.Metric
	if err := agent.Get(ctx, rest.PathMetrics, nil, &got); err != nil {
		return err
	}
	if o.Match != "" {
		got = slices.DeleteFunc(got, func(m rest.Metric) bool {
			ok, _ := path.Match(o.Match, m.Name) // the pattern is valid: it was tried before
			return !ok
		})
	}
	slices.SortStableFunc(got, func(a, b rest.Metric) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(labels(a), labels(b))
	})
	return command.Print(o.Streams, o.Output, []command.Column[rest.Metric]{
		{Name: "METRIC", Value: func(m rest.Metric) string { return m.Name }},
		{Name: "LABELS", Value: labels},
		{Name: "VALUE", Value: func(m rest.Metric) string { return strconv.FormatFloat(m.Value, 'f', -1, 64) }},
	}, got, nil)
}

func labels(m rest.Metric) string {
	var out []string
	for key, value := range m.Labels {
		out = append(out, key+"="+strconv.Quote(value))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}
