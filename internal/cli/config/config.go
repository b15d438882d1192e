// SPDX-License-Identifier: Apache-2.0

// Package config holds the commands about an agent's configuration.
package config

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// NewCmd makes `config`, which alone means `config get`.
func NewCmd(f *command.Factory) *cobra.Command {
	get := NewCmdGet(f, nil)
	cmd := &cobra.Command{
		Use:     "config",
		Short:   "Show or change the configuration of an agent",
		Example: get.Example,
		Args:    command.NoArgs,
		RunE:    func(cmd *cobra.Command, args []string) error { return get.RunE(cmd, args) },
	}
	cmd.AddCommand(get, NewCmdSet(f, nil))
	return cmd
}

// GetOptions of `config get`.
type GetOptions struct {
	command.Streams
	Agent func(context.Context) (*client.Client, error)

	Keys   []string
	Output command.Output
}

// setting is one line of the configuration.
type setting struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Mutable bool   `json:"mutable"`
}

// NewCmdGet makes `config get`.
func NewCmdGet(f *command.Factory, runF func(context.Context, *GetOptions) error) *cobra.Command {
	o := &GetOptions{Streams: f.Streams, Agent: f.AnyAgent}
	cmd := &cobra.Command{
		Use:   "get [KEY ...]",
		Short: "List the settings in force",
		Example: `  stentor config get
  stentor config get routing-mode`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Keys = args
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
	all, err := fetch(ctx, agent)
	if err != nil {
		return err
	}
	if len(o.Keys) == 0 {
		return command.Print(o.Streams, o.Output, []command.Column[setting]{
			{Name: "KEY", Value: func(s setting) string { return s.Key }},
			{Name: "VALUE", Value: func(s setting) string { return s.Value }},
			{Name: "CHANGEABLE", Value: func(s setting) string {
				if s.Mutable {
					return "yes"
				}
				return "no"
			}},
		}, all, nil)
	}
	var some []setting
	for _, key := range o.Keys {
		i := slices.IndexFunc(all, func(s setting) bool { return strings.EqualFold(s.Key, key) })
		if i < 0 {
			return fmt.Errorf("no setting %q: see `config get`", key)
		}
		some = append(some, all[i])
	}
	if !o.Output.ForPeople() {
		return command.PrintObject(o.Streams, o.Output, some)
	}
	for _, s := range some {
		if len(some) == 1 {
			fmt.Fprintln(o.Out, s.Value)
		} else {
			fmt.Fprintln(o.Out, s.Key+"="+s.Value)
		}
	}
	return nil
}

// fetch merges what an agent says about its configuration, sorted by key.
func fetch(ctx context.Context, agent *client.Client) ([]setting, error) {
	var got rest.DaemonConfiguration
	if err := agent.Get(ctx, rest.PathConfig, nil, &got); err != nil {
		return nil, err
	}
	byKey := map[string]setting{}
	if st := got.Status; st != nil {
		for key, value := range st.DaemonConfigurationMap {
			byKey[key] = setting{Key: key, Value: text(value)}
		}
		for key, value := range st.Immutable {
			byKey[key] = setting{Key: key, Value: value}
		}
		if r := st.Realized; r != nil {
			mutable := maps.Clone(r.Options)
			if r.PolicyEnforcement != "" {
				if mutable == nil {
					mutable = rest.ConfigurationMap{}
				}
				mutable["enable-policy"] = r.PolicyEnforcement
			}
			for key, value := range mutable {
				_, fixed := st.Immutable[key]
				byKey[key] = setting{Key: key, Value: value, Mutable: !fixed}
			}
		}
	}
	out := make([]setting, 0, len(byKey))
	for _, s := range byKey {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b setting) int { return strings.Compare(a.Key, b.Key) })
	return out, nil
}

func text(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case []any:
		var parts []string
		for _, x := range v {
			parts = append(parts, text(x))
		}
		return strings.Join(parts, ",")
	}
	return fmt.Sprint(value)
}

// SetOptions of `config set`.
type SetOptions struct {
	command.Streams
	Agents func(context.Context) ([]*client.Client, error)

	Settings map[string]string
}

// NewCmdSet makes `config set`.
func NewCmdSet(f *command.Factory, runF func(context.Context, *SetOptions) error) *cobra.Command {
	o := &SetOptions{Streams: f.Streams, Agents: f.Agents, Settings: map[string]string{}}
	return &cobra.Command{
		Use:   "set KEY=VALUE ...",
		Short: "Change settings of running agents until they restart",
		Long: `Change settings of the agent of this node, or of all nodes from outside. The
change lasts until the agent restarts: what shall stay belongs into the
ConfigMap. Few settings can be changed while the agent runs; config get shows
which.`,
		Example: `  stentor config set enable-policy=always
  stentor config set monitor-aggregation=none --node worker-1`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return command.Usagef("%s needs KEY=VALUE", cmd.CommandPath())
			}
			for _, arg := range args {
				key, value, ok := strings.Cut(arg, "=")
				if !ok || key == "" {
					return command.Usagef("%q is not KEY=VALUE", arg)
				}
				o.Settings[key] = value
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return set(cmd.Context(), o)
		},
	}
}

func set(ctx context.Context, o *SetOptions) error {
	change := rest.DaemonConfigurationSpec{Options: rest.ConfigurationMap{}}
	for key, value := range o.Settings {
		if strings.EqualFold(key, "enable-policy") || strings.EqualFold(key, "PolicyEnforcement") {
			change.PolicyEnforcement = value
			continue
		}
		change.Options[key] = value
	}
	agents, err := o.Agents(ctx)
	if err != nil {
		return err
	}
	for _, a := range agents {
		if err := a.Patch(ctx, rest.PathConfig, change); err != nil {
			if a.Node() != "" {
				return fmt.Errorf("node %s: %w", a.Node(), err)
			}
			return err
		}
	}
	return nil
}
