// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/internal/cli/client"
)

// List is a `list` command without flags of its own: it gets one answer A of an
// agent and prints it.
type List[A any] struct {
	Short, Example string
	Aliases        []string                                      // besides ls
	Agent          func(context.Context) (*client.Client, error) // of the Factory
	Path           string                                        // that is asked for
	Formats        []string                                      // of the output, the default first
	Print          func(s Streams, o Output, answer A) error
}

// NewCmd makes the command.
func (l List[A]) NewCmd(f *Factory) *cobra.Command {
	var output Output
	cmd := &cobra.Command{
		Use: "list", Aliases: append([]string{"ls"}, l.Aliases...), Args: NoArgs,
		Short: l.Short, Example: l.Example,
		RunE: func(cmd *cobra.Command, _ []string) error {
			agent, err := l.Agent(cmd.Context())
			if err != nil {
				return err
			}
			var answer A
			if err := agent.Get(cmd.Context(), l.Path, nil, &answer); err != nil {
				return err
			}
			return l.Print(f.Streams, output, answer)
		},
	}
	output.AddTo(cmd, l.Formats...)
	return cmd
}
