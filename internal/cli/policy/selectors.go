// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// SelectorsOptions of `policy selectors`.
type SelectorsOptions struct {
	command.Streams
	Agent func(context.Context) (*client.Client, error)

	Output command.Output
}

// NewCmdSelectors makes `policy selectors`.
func NewCmdSelectors(f *command.Factory, runF func(context.Context, *SelectorsOptions) error) *cobra.Command {
	o := &SelectorsOptions{Streams: f.Streams, Agent: f.AnyAgent}
	cmd := &cobra.Command{
		Use: "selectors", Args: command.NoArgs,
		Short:   "List the selectors of policies with the identities they select",
		Example: "  stentor policy selectors",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return selectors(cmd.Context(), o)
		},
	}
	o.Output.AddTo(cmd, command.Table, command.JSON, command.YAML)
	return cmd
}

func selectors(ctx context.Context, o *SelectorsOptions) error {
	agent, err := o.Agent(ctx)
	if err != nil {
		return err
	}
	var got []rest.SelectorIdentityMapping
	if err := agent.Get(ctx, rest.PathSelectors, nil, &got); err != nil {
		return err
	}
	slices.SortFunc(got, func(a, b rest.SelectorIdentityMapping) int { return strings.Compare(a.Selector, b.Selector) })
	return command.Print(o.Streams, o.Output, []command.Column[rest.SelectorIdentityMapping]{
		{Name: "SELECTOR", Value: func(s rest.SelectorIdentityMapping) string { return s.Selector }},
		{Name: "USERS", Value: func(s rest.SelectorIdentityMapping) string { return strconv.FormatInt(s.Users, 10) }},
		{Name: "IDENTITIES", Value: func(s rest.SelectorIdentityMapping) string {
			var out []string
			for _, id := range s.Identities {
				out = append(out, strconv.FormatInt(id, 10))
			}
			return strings.Join(out, ",")
		}},
	}, got, nil)
}
