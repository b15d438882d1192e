// SPDX-License-Identifier: Apache-2.0

// Package status holds the command that tells whether Stentor works, what is missing and why.
package status

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/internal/cli/command"
)

// Options of `status`.
type Options struct {
	command.Streams
	Collect func(context.Context) (*Report, error)

	Wait    bool
	Timeout time.Duration // of Wait
	Every   time.Duration // between two looks
	Brief   bool
	Verbose bool
	Output  command.Output
}

// NewCmd makes `status`.
func NewCmd(f *command.Factory, runF func(context.Context, *Options) error) *cobra.Command {
	o := &Options{Streams: f.Streams, Collect: collector(f), Every: time.Second}
	cmd := &cobra.Command{
		Use: "status", Args: command.NoArgs,
		Short: "Tell what works, what is missing and why",
		Long: `Tell what works, what is missing and why: of the agent on this node, or from
outside of the whole cluster: agents and operator desired and ready, pods
managed, and for each node how it reaches the others. With --node it is that
node's agent in full.

The exit code is 0 only if nothing is missing.`,
		Example: `  stentor status
  stentor status --verbose
  stentor status --wait --wait-timeout 2m
  stentor status -o json --kubeconfig ~/.kube/config`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Timeout <= 0 {
				return command.Usagef("--wait-timeout must be more than 0")
			}
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return run(cmd.Context(), o)
		},
	}
	o.Output.AddTo(cmd, command.Table, command.JSON, command.YAML)
	cmd.Flags().BoolVar(&o.Wait, "wait", false, "wait until nothing is missing")
	cmd.Flags().DurationVar(&o.Timeout, "wait-timeout", 5*time.Minute, "how long to wait")
	cmd.Flags().BoolVar(&o.Brief, "brief", false, "print one line only")
	cmd.Flags().BoolVarP(&o.Verbose, "verbose", "v", false, "list every way from node to node, with its latencies")
	cmd.MarkFlagsMutuallyExclusive("brief", "verbose")
	return cmd
}

func collector(f *command.Factory) func(context.Context) (*Report, error) {
	return func(ctx context.Context) (*Report, error) {
		if !f.Remote() || f.Node() != "" {
			agent, err := f.Agent(ctx)
			if err != nil {
				return nil, err
			}
			return local(ctx, agent)
		}
		cluster, err := f.Cluster()
		if err != nil {
			return nil, err
		}
		return remote(ctx, cluster, f.Dial)
	}
}

func run(ctx context.Context, o *Options) error {
	report, err := o.Collect(ctx)
	if o.Wait {
		report, err = wait(ctx, o, report, err)
	}
	if err != nil {
		return err
	}
	switch {
	case !o.Output.ForPeople():
		err = command.PrintObject(o.Streams, o.Output, report)
	case o.Brief && report.OK:
		_, err = fmt.Fprintln(o.Out, o.Paint(command.Green, "Ok"))
	case o.Brief:
		_, err = fmt.Fprintln(o.Out, o.Paint(command.Red, report.summary()))
	default:
		err = report.print(o.Streams, o.Verbose)
	}
	if err == nil && !report.OK {
		err = command.ErrSilent
	}
	return err
}

// wait looks again until nothing is missing or the time is over, and says what
// it waits for each time that changes.
func wait(ctx context.Context, o *Options, report *Report, err error) (*Report, error) {
	start, said := time.Now(), ""
	for (err != nil || !report.OK) && time.Since(start) < o.Timeout {
		var usage *command.UsageError
		if errors.As(err, &usage) {
			return nil, err
		}
		text := ""
		if err != nil {
			text = err.Error()
		} else {
			text = report.summary()
		}
		if text != said {
			fmt.Fprintf(o.Err, "%5.1fs waiting: %s\n", time.Since(start).Seconds(), text)
			said = text
		}
		select {
		case <-time.After(o.Every):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		report, err = o.Collect(ctx)
	}
	return report, err
}
