// SPDX-License-Identifier: Apache-2.0

// Package policy holds the commands about network policies.
package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
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
	}, NewCmdGet(f, nil), NewCmdSelectors(f, nil), NewCmdTrace(f, nil), NewCmdValidate(f, nil), NewCmdWhy(f, nil))
}

// GetOptions of `policy get`.
type GetOptions struct {
	command.Streams
	Agents func(context.Context) ([]*client.Client, error)

	Which  string // name or namespace/name
	Output command.Output
}

// object is a policy with the endpoints that it selects on each node that was asked.
type object struct {
	rest.PolicyObject

	Nodes map[string][]uint16 `json:"nodes,omitempty"`
}

// NewCmdGet makes `policy get`.
func NewCmdGet(f *command.Factory, runF func(context.Context, *GetOptions) error) *cobra.Command {
	o := &GetOptions{Streams: f.Streams, Agents: f.Agents}
	cmd := &cobra.Command{
		Use: "get [NAME | NAMESPACE/NAME]", Args: cobra.MaximumNArgs(1),
		Short: "List policies with the endpoints that they select",
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
	agents, err := o.Agents(ctx)
	if err != nil {
		return err
	}
	var objects []object
	for _, a := range agents {
		list, err := fetch(ctx, a)
		if err != nil {
			return err
		}
		objects = merge(objects, list, a.Node())
	}
	if o.Which != "" {
		objects = slices.DeleteFunc(objects, func(p object) bool {
			return p.Name != o.Which && p.Namespace+"/"+p.Name != o.Which
		})
		if len(objects) == 0 {
			return fmt.Errorf("no policy %s", o.Which)
		}
	}
	return command.Print(o.Streams, o.Output, []command.Column[object]{
		{Name: "KIND", Value: func(p object) string { return p.Kind }},
		{Name: "NAMESPACE", Value: func(p object) string { return p.Namespace }},
		{Name: "NAME", Value: func(p object) string { return p.Name }},
		{Name: "VALID", Value: func(p object) string { return strconv.FormatBool(p.Valid) }},
		{Name: "ENDPOINTS", Value: object.endpoints},
		{Name: "REASON", Value: func(p object) string { return p.Reason }},
	}, objects, nil)
}

func fetch(ctx context.Context, a *client.Client) ([]rest.PolicyObject, error) {
	var got rest.Policy
	if err := a.Get(ctx, rest.PathPolicy, nil, &got); err != nil && !client.NotFound(err) {
		return nil, err
	}
	var list []rest.PolicyObject
	if got.Policy != "" {
		if err := json.Unmarshal([]byte(got.Policy), &list); err != nil {
			return nil, fmt.Errorf("decode the policies: %w", err)
		}
	}
	return list, nil
}

// merge adds what one node says. Nodes differ in the endpoints, and for a
// moment in the policies that they know.
func merge(objects []object, list []rest.PolicyObject, node string) []object {
	for _, p := range list {
		i := slices.IndexFunc(objects, func(o object) bool {
			return o.Kind == p.Kind && o.Namespace == p.Namespace && o.Name == p.Name
		})
		if i < 0 {
			i = len(objects)
			objects = append(objects, object{PolicyObject: p})
		}
		if node != "" && len(p.Endpoints) > 0 {
			if objects[i].Nodes == nil {
				objects[i].Nodes = map[string][]uint16{}
			}
			objects[i].Nodes[node] = p.Endpoints
			objects[i].Endpoints = nil
		}
	}
	return objects
}

func (o object) endpoints() string {
	if len(o.Nodes) == 0 {
		return numbers(o.Endpoints)
	}
	var out []string
	for _, node := range slices.Sorted(maps.Keys(o.Nodes)) {
		out = append(out, node+":"+numbers(o.Nodes[node]))
	}
	return strings.Join(out, " ")
}

func numbers(list []uint16) string {
	var out []string
	for _, n := range list {
		out = append(out, strconv.Itoa(int(n)))
	}
	return strings.Join(out, ",")
}
