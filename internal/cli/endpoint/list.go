// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"errors"
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

// ListOptions of `endpoint list`.
type ListOptions struct {
	command.Streams
	Agents func(context.Context) ([]*client.Client, error)

	Output     command.Output
	Labels     []string
	K8sNS      string
	State      string
	ManyNodes  bool // print the node of each endpoint
	remoteNode func() bool
}

// NewCmdList makes `endpoint list`.
func NewCmdList(f *command.Factory, runF func(context.Context, *ListOptions) error) *cobra.Command {
	o := &ListOptions{Streams: f.Streams, Agents: f.Agents, remoteNode: f.Remote}
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Args: command.NoArgs,
		Short: "List the pods of this node, or of all nodes from outside",
		Example: `  stentor endpoint list
  stentor endpoint list -l k8s:app=curl -o wide
  stentor endpoint list --node worker-1 -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			o.ManyNodes = o.remoteNode()
			return list(cmd.Context(), o)
		},
	}
	o.Output.AddTo(cmd, command.Table, command.Wide, command.JSON, command.YAML)
	cmd.Flags().StringArrayVarP(&o.Labels, "label", "l", nil, "only those with this label, source:key=value; may be repeated")
	cmd.Flags().StringVar(&o.K8sNS, "pod-namespace", "", "only those of pods in this Kubernetes namespace")
	cmd.Flags().StringVar(&o.State, "state", "", "only those in this state, such as ready")
	return cmd
}

func list(ctx context.Context, o *ListOptions) error {
	agents, err := o.Agents(ctx)
	if err != nil {
		return err
	}
	views, err := fetch(ctx, agents, o.Labels)
	if err != nil {
		return err
	}
	views = slices.DeleteFunc(views, func(v View) bool {
		return o.K8sNS != "" && !strings.HasPrefix(v.pod(), o.K8sNS+"/") || o.State != "" && status(v.Endpoint).State != o.State
	})
	if len(views) == 0 {
		fmt.Fprintln(o.Err, "no endpoints")
	}
	return command.Print(o.Streams, o.Output, columns(o.ManyNodes), views, nil)
}

func columns(manyNodes bool) []command.Column[View] {
	return []command.Column[View]{
		{Name: "NODE", Value: func(v View) string { return v.Node }, Wide: !manyNodes},
		{Name: "ID", Value: func(v View) string { return strconv.FormatInt(v.ID, 10) }},
		{Name: "POD", Value: View.pod},
		{Name: "IDENTITY", Value: View.identity},
		{Name: "INGRESS", Value: func(v View) string { return v.enforcement(rest.PolicyEnabledIngress) }},
		{Name: "EGRESS", Value: func(v View) string { return v.enforcement(rest.PolicyEnabledEgress) }},
		{Name: "STATE", Value: func(v View) string { return status(v.Endpoint).State }},
		{Name: "IPV4", Value: func(v View) string { return v.addresses(4) }},
		{Name: "IPV6", Value: func(v View) string { return v.addresses(6) }},
		{Name: "REVISION", Value: func(v View) string { return strconv.FormatInt(v.policy().PolicyRevision, 10) }, Wide: true},
		{Name: "INTERFACE", Value: func(v View) string { return v.networking().InterfaceName }, Wide: true},
		{Name: "LABELS", Value: func(v View) string { return strings.Join(v.labels(), ",") }, Wide: true},
	}
}

// fetch asks each agent for its endpoints; the answer is in the order of nodes
// and numbers.
func fetch(ctx context.Context, agents []*client.Client, labels []string) ([]View, error) {
	query := url.Values{}
	if len(labels) > 0 {
		query["labels"] = labels
	}
	var out []View
	var errs []error
	for _, a := range agents {
		var got []rest.Endpoint
		if err := a.Get(ctx, rest.PathEndpoint, query, &got); err != nil && !client.NotFound(err) {
			errs = append(errs, err)
			continue
		}
		slices.SortFunc(got, func(x, y rest.Endpoint) int { return int(x.ID - y.ID) })
		for _, e := range got {
			if v := (View{Endpoint: e, Node: a.Node()}); hasAll(v.labels(), labels) {
				out = append(out, v)
			}
		}
	}
	return out, errors.Join(errs...)
}

// hasAll compares labels; one without a source matches any.
func hasAll(have, want []string) bool {
	for _, w := range want {
		if !slices.ContainsFunc(have, func(h string) bool {
			_, key, _ := strings.Cut(h, ":")
			return h == w || key == w || key == strings.TrimPrefix(w, "any:")
		}) {
			return false
		}
	}
	return true
}
