// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/lab/internal/demo"
	"github.com/stentor-net/stentor/lab/internal/progress"
)

func newDemo() *cobra.Command {
	f := &upFlags{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a first policy at work, in a lab that stays up",
		Long: `Show a first policy at work, in a lab that stays up.

The Death Star, ships of the empire and ships of the alliance are deployed to
two nodes; who reaches the Death Star is measured before and with a policy that
admits the empire alone: on one node and across nodes, by pod address and by
service, over IPv4 and IPv6. The exit code is 1 if anything is not as expected.

The lab is the one that "up" with the same flags makes; it may be up already.
With --cni bridge the demo shows a network without policies, and so fails.`,
		Example: `  stentor lab demo
  stentor lab demo --routing-mode native
  stentor lab down`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDemo(cmd, f) },
	}
	f.bind(cmd)
	return cmd
}

func runDemo(cmd *cobra.Command, f *upFlags) error {
	if f.options.Nodes < 2 {
		return usageError{errors.New("the demo needs --nodes 2 or more")}
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	out := progress.New(os.Stderr)
	lab, err := f.up(ctx, out)
	if err != nil {
		return err
	}
	bins, err := binDir()
	if err != nil {
		return err
	}
	return demo.Run(ctx, demo.Options{
		Plan: lab.Plan, Bin: bins, Out: out, Print: os.Stdout, Colour: progress.Colour(os.Stdout),
	})
}
