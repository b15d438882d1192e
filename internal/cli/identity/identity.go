// SPDX-License-Identifier: Apache-2.0

// Package identity holds the commands about identities.
package identity

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// NewCmd makes `identity`.
func NewCmd(f *command.Factory) *cobra.Command {
	return command.Group(&cobra.Command{
		Use: "identity", Aliases: []string{"identities", "id"},
		Short: "Show the numbers that stand for label sets",
	}, NewCmdList(f, nil), NewCmdGet(f, nil))
}

var columns = []command.Column[rest.Identity]{
	{Name: "ID", Value: func(i rest.Identity) string { return strconv.FormatInt(i.ID, 10) }},
	{Name: "LABELS", Value: func(i rest.Identity) string { return strings.Join(i.Labels, ",") }},
}

// reserved names of identities, as labels and people write them.
var reserved = map[string]string{
	"unknown": "0", "host": "1", "world": "2", "unmanaged": "3", "health": "4", "init": "5",
	"remote-node": "6", "kube-apiserver": "7", "ingress": "8", "world-ipv4": "9", "world-ipv6": "10",
}

// ListOptions of `identity list`.
type ListOptions struct {
	command.Streams
	Agent func(context.Context) (*client.Client, error)

	Output    command.Output
	Labels    []string
	Endpoints bool
}

// NewCmdList makes `identity list`.
func NewCmdList(f *command.Factory, runF func(context.Context, *ListOptions) error) *cobra.Command {
	o := &ListOptions{Streams: f.Streams}
	cmd := &cobra.Command{
		Use: "list [LABEL ...]", Aliases: []string{"ls"},
		Short: "List identities, all or those with the given labels",
		Example: `  stentor identity list
  stentor identity list k8s:app=curl
  stentor identity list --endpoints`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Labels = args
			o.Agent = f.AnyAgent
			if o.Endpoints {
				o.Agent = f.Agent
			}
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return list(cmd.Context(), o)
		},
	}
	o.Output.AddTo(cmd, command.Table, command.JSON, command.YAML)
	cmd.Flags().BoolVar(&o.Endpoints, "endpoints", false, "only those of endpoints of the node, with how many have them")
	return cmd
}

func list(ctx context.Context, o *ListOptions) error {
	agent, err := o.Agent(ctx)
	if err != nil {
		return err
	}
	if o.Endpoints {
		return listEndpoints(ctx, o, agent)
	}
	query := url.Values{}
	if len(o.Labels) > 0 {
		query["labels"] = o.Labels
	}
	var got []rest.Identity
	if err := agent.Get(ctx, rest.PathIdentity, query, &got); err != nil && !client.NotFound(err) {
		return err
	}
	slices.SortFunc(got, func(a, b rest.Identity) int { return int(a.ID - b.ID) })
	return command.Print(o.Streams, o.Output, columns, got, nil)
}

func listEndpoints(ctx context.Context, o *ListOptions, agent *client.Client) error {
	var got []rest.IdentityEndpoints
	if err := agent.Get(ctx, rest.PathIdentityID+"endpoints", nil, &got); err != nil {
		return err
	}
	of := func(i rest.IdentityEndpoints) rest.Identity {
		if i.Identity == nil {
			return rest.Identity{}
		}
		return *i.Identity
	}
	slices.SortFunc(got, func(a, b rest.IdentityEndpoints) int { return int(of(a).ID - of(b).ID) })
	return command.Print(o.Streams, o.Output, []command.Column[rest.IdentityEndpoints]{
		{Name: "ID", Value: func(i rest.IdentityEndpoints) string { return strconv.FormatInt(of(i).ID, 10) }},
		{Name: "ENDPOINTS", Value: func(i rest.IdentityEndpoints) string { return strconv.FormatInt(i.RefCount, 10) }},
		{Name: "LABELS", Value: func(i rest.IdentityEndpoints) string { return strings.Join(of(i).Labels, ",") }},
	}, got, nil)
}

// GetOptions of `identity get`.
type GetOptions struct {
	command.Streams
	Agent func(context.Context) (*client.Client, error)

	ID     string
	Output command.Output
}

// NewCmdGet makes `identity get`.
func NewCmdGet(f *command.Factory, runF func(context.Context, *GetOptions) error) *cobra.Command {
	o := &GetOptions{Streams: f.Streams, Agent: f.AnyAgent}
	cmd := &cobra.Command{
		Use: "get ID", Args: command.OneArg("a number or a reserved name"),
		Short: "Show the labels of one identity",
		Example: `  stentor identity get 12345
  stentor identity get host`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.ID = args[0]
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
	id := o.ID
	if number, ok := reserved[strings.TrimPrefix(id, "reserved:")]; ok {
		id = number
	}
	if _, err := strconv.ParseUint(id, 10, 32); err != nil {
		return command.Usagef("%q is neither a number nor a reserved identity", o.ID)
	}
	agent, err := o.Agent(ctx)
	if err != nil {
		return err
	}
	var got rest.Identity
	if err := agent.Get(ctx, rest.PathIdentityID+id, nil, &got); err != nil {
		if client.NotFound(err) {
			return fmt.Errorf("no identity %s", o.ID)
		}
		return err
	}
	return command.Print(o.Streams, o.Output, columns, []rest.Identity{got}, got)
}
