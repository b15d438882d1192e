// SPDX-License-Identifier: Apache-2.0

// Package policy holds the commands about network policies.
package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// NewCmd makes `policy`.
func NewCmd(f *command.Factory) *cobra.Command {
	return command.Group(&cobra.Command{
		Use: "policy", Aliases: []string{"policies"},
		Short: "Show the network policies in force",
	}, NewCmdGet(f, nil))
}

// GetOptions of `policy get`.
type GetOptions struct {
	command.Streams
	Agent func(context.Context) (*client.Client, error)

	Which  string // name or namespace/name
	Output command.Output
}

// NewCmdGet makes `policy get`.
func NewCmdGet(f *command.Factory, runF func(context.Context, *GetOptions) error) *cobra.Command {
	o := &GetOptions{Streams: f.Streams, Agent: f.AnyAgent}
	cmd := &cobra.Command{
		Use: "get [NAME | NAMESPACE/NAME]", Args: cobra.MaximumNArgs(1),
		Short: "List policies with the endpoints that they select on the node",
		Example: `  stentor policy get
  stentor policy get default/rule1 -o yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.Which = args[0]
			}
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return get(cmd.Context(), o)
		},
	}
	o.Output.AddTo(cmd, command.Table, command.JSON, command.YAML)
	return cmd
}

func get(ctx context.Context, o *GetOptions) error {
	agent, err := o.Agent(ctx)
	if err != nil {
		return err
	}
	var got rest.Policy
	if err := agent.Get(ctx, rest.PathPolicy, nil, &got); err != nil && !client.NotFound(err) {
		return err
	}
	var objects []rest.PolicyObject
	if got.Policy != "" {
		if err := json.Unmarshal([]byte(got.Policy), &objects); err != nil {
			return fmt.Errorf("decode the policies: %w", err)
		}
	}
	if o.Which != "" {
		objects = slices.DeleteFunc(objects, func(p rest.PolicyObject) bool {
			return p.Name != o.Which && p.Namespace+"/"+p.Name != o.Which
		})
		if len(objects) == 0 {
			return fmt.Errorf("no policy %s", o.Which)
		}
	}
	fmt.Fprintf(o.Err, "revision %d\n", got.Revision)
	return command.Print(o.Streams, o.Output, []command.Column[rest.PolicyObject]{
		{Name: "KIND", Value: func(p rest.PolicyObject) string { return p.Kind }},
		{Name: "NAMESPACE", Value: func(p rest.PolicyObject) string { return p.Namespace }},
		{Name: "NAME", Value: func(p rest.PolicyObject) string { return p.Name }},
		{Name: "VALID", Value: func(p rest.PolicyObject) string { return strconv.FormatBool(p.Valid) }},
		{Name: "ENDPOINTS", Value: func(p rest.PolicyObject) string { return numbers(p.Endpoints) }},
		{Name: "REASON", Value: func(p rest.PolicyObject) string { return p.Reason }},
	}, objects, nil)
}

func numbers(list []uint16) string {
	var out []string
	for _, n := range list {
		out = append(out, strconv.Itoa(int(n)))
	}
	return strings.Join(out, ",")
}
