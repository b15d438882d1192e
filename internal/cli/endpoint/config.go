// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
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

// ConfigOptions of `endpoint config`.
type ConfigOptions struct {
	command.Streams
	Agents func(context.Context) ([]*client.Client, error)

	Which  string
	Change rest.ConfigurationMap // empty: show
	Output command.Output
}

// NewCmdConfig makes `endpoint config`.
func NewCmdConfig(f *command.Factory, runF func(context.Context, *ConfigOptions) error) *cobra.Command {
	o := &ConfigOptions{Streams: f.Streams, Agents: f.Agents, Change: rest.ConfigurationMap{}}
	cmd := &cobra.Command{
		Use:   "config ID | NAMESPACE/POD | ADDRESS [OPTION=VALUE ...]",
		Short: "Show or change the options of one endpoint",
		Long: `Show or change the options of one endpoint. With PolicyAuditMode=Enabled what
policy denies the endpoint passes, and the monitor tells it as the verdict
"audit". It lasts as long as the endpoint.`,
		Example: `  stentor endpoint config 17
  stentor endpoint config default/xwing PolicyAuditMode=Enabled`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return command.Usagef("%s needs a number, a pod or an address", cmd.CommandPath())
			}
			for _, arg := range args[1:] {
				key, value, ok := strings.Cut(arg, "=")
				if !ok || key == "" {
					return command.Usagef("%q is not OPTION=VALUE", arg)
				}
				o.Change[key] = value
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Which = args[0]
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return config(cmd.Context(), o)
		},
	}
	o.Output.AddTo(cmd, command.Table, command.JSON, command.YAML)
	return cmd
}

func config(ctx context.Context, o *ConfigOptions) error {
	agents, err := o.Agents(ctx)
	if err != nil {
		return err
	}
	found, err := find(ctx, agents, o.Which)
	if err != nil {
		return err
	}
	agent := agents[slices.IndexFunc(agents, func(c *client.Client) bool { return c.Node() == found.Node })]
	path := rest.PathEndpointID + strconv.FormatInt(found.ID, 10) + "/config"
	if len(o.Change) > 0 {
		return agent.Patch(ctx, path, rest.EndpointConfigurationSpec{Options: o.Change})
	}
	var got rest.EndpointConfigurationStatus
	if err := agent.Get(ctx, path, nil, &got); err != nil {
		return err
	}
	if !o.Output.ForPeople() {
		return command.PrintObject(o.Streams, o.Output, got)
	}
	if got.Realized != nil {
		for _, key := range slices.Sorted(maps.Keys(got.Realized.Options)) {
			fmt.Fprintf(o.Out, "%s=%s\n", key, got.Realized.Options[key])
		}
	}
	return nil
}
