// SPDX-License-Identifier: Apache-2.0

// Package connectivity tries the network of a cluster with pods of its own.
//
// The pods run this program from the agents' image: servers, and a prober that
// is asked over an exec. See package probe for what it can try.
package connectivity

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/internal/cli/command"
	"github.com/stentor-net/stentor/internal/cli/connectivity/probe"
)

// NewCmd makes `connectivity`.
func NewCmd(f *command.Factory) *cobra.Command {
	group := command.Group(&cobra.Command{
		Use: "connectivity", Aliases: []string{"conn"},
		Short: "Try the network of a cluster with pods of its own",
	}, NewCmdTest(f, nil), NewCmdPerf(f, nil))
	group.AddCommand(newCmdServe(), newCmdProbe(f))
	return group
}

// newCmdServe is what the pods run.
func newCmdServe() *cobra.Command {
	var name string
	var port uint16
	cmd := &cobra.Command{
		Use: "serve", Hidden: true, Args: command.NoArgs,
		Short: "Serve the probes of a connectivity test",
		RunE:  func(cmd *cobra.Command, _ []string) error { return probe.Serve(cmd.Context(), name, port) },
	}
	host, _ := os.Hostname()
	cmd.Flags().StringVar(&name, "name", host, "name that the servers give")
	cmd.Flags().Uint16Var(&port, "port", podPort, "first port of the servers")
	return cmd
}

// newCmdProbe is what an exec in a pod runs.
func newCmdProbe(f *command.Factory) *cobra.Command {
	return &cobra.Command{
		Use: "probe", Hidden: true, Args: command.NoArgs,
		Short: "Try what standard input asks for, one request a line",
		RunE: func(cmd *cobra.Command, _ []string) error {
			host, _ := os.Hostname()
			return probe.Answering(cmd.Context(), probe.Hello{Version: f.Version, Name: host}, f.In, f.Out)
		},
	}
}
