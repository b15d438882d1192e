// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
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
	AnyAgent func(context.Context) (*client.Client, error)

	Subjects bool
	Output   command.Output
}

// NewCmdSelectors makes `policy selectors`.
func NewCmdSelectors(f *command.Factory, runF func(context.Context, *SelectorsOptions) error) *cobra.Command {
	o := &SelectorsOptions{Streams: f.Streams, AnyAgent: f.AnyAgent}
	cmd := &cobra.Command{
		Use: "selectors", Args: command.NoArgs,
		Short: "List the selectors of the policies in force with the identities that they pick",
		Example: `  stentor policy selectors
  stentor policy selectors --subjects -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return selectors(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVar(&o.Subjects, "subjects", false, "those that pick the endpoints that policies are for, instead of their peers")
	o.Output.AddTo(cmd, command.Table, command.JSON, command.YAML)
	return cmd
}

func selectors(ctx context.Context, o *SelectorsOptions) error {
	agent, err := o.AnyAgent(ctx)
	if err != nil {
		return err
	}
	path := rest.PathPolicySelectors
	if o.Subjects {
		path = rest.PathPolicySubjectSelectors
	}
	var list []rest.SelectorIdentityMapping
	if err := agent.Get(ctx, path, nil, &list); err != nil {
		return err
	}
	return command.Print(o.Streams, o.Output, []command.Column[rest.SelectorIdentityMapping]{
		{Name: "SELECTOR", Value: func(s rest.SelectorIdentityMapping) string { return s.Selector }},
		{Name: "USERS", Value: func(s rest.SelectorIdentityMapping) string { return strconv.FormatInt(s.Users, 10) }},
		{Name: "IDENTITIES", Value: identities},
		{Name: "POLICIES", Wide: true, Value: func(s rest.SelectorIdentityMapping) string { return strings.Join(s.Policies, ",") }},
	}, list, nil)
}

// identities names the first of a list that may be long.
func identities(s rest.SelectorIdentityMapping) string {
	const shown = 12
	var out []string
	for i, id := range s.Identities {
		if i == shown {
			return strings.Join(out, ",") + " and " + strconv.Itoa(len(s.Identities)-shown) + " more"
		}
		out = append(out, strconv.FormatInt(id, 10))
	}
	return strings.Join(out, ",")
}
