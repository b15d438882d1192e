// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// GetOptions of `endpoint get`.
type GetOptions struct {
	command.Streams
	Agents func(context.Context) ([]*client.Client, error)

	Which  string
	Output command.Output
}

// NewCmdGet makes `endpoint get`.
func NewCmdGet(f *command.Factory, runF func(context.Context, *GetOptions) error) *cobra.Command {
	o := &GetOptions{Streams: f.Streams, Agents: f.Agents}
	cmd := &cobra.Command{
		Use: "get ID | NAMESPACE/POD | ADDRESS", Args: command.OneArg("a number, a pod or an address"),
		Short: "Show everything about one endpoint",
		Example: `  stentor endpoint get 17
  stentor endpoint get default/xwing -o yaml
  stentor endpoint get 10.0.1.7`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Which = args[0]
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return get(cmd.Context(), o)
		},
	}
	o.Output.AddTo(cmd, command.Table, command.JSON, command.YAML)
	cmd.ValidArgsFunction = command.Complete(func(ctx context.Context) ([]string, error) {
		agents, err := f.Agents(ctx)
		if err != nil {
			return nil, err
		}
		views, err := fetch(ctx, agents, nil)
		var names []string
		for _, v := range views {
			names = append(names, v.pod())
		}
		return names, err
	})
	return cmd
}

func get(ctx context.Context, o *GetOptions) error {
	agents, err := o.Agents(ctx)
	if err != nil {
		return err
	}
	found, err := find(ctx, agents, o.Which)
	if err != nil {
		return err
	}
	if !o.Output.ForPeople() {
		return command.PrintObject(o.Streams, o.Output, found.Endpoint)
	}
	return describe(o.Out, found)
}

// find looks for a number, namespace/pod, an address or a container's id. Forms
// with a prefix, such as ipv4:10.0.1.7 or pod-name:default:xwing, mean the same.
func find(ctx context.Context, agents []*client.Client, which string) (View, error) {
	name := which
	for _, prefix := range []string{"cilium-local:", "stentor-local:", "ipv4:", "ipv6:", "pod-name:", "container-id:", "cep-name:"} {
		name = strings.TrimPrefix(name, prefix)
	}
	if ns, pod, ok := strings.Cut(name, ":"); ok && strings.HasPrefix(which, "pod-name:") {
		name = ns + "/" + pod
	}
	views, err := fetch(ctx, agents, nil)
	if err != nil {
		return View{}, err
	}
	var hits []View
	for _, v := range views {
		names := []string{strconv.FormatInt(v.ID, 10), v.pod(), v.addresses(4), v.addresses(6), v.container()}
		if name != "" && slices.Contains(names, name) {
			hits = append(hits, v)
		}
	}
	switch len(hits) {
	case 0:
		return View{}, fmt.Errorf("no endpoint %s here: see `endpoint list`", which)
	case 1:
		return hits[0], nil
	}
	var nodes []string
	for _, h := range hits {
		nodes = append(nodes, h.Node)
	}
	return View{}, command.Usagef("several nodes have an endpoint %s: give --node %s", which, strings.Join(nodes, " or --node "))
}

func describe(w io.Writer, v View) error {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" && value != "0" {
			fmt.Fprintf(&b, "%-14s %s\n", name+":", value)
		}
	}
	st, net, pol := status(v.Endpoint), v.networking(), v.policy()
	line("Endpoint", strconv.FormatInt(v.ID, 10))
	line("Pod", v.pod())
	line("Node", v.Node)
	line("State", st.State)
	if h := st.Health; h != nil {
		line("Health", h.OverallHealth)
	}
	line("IPv4", v.addresses(4))
	line("IPv6", v.addresses(6))
	line("Interface", net.InterfaceName)
	line("MAC", net.MAC)
	line("Container", v.container())
	line("Identity", v.identity())
	for _, l := range v.labels() {
		fmt.Fprintf(&b, "%14s %s\n", "", l)
	}
	line("Ingress", direction(v.enforcement(rest.PolicyEnabledIngress), pol.AllowedIngressIdentities))
	line("Egress", direction(v.enforcement(rest.PolicyEnabledEgress), pol.AllowedEgressIdentities))
	line("Revision", strconv.FormatInt(pol.PolicyRevision, 10))
	if len(st.Log) > 0 {
		b.WriteString("Log:\n")
		for _, l := range st.Log {
			fmt.Fprintf(&b, "  %s  %-6s %-20s %s\n", l.Timestamp, l.Code, l.State, l.Message)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func direction(enforcement string, allowed []int64) string {
	if enforcement != "enforced" {
		return enforcement
	}
	var ids []string
	for _, id := range allowed {
		ids = append(ids, strconv.FormatInt(id, 10))
	}
	if len(ids) == 0 {
		return enforcement
	}
	return enforcement + "; allowed identities: " + strings.Join(ids, ", ")
}
