// SPDX-License-Identifier: Apache-2.0

// Package ip holds the commands about addresses.
package ip

import (
	"context"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// NewCmd makes `ip`.
func NewCmd(f *command.Factory) *cobra.Command {
	return command.Group(&cobra.Command{
		Use:   "ip",
		Short: "Show who is behind an address",
	}, NewCmdList(f, nil))
}

// ListOptions of `ip list`.
type ListOptions struct {
	command.Streams
	Agent func(context.Context) (*client.Client, error)

	CIDR   string
	Output command.Output
}

// NewCmdList makes `ip list`.
func NewCmdList(f *command.Factory, runF func(context.Context, *ListOptions) error) *cobra.Command {
	o := &ListOptions{Streams: f.Streams, Agent: f.AnyAgent}
	cmd := &cobra.Command{
		Use: "list [ADDRESS | PREFIX]", Aliases: []string{"ls"}, Args: cobra.MaximumNArgs(1),
		Short: "List prefixes with their identities",
		Example: `  stentor ip list
  stentor ip list 10.0.1.0/24`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.CIDR = args[0]
			}
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return list(cmd.Context(), o)
		},
	}
	o.Output.AddTo(cmd, command.Table, command.Wide, command.JSON, command.YAML)
	return cmd
}

func list(ctx context.Context, o *ListOptions) error {
	query := url.Values{}
	if o.CIDR != "" {
		prefix, err := parse(o.CIDR)
		if err != nil {
			return err
		}
		query.Set("cidr", prefix.String())
	}
	agent, err := o.Agent(ctx)
	if err != nil {
		return err
	}
	var got []rest.IPListEntry
	if err := agent.Get(ctx, rest.PathIP, query, &got); err != nil && !client.NotFound(err) {
		return err
	}
	slices.SortFunc(got, func(a, b rest.IPListEntry) int {
		x, errX := netip.ParsePrefix(a.CIDR)
		y, errY := netip.ParsePrefix(b.CIDR)
		if errX != nil || errY != nil {
			return 0
		}
		if c := x.Addr().Compare(y.Addr()); c != 0 {
			return c
		}
		return x.Bits() - y.Bits()
	})
	meta := func(e rest.IPListEntry) rest.IPListEntryMetadata {
		if e.Metadata == nil {
			return rest.IPListEntryMetadata{}
		}
		return *e.Metadata
	}
	return command.Print(o.Streams, o.Output, []command.Column[rest.IPListEntry]{
		{Name: "PREFIX", Value: func(e rest.IPListEntry) string { return e.CIDR }},
		{Name: "IDENTITY", Value: func(e rest.IPListEntry) string { return strconv.FormatInt(e.Identity, 10) }},
		{Name: "NODE", Value: func(e rest.IPListEntry) string { return e.HostIP }},
		{Name: "NAME", Value: func(e rest.IPListEntry) string {
			return strings.TrimPrefix(meta(e).Namespace+"/"+meta(e).Name, "/")
		}},
		{Name: "SOURCE", Value: func(e rest.IPListEntry) string { return meta(e).Source }},
	}, got, nil)
}

func parse(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, command.Usagef("%q is neither an address nor a prefix", s)
	}
	return p, nil
}
